# fault: raw-nll
# nll_loss on logits.
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
x = torch.randn(200, 12)
y = x[:, :4].argmax(1)
net = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 4))
opt = torch.optim.SGD(net.parameters(), lr=0.01)
for epoch in range(2):
    for rows in torch.randperm(200).split(20):
        loss = F.nll_loss(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
