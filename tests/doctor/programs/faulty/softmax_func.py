# fault: double-softmax
import torch, torch.nn as nn
torch.manual_seed(0)
x=torch.randn(200,3,8,8); y=(x.mean((1,2,3))>0).long()
net=nn.Sequential(nn.Conv2d(3,6,3),nn.ReLU(),nn.AdaptiveAvgPool2d(1),nn.Flatten(),nn.Linear(6,2))
opt=torch.optim.SGD(net.parameters(),0.05)
for i in range(30):
    r=torch.randint(0,200,(20,))
    p=torch.softmax(net(x[r]),1).clamp(1e-6,1)
    loss=nn.CrossEntropyLoss()(p,y[r]); opt.zero_grad(); loss.backward(); opt.step()
