# right
# A loss over all pairs of a list, made with two new dims on purpose.
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(40, 12, 6)
relevance = (x[..., 0] + 0.3 * torch.randn(40, 12)).mul(2).round().clamp(-2, 2)
net = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 1))
opt = torch.optim.Adam(net.parameters(), lr=5e-3)
for epoch in range(2):
    for i in range(40):
        score = net(x[i]).squeeze(-1)
        gap = score[:, None] - score[None, :]
        better = (relevance[i][:, None] > relevance[i][None, :]).float()
        loss = (nn.functional.softplus(-gap) * better).sum() / better.sum().clamp(min=1)
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
