# right
# The picture is what is optimised; the network that judges it is frozen by eval and not in the optimizer.
import torch
from torch import nn

torch.manual_seed(0)
judge = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()).eval()
style = torch.rand(1, 3, 24, 24)
picture = torch.rand(1, 3, 24, 24, requires_grad=True)


def gram(f):
    f = f.flatten(2)
    return f @ f.transpose(1, 2) / f.shape[2]


with torch.no_grad():
    wanted = gram(judge(style))
opt = torch.optim.Adam([picture], lr=0.02)
for step in range(30):
    opt.zero_grad()
    loss = ((gram(judge(picture)) - wanted) ** 2).sum()
    loss.backward()
    opt.step()
print(loss.item())
