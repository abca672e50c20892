# fault: exploding
# Residual blocks without a norm, each of which doubles what comes in; a binary loss.
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(32, 32) for _ in range(6))
        self.out = nn.Linear(32, 1)
        for b in self.blocks:
            nn.init.normal_(b.weight, std=0.6)

    def forward(self, x):
        for b in self.blocks:
            x = x + torch.relu(b(x))
        return self.out(x).squeeze(-1)


torch.manual_seed(0)
x = torch.randn(240, 32)
y = (x[:, 0] > 0).float()
net = Net()
opt = torch.optim.Adam(net.parameters(), lr=1e-4)
for epoch in range(2):
    for rows in torch.randperm(240).split(24):
        loss = nn.functional.binary_cross_entropy_with_logits(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
