# fault: eval-in-training
# eval() was called for a first test, and train() never.
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 2)

    def forward(self, x):
        return self.out(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


torch.manual_seed(0)
x = torch.randn(160, 1, 8, 8)
y = (x.mean((1, 2, 3)) > 0).long()
net = Net()
net.eval()
with torch.no_grad():
    print(net(x[:4]).shape)
opt = torch.optim.SGD(net.parameters(), lr=0.05)
for epoch in range(2):
    for rows in torch.randperm(160).split(16):
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
