# fault: reset-optimizer
# A function for one epoch makes its own AdamW.
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(160, 9)
y = x[:, :3].argmax(1)
net = nn.Sequential(nn.Linear(9, 24), nn.ReLU(), nn.Linear(24, 3))


def epoch():
    opt = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for rows in torch.randperm(160).split(16):
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    return loss.item()


for _ in range(5):
    print(epoch())
