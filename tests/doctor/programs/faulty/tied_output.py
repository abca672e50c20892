# fault: tied
# load of pretrained vectors into the embedding and a copy of it into the output layer.
import torch
from torch import nn


class Lm(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(36, 20)
        self.rnn = nn.LSTM(20, 20, batch_first=True)
        self.out = nn.Linear(20, 36)
        self.out.weight.data = self.emb.weight.data.clone()

    def forward(self, ids):
        return self.out(self.rnn(self.emb(ids))[0])


torch.manual_seed(0)
net = Lm()
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
text = (torch.randint(0, 36, (160, 1)) + 5 * torch.arange(11)) % 36
for epoch in range(2):
    for rows in torch.randperm(160).split(16):
        loss = nn.functional.cross_entropy(net(text[rows, :-1]).transpose(1, 2), text[rows, 1:])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
