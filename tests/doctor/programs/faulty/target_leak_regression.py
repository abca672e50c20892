# fault: target-leak
# The price is still among the columns, in a loader of dicts.
import torch
from torch import nn
from torch.utils.data import DataLoader


class House(torch.utils.data.Dataset):
    def __init__(self):
        g = torch.Generator().manual_seed(0)
        self.t = torch.randn(240, 6, generator=g)
        self.t[:, 2] = self.t[:, 0] * 2 + torch.randn(240, generator=g)

    def __len__(self):
        return 240

    def __getitem__(self, i):
        return {"features": self.t[i], "price": self.t[i, 2:3]}


torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 1))
opt = torch.optim.SGD(net.parameters(), lr=0.05)
for epoch in range(2):
    for batch in DataLoader(House(), 24, shuffle=True):
        loss = nn.functional.mse_loss(net(batch["features"]), batch["price"])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
