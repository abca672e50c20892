# fault: double-softmax
# Probabilities of a tagger are reshaped before the loss.
import torch
from torch import nn


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.rnn = nn.Embedding(30, 12), nn.LSTM(12, 16, batch_first=True)
        self.out = nn.Linear(16, 5)

    def forward(self, ids):
        return torch.softmax(self.out(self.rnn(self.emb(ids))[0]), -1)


torch.manual_seed(0)
ids = torch.randint(0, 30, (140, 8))
tags = ids % 5
net, lossf = Tagger(), nn.CrossEntropyLoss(label_smoothing=0.05)
opt = torch.optim.AdamW(net.parameters(), lr=1e-2)
for epoch in range(3):
    for rows in torch.randperm(140).split(20):
        loss = lossf(net(ids[rows]).permute(0, 2, 1), tags[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
