# fault: wrong-dim
# LogSoftmax over dim 0.
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(240, 10)
y = x[:, :3].argmax(1)
net = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 3), nn.LogSoftmax(dim=0))
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(3):
    for rows in torch.randperm(240).split(30):
        loss = nn.functional.nll_loss(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
