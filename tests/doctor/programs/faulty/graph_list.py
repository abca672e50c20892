# fault: graph-growth
# The losses of all steps are kept in a list.
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(240, 9)
y = 2 * x[:, :2].sum(1, keepdim=True) - 1
net = nn.Sequential(nn.Linear(9, 24), nn.ReLU(), nn.Linear(24, 1))
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
history = []
for epoch in range(3):
    for rows in torch.randperm(240).split(24):
        loss = (net(x[rows]) - y[rows]).pow(2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        history.append(loss)
    print(epoch, torch.stack(history).mean().item())
