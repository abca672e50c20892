# right
# A convolutional autoencoder on pictures between 0 and 1: the target is the input.
import torch
from torch import nn
from torch.utils.data import DataLoader

torch.manual_seed(0)
pictures = torch.rand(160, 1, 1, 16).expand(-1, -1, 16, -1) * torch.linspace(0, 1, 16)[:, None]
net = nn.Sequential(
    nn.Conv2d(1, 8, 3, 2, 1),
    nn.ReLU(),
    nn.Conv2d(8, 4, 3, 2, 1),
    nn.ReLU(),
    nn.ConvTranspose2d(4, 8, 2, 2),
    nn.ReLU(),
    nn.ConvTranspose2d(8, 1, 2, 2),
    nn.Sigmoid(),
)
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(3):
    for x in DataLoader(pictures, batch_size=16, shuffle=True):
        loss = nn.functional.mse_loss(net(x), x)
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
