# right
# A transformers encoder whose pooler is not used; the first token goes into a head of one's own.
import torch
from torch import nn
from transformers import BertConfig, BertModel


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.bert = BertModel(
            BertConfig(vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
        )
        self.head = nn.Linear(16, 3)

    def forward(self, ids, mask):
        return self.head(self.bert(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0])


torch.manual_seed(0)
ids = torch.randint(3, 60, (96, 10))
mask = (torch.arange(10) < torch.randint(4, 11, (96, 1))).long()
ids = ids * mask
y = ids[:, 1] % 3
net = Net()
opt = torch.optim.AdamW(net.parameters(), lr=5e-4)
for epoch in range(2):
    net.train()
    for rows in torch.randperm(96).split(12):
        loss = nn.functional.cross_entropy(net(ids[rows], mask[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
