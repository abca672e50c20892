"""The one way to say that an argument is wrong: what was expected, what came, how to fix it."""

import difflib
import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_SHORT_DTYPE = {
    "float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16", "complex64": "c64", "complex128": "c128",
    "int64": "i64", "int32": "i32", "int16": "i16", "int8": "i8", "uint8": "u8", "bool": "bool",
}  # fmt: skip
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\dA-Z_]+|\d+")  # of `a_name` and of `AName`
_ONE_WORD, _OTHER_WORDS = 0.8, 0.6  # likeness from which on last words are one word, and what stands before them is


def did_you_mean(name: object, candidates: Iterable[object]) -> str:
    """Return `"; did you mean 'x'?"` for the nearest candidate, or an empty string where none is near.

    Examples:
        >>> did_you_mean("avg_pool", ["max_pool", "avgpool"])
        "; did you mean 'avgpool'?"
        >>> did_you_mean("xyz", ["mean", "sum"]), did_you_mean("dice_loss", ["mse_loss"])
        ('', '')
    """
    names = [str(candidate) for candidate in candidates]
    near = [other for other in difflib.get_close_matches(str(name), names) if _same_meaning_possible(str(name), other)]
    return f"; did you mean {near[0]!r}?" if near else ""


def _same_meaning_possible(name: str, other: str) -> bool:
    """Return whether two names are alike beyond a last word they share: `dice_loss` is not a misspelled `mse_loss`."""
    if not (name.isidentifier() and other.isidentifier()):
        return True
    (*first, last), (*other_first, other_last) = _words(name), _words(other)
    if not first or not other_first or _likeness(last, other_last) < _ONE_WORD:
        return True
    return _likeness("".join(first), "".join(other_first)) >= _OTHER_WORDS


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)] or [name]


def _likeness(first: str, second: str) -> float:
    return difflib.SequenceMatcher(None, first, second).ratio()


def check_choice(argument: str, value: object, choices: Iterable[object]) -> None:
    """Raise a `ValueError` unless `value` is one of `choices`.

    Examples:
        >>> check_choice("reduction", "avg", ("none", "mean", "sum"))
        Traceback (most recent call last):
        ValueError: reduction must be one of ('none', 'mean', 'sum'), got 'avg'
    """
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{argument} must be one of {choices}, got {value!r}{did_you_mean(value, choices)}")


def check_number(
    argument: str,
    value: object,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    integer: bool = False,
) -> None:
    """Raise unless `value` is a finite number (an integer if asked) within the bounds.

    Args:
        argument: the name to put first in the message.
        value: what the caller passed.
        minimum: smallest value allowed.
        maximum: largest value allowed.
        above: value that must be exceeded.
        integer: refuse anything but an `int`.

    Raises:
        TypeError: `value` is not a number, or not an integer where `integer` asks for one.
        ValueError: it is not finite or lies outside the bounds.

    Examples:
        >>> check_number("gamma", -1.0, minimum=0)
        Traceback (most recent call last):
        ValueError: gamma must be a number of at least 0, got -1.0
    """
    if (
        isinstance(value, int if integer else (int, float))
        and not isinstance(value, bool)
        and -math.inf < value < math.inf  # a comparison, unlike isfinite, can be traced by torch.compile
        and (minimum is None or value >= minimum)
        and (maximum is None or value <= maximum)
        and (above is None or value > above)
    ):
        return
    bounds = [
        f"{word} {bound}"
        for word, bound in (("above", above), ("of at least", minimum), ("of at most", maximum))
        if bound is not None
    ]
    need = " ".join(["an integer" if integer else "a number", " and ".join(bounds)]).strip()
    if isinstance(value, int if integer else (int, float)) and not isinstance(value, bool):
        raise ValueError(f"{argument} must be {need}, got {value!r}")
    # NumPy and torch have whole numbers that are not `int`; they would reach reports and JSON.
    fix = f"; pass {'int' if integer else 'float'}({argument})" if callable(getattr(value, "item", None)) else ""
    raise TypeError(f"{argument} must be {need}, got {value!r} of type {type(value).__name__}{fix}")


def check_flag(argument: str, value: object) -> None:
    """Raise a `TypeError` unless `value` is a `bool`: a string such as `"no"` would count as true.

    Examples:
        >>> check_flag("progress", "no")
        Traceback (most recent call last):
        TypeError: progress must be True or False, got 'no'
    """
    if not isinstance(value, bool):
        raise TypeError(f"{argument} must be True or False, got {value!r}")


def describe(value: object) -> str:
    """Name a tensor by dtype and shape, `f32[4, 3]`, and anything else by its type, for messages.

    Examples:
        >>> import torch
        >>> describe(torch.zeros(4, 3)), describe([1, 2])
        ('f32[4, 3]', 'list')
    """
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None or dtype is None:
        return type(value).__name__
    name = str(dtype).rpartition(".")[2]
    return f"{_SHORT_DTYPE.get(name, name)}[{', '.join(str(size) for size in shape)}]"


def check_same_shape(argument: str, value: "Tensor", other: str, reference: "Tensor") -> None:
    """Raise a `ValueError` unless `value` has exactly the shape of `reference`: nothing is broadcast.

    Examples:
        >>> import torch
        >>> check_same_shape("target", torch.zeros(3), "input", torch.zeros(3, 1))
        Traceback (most recent call last):
        ValueError: target must have the shape of input (3, 1), got (3,)
    """
    if value.shape != reference.shape:
        raise ValueError(
            f"{argument} must have the shape of {other} {tuple(reference.shape)}, got {tuple(value.shape)}"
        )
