# right
# Three models in a list, each with its own optimizer, trained side by side.
import torch
from torch import nn

torch.manual_seed(0)
x = torch.rand(240, 5)
y = (x[:, :1] * 6).sin() + x[:, 1:2]
models = [nn.Sequential(nn.Linear(5, 32), nn.SiLU(), nn.Linear(32, 1)) for _ in range(3)]
opts = [torch.optim.NAdam(m.parameters(), lr=5e-3) for m in models]
for epoch in range(3):
    for rows in torch.randperm(240).split(30):
        for model, opt in zip(models, opts):
            opt.zero_grad()
            loss = nn.functional.huber_loss(model(x[rows]), y[rows])
            loss.backward()
            opt.step()
    print(epoch, loss.item())
