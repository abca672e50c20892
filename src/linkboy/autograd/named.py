"""Check an operator by its name, on inputs given by their shapes or by the name of a function that makes them."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from linkboy._named import load_named
from linkboy.autograd.check import check_op
from linkboy.autograd.report import OpReport


def check_named_op(
    target: str,
    *,
    shapes: Sequence[str] = (),
    inputs_from: str | None = None,
    surrogate: str | None = None,
    compile: bool = True,
) -> OpReport:
    """Run `check_op` on `package.module:name`, which executes that module.

    Args:
        target: a function of tensors, an `autograd.Function`, or a module instance.
        shapes: of the inputs, such as `"4,3"`, one for each argument; one of `"4,3"` by default. They are drawn from a
            standard normal distribution with seed 0, in float32, and require grad.
        inputs_from: `package.module:name` of a function without arguments that returns the inputs, a tensor or a tuple.
        surrogate: `package.module:name` of the function whose derivatives the operator is meant to have.
        compile: whether to compile as well.

    Raises:
        TypeError: a name gives something else.
        ValueError: a shape cannot be read, both `shapes` and `inputs_from` are given, or the module has no such name.
        ModuleNotFoundError: there is no such module here.

    Examples:
        >>> check_named_op("torch:tanh", shapes=["2,3"], compile=False).ok
        True
    """
    fn = load_named(target)
    if isinstance(fn, type) and issubclass(fn, torch.autograd.Function):
        fn = fn.apply
    if isinstance(fn, type) or not callable(fn):
        kind = "a class" if isinstance(fn, type) else type(fn).__name__
        raise TypeError(
            f"{target!r} must be a function of tensors, an autograd.Function or a module instance, got {kind}"
        )
    if shapes and inputs_from:
        raise ValueError("give the inputs by shapes or by a function that makes them, not by both")
    args = _made(inputs_from) if inputs_from else _drawn(shapes or ["4,3"])
    wanted: Any = load_named(surrogate) if surrogate else None
    return check_op(fn, *args, surrogate=wanted, compile=compile)


def _drawn(shapes: Sequence[str]) -> tuple[Tensor, ...]:
    for shape in shapes:
        if not re.fullmatch(r"\d+(,\d+)*", shape):
            raise ValueError(f"a shape must be sizes with commas between, such as 4,3, got {shape!r}")
    generator = torch.Generator().manual_seed(0)
    sizes = [[int(size) for size in shape.split(",")] for shape in shapes]
    return tuple(torch.randn(size, generator=generator).requires_grad_() for size in sizes)


def _made(name: str) -> tuple[Any, ...]:
    make = load_named(name)
    if not callable(make):
        raise TypeError(f"{name!r} must be a function that returns the inputs, got {type(make).__name__}")
    made = make()
    return made if isinstance(made, tuple) else (made,)
