# fault: vanishing
# Twenty tanh layers with small weights.
import torch
from torch import nn

torch.manual_seed(0)
layers = []
for i in range(20):
    layers += [nn.Linear(16, 16), nn.Tanh()]
net = nn.Sequential(*layers, nn.Linear(16, 1))
for p in net.parameters():
    if p.ndim > 1:
        nn.init.normal_(p, std=0.05)
x = torch.randn(240, 16)
y = 2 * x[:, :2].sum(1, keepdim=True) - 1
opt = torch.optim.SGD(net.parameters(), lr=0.05)
for epoch in range(3):
    for rows in torch.randperm(240).split(30):
        loss = nn.functional.mse_loss(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
