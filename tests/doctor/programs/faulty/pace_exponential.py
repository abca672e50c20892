# fault: scheduler-pace
# ExponentialLR with 0.7 after every batch.
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(320, 9)
y = x[:, :3].argmax(1)
net = nn.Sequential(nn.Linear(9, 24), nn.ReLU(), nn.Linear(24, 3))
opt = torch.optim.Adam(net.parameters(), lr=1e-2)
sched = torch.optim.lr_scheduler.ExponentialLR(opt, 0.7)
for epoch in range(4):
    for rows in torch.randperm(320).split(32):
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()
    print(epoch, loss.item())
