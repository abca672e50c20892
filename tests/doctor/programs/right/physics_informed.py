# right
# A network that solves u' = -u: the residual is to be zero, the inputs ask for a gradient.
import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))
opt = torch.optim.Adam(net.parameters(), lr=2e-3)
zero = torch.zeros(1, 1)
for step in range(50):
    t = torch.rand(64, 1).requires_grad_()
    u = net(t)
    du = torch.autograd.grad(u, t, torch.ones_like(u), create_graph=True)[0]
    residual = du + u
    loss = nn.functional.mse_loss(residual, torch.zeros_like(residual)) + nn.functional.mse_loss(
        net(zero), torch.ones(1, 1)
    )
    opt.zero_grad()
    loss.backward()
    opt.step()
print(loss.item())
