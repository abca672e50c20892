# right
# Augmentation with torch's own generator in worker processes, which torch seeds apart.
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Noisy(Dataset):
    def __init__(self, rows):
        self.y = torch.arange(rows) % 4
        self.x = torch.randn(4, 10, generator=torch.Generator().manual_seed(1))[self.y]

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.x[i] + 0.5 * torch.randn(10), self.y[i]


if __name__ == "__main__":
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 4))
    opt = torch.optim.Adam(net.parameters(), lr=5e-3)
    for epoch in range(2):
        for x, y in DataLoader(Noisy(160), 16, shuffle=True, num_workers=2):
            loss = nn.functional.cross_entropy(net(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
        print(epoch, loss.item())
