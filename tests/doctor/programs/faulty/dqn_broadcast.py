# fault: broadcast
import torch, torch.nn as nn
torch.manual_seed(0)
q=nn.Sequential(nn.Linear(4,32),nn.ReLU(),nn.Linear(32,3)); opt=torch.optim.Adam(q.parameters(),1e-3)
for i in range(40):
    s,a,r,s2=torch.randn(32,4),torch.randint(0,3,(32,)),torch.randn(32),torch.randn(32,4)
    with torch.no_grad(): t=r+.9*q(s2).max(1)[0]
    loss=(q(s).gather(1,a[:,None])-t).pow(2).mean()
    opt.zero_grad(); loss.backward(); opt.step()
