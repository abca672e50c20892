# fault: stale-gradient
# The gradient is taken by autograd.grad and added to .grad by hand; nothing empties it.
import torch
from torch import nn

torch.manual_seed(2)
model = nn.Sequential(nn.Linear(12, 48), nn.SiLU(), nn.Linear(48, 1))
params = list(model.parameters())
opt = torch.optim.SGD(params, lr=5e-3)
x = torch.randn(256, 12)
y = x[:, :1] * x[:, 1:2]
for step in range(40):
    rows = torch.randint(0, 256, (32,))
    loss = nn.functional.mse_loss(model(x[rows]), y[rows])
    for p, slope in zip(params, torch.autograd.grad(loss, params)):
        p.grad = slope.clone() if p.grad is None else p.grad.add_(slope)
    opt.step()
