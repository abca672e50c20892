"""State the expected shapes once, by the names of their axes."""

from torch import Tensor


def assert_shape(x: Tensor, spec: str, /, **axes: object) -> dict[str, int]:
    """Check a shape against named axes, and return the sizes the names stand for.

    A spec names one axis for each dim: a name takes the size that it meets first and must match it afterwards, a number
    is that size, `_` is any size, and `...`, at most once, is any number of dims. Pass the result on with `**`, and the
    names hold across calls.

    Args:
        x: the tensor to check, any shape and dtype.
        spec: names, numbers, `_` and `...`, separated by spaces, such as `"b t 3"`.
        axes: `name=5` sets the size of an axis, `name=None` leaves it open, and `name=(tensor, "b t")` checks another
            tensor, called `name` in the message, with the same axes.

    Returns:
        The size of each named axis; an empty dict under `python -O`, where nothing is checked.

    Raises:
        AssertionError: a shape does not fit.
        ValueError: a spec cannot be read.
        TypeError: `x` is not a tensor, or a keyword is neither an integer, `None` nor a tensor with its spec.

    Examples:
        >>> import torch
        >>> x, y = torch.zeros(4, 7, 3), torch.zeros(4)
        >>> sizes = assert_shape(x, "b t 3", y=(y, "b"))
        >>> sizes
        {'b': 4, 't': 7}
        >>> assert_shape(torch.zeros(5, 7), "b t", **sizes)
        Traceback (most recent call last):
        AssertionError: x must be 'b t', got (5, 7): axis b is 5 here but 4 as given
    """
    if not __debug__:
        return {}
    bound: dict[str, tuple[int, str]] = {}
    tensors: list[tuple[str, object, object]] = [("x", x, spec)]
    for name, value in axes.items():
        if isinstance(value, tuple) and len(value) == 2:
            tensors.append((name, *value))
        elif isinstance(value, int) and not isinstance(value, bool):
            bound[name] = value, "as given"
        elif value is not None:
            raise TypeError(
                f"{name} must be a size, None, or a pair of a tensor and its spec, got {type(value).__name__}"
            )
    for name, tensor, text in tensors:
        _bind(name, tensor, text, bound)
    return {name: size for name, (size, _) in bound.items()}


def _bind(name: str, tensor: object, spec: object, bound: dict[str, tuple[int, str]]) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    shape = tuple(tensor.shape)
    for dim, (axis, size) in enumerate(_pairs(name, shape, spec)):
        where = f"{name} must be {spec!r}, got {shape}"
        if axis.isdecimal():
            if size != int(axis):
                raise AssertionError(f"{where}: dim {dim} must be {axis}")
        elif axis != "_":
            known, source = bound.setdefault(axis, (size, f"in {name}"))
            if size != known:
                raise AssertionError(f"{where}: axis {axis} is {size} here but {known} {source}")


def _pairs(name: str, shape: tuple[int, ...], spec: object) -> list[tuple[str, int]]:
    words = spec.split() if isinstance(spec, str) else None
    if words is None or not all(word == "..." or word.isdecimal() or word.isidentifier() for word in words):
        raise ValueError(f"the spec of {name} must be names, numbers, _ and ... separated by spaces, got {spec!r}")
    if words.count("...") > 1:
        raise ValueError(f"the spec of {name} may have ... once, got {spec!r}")
    if "..." in words:
        at, free = words.index("..."), len(shape) - len(words) + 1
        words[at : at + 1] = ["_"] * max(free, 0)
        need = f"at least {len(words)}" if free < 0 else ""
    else:
        need = str(len(words)) if len(words) != len(shape) else ""
    if need:
        raise AssertionError(f"{name} must be {spec!r}, got {shape}: expected {need} dims, got {len(shape)}")
    return list(zip(words, shape, strict=True))
