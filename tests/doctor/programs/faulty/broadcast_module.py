# fault: broadcast
# MSELoss with (N, 1) outputs and (N,) targets.
import warnings
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

warnings.simplefilter("ignore")
torch.manual_seed(0)
x = torch.rand(240, 5)
y = x @ torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0])
net = nn.Sequential(nn.Linear(5, 24), nn.ReLU(), nn.Linear(24, 1))
opt = torch.optim.AdamW(net.parameters(), lr=5e-3)
lossf = nn.MSELoss()
for epoch in range(3):
    for xb, yb in DataLoader(TensorDataset(x, y), 24, shuffle=True):
        loss = lossf(net(xb), yb)
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
