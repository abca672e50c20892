# fault: unoptimized
# The optimizer is made in __init__ before the classifier is resized for the task.
import torch
from torch import nn


class Task:
    def __init__(self):
        self.net = nn.ModuleDict({"body": nn.Sequential(nn.Linear(14, 40), nn.GELU()), "cls": nn.Linear(40, 2)})
        self.opt = torch.optim.RMSprop(self.net.parameters(), lr=1e-3)

    def resize(self, classes):
        self.net["cls"] = nn.Linear(40, classes)

    def step(self, x, y):
        out = self.net["cls"](self.net["body"](x))
        loss = nn.functional.cross_entropy(out, y)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        return loss.item()


torch.manual_seed(0)
task = Task()
task.resize(6)
x = torch.randn(200, 14)
y = x[:, :6].argmax(1)
for epoch in range(3):
    for rows in torch.randperm(200).split(20):
        last = task.step(x[rows], y[rows])
    print(epoch, last)
