"""Multiply a gradient on its way back: by a factor, or by a negative one."""

import math

import torch
from torch import Tensor, nn
from torch.autograd import Function

from linkboy._checks import check_number, describe
from linkboy._compat import plain_apply
from linkboy._tensors import check_floating, transforms_active
from linkboy.autograd._substitute import substitute


def scale_gradient(x: Tensor, *, scale: float | Tensor) -> Tensor:
    """Pass `x` on unchanged and multiply its gradient by `scale`.

    The backward pass is itself linear: its own derivative is multiplied by `scale` once more. Nothing is saved.

    Args:
        x: any shape, floating point.
        scale: a finite number, or a tensor with no dimension, which a schedule can change in place without a
            compilation and without waiting for a device. No gradient flows into it.

    Returns:
        The bits of `x`, in its dtype and on its device.

    Raises:
        TypeError: `x` is not a floating point tensor, or `scale` is neither a real number nor a tensor of one.
        ValueError: `scale` is not finite, or a tensor with dimensions.

    Examples:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> torch.autograd.grad(scale_gradient(x, scale=0.1).sum(), x)[0]
        tensor([0.1000, 0.1000])
    """
    check_floating("x", x)
    return _scaled(x, _factor(scale))


def gradient_reversal(x: Tensor, *, scale: float | Tensor = 1.0) -> Tensor:
    """Pass `x` on unchanged and reverse its gradient: `-scale` times the incoming one.

    The layers before it learn to make harder what the layers after it learn to do. It is `scale_gradient` with the other sign.

    Args:
        x: any shape, floating point.
        scale: strength of the reversal, as in `scale_gradient`; a schedule often raises it from 0 to 1.

    Returns:
        The bits of `x`, in its dtype and on its device.

    Raises:
        TypeError: `x` is not a floating point tensor, or `scale` is neither a real number nor a tensor of one.
        ValueError: `scale` is not finite, or a tensor with dimensions.

    Examples:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> torch.autograd.grad(gradient_reversal(x, scale=0.5).sum(), x)[0]
        tensor([-0.5000, -0.5000])

    Source: Ganin and Lempitsky 2015, https://arxiv.org/abs/1409.7495, where the scale is `2 / (1 + exp(-10 * p)) - 1` at
    the share `p` of the training.
    """
    check_floating("x", x)
    return _scaled(x, -_factor(scale))


class GradientReversal(nn.Module):
    """`gradient_reversal` as a layer; `scale` is an attribute that a schedule may set, and not in the `state_dict`.

    Args:
        scale: strength of the reversal.

    Raises:
        TypeError: `scale` is neither a real number nor a tensor of one.
        ValueError: `scale` is not finite, or a tensor with dimensions.

    Examples:
        >>> import torch
        >>> domain_head = nn.Sequential(GradientReversal(scale=0.5), nn.Linear(3, 2))
        >>> domain_head(torch.zeros(4, 3)).shape
        torch.Size([4, 2])
    """

    scale: float | Tensor

    def __init__(self, *, scale: float | Tensor = 1.0) -> None:
        super().__init__()
        _factor(scale)
        if isinstance(scale, Tensor):
            self.register_buffer("scale", scale, persistent=False)  # so that .to() moves it
        else:
            self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Return the bits of `x`."""
        return gradient_reversal(x, scale=self.scale)

    def extra_repr(self) -> str:
        """Show the scale in `print(model)`."""
        return f"scale={self.scale}"


def _factor(scale: float | Tensor) -> float | Tensor:
    if type(scale) is float and -math.inf < scale < math.inf:
        return scale  # the usual case, on the way of every call
    if not isinstance(scale, Tensor):
        check_number("scale", scale)
        return scale
    if scale.ndim:
        raise ValueError(f"scale must be a number or a tensor with no dimension, got shape {tuple(scale.shape)}")
    if scale.is_complex() or scale.dtype == torch.bool:
        raise TypeError(f"scale must be a real number, got {describe(scale)}")
    return scale.detach()


def _scaled(x: Tensor, factor: float | Tensor) -> Tensor:
    """Return the bits of `x`, whose gradient is multiplied by `factor`."""
    if torch.compiler.is_compiling() or transforms_active():
        return substitute(x, (x * factor).to(x.dtype))
    return _apply(x, factor.clone() if isinstance(factor, Tensor) else factor)


class _Scale(Function):
    """The old style, without setup_context: half the time per call. `torch.func` and `torch.compile` do not come here."""

    @staticmethod
    def forward(ctx, x: Tensor, factor: float | Tensor) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0] * ctx.factor, None

    @staticmethod
    def jvp(ctx, *grad_inputs: Tensor) -> Tensor:
        return grad_inputs[0] * ctx.factor


_apply = plain_apply(_Scale)
