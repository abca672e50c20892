# right
# One network with two heads, an advantage without gradient, an entropy bonus.
import torch
from torch import nn
from torch.distributions import Categorical


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 32), nn.Tanh())
        self.pi, self.v = nn.Linear(32, 4), nn.Linear(32, 1)

    def forward(self, x):
        h = self.body(x)
        return Categorical(logits=self.pi(h)), self.v(h).squeeze(-1)


torch.manual_seed(1)
net = Both()
opt = torch.optim.RMSprop(net.parameters(), lr=7e-4)
for update in range(30):
    obs = torch.randn(24, 6)
    dist, value = net(obs)
    act = dist.sample()
    reward = obs.gather(1, act[:, None]).squeeze(1)
    advantage = reward - value
    loss = (
        -(dist.log_prob(act) * advantage.detach()).mean() + 0.5 * advantage.pow(2).mean() - 0.01 * dist.entropy().mean()
    )
    opt.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 0.5)
    opt.step()
print(reward.mean().item())
