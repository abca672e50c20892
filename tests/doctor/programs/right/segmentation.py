# right
# A small U-shaped net, pixels without a label are 255 and ignored; SGD with a polynomial schedule.
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def double(a, b):
    return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(inplace=True))


class Unet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2 = double(3, 8), double(8, 16)
        self.up, self.last = nn.ConvTranspose2d(16, 8, 2, stride=2), double(16, 8)
        self.out = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        a = self.down1(x)
        b = self.down2(nn.functional.max_pool2d(a, 2))
        return self.out(self.last(torch.cat([a, self.up(b)], 1)))


torch.manual_seed(0)
mask = torch.randint(0, 3, (96, 4, 4)).repeat_interleave(4, 1).repeat_interleave(4, 2)
image = torch.randn(96, 3, 16, 16) * 0.5 + nn.functional.one_hot(mask, 3).permute(0, 3, 1, 2)
mask[torch.rand_like(mask, dtype=torch.float) < 0.05] = 255
loader = DataLoader(TensorDataset(image, mask), 8, shuffle=True, drop_last=True)
net = Unet()
opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)
sched = torch.optim.lr_scheduler.PolynomialLR(opt, total_iters=24, power=0.9)
for epoch in range(2):
    for xb, yb in loader:
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(xb), yb, ignore_index=255)
        loss.backward()
        opt.step()
        sched.step()
    print(epoch, loss.item())
