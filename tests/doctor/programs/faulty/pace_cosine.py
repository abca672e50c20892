# fault: scheduler-pace
import torch, torch.nn as nn
from torch.utils.data import DataLoader,TensorDataset
torch.manual_seed(0)
x=torch.randn(800,8); y=x[:,:3].argmax(1)
net=nn.Sequential(nn.Linear(8,16),nn.ReLU(),nn.Linear(16,3))
opt=torch.optim.Adam(net.parameters(),1e-3)
s=torch.optim.lr_scheduler.CosineAnnealingLR(opt,T_max=10)
for e in range(10):
    for a,b in DataLoader(TensorDataset(x,y),20,shuffle=True):
        loss=nn.functional.cross_entropy(net(a),b); opt.zero_grad(); loss.backward(); opt.step(); s.step()
