# right
# A transformer encoder with a padding mask and a masked mean.
import torch
from torch import nn


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(90, 32, padding_idx=0)
        self.enc = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(32, 4, 64, 0.1, batch_first=True), 2, enable_nested_tensor=False
        )
        self.head = nn.Linear(32, 4)

    def forward(self, ids, mask):
        h = self.enc(self.emb(ids), src_key_padding_mask=~mask)
        return self.head((h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


torch.manual_seed(0)
ids = torch.randint(1, 90, (200, 14))
mask = torch.arange(14) < torch.randint(4, 15, (200, 1))
ids = ids * mask
y = ids[:, 1] % 4
net = Classifier()
opt = torch.optim.AdamW(net.parameters(), lr=1e-3)
for epoch in range(2):
    net.train()
    for rows in torch.randperm(160).split(16):
        loss = nn.functional.cross_entropy(net(ids[rows], mask[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    net.eval()
    with torch.no_grad():
        print((net(ids[160:], mask[160:]).argmax(-1) == y[160:]).float().mean().item())
