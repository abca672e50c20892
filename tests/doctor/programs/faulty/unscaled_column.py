# fault: unscaled-input
# One column is an income in whole units beside ages and shares.
import torch
from torch import nn

torch.manual_seed(0)
table = torch.stack([torch.randn(300) * 12_000 + 48_000, torch.rand(300), torch.rand(300), torch.rand(300) * 2], 1)
y = (table[:, 1] + table[:, 2] > 1).long()
net = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
for epoch in range(3):
    for rows in torch.randperm(300).split(30):
        loss = nn.functional.cross_entropy(net(table[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
