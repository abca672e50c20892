# fault: unshifted
# A causal transformer whose labels are its inputs.
import torch
from torch import nn


class Lm(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.pos = nn.Embedding(40, 24), nn.Embedding(12, 24)
        self.enc = nn.TransformerEncoder(nn.TransformerEncoderLayer(24, 2, 48, 0.0, batch_first=True), 2)
        self.out = nn.Linear(24, 40)

    def forward(self, ids):
        t = ids.shape[1]
        mask = torch.triu(torch.full((t, t), float("-inf")), 1)
        return self.out(self.enc(self.emb(ids) + self.pos.weight[:t], mask=mask))


torch.manual_seed(0)
text = (torch.randint(0, 40, (160, 1)) + 3 * torch.arange(12)) % 40
net = Lm()
opt = torch.optim.AdamW(net.parameters(), lr=2e-3)
for epoch in range(2):
    for rows in torch.randperm(160).split(16):
        loss = nn.functional.cross_entropy(net(text[rows]).flatten(0, 1), text[rows].flatten())
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
