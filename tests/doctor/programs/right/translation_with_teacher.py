# right
# Encoder and decoder as two modules, teacher forcing, one optimizer over both, padding ignored.
import itertools
import torch
from torch import nn

PAD, BOS = 0, 1
torch.manual_seed(0)


def batch(size):
    lengths = torch.randint(3, 9, (size,))
    src = torch.randint(2, 30, (size, 8)) * (torch.arange(8) < lengths[:, None])
    return src, torch.where(src > 0, (src + 3) % 28 + 2, 0)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(30, 24, padding_idx=PAD)
        self.rnn = nn.GRU(24, 32, batch_first=True)

    def forward(self, src):
        return self.rnn(self.emb(src))[1]


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(30, 24, padding_idx=PAD)
        self.rnn = nn.GRU(24, 32, batch_first=True)
        self.out = nn.Linear(32, 30)

    def forward(self, given, state):
        hidden, state = self.rnn(self.emb(given), state)
        return self.out(hidden), state


encoder, decoder = Encoder(), Decoder()
opt = torch.optim.Adam(itertools.chain(encoder.parameters(), decoder.parameters()), lr=3e-3)
lossf = nn.CrossEntropyLoss(ignore_index=PAD)
for step in range(40):
    src, dst = batch(24)
    given = torch.cat([torch.full((24, 1), BOS), dst[:, :-1]], 1)
    logits, _ = decoder(given, encoder(src))
    loss = lossf(logits.reshape(-1, 30), dst.reshape(-1))
    opt.zero_grad()
    loss.backward()
    opt.step()
print(loss.item())
