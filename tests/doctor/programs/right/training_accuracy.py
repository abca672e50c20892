# right
# Accuracy on the training rows and on held-out rows, both in eval mode; the best weights are cloned.
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(260, 10)
y = x[:, :3].argmax(1)
net = nn.Sequential(nn.Linear(10, 32), nn.Dropout(0.1), nn.ReLU(), nn.Linear(32, 3))
opt = torch.optim.Adam(net.parameters(), lr=5e-3)
best, kept = 0.0, None
for epoch in range(3):
    net.train()
    for rows in torch.randperm(200).split(20):
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    net.eval()
    with torch.no_grad():
        on_train = (net(x[:200]).argmax(1) == y[:200]).float().mean().item()
        on_val = (net(x[200:]).argmax(1) == y[200:]).float().mean().item()
    if on_val >= best:
        best, kept = on_val, {k: v.clone() for k, v in net.state_dict().items()}
    print(epoch, on_train, on_val)
net.load_state_dict(kept)
