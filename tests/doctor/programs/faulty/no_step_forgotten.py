# fault: no-step
# backward without a step.
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(240, 9)
y = 2 * x[:, :2].sum(1, keepdim=True) - 1
net = nn.Sequential(nn.Linear(9, 24), nn.ReLU(), nn.Linear(24, 1))
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(2):
    for rows in torch.randperm(240).split(24):
        opt.zero_grad()
        loss = nn.functional.mse_loss(net(x[rows]), y[rows])
        loss.backward()
    print(epoch, loss.item())
