# fault: ignored-input
# The second input is taken and never used.
import torch
from torch import nn


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(5, 16), nn.Linear(5, 16), nn.Linear(32, 2)

    def forward(self, left, right):
        return self.out(torch.cat([torch.relu(self.a(left)), torch.relu(self.b(left))], 1))


torch.manual_seed(0)
left, right = torch.randn(240, 5), torch.randn(240, 5)
y = (left[:, 0] > right[:, 0]).long()
net = Two()
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(2):
    for rows in torch.randperm(240).split(24):
        loss = nn.functional.cross_entropy(net(left[rows], right[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
