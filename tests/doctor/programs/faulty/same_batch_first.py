# fault: same-batch
# The batch is taken before the loop and never again.
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
x = torch.randn(300, 8)
y = x.sum(1, keepdim=True)
loader = DataLoader(TensorDataset(x, y), 30, shuffle=True)
net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
xb, yb = next(iter(loader))
for step in range(25):
    loss = nn.functional.mse_loss(net(xb), yb)
    opt.zero_grad()
    loss.backward()
    opt.step()
print(loss.item())
