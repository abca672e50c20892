# fault: clip-late
# clip_grad_value_ at the end of the loop.
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(240, 9)
y = x[:, :3].argmax(1)
net = nn.Sequential(nn.Linear(9, 24), nn.ReLU(), nn.Linear(24, 3))
opt = torch.optim.Adagrad(net.parameters(), lr=1e-2)
for epoch in range(2):
    for rows in torch.randperm(240).split(24):
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        loss.backward()
        opt.step()
        nn.utils.clip_grad_value_(net.parameters(), 0.5)
        opt.zero_grad()
    print(epoch, loss.item())
