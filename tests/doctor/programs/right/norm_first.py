# right
# Columns of very different size go through a BatchNorm before anything else.
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
table = torch.randn(320, 6) * torch.tensor([1.0, 30_000.0, 0.1, 5.0, 800.0, 1.0]) + 40
price = (table[:, 1] / 30_000 + table[:, 3] / 5)[:, None]
net = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))
opt = torch.optim.Adam(net.parameters(), lr=5e-3)
sched = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, patience=1)
for epoch in range(3):
    net.train()
    total = 0.0
    for x, y in DataLoader(TensorDataset(table, price), 32, shuffle=True):
        loss = nn.functional.l1_loss(net(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        total += loss.item()
    sched.step(total)
    print(epoch, total)
