# fault: padding-counted
# Translation: the padded rest of the target, id 0, counts in the loss.
import torch
from torch import nn

torch.manual_seed(0)
lengths = torch.randint(4, 13, (160, 1))
ids = torch.randint(3, 40, (160, 12)) * (torch.arange(12) < lengths)
tags = torch.where(ids > 0, (ids * 3) % 7 + 1, 0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(40, 16, padding_idx=0)
        self.enc = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.out = nn.Linear(16, 8)

    def forward(self, ids):
        return self.out(self.enc(self.emb(ids), src_key_padding_mask=ids == 0))


net = Net()
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(3):
    for rows in torch.randperm(160).split(20):
        loss = nn.functional.cross_entropy(net(ids[rows]).flatten(0, 1), tags[rows].flatten())
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
