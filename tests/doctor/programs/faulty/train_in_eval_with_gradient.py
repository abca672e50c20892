# fault: train-in-eval
# The validation forgets eval() and no_grad() both.
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
x = torch.randn(360, 12)
y = x[:, :4].argmax(1)
train = DataLoader(TensorDataset(x[:240], y[:240]), 24, shuffle=True)
valid = DataLoader(TensorDataset(x[240:], y[240:]), 24)
net = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Dropout(0.4), nn.Linear(48, 4))
opt = torch.optim.Adam(net.parameters(), lr=3e-3)


def accuracy(loader):
    right = 0
    for inputs, labels in loader:
        right += (net(inputs).argmax(1) == labels).sum().item()
    return right / len(loader.dataset)


for epoch in range(4):
    for inputs, labels in train:
        loss = nn.functional.cross_entropy(net(inputs), labels)
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item(), accuracy(valid))
