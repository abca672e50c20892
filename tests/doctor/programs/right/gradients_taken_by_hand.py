# right
# Each gradient of autograd.grad replaces the one before it, clipped by hand, in one step of two batches.
import torch
from torch import nn

torch.manual_seed(3)
model = nn.Sequential(nn.Linear(12, 48), nn.SiLU(), nn.Linear(48, 1))
params = list(model.parameters())
opt = torch.optim.Adam(params, lr=3e-3)
x = torch.randn(256, 12)
y = x[:, :1] * x[:, 1:2]
for step in range(40):
    total = [torch.zeros_like(p) for p in params]
    for rows in torch.randint(0, 256, (2, 32)):
        loss = nn.functional.mse_loss(model(x[rows]), y[rows])
        total = [before + slope / 2 for before, slope in zip(total, torch.autograd.grad(loss, params))]
    size = torch.sqrt(sum(each.pow(2).sum() for each in total))
    for p, slope in zip(params, total):
        p.grad = slope * (1 / size).clamp(max=1)
    opt.step()
