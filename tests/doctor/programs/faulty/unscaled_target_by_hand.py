# fault: unscaled-target
# A mean of squares written by hand, targets of many thousands.
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(240, 8)
y = 52_000 + 9_000 * x[:, :2].sum(1, keepdim=True)
net = nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 1))
opt = torch.optim.AdamW(net.parameters(), lr=3e-3)
for epoch in range(3):
    for rows in torch.randperm(240).split(30):
        loss = ((net(x[rows]) - y[rows]) ** 2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
