# right
# Adapters beside a frozen net: B begins at zero, so A has no gradient in the first step.
import torch
from torch import nn


class Adapted(nn.Module):
    def __init__(self, layer, rank=4):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, layer.in_features) / layer.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x):
        return self.layer(x) + x @ self.a.T @ self.b.T


torch.manual_seed(0)
net = nn.Sequential(Adapted(nn.Linear(16, 64)), nn.ReLU(), Adapted(nn.Linear(64, 5)))
opt = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-2)
x = torch.randn(256, 16)
y = x[:, :5].argmax(1)
for epoch in range(3):
    for rows in torch.randperm(256).split(32):
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
