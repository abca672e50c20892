# fault: scheduler-unused
# The schedule is made and nobody steps it.
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(160, 9)
y = x[:, :3].argmax(1)
net = nn.Sequential(nn.Linear(9, 24), nn.ReLU(), nn.Linear(24, 3))
opt = torch.optim.AdamW(net.parameters(), lr=1e-3)
sched = torch.optim.lr_scheduler.MultiStepLR(opt, [2, 4], 0.1)
for epoch in range(4):
    for rows in torch.randperm(160).split(16):
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
