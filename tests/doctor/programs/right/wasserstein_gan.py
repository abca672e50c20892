# right
# WGAN-GP: five critic steps for one of the generator, the penalty takes a gradient of a gradient.
import torch
from torch import autograd, nn

torch.manual_seed(0)
gen = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 2))
critic = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
opt_g = torch.optim.Adam(gen.parameters(), lr=1e-4, betas=(0.0, 0.9))
opt_c = torch.optim.Adam(critic.parameters(), lr=1e-4, betas=(0.0, 0.9))
for step in range(8):
    for _ in range(5):
        real = torch.randn(32, 2) * 0.2 + torch.tensor([1.0, -1.0])
        fake = gen(torch.randn(32, 3)).detach()
        mix = torch.rand(32, 1)
        between = (mix * real + (1 - mix) * fake).requires_grad_()
        slope = autograd.grad(critic(between).sum(), between, create_graph=True)[0]
        penalty = ((slope.norm(2, dim=1) - 1) ** 2).mean()
        loss_c = critic(fake).mean() - critic(real).mean() + 10 * penalty
        opt_c.zero_grad()
        loss_c.backward()
        opt_c.step()
    loss_g = -critic(gen(torch.randn(32, 3))).mean()
    opt_g.zero_grad()
    loss_g.backward()
    opt_g.step()
print(loss_c.item(), loss_g.item())
