# fault: mask
# The key padding mask is turned round: it hides the words and shows the padding.
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(50, 16, padding_idx=0)
        self.att = nn.MultiheadAttention(16, 2, batch_first=True)
        self.out = nn.Linear(16, 3)

    def forward(self, ids, attention_mask):
        h = self.emb(ids)
        h = self.att(h, h, h, key_padding_mask=attention_mask.bool())[0]
        return self.out(h[:, 0])


torch.manual_seed(0)
mask = (torch.arange(10) < torch.randint(3, 10, (200, 1))).long()
ids = torch.randint(1, 50, (200, 10)) * mask
y = ids[:, 0] % 3
net = Net()
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(2):
    for rows in torch.randperm(200).split(20):
        loss = nn.functional.cross_entropy(net(ids[rows], mask[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
