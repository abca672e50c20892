# right
# An IterableDataset that never ends, stopped by a number of steps; accumulation, each loss divided.
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset


class Stream(IterableDataset):
    def __iter__(self):
        while True:
            x = torch.randn(9)
            yield x, x[:3].argmax()


torch.manual_seed(0)
net = nn.Sequential(nn.Linear(9, 32), nn.ReLU(), nn.Linear(32, 3))
opt = torch.optim.SGD(net.parameters(), lr=0.1)
stream = iter(DataLoader(Stream(), batch_size=16))
for step in range(24):
    opt.zero_grad()
    for _ in range(2):
        x, y = next(stream)
        loss = nn.functional.cross_entropy(net(x), y) / 2
        loss.backward()
    opt.step()
print(loss.item())
