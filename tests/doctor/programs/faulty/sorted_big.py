# fault: unshuffled
import torch, torch.nn as nn
from torch.utils.data import DataLoader,TensorDataset
torch.manual_seed(0)
y=torch.arange(4000)//400; x=torch.randn(4000,8)+y[:,None]*.3
net=nn.Sequential(nn.Linear(8,16),nn.ReLU(),nn.Linear(16,10))
opt=torch.optim.Adam(net.parameters(),1e-3)
for e in range(3):
    for a,b in DataLoader(TensorDataset(x,y),16):
        loss=nn.functional.cross_entropy(net(a),b); opt.zero_grad(); loss.backward(); opt.step()
