# fault: constant-target
# The label is read from the wrong column, which is always 1.
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
table = torch.randn(240, 8)
table[:, 7] = 1.0
net = nn.Sequential(nn.Linear(7, 24), nn.ReLU(), nn.Linear(24, 2))
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(2):
    for (rows,) in DataLoader(TensorDataset(table), 24, shuffle=True):
        loss = nn.functional.cross_entropy(net(rows[:, :7]), rows[:, 7].long())
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
