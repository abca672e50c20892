# fault: always-dropout
# A Dropout made inside forward is always in training mode.
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(10, 32), nn.Linear(32, 1)

    def forward(self, x):
        return self.b(nn.Dropout(0.3)(torch.relu(self.a(x))))


torch.manual_seed(0)
x = torch.randn(200, 10)
y = x[:, :2].sum(1, keepdim=True) * 2
net = Net()
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(3):
    net.train()
    for rows in torch.randperm(160).split(16):
        loss = nn.functional.mse_loss(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    net.eval()
    with torch.no_grad():
        print(epoch, nn.functional.mse_loss(net(x[160:]), y[160:]).item())
