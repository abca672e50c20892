"""Give a step without a useful derivative the derivative of another function."""

from collections.abc import Callable

import torch
from torch import Tensor

from linkboy._checks import describe
from linkboy._tensors import check_floating
from linkboy.autograd._substitute import substitute


def straight_through(
    fn: Callable[[Tensor], Tensor], *, surrogate: Callable[[Tensor], Tensor] | None = None
) -> Callable[[Tensor], Tensor]:
    """Give a function such as `torch.round` or `torch.sign` a gradient that trains.

    The function returned computes `fn(x)` and has the derivatives of `surrogate(x)`, by default those of `x` itself, so
    that the incoming gradient passes unchanged. It differentiates any number of times, forward and backward.

    Args:
        fn: maps a tensor to one of the shape of `surrogate(x)`; runs without recording, so parameters in it get no
            gradient. A boolean or integer result is converted to the dtype of `surrogate(x)`.
        surrogate: the function whose gradient is used, for instance `torch.tanh` for a sign; `None` is the identity.

    Returns:
        A function of one floating point tensor. It raises a `TypeError` for anything else, or where `fn` or `surrogate`
        return no real tensor, and a `ValueError` where the shapes of `fn(x)` and `surrogate(x)` differ.

    Raises:
        TypeError: `fn` or `surrogate` is not callable.

    Examples:
        >>> x = torch.tensor([0.2, 0.7], requires_grad=True)
        >>> hard = straight_through(torch.round)(x)
        >>> hard.tolist(), torch.autograd.grad(hard.sum(), x)[0].tolist()
        ([0.0, 1.0], [1.0, 1.0])
        >>> soft = straight_through(lambda x: x > 0.5, surrogate=torch.sigmoid)(x)
        >>> soft.tolist(), torch.autograd.grad(soft.sum(), x)[0].tolist()
        ([0.0, 1.0], [0.2475, 0.2217])

    Source: Bengio, Léonard and Courville 2013, https://arxiv.org/abs/1308.3432. The copied `x + (fn(x) - x).detach()` is
    not `fn(x)` where `x` is large (0.9697 for 0.97 at 1e4 in float32) and NaN where it is infinite.
    """
    for name, value in (("fn", fn), ("surrogate", surrogate)):
        if value is not None and not callable(value):
            raise TypeError(f"{name} must be a function of a tensor, got {describe(value)}")
    if fn is None:
        raise TypeError("fn must be a function of a tensor, got None")

    def straight(x: Tensor) -> Tensor:
        check_floating("x", x)
        path = x if surrogate is None else check_floating("surrogate(x)", surrogate(x))
        with torch.no_grad():
            value = fn(x.detach())
        if not isinstance(value, Tensor) or value.is_complex():
            raise TypeError(f"fn must return a tensor of real numbers, got {describe(value)}")
        if value.shape != path.shape:
            gives = "x has" if surrogate is None else "surrogate(x) has"
            raise ValueError(
                f"fn must keep the shape that {gives} {tuple(path.shape)}, got {tuple(value.shape)}; "
                "pass a surrogate= of the shape of fn(x)"
            )
        return substitute(value.to(path.dtype), path)

    return straight
