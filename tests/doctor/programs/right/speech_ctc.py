# right
# CTC on features of various lengths, time first as the loss wants it.
import torch
from torch import nn

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(12, 24, bidirectional=True)
        self.out = nn.Linear(48, 9)

    def forward(self, x):
        return self.out(self.rnn(x)[0]).log_softmax(-1)


net = Net()
opt = torch.optim.AdamW(net.parameters(), lr=2e-3)
ctc = nn.CTCLoss(blank=0, zero_infinity=True)
for step in range(24):
    frames = torch.randint(14, 21, (16,))
    x = torch.randn(20, 16, 12)
    words = torch.randint(1, 9, (16, 5))
    count = torch.randint(2, 6, (16,))
    loss = ctc(net(x), words, frames, count)
    opt.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 5.0)
    opt.step()
print(loss.item())
