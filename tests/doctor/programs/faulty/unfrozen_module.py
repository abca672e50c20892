# fault: unfrozen
# requires_grad is set on the module, where it means nothing.
import torch
from torch import nn

torch.manual_seed(0)
body = nn.Sequential(nn.Linear(9, 24), nn.ReLU())
for layer in body:
    layer.requires_grad = False
net = nn.Sequential(body, nn.Linear(24, 3))
x = torch.randn(240, 9)
y = x[:, :3].argmax(1)
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(2):
    for rows in torch.randperm(240).split(24):
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
