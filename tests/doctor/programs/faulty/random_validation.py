# fault: random-validation
# The validation part is augmented at random.
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Noisy(Dataset):
    def __init__(self, rows, seed):
        self.x = torch.randn(rows, 9, generator=torch.Generator().manual_seed(seed))
        self.y = self.x[:, :3].argmax(1)

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.x[i] + 0.3 * torch.randn(9), self.y[i]


torch.manual_seed(0)
train, val = DataLoader(Noisy(200, 1), 20, shuffle=True), DataLoader(Noisy(60, 2), 30)
net = nn.Sequential(nn.Linear(9, 24), nn.ReLU(), nn.Linear(24, 3))
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(2):
    net.train()
    for x, y in train:
        loss = nn.functional.cross_entropy(net(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
    net.eval()
    with torch.no_grad():
        print(epoch, sum((net(x).argmax(1) == y).sum().item() for x, y in val) / 60)
