# fault: batch-mixing
# MultiheadAttention without batch_first.
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inp = nn.Linear(6, 16)
        self.att = nn.MultiheadAttention(16, 2)
        self.out = nn.Linear(16, 3)

    def forward(self, x):
        h = self.inp(x)
        return self.out(self.att(h, h, h, need_weights=False)[0].mean(1))


torch.manual_seed(0)
x = torch.randn(180, 9, 6)
y = x.mean(1)[:, :3].argmax(1)
net = Net()
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(2):
    for xb, yb in DataLoader(TensorDataset(x, y), 20, shuffle=True):
        loss = nn.functional.cross_entropy(net(xb), yb)
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
