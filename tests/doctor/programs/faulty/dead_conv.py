# fault: dead-units
# A convolution with a bias of -20 before its ReLU.
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 12, 3), nn.Linear(12, 2)
        nn.init.constant_(self.conv.bias, -20.0)

    def forward(self, x):
        return self.out(torch.relu(self.conv(x)).mean((2, 3)))


torch.manual_seed(0)
x = torch.randn(160, 1, 8, 8)
y = (x.mean((1, 2, 3)) > 0).long()
net = Net()
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
for epoch in range(2):
    for rows in torch.randperm(160).split(16):
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
