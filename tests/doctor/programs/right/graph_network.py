# right
# Two layers of graph convolution on one graph; every node is in every step, the loss is over the training nodes.
import torch
from torch import nn

torch.manual_seed(0)
n = 120
label = torch.arange(n) % 3
adj = ((label[:, None] == label[None]) & (torch.rand(n, n) < 0.2)) | (torch.rand(n, n) < 0.02)
adj = (adj | adj.T | torch.eye(n, dtype=torch.bool)).float()
adj = adj / adj.sum(1, keepdim=True)
x = torch.randn(n, 8) + label[:, None] * 0.3
train = torch.rand(n) < 0.5


class Gcn(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x, adj):
        return self.b(adj @ torch.relu(self.a(adj @ x)))


net = Gcn()
opt = torch.optim.Adam(net.parameters(), lr=1e-2, weight_decay=5e-4)
for step in range(40):
    net.train()
    opt.zero_grad()
    out = net(x, adj)
    loss = nn.functional.cross_entropy(out[train], label[train])
    loss.backward()
    opt.step()
net.eval()
with torch.no_grad():
    print((net(x, adj).argmax(1) == label)[~train].float().mean().item())
