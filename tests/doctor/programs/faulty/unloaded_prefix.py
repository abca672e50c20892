# fault: unloaded
# The names of the saved weights begin with "module.", and strict is off.
import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(9, 24), nn.ReLU(), nn.Linear(24, 3))
saved = {f"module.{k}": torch.randn_like(v) * 0.1 for k, v in net.state_dict().items()}
net.load_state_dict(saved, strict=False)
x = torch.randn(240, 9)
y = x[:, :3].argmax(1)
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(2):
    for rows in torch.randperm(240).split(24):
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
