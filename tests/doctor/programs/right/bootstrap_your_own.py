# right
# BYOL: the target network is an average of the online one and runs without gradient in training mode.
import copy
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
online = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16))
predictor = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16))
target = copy.deepcopy(online)
for p in target.parameters():
    p.requires_grad = False
opt = torch.optim.SGD(list(online.parameters()) + list(predictor.parameters()), lr=0.03, momentum=0.9)
data = torch.randn(256, 12)
for epoch in range(3):
    for rows in torch.randperm(256).split(32):
        a, b = data[rows] + 0.1 * torch.randn(32, 12), data[rows] + 0.1 * torch.randn(32, 12)
        with torch.no_grad():
            ta, tb = target(a), target(b)
        loss = (
            2
            - F.cosine_similarity(predictor(online(a)), tb).mean()
            - F.cosine_similarity(predictor(online(b)), ta).mean()
        )
        opt.zero_grad()
        loss.backward()
        opt.step()
        with torch.no_grad():
            for old, new in zip(target.parameters(), online.parameters()):
                old.mul_(0.99).add_(new, alpha=0.01)
    print(epoch, loss.item())
