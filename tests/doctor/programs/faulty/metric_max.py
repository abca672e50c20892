# fault: metric
# max over dim 0 for the accuracy, in eval mode.
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(240, 9)
y = x[:, :5].argmax(1)
net = nn.Sequential(nn.Linear(9, 24), nn.ReLU(), nn.Linear(24, 5))
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(3):
    net.train()
    for rows in torch.randperm(200).split(20):
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    net.eval()
    with torch.no_grad():
        _, best = torch.max(net(x[200:]), 0)
        print(epoch, (best == y[200:205]).float().mean().item())
