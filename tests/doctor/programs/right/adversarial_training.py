# right
# Each step trains on points that were moved against the model (FGSM).
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
x = torch.rand(240, 12)
y = (x.sum(1) > 6).long()
net = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 2))
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(2):
    for xb, yb in DataLoader(TensorDataset(x, y), 24, shuffle=True):
        moved = xb.clone().requires_grad_()
        slope = torch.autograd.grad(nn.functional.cross_entropy(net(moved), yb), moved)[0]
        moved = (xb + 0.05 * slope.sign()).clamp(0, 1)
        loss = nn.functional.cross_entropy(net(moved), yb)
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
