"""The one primitive: the value of one tensor, the gradient of another."""

import torch
from torch import Tensor
from torch.autograd import Function


def substitute(value: Tensor, path: Tensor) -> Tensor:
    """Return `value`, bit for bit, with the derivatives of `path`, in every mode of differentiation.

    Both have the same shape and dtype. No arithmetic is done and nothing is saved, so an infinite `path` does no harm.

    Examples:
        >>> x = torch.tensor([0.2, 0.7], requires_grad=True)
        >>> y = substitute(x.round(), 3 * x)
        >>> y.tolist(), torch.autograd.grad(y.sum(), x)[0].tolist()
        ([0.0, 1.0], [3.0, 3.0])
    """
    if not torch.compiler.is_compiling():
        return _Substitute.apply(value.detach(), path)
    # Dynamo refuses a Function that has a jvp, and forgets the derivatives of one that has none under `func.jvp`.
    nothing = path.detach() - path  # +0.0, and subtracting that keeps every bit, -0.0 included; NaN where not finite
    return torch.where(nothing.isnan(), value.detach(), value.detach() - nothing)


class _Substitute(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, path: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: object, *grad_outputs: Tensor) -> tuple[None, Tensor]:
        return None, grad_outputs[0]

    @staticmethod
    def jvp(ctx: object, *grad_inputs: Tensor) -> Tensor:
        _, path = grad_inputs
        return path.view_as(path)
