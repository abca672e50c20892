# fault: nan
# The logarithm of a ReLU.
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(200, 8)
net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3), nn.ReLU())
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
for step in range(20):
    rows = torch.randint(0, 200, (20,))
    rate = net(x[rows])
    loss = (rate - torch.log(rate)).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
print(loss.item())
