# fault: ignored-samples
import torch, torch.nn as nn
torch.manual_seed(0)
x=torch.randn(320,8); y=x[:,:3].argmax(1)
net=nn.Sequential(nn.Linear(8,16),nn.ReLU(),nn.Linear(16,3)); opt=torch.optim.Adam(net.parameters(),1e-3)
for i in range(30):
    for k in range(4):
        r=torch.randint(0,320,(20,)); loss=nn.functional.cross_entropy(net(x[r]),y[r])
    opt.zero_grad(); loss.backward(); opt.step()
