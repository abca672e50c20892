# fault: unregistered
# The heads stand in a plain dict.
import torch
from torch import nn


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(10, 24)
        self.heads = {"a": nn.Linear(24, 3), "b": nn.Linear(24, 2)}

    def forward(self, x):
        h = torch.tanh(self.body(x))
        return self.heads["a"](h), self.heads["b"](h)


torch.manual_seed(0)
x = torch.randn(200, 10)
ya, yb = x[:, :3].argmax(1), (x[:, 4] > 0).long()
net = Heads()
opt = torch.optim.SGD(net.parameters(), lr=0.1)
for epoch in range(3):
    for rows in torch.randperm(200).split(25):
        a, b = net(x[rows])
        loss = nn.functional.cross_entropy(a, ya[rows]) + nn.functional.cross_entropy(b, yb[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
