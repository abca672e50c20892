# fault: padding-counted
import torch
from transformers import GPT2Config, GPT2LMHeadModel
torch.manual_seed(0)
model=GPT2LMHeadModel(GPT2Config(vocab_size=60,n_positions=16,n_embd=24,n_layer=2,n_head=2,bos_token_id=1,eos_token_id=1))
ids=(torch.randint(0,50,(96,1))+torch.arange(14))%50+5
mask=(torch.arange(14)<torch.randint(6,15,(96,1))).long(); ids=ids*mask
opt=torch.optim.AdamW(model.parameters(),1e-3); model.train()
for e in range(2):
    for r in torch.randperm(96).split(12):
        loss=model(input_ids=ids[r],attention_mask=mask[r],labels=ids[r]).loss
        loss.backward(); opt.step(); opt.zero_grad()
