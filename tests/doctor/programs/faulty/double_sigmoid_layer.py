# fault: double-sigmoid
# nn.Sigmoid at the end of a convolutional net for several labels.
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(160, 2, 8, 8)
y = (x.mean((2, 3)) > 0).float()
net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2), nn.Sigmoid())
opt = torch.optim.Adam(net.parameters(), lr=5e-3)
for epoch in range(2):
    for rows in torch.randperm(160).split(16):
        loss = nn.functional.binary_cross_entropy_with_logits(
            net(x[rows]), y[rows], pos_weight=torch.tensor([2.0, 1.0])
        )
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
