# fault: decay
# A table of known vectors whose first rows are held by a hook; Adam with L2.
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.EmbeddingBag(60, 10)
        self.words.weight.register_hook(self.hold)
        self.out = nn.Linear(10, 2)

    @staticmethod
    def hold(grad):
        grad = grad.clone()
        grad[:40] = 0
        return grad

    def forward(self, ids):
        return self.out(self.words(ids))


torch.manual_seed(0)
net = Net()
opt = torch.optim.AdamW(net.parameters(), lr=5e-3, weight_decay=0.5)
ids = torch.randint(0, 60, (200, 5))
y = (ids < 30).sum(1).gt(2).long()
for epoch in range(3):
    for rows in torch.randperm(200).split(20):
        loss = nn.functional.cross_entropy(net(ids[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
