# fault: leakage
import torch, torch.nn as nn
from torch.utils.data import DataLoader,TensorDataset
torch.manual_seed(0)
x=torch.randn(4000,8); y=x[:,:3].argmax(1)
tr=DataLoader(TensorDataset(x[:3600],y[:3600]),20,shuffle=True)
va=DataLoader(TensorDataset(x[3000:],y[3000:]),50)
net=nn.Sequential(nn.Linear(8,16),nn.ReLU(),nn.Linear(16,3))
opt=torch.optim.Adam(net.parameters(),1e-3)
for e in range(3):
    net.train()
    for a,b in tr:
        loss=nn.functional.cross_entropy(net(a),b); opt.zero_grad(); loss.backward(); opt.step()
    net.eval()
    with torch.no_grad():
        print(sum((net(a).argmax(1)==b).sum().item() for a,b in va))
