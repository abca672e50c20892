# right
# A soft gate over experts: softmax over the experts, and a loss that balances them.
import torch
from torch import nn


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(10, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 1)) for _ in range(4))

    def forward(self, x):
        weight = self.gate(x).softmax(-1)
        outs = torch.stack([e(x) for e in self.experts], 1).squeeze(-1)
        return (weight * outs).sum(-1), weight


torch.manual_seed(0)
x = torch.randn(256, 10)
y = torch.where(x[:, 0] > 0, x[:, 1], -x[:, 2])
net = Mixture()
opt = torch.optim.Adam(net.parameters(), lr=5e-3)
for epoch in range(3):
    for rows in torch.randperm(256).split(32):
        out, weight = net(x[rows])
        loss = nn.functional.mse_loss(out, y[rows]) + 0.01 * (weight.mean(0) * weight.mean(0).log()).sum()
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
