# right
# VQ-VAE: the nearest code goes forward, the gradient goes straight past it.
import torch
from torch import nn


class Vq(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc, self.dec = (
            nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)),
            nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16)),
        )
        self.codes = nn.Embedding(24, 8)

    def forward(self, x):
        z = self.enc(x)
        nearest = torch.cdist(z, self.codes.weight).argmin(1)
        q = self.codes(nearest)
        commit = ((z - q.detach()) ** 2).mean() * 0.25 + ((q - z.detach()) ** 2).mean()
        return self.dec(z + (q - z).detach()), commit


torch.manual_seed(0)
x = torch.randn(4, 16)[torch.randint(0, 4, (256,))] + 0.2 * torch.randn(256, 16)
net = Vq()
opt = torch.optim.Adam(net.parameters(), lr=2e-3)
for epoch in range(3):
    for rows in torch.randperm(256).split(32):
        out, commit = net(x[rows])
        loss = nn.functional.mse_loss(out, x[rows]) + commit
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
