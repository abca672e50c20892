# fault: accumulate-scale
# Four losses are summed by backward, with Adam, and never divided.
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(320, 9)
y = x[:, :1].abs()
net = nn.Sequential(nn.Linear(9, 24), nn.ReLU(), nn.Linear(24, 1))
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
for epoch in range(2):
    for i, rows in enumerate(torch.randperm(320).split(8)):
        nn.functional.mse_loss(net(x[rows]), y[rows]).backward()
        if i % 4 == 3:
            opt.step()
            opt.zero_grad()
    print(epoch)
