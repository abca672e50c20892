# right
# A small GPT-2 with its own loss; padded labels are -100.
import torch
from transformers import GPT2Config, GPT2LMHeadModel

torch.manual_seed(0)
model = GPT2LMHeadModel(
    GPT2Config(vocab_size=60, n_positions=16, n_embd=24, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1)
)
ids = (torch.randint(0, 50, (96, 1)) + torch.arange(14)) % 50 + 5
mask = (torch.arange(14) < torch.randint(6, 15, (96, 1))).long()
ids = ids * mask
labels = ids.masked_fill(mask == 0, -100)
opt = torch.optim.AdamW(model.parameters(), lr=1e-3)
model.train()
for epoch in range(2):
    for rows in torch.randperm(96).split(12):
        loss = model(input_ids=ids[rows], attention_mask=mask[rows], labels=labels[rows]).loss
        loss.backward()
        opt.step()
        opt.zero_grad()
    print(epoch, loss.item())
