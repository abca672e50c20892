# fault: stale-gradient
# zero_grad is called on another optimizer's parameters.
import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(7, 20), nn.Tanh(), nn.Linear(20, 3))
old = nn.Linear(3, 3)
x = torch.randn(180, 7)
y = x[:, :3].argmax(1)
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
for epoch in range(3):
    for rows in torch.randperm(180).split(20):
        old.zero_grad()
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        loss.backward()
        opt.step()
    print(epoch, loss.item())
