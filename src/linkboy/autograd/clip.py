"""Bound a gradient at one place of a model, on its way back."""

import math

import torch
from torch import Tensor
from torch.autograd import Function

from linkboy._checks import check_number
from linkboy._compat import plain_apply
from linkboy._tensors import check_floating, transforms_active, work_dtype


def clip_gradient(x: Tensor, *, max_norm: float | None = None, max_value: float | None = None) -> Tensor:
    """Pass `x` on unchanged and bound its gradient, by its norm or element by element.

    Where `torch.nn.utils.clip_grad_norm_` bounds the gradients of parameters after the whole backward pass, this
    bounds what flows through one activation, before it reaches anything below. Under `torch.vmap` the norm is that of
    each example. Forward-mode differentiation, in which no gradient flows back, passes the tangent unchanged.

    Args:
        x: any shape, floating point.
        max_norm: greatest Euclidean norm of the whole gradient; a longer one is shortened, its direction kept.
        max_value: greatest absolute value of an element.

    Returns:
        The bits of `x`, in its dtype and on its device.

    Raises:
        TypeError: `x` is not a floating point tensor, or a bound is not a number.
        ValueError: a bound is not above 0, or not exactly one of the two is given.

    Examples:
        >>> x = torch.zeros(2, requires_grad=True)
        >>> torch.autograd.grad(clip_gradient(x, max_norm=1.0), x, torch.tensor([3.0, 4.0]))[0]
        tensor([0.6000, 0.8000])
        >>> torch.autograd.grad(clip_gradient(x, max_value=3.5), x, torch.tensor([3.0, 4.0]))[0]
        tensor([3.0000, 3.5000])

    A NaN in the gradient stays one. `torch.func.grad` inside a compiled function does not see the bound: there torch
    2.13 ignores the backward of every `autograd.Function`.
    """
    check_floating("x", x)
    if (max_norm is None) == (max_value is None):
        raise ValueError("give one of max_norm and max_value, the other is None")
    name, bound = ("max_norm", max_norm) if max_value is None else ("max_value", max_value)
    if not (type(bound) is float and 0 < bound < math.inf):  # the usual case needs no call
        check_number(name, bound, above=0)
    if not (torch.compiler.is_compiling() or transforms_active()):
        return _apply(x, max_norm, max_value)
    # Dynamo refuses a Function that has a jvp.
    kind = _ClipInTransforms if torch.compiler.is_compiling() else _ClipInTransformsWithForwardMode
    return kind.apply(x, max_norm, max_value)


def _clipped(grad: Tensor, max_norm: float | None, max_value: float | None) -> Tensor:
    if max_norm is None:
        bound = min(max_value, torch.finfo(grad.dtype).max)  # pyright: ignore[reportArgumentType]
        return grad.clamp(-bound, bound)
    norm = torch.linalg.vector_norm(grad, dtype=work_dtype(grad))  # squares overflow in half precision
    # A clamp from below, and not from above after the division: its derivative at a zero gradient is 0 and not NaN.
    return grad * (max_norm / norm.clamp(min=max_norm)).to(grad.dtype)


class _Clip(Function):
    """The old style, without setup_context: half the time per call, but neither `torch.func` nor `torch.compile` take it."""

    @staticmethod
    def forward(ctx, x: Tensor, max_norm: float | None, max_value: float | None) -> Tensor:
        ctx.max_norm, ctx.max_value = max_norm, max_value
        return x.view_as(x)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        return _clipped(grad_outputs[0], ctx.max_norm, ctx.max_value), None, None

    @staticmethod
    def jvp(ctx, *grad_inputs: Tensor) -> Tensor:
        return grad_inputs[0].view_as(grad_inputs[0])


_apply = plain_apply(_Clip)


class _ClipInTransforms(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, max_norm: float | None, max_value: float | None) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, float | None, float | None], output: Tensor) -> None:
        _, ctx.max_norm, ctx.max_value = inputs

    backward = _Clip.backward


class _ClipInTransformsWithForwardMode(_ClipInTransforms):
    jvp = _Clip.jvp
