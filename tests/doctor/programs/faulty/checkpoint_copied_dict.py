# fault: checkpoint
# An early stopping keeps the tensors of the model in a dict of its own.
import torch
from torch import nn


class EarlyStopping:
    def __init__(self, patience):
        self.patience, self.best, self.wait, self.state = patience, float("inf"), 0, None

    def __call__(self, value, model):
        if value < self.best:
            self.best, self.wait = value, 0
            self.state = {key: tensor for key, tensor in model.state_dict().items()}
        else:
            self.wait += 1
        return self.wait >= self.patience


torch.manual_seed(15)
net = nn.Sequential(nn.Linear(10, 40), nn.ReLU(), nn.Linear(40, 1))
opt = torch.optim.Adam(net.parameters(), 2e-3)
x = torch.randn(240, 10)
y = x[:, :2].prod(1, keepdim=True)
stop = EarlyStopping(3)
for epoch in range(20):
    for rows in torch.randperm(200).split(40):
        loss = nn.functional.mse_loss(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad():
        value = nn.functional.mse_loss(net(x[200:]), y[200:]).item()
    if stop(value, net):
        break
net.load_state_dict(stop.state)
