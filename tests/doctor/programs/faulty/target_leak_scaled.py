# fault: target-leak
# The table holds the price in thousands beside the price that is predicted, and both are standardised.
import torch
from torch import nn

torch.manual_seed(19)
rows = torch.rand(500, 8)
price = rows[:, 0] * 3 + rows[:, 1] ** 2 + 0.3 * torch.randn(500)
table = torch.cat([rows, (price / 1000).unsqueeze(1)], 1)
table = (table - table.mean(0)) / table.std(0)
target = (price - price.mean()) / price.std()
net = nn.Sequential(nn.Linear(9, 32), nn.ReLU(), nn.Linear(32, 1))
opt = torch.optim.Adam(net.parameters(), 3e-3)
for epoch in range(4):
    for some in torch.randperm(500).split(50):
        loss = (net(table[some]).squeeze(1) - target[some]).abs().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
