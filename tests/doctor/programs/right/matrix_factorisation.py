# right
# Ratings from two embedding tables; sparse gradients, two optimizers.
import torch
from torch import nn


class Factors(nn.Module):
    def __init__(self, users=60, items=80):
        super().__init__()
        self.user, self.item = nn.Embedding(users, 8, sparse=True), nn.Embedding(items, 8, sparse=True)
        self.bias = nn.Parameter(torch.zeros(()))
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, user, item):
        return (self.user(user) * self.item(item)).sum(1) + self.bias


torch.manual_seed(0)
user, item = torch.randint(0, 60, (800,)), torch.randint(0, 80, (800,))
rating = 3 + torch.randn(60)[user] * 0.5 + torch.randn(80)[item] * 0.5
net = Factors()
sparse = torch.optim.SparseAdam([net.user.weight, net.item.weight], lr=1e-2)
dense = torch.optim.SGD([net.bias], lr=0.1)
for epoch in range(2):
    for rows in torch.randperm(800).split(50):
        loss = nn.functional.mse_loss(net(user[rows], item[rows]), rating[rows])
        sparse.zero_grad()
        dense.zero_grad()
        loss.backward()
        sparse.step()
        dense.step()
    print(epoch, loss.item())
