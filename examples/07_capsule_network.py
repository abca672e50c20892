"""A trainable matrix from every input capsule to every class, and routing: the copied lines, and one layer in their place.

    python examples/07_capsule_network.py

`capsnet_digits.py` trains a whole network with it.
"""

import torch
from torch import Tensor

import linkboy as lb


def copied_digit_capsules(weight: Tensor, x: Tensor) -> Tensor:  # (R, C, O, I), (B, R, I) -> (B, C, O)
    tiled = torch.cat([weight.unsqueeze(0)] * len(x))  # a copy of the whole weight for every example
    u = (tiled @ torch.stack([x] * weight.shape[1], 2).unsqueeze(4)).squeeze(4)  # (B, R, C, O)
    logits = torch.zeros(1, *u.shape[1:3], 1)
    for _ in range(3):
        s = (logits.softmax(1) * u).sum(1)  # shares over the input capsules: should be over the classes
        n2 = s.square().sum(-1, keepdim=True)
        v = n2 / (1 + n2) * s / n2.sqrt()  # NaN for a capsule of zeros
        logits = logits + (u * v.unsqueeze(1)).sum(3, keepdim=True).mean(0)  # over the batch: should be per example
    return v


def main() -> None:
    torch.manual_seed(0)
    x = lb.squash(torch.randn(32, 32, 8))
    mates = x[:1].expand_as(x)  # the same first example, among copies of itself
    layer = lb.CapsuleLinear(32, 8, 10, 16)
    for name, route in (
        ("copied", lambda x: copied_digit_capsules(layer.weight, x)),
        ("CapsuleLinear", layer),
    ):
        with torch.no_grad():
            moved = (route(x)[0] - route(mates)[0]).norm() / route(x)[0].norm()
            zeros = route(torch.zeros(1, 32, 8))
        print(f"{name}: other batch mates move an answer by {moved:.2%}; zeros give NaN: {bool(zeros.isnan().any())}")
    lengths = lb.capsule_norm(layer(x))  # (32, 10), how confident the layer is of each class
    loss = lb.margin_loss(lengths, torch.arange(32) % 10)
    print(f"lengths from {lengths.min():.2f} to {lengths.max():.2f}; loss {loss:.3f}")


if __name__ == "__main__":
    main()
