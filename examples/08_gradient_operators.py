"""An operator with a gradient of its own: what is wrong with the copied one, and one line in its place.

    python examples/08_gradient_operators.py

`csi_autoencoder.py` trains a model through such an operator.
"""

import torch
from torch import Tensor
from torch.autograd import Function

import linkboy as lb


class CopiedSign(Function):
    """Forward the sign, backward the gradient where |x| is below 1: what binary networks are trained with."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.x = (
            x  # autograd does not track it there: written in place before backward, it silently gives a wrong gradient
        )
        return x.sign()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad.mul_(ctx.x.abs() <= 1)  # the incoming gradient belongs to the caller


def intended(x: Tensor) -> Tensor:
    """The function whose gradient the sign is meant to have."""
    return x.clamp(-1, 1)


def main() -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    report = lb.check_op(CopiedSign.apply, x, surrogate=intended, compile=False)
    print(f"copied, ok: {report.ok}")
    for row in report.failures:
        print(f"  {row.check}: {row.found}\n    {row.fix}")
    sign = lb.straight_through(torch.sign, surrogate=intended)
    print(f"fixed, ok: {lb.check_op(sign, x, surrogate=intended).ok}")


if __name__ == "__main__":
    main()
