# fault: unused
# The second stage is made and forgotten in forward.
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.out = nn.Conv1d(2, 8, 3), nn.Conv1d(8, 8, 3), nn.Linear(8, 2)

    def forward(self, x):
        return self.out(torch.relu(self.one(x)).mean(2))


torch.manual_seed(0)
x = torch.randn(160, 2, 12)
y = (x.mean((1, 2)) > 0).long()
net = Net()
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
for epoch in range(2):
    for rows in torch.randperm(160).split(16):
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
