# fault: symmetry
# Every weight begins at 0.1.
import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(9, 16), nn.Sigmoid(), nn.Linear(16, 1))
with torch.no_grad():
    for p in net.parameters():
        p.fill_(0.1)
x = torch.randn(240, 9)
y = x[:, :1] * x[:, 1:2]
opt = torch.optim.Adam(net.parameters(), lr=1e-2)
for epoch in range(3):
    for rows in torch.randperm(240).split(24):
        loss = nn.functional.mse_loss(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
