# fault: label-range
# Pictures with labels 1 to 3, and four outputs.
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
y = torch.randint(1, 4, (240,))
x = torch.randn(240, 1, 8, 8) + y[:, None, None, None]
net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4), nn.LogSoftmax(1))
opt = torch.optim.SGD(net.parameters(), lr=0.05)
for epoch in range(2):
    for xb, yb in DataLoader(TensorDataset(x, y), 24, shuffle=True):
        loss = nn.functional.nll_loss(net(xb), yb)
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
