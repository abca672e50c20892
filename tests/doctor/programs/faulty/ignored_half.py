# fault: ignored-samples
# The loss is taken over the first half of the output.
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(256, 10)
y = x[:, :2].sum(1, keepdim=True)
net = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 1))
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(2):
    for rows in torch.randperm(256).split(32):
        out = net(x[rows])
        half = len(rows) // 2
        loss = nn.functional.mse_loss(out[:half], y[rows][:half])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
