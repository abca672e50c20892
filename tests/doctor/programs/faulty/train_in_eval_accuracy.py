# fault: train-in-eval
# The accuracy of the validation part is taken in training mode.
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(260, 12)
y = x[:, :4].argmax(1)
net = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Dropout(0.4), nn.Linear(48, 4))
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(4):
    for rows in torch.randperm(200).split(25):
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad():
        right = (net(x[200:]).argmax(dim=-1) == y[200:]).sum().item()
    print(epoch, loss.item(), right / 60)
