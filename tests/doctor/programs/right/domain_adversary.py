# right
# A gradient that is turned round on its way to the features, written as a Function.
import torch
from torch import nn


class Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return -ctx.factor * grad, None


torch.manual_seed(0)
body = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
kind, domain = nn.Linear(32, 3), nn.Linear(32, 2)
opt = torch.optim.Adam([*body.parameters(), *kind.parameters(), *domain.parameters()], lr=3e-3)
x = torch.randn(300, 8)
y, d = x[:, :3].argmax(1), (x[:, 7] > 0).long()
for epoch in range(3):
    for rows in torch.randperm(300).split(30):
        h = body(x[rows])
        loss = nn.functional.cross_entropy(kind(h), y[rows]) + nn.functional.cross_entropy(
            domain(Turn.apply(h, 0.3)), d[rows]
        )
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
