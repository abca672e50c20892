# right
# A recurrent model that keeps its state from window to window of one long series, in order, and starts anew each epoch.
import torch
from torch import nn


class Stateful(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.out, self.state = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 1), None

    def forward(self, x):
        h, state = self.rnn(x, self.state)
        self.state = state.detach()
        return self.out(h)


torch.manual_seed(0)
series = torch.sin(torch.arange(8 * 161) / 9).view(8, 161, 1) + 0.05 * torch.randn(8, 161, 1)
net = Stateful()
opt = torch.optim.Adam(net.parameters(), lr=5e-3)
for epoch in range(3):
    net.state = None
    for start in range(0, 160, 16):
        window = series[:, start : start + 17]
        loss = nn.functional.mse_loss(net(window[:, :-1]), window[:, 1:])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
