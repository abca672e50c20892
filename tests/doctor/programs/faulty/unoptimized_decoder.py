# fault: unoptimized
# Only the encoder's parameters are given to the optimizer.
import torch
from torch import nn

torch.manual_seed(0)
encoder = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4))
decoder = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 20))
opt = torch.optim.Adam(encoder.parameters(), lr=1e-3)
x = torch.randn(256, 4) @ torch.randn(4, 20)
for epoch in range(3):
    for rows in torch.randperm(256).split(32):
        loss = nn.functional.smooth_l1_loss(decoder(encoder(x[rows])), x[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
