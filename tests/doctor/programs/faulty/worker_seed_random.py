# fault: worker-seed
# A random.Random of the dataset's own, copied into each worker.
import random
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Shifted(Dataset):
    def __init__(self):
        self.random = random.Random(3)
        self.x = torch.randn(96, 16, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return 96

    def __getitem__(self, i):
        return self.x[i].roll(self.random.randrange(16)), i % 3


if __name__ == "__main__":
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 3))
    opt = torch.optim.SGD(net.parameters(), lr=0.05)
    for epoch in range(2):
        for x, y in DataLoader(Shifted(), 16, shuffle=True, num_workers=2):
            loss = nn.functional.cross_entropy(net(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
        print(epoch, loss.item())
