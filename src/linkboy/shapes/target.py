"""Check the model that a command line names, on random inputs of the shapes it gives."""

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from linkboy._checks import did_you_mean
from linkboy._named import load_named
from linkboy.shapes.doctor import BatchReport, check_batch

_DTYPES = ("float32", "float64", "bfloat16", "float16", "int64", "int32", "bool", "complex64")


def check_target(target: str, shapes: Sequence[str], *, train: bool = False) -> BatchReport:
    """Run `check_batch` on what a function builds, with random inputs of the given shapes.

    Args:
        target: `package.module:factory`, a function or class that gives a model when called without arguments, or a
            model; importing it executes your code.
        shapes: one text for each positional argument: sizes with commas between, the batch first, such as
            `"2,3,224,224"`; with `:int64` or another dtype behind it where the input is not float32. The number given
            for the batch is replaced. Floats are drawn from a normal distribution, integers and booleans are 0 or 1.
        train: check the model in training mode; by default it is put into `eval()`.

    Raises:
        ValueError: `target` or a shape cannot be read.
        TypeError: what the name gives is no module.
        ModuleNotFoundError: there is no such package here, or it needs one that is not.

    Examples:
        >>> from linkboy import check_target
        >>> check_target("torch.nn:Identity", ["2,3,224,224"]).outputs
        ('(B, 3, 224, 224)',)
    """
    made = [_maker(text) for text in shapes]
    if not made:
        raise ValueError("shapes must name the shape of each input, such as '2,3,224,224', got none")
    place = load_named(target, need="package.module:factory")
    model = place() if isinstance(place, Callable) and not isinstance(place, nn.Module) else place
    if not isinstance(model, nn.Module):
        raise TypeError(f"{target!r} must give an nn.Module, got {type(model).__name__}")
    return check_batch(model.train(train), lambda batch: tuple(make(batch) for make in made))


def _maker(text: str) -> Callable[[int], Tensor]:
    match = re.fullmatch(r"(\d+(?:,\d+)*)(?::(\w+))?", "".join(text.split()))
    if match is None:
        raise ValueError(f"a shape must be sizes with commas between, such as 2,3,224,224 or 2,16:int64, got {text!r}")
    name = match[2] or "float32"
    if name not in _DTYPES:
        raise ValueError(
            f"the dtype of a shape must be one of {', '.join(_DTYPES)}, got {name!r}{did_you_mean(name, _DTYPES)}"
        )
    dtype, sizes = getattr(torch, name), [int(size) for size in match[1].split(",")][1:]
    if dtype.is_floating_point or dtype.is_complex:
        return lambda batch: torch.randn(batch, *sizes, dtype=dtype)
    return lambda batch: torch.randint(2, (batch, *sizes)).to(dtype)
