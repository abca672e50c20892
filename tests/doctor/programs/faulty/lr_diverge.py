# fault: lr-high
import torch, torch.nn as nn
torch.manual_seed(0)
x=torch.randn(200,8); y=x[:,:2].sum(1,keepdim=True)*3
net=nn.Sequential(nn.Linear(8,16),nn.ReLU(),nn.Linear(16,1))
opt=torch.optim.SGD(net.parameters(),3.0)
for i in range(40):
    r=torch.randint(0,200,(20,))
    loss=nn.functional.mse_loss(net(x[r]),y[r]); opt.zero_grad(); loss.backward(); opt.step()
