# right
# SAM by hand: climb, take the gradient there, go back, step.
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(256, 10)
y = x[:, :4].argmax(1)
net = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4))
base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
for epoch in range(3):
    for rows in torch.randperm(256).split(32):
        nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
        with torch.no_grad():
            norm = torch.stack([p.grad.norm() for p in net.parameters()]).norm()
            climbed = [p.grad * (0.05 / (norm + 1e-12)) for p in net.parameters()]
            for p, e in zip(net.parameters(), climbed):
                p.add_(e)
        base.zero_grad()
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        loss.backward()
        with torch.no_grad():
            for p, e in zip(net.parameters(), climbed):
                p.sub_(e)
        base.step()
        base.zero_grad()
    print(epoch, loss.item())
