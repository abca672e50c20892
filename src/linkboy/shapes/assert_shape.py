"""State the expected shapes once, by the names of their axes."""

import math
import numbers
import re
from collections.abc import Iterator, Mapping
from typing import Any

from linkboy._report import plural

Bound = dict[str, tuple[int | tuple[int, ...], str]]  # size, or sizes of `*name`, and where they were met first

_WORD = re.compile(r"\.\.\.|_|\*?[^\W\d]\w*|\d+|(?:\d+|[^\W\d]\w*)(?:\*(?:\d+|[^\W\d]\w*))+")


def assert_shape(x: object, spec: str | Mapping[str, Any], /, **axes: object) -> dict[str, Any]:
    """Check a shape against named axes, and return the sizes the names stand for.

    A spec names one axis for each dim: a name takes the size that it meets first and must match it afterwards, a number
    is that size, `2*t` is twice the size of `t`, and `_` is any size. At most once, `*batch` is any number of dims, which
    must match wherever `*batch` is named, and `...` is any number of dims that need not match. Pass the result on with
    `**`, and the names hold across calls.

    Args:
        x: the tensor or array to check, of any shape and dtype; `None` stands for an optional one that is not given, and
            is not checked.
        spec: names, numbers, products, `_`, `...` and `*name`, separated by spaces, such as `"b t 3"`; for a dataclass, a
            mapping or a named tuple, a mapping from its fields to their specs, such as `{"ids": "b t", "mask": "b t"}`.
        axes: `name=5` sets the size of an axis, `name=(2, 3)` the sizes of `*name`, `name=None` leaves it open, and
            `name=(tensor, "b t")` checks another tensor, called `name` in the message, with the same axes.

    Returns:
        The size of each named axis, a tuple of sizes for `*name`; an empty dict under `python -O`, where nothing is
        checked.

    Raises:
        AssertionError: a shape does not fit.
        ValueError: a spec cannot be read.
        TypeError: `x` is not a tensor or an array, or a keyword is none of the above.

    Examples:
        >>> import torch
        >>> x, y = torch.zeros(4, 7, 3), torch.zeros(4)
        >>> sizes = assert_shape(x, "b t 3", y=(y, "b"))
        >>> sizes
        {'b': 4, 't': 7}
        >>> assert_shape(torch.zeros(5, 7), "b t", **sizes)
        Traceback (most recent call last):
        AssertionError: x must be 'b t', got (5, 7): axis b is 5 here but 4 as given (b=4, t=7)
        >>> assert_shape(torch.zeros(2, 3, 14), "*batch 2*t", t=7)
        {'t': 7, 'batch': (2, 3)}
    """
    if not __debug__:
        return {}
    bound: Bound = {}
    tensors = list(_fields("x", x, spec))
    for name, value in axes.items():
        if _is_size(value) or (isinstance(value, tuple) and all(map(_is_size, value))):
            sizes = tuple(map(_plain, value)) if isinstance(value, tuple) else _plain(value)
            bound[name] = sizes, "as given"
        elif isinstance(value, tuple) and len(value) == 2:
            tensors += _fields(name, *value)
        elif value is not None:
            raise TypeError(
                f"{name} must be a size, a tuple of sizes, None, or a pair of a tensor and its spec, "
                f"got {type(value).__name__}"
            )
    for name, tensor, text in tensors:
        words = _words(name, text)
        if tensor is not None:
            _Check(name, tensor, text, bound).run(words)
    return {name: sizes for name, (sizes, _) in bound.items()}


def _fields(name: str, value: object, spec: object) -> Iterator[tuple[str, object, object]]:
    """Yield the tensors that a spec is for, with their names: one, or those in the fields that it names."""
    if value is None or not isinstance(spec, Mapping):
        yield name, value, "" if isinstance(spec, Mapping) else spec
        return
    for key, inner in spec.items():
        try:
            item = value[key] if isinstance(value, Mapping) else getattr(value, key)
        except (KeyError, AttributeError):
            raise AssertionError(f"{name} must have {key!r}, got {type(value).__name__} without it") from None
        yield from _fields(f"{name}.{key}", item, inner)


def _is_size(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, numbers.Integral) or type(value).__name__ == "SymInt"  # of NumPy, or of an exported graph


def _plain(size: Any) -> int:
    return int(size) if isinstance(size, numbers.Integral) else size  # a size of an exported graph stays one


class _Check:
    """One tensor against its spec; names that it meets first are bound."""

    def __init__(self, name: str, tensor: object, spec: object, bound: Bound) -> None:
        try:
            shape = getattr(tensor, "shape", None)
        except RuntimeError:  # of a lazy parameter, or of a nested tensor
            what = "has no shape yet; run one batch through the model first"
            if getattr(tensor, "is_nested", False):
                what = "is a nested tensor of the old layout, which has no shape; pad it, or make it with layout=torch.jagged"
            raise TypeError(f"{name} {what}") from None
        if shape is None or isinstance(tensor, type):
            raise TypeError(f"{name} must be a tensor or an array, got {type(tensor).__name__}")
        self._name, self._shape, self._spec, self._bound = name, tuple(shape), spec, bound

    def run(self, words: list[str]) -> None:
        """Raise unless the shape fits."""
        open_at = next((at for at, word in enumerate(words) if word == "..." or word.startswith("*")), None)
        free = len(self._shape) - len(words) + (open_at is not None)
        if free < 0 or (open_at is None and free):
            need = plural(len(words), "dim") if open_at is None else f"at least {plural(len(words) - 1, 'dim')}"
            self._fail(f"expected {need}, got {len(self._shape)}")
        products: list[tuple[int, str]] = []
        dim = 0
        for at, word in enumerate(words):
            if at == open_at:
                if word != "...":
                    self._match(word[1:], self._shape[dim : dim + free], f"axes {word} are")
                dim += free
                continue
            if "*" in word:
                products.append((dim, word))
            elif word.isdecimal():
                if self._shape[dim] != int(word):
                    self._fail(f"dim {dim} must be {word}")
            elif word != "_":
                self._match(word, self._shape[dim], f"axis {word} is")
            dim += 1
        for dim, word in products:  # last, as the tensor itself may name their factors
            self._multiply(dim, word)

    def _match(self, name: str, sizes: int | tuple[int, ...], what: str) -> None:
        known, source = self._bound.setdefault(name, (sizes, f"in {self._name}"))
        if sizes != known:
            self._fail(f"{what} {sizes} here but {known} {source}")

    def _multiply(self, dim: int, word: str) -> None:
        """Check a product; a single factor that is not known yet gets the size that fits."""
        factors = word.split("*")
        sizes = [int(factor) if factor.isdecimal() else self._bound.get(factor, (None, ""))[0] for factor in factors]
        known = [size for size in sizes if isinstance(size, int)]
        size, whole = self._shape[dim], math.prod(known)
        missing = [factor for factor, found in zip(factors, sizes, strict=True) if found is None]
        if len(missing) == 1 and whole and size % whole == 0:
            self._bound[missing[0]] = size // whole, f"in {self._name}"
        elif len(missing) == 1:
            self._fail(f"dim {dim} must be a multiple of {whole}, as {word} says")
        elif missing or len(known) < len(sizes):
            unknown = missing or [f for f, found in zip(factors, sizes, strict=True) if isinstance(found, tuple)]
            raise ValueError(f"the spec of {self._name} must name {' and '.join(unknown)} before {word}")
        elif size != whole:
            self._fail(f"dim {dim} must be {word} = {whole}")

    def _fail(self, why: str) -> None:
        names = ", ".join(f"{name}={sizes}" for name, (sizes, _) in self._bound.items())
        where = f"{self._name} must be {self._spec!r}, got {self._shape}: {why}"
        raise AssertionError(f"{where} ({names})" if names else where)


def _words(name: str, spec: object) -> list[str]:
    words = spec.split() if isinstance(spec, str) else None
    if words is None or not all(_WORD.fullmatch(word) for word in words):
        raise ValueError(
            f"the spec of {name} must be names, numbers, products such as 2*t, _, ... and *name, separated by spaces, "
            f"got {spec!r}"
        )
    if sum(word == "..." or word.startswith("*") for word in words) > 1:
        raise ValueError(f"the spec of {name} may have ... or *name once, got {spec!r}")
    return words
