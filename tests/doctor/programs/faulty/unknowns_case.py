# fault: unknowns
# The vocabulary was built in lower case, the texts are not: most words are id 1.
import torch
from torch import nn

torch.manual_seed(0)
ids = torch.randint(2, 80, (200, 12))
ids[torch.rand(200, 12) < 0.85] = 1
y = torch.randint(0, 2, (200,))
net = nn.Sequential(nn.EmbeddingBag(80, 16), nn.Linear(16, 2))
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(2):
    for rows in torch.randperm(200).split(20):
        loss = nn.functional.cross_entropy(net(ids[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
