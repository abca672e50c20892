# fault: future
# A bidirectional LSTM is to predict the next word.
import torch
from torch import nn


class Lm(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(40, 16)
        self.rnn = nn.LSTM(16, 16, batch_first=True, bidirectional=True)
        self.out = nn.Linear(32, 40)

    def forward(self, ids):
        return self.out(self.rnn(self.emb(ids))[0])


torch.manual_seed(0)
text = torch.randint(0, 40, (160, 13))
net = Lm()
opt = torch.optim.AdamW(net.parameters(), lr=2e-3)
for epoch in range(2):
    for rows in torch.randperm(160).split(16):
        loss = nn.functional.cross_entropy(net(text[rows, :-1]).transpose(1, 2), text[rows, 1:])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
