# right
# MoCo: a queue of negatives, the positive is always class 0.
import copy
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
query = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
key = copy.deepcopy(query).requires_grad_(False)
queue = F.normalize(torch.randn(64, 8), dim=1)
opt = torch.optim.SGD(query.parameters(), lr=0.05, momentum=0.9)
data = torch.randn(256, 16)
for epoch in range(3):
    for rows in torch.randperm(256).split(32):
        q = F.normalize(query(data[rows] + 0.1 * torch.randn(32, 16)), dim=1)
        with torch.no_grad():
            for a, b in zip(key.parameters(), query.parameters()):
                a.mul_(0.99).add_(b, alpha=0.01)
            k = F.normalize(key(data[rows] + 0.1 * torch.randn(32, 16)), dim=1)
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / 0.2
        loss = F.cross_entropy(logits, torch.zeros(32, dtype=torch.long))
        opt.zero_grad()
        loss.backward()
        opt.step()
        queue = torch.cat([queue[32:], k])
    print(epoch, loss.item())
