# right
# Five folds, each with a model and an optimizer of its own.
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(200, 8)
y = (x[:, :2].sum(1) > 0).long()
scores = []
for fold in torch.randperm(200).split(40):
    train = torch.tensor(sorted(set(range(200)) - set(fold.tolist())))
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    opt = torch.optim.Adam(net.parameters(), lr=1e-2)
    for epoch in range(2):
        for rows in train[torch.randperm(160)].split(32):
            loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
            opt.zero_grad()
            loss.backward()
            opt.step()
    net.eval()
    with torch.no_grad():
        scores.append((net(x[fold]).argmax(1) == y[fold]).float().mean().item())
print(scores)
