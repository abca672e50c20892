# fault: leakage
# The indices of the two subsets overlap.
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

torch.manual_seed(0)
data = TensorDataset(torch.randn(300, 9), torch.randint(0, 3, (300,)))
train, val = Subset(data, range(0, 260)), Subset(data, range(220, 300))
net = nn.Sequential(nn.Linear(9, 24), nn.ReLU(), nn.Linear(24, 3))
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(2):
    net.train()
    for x, y in DataLoader(train, 20, shuffle=True):
        loss = nn.functional.cross_entropy(net(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
    net.eval()
    with torch.no_grad():
        print(epoch, sum(nn.functional.cross_entropy(net(x), y).item() for x, y in DataLoader(val, 40)) / 2)
