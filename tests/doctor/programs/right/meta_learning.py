# right
# MAML with functional_call: the inner step is taken by hand on copies, the outer loss is the mean over tasks.
import torch
from torch import nn
from torch.func import functional_call

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 1))
meta = torch.optim.Adam(net.parameters(), lr=1e-3)
for outer in range(20):
    losses = []
    for task in range(4):
        phase, size = torch.rand(1) * 3, 1 + torch.rand(1)
        x, x2 = torch.rand(10, 1) * 6 - 3, torch.rand(10, 1) * 6 - 3
        weights = dict(net.named_parameters())
        inner = nn.functional.mse_loss(functional_call(net, weights, (x,)), size * torch.sin(x + phase))
        slopes = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
        fast = {name: w - 0.01 * g for (name, w), g in zip(weights.items(), slopes)}
        losses.append(nn.functional.mse_loss(functional_call(net, fast, (x2,)), size * torch.sin(x2 + phase)))
    loss = torch.stack(losses).mean()
    meta.zero_grad()
    loss.backward()
    meta.step()
print(loss.item())
