# right
# First the head alone, then the body joins the optimizer with a smaller rate.
import torch
from torch import nn

torch.manual_seed(0)
body, head = nn.Sequential(nn.Linear(10, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU()), nn.Linear(24, 4)
model = nn.Sequential(body, head)
body.requires_grad_(False)
opt = torch.optim.AdamW(head.parameters(), lr=5e-3)
x = torch.randn(240, 10)
y = x[:, :4].argmax(1)
for epoch in range(4):
    if epoch == 1:
        body.requires_grad_(True)
        opt.add_param_group({"params": body.parameters(), "lr": 1e-3})
    for rows in torch.randperm(240).split(24):
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
