# right
# Two batches a step with a GradScaler: their sum is halved before it is unscaled; states are read through in a loop.
import torch
from torch import nn

torch.manual_seed(4)
net = nn.Linear(16, 1, bias=False)
mean = {key: tensor.clone() for key, tensor in net.state_dict().items()}
opt = torch.optim.SGD(net.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
for it in range(40):
    for _ in range(2):
        x = torch.randn(32, 16)
        scaler.scale(nn.functional.mse_loss(net(x).squeeze(1), x[:, :4].sum(1) + 0.1 * torch.randn(32))).backward()
    for p in net.parameters():
        p.grad.div_(2)
    scaler.unscale_(opt)
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    scaler.step(opt)
    scaler.update()
    opt.zero_grad()
    for key, tensor in net.state_dict().items():
        mean[key].lerp_(tensor, 0.1)
