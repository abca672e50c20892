# fault: amp-order
# Gradients are clipped by hand while they still carry the scaler's factor.
import torch
from torch import nn

torch.manual_seed(11)
net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
opt = torch.optim.AdamW(net.parameters(), lr=2e-3)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
for it in range(40):
    x = torch.randn(32, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nn.functional.cross_entropy(net(x), x[:, :4].argmax(1))
    opt.zero_grad()
    scaler.scale(loss).backward()
    total = torch.sqrt(sum(p.grad.pow(2).sum() for p in net.parameters()))
    if total > 1.0:
        for p in net.parameters():
            p.grad.mul_(1.0 / total)
    scaler.step(opt)
    scaler.update()
