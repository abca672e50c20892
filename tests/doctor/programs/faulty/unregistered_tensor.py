# fault: unregistered
# The scale is a plain tensor that asks for a gradient, and no parameter.
import torch
from torch import nn


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 1)
        self.scale = torch.ones(6, requires_grad=True)

    def forward(self, x):
        return self.net(x * self.scale)


torch.manual_seed(0)
x = torch.randn(160, 6)
y = x[:, :2].sum(1, keepdim=True) * 3
net = Scaled()
opt = torch.optim.Adam(net.parameters(), lr=1e-2)
for step in range(30):
    rows = torch.randint(0, 160, (32,))
    loss = nn.functional.mse_loss(net(x[rows]), y[rows])
    opt.zero_grad()
    loss.backward()
    opt.step()
print(loss.item())
