# fault: always-dropout
# functional_call over a dict of parameters, and F.dropout that is always on.
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(10, 64), nn.Linear(64, 3)

    def forward(self, x):
        return self.b(F.dropout(F.relu(self.a(x)), 0.4))


torch.manual_seed(20)
net = Net()
params = {name: tensor.detach().clone().requires_grad_() for name, tensor in net.named_parameters()}
opt = torch.optim.Adam(params.values(), 2e-3)
x = torch.randn(300, 10)
y = x[:, :3].argmax(1)
for epoch in range(4):
    net.train()
    for rows in torch.randperm(240).split(30):
        loss = F.cross_entropy(functional_call(net, params, (x[rows],)), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    net.eval()
    with torch.no_grad():
        print(epoch, F.cross_entropy(functional_call(net, params, (x[240:],)), y[240:]).item())
