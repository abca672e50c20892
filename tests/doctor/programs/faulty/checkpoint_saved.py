# fault: checkpoint
# The best state is kept by reference and written to a file at the end.
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(240, 9)
y = x[:, :3].argmax(1)
net = nn.Sequential(nn.Linear(9, 24), nn.ReLU(), nn.Linear(24, 3))
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
best = {"loss": 9.0, "model": None}
for epoch in range(4):
    total = 0.0
    for rows in torch.randperm(240).split(24):
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
        total += loss.item()
    if epoch == 1:
        best = {"loss": total, "model": net.state_dict()}
torch.save(best, "best.pt")
