# fault: wiped-gradient
# model.zero_grad right before the step.
import torch
from torch import nn

torch.manual_seed(0)
net = nn.GRU(4, 12, batch_first=True)
out = nn.Linear(12, 1)
both = nn.ModuleList([net, out])
opt = torch.optim.SGD(both.parameters(), lr=0.1, momentum=0.9)
x = torch.randn(120, 6, 4)
y = x.sum((1, 2), keepdim=True)[:, 0]
for epoch in range(3):
    for rows in torch.randperm(120).split(20):
        loss = nn.functional.mse_loss(out(net(x[rows])[0][:, -1]), y[rows])
        loss.backward()
        both.zero_grad(set_to_none=False)
        opt.step()
    print(epoch, loss.item())
