# fault: lr-low
# A rate of 1e-9 with Adam.
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(240, 9)
y = 2 * x[:, :2].sum(1, keepdim=True) - 1
net = nn.Sequential(nn.Linear(9, 24), nn.ReLU(), nn.Linear(24, 1))
opt = torch.optim.Adam(net.parameters(), lr=1e-9)
for epoch in range(3):
    for rows in torch.randperm(240).split(24):
        loss = nn.functional.l1_loss(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
