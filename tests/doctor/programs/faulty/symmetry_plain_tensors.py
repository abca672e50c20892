# fault: symmetry
# The parameters are lists of tensors, all filled with one number.
import torch

torch.manual_seed(24)
sizes = [6, 20, 20, 1]
weights = [torch.full((out, into), 0.1, requires_grad=True) for into, out in zip(sizes, sizes[1:])]
biases = [torch.zeros(out, requires_grad=True) for out in sizes[1:]]


def forward(x):
    for number, (weight, bias) in enumerate(zip(weights, biases)):
        x = x @ weight.T + bias
        if number < 2:
            x = torch.tanh(x)
    return x.squeeze(1)


opt = torch.optim.Adam([*weights, *biases], 5e-3)
for step in range(40):
    x = torch.randn(50, 6)
    loss = ((forward(x) - torch.sin(x[:, 0]) * x[:, 1]) ** 2).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
