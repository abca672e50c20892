# fault: wrong-backward
# A linear operator whose gradient of the weight is twice too large.
import torch
from torch import nn


class Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w.T

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        return grad @ w, 2 * grad.T @ x


torch.manual_seed(0)
w1, w2 = nn.Parameter(torch.randn(16, 6) * 0.4), nn.Parameter(torch.randn(2, 16) * 0.2)
opt = torch.optim.SGD([w1, w2], lr=0.05)
x = torch.randn(200, 6)
y = (x[:, 0] > 0).long()
for step in range(30):
    rows = torch.randint(0, 200, (32,))
    loss = nn.functional.cross_entropy(Linear.apply(torch.tanh(Linear.apply(x[rows], w1)), w2), y[rows])
    opt.zero_grad()
    loss.backward()
    opt.step()
print(loss.item())
