# fault: lr-high
# SGD with a rate of 60.
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(240, 9)
y = x[:, :3].argmax(1)
net = nn.Sequential(nn.Linear(9, 24), nn.ReLU(), nn.Linear(24, 3))
opt = torch.optim.SGD(net.parameters(), lr=60.0)
for epoch in range(3):
    for rows in torch.randperm(240).split(24):
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
