# fault: checkpoint
import torch, torch.nn as nn
from torch.utils.data import DataLoader,TensorDataset
torch.manual_seed(0)
x=torch.randn(600,8); y=x[:,:3].argmax(1)
net=nn.Sequential(nn.Linear(8,16),nn.ReLU(),nn.Linear(16,3))
opt=torch.optim.Adam(net.parameters(),1e-3)
best=1e9; bs=None
for e in range(50):
    t=0
    for a,b in DataLoader(TensorDataset(x,y),20,shuffle=True):
        loss=nn.functional.cross_entropy(net(a),b); opt.zero_grad(); loss.backward(); opt.step(); t+=loss.item()
    if e==0: bs=net.state_dict()
net.load_state_dict(bs)
