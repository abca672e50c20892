# right
# Few-shot episodes: queries are compared with the means of a support set.
import torch
from torch import nn

torch.manual_seed(0)
centres = torch.randn(20, 12) * 2
net = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 16))
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
for episode in range(30):
    ways = torch.randperm(20)[:5]
    support = centres[ways].repeat_interleave(3, 0) + torch.randn(15, 12)
    asked = centres[ways].repeat_interleave(6, 0) + torch.randn(30, 12)
    label = torch.arange(5).repeat_interleave(6)
    prototypes = net(support).view(5, 3, -1).mean(1)
    loss = nn.functional.cross_entropy(-(torch.cdist(net(asked), prototypes) ** 2), label)
    opt.zero_grad()
    loss.backward()
    opt.step()
print(loss.item())
