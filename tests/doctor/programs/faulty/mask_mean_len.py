# fault: mask
import torch, torch.nn as nn
torch.manual_seed(0)
class N(nn.Module):
    def __init__(s):
        super().__init__(); s.e=nn.Embedding(50,16,padding_idx=0); s.r=nn.GRU(16,16,batch_first=True); s.o=nn.Linear(16,3)
    def forward(s,ids,lengths): return s.o(s.r(s.e(ids))[0][:,-1])
net=N(); L=torch.randint(3,11,(200,)); ids=torch.randint(1,50,(200,10))*(torch.arange(10)<L[:,None]); y=ids[:,0]%3
opt=torch.optim.Adam(net.parameters(),1e-3)
for e in range(3):
    for r in torch.randperm(200).split(20):
        loss=nn.functional.cross_entropy(net(ids[r],L[r]),y[r]); opt.zero_grad(); loss.backward(); opt.step()
