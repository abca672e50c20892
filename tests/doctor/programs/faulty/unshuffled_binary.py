# fault: unshuffled
# All of one class first, then all of the other; slices in order.
import torch
from torch import nn

torch.manual_seed(0)
y = torch.arange(400) // 200
x = torch.randn(400, 12) + y[:, None]
net = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 2))
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(3):
    for i in range(0, 400, 20):
        loss = nn.functional.cross_entropy(net(x[i : i + 20]), y[i : i + 20])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
