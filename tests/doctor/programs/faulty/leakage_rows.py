# fault: leakage
# Without a loader: the held-out rows are among those that are drawn for training.
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(240, 9)
y = x[:, :3].argmax(1)
held = torch.randperm(240)[:60]
net = nn.Sequential(nn.Linear(9, 24), nn.ReLU(), nn.Linear(24, 3))
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(3):
    net.train()
    for rows in torch.randperm(240).split(24):
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    net.eval()
    with torch.no_grad():
        print(epoch, (net(x[held]).argmax(1) == y[held]).float().mean().item())
