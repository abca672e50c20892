# fault: cut
# The features take a way through numpy.
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lower, self.upper = nn.Linear(9, 20), nn.Linear(20, 3)

    def forward(self, x):
        h = torch.relu(self.lower(x))
        h = torch.from_numpy(h.detach().numpy() / (h.detach().numpy().max() + 1e-6))
        return self.upper(h)


torch.manual_seed(0)
x = torch.randn(210, 9)
y = x[:, :3].argmax(1)
net = Net()
opt = torch.optim.NAdam(net.parameters(), lr=3e-3)
for epoch in range(3):
    for rows in torch.randperm(210).split(30):
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
