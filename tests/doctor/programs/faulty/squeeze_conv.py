# fault: squeeze
# Features are squeezed after pooling, without a dim.
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv1d(3, 16, 3), nn.Linear(16, 4)

    def forward(self, x):
        return self.out(torch.relu(self.conv(x)).mean(-1, keepdim=True).squeeze())


torch.manual_seed(0)
x = torch.randn(160, 3, 12)
y = x.mean(2).repeat(1, 2)[:, :4].argmax(1)
net = Net()
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(3):
    for rows in torch.randperm(160).split(16):
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
