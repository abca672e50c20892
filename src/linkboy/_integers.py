"""Follow the values of small integer tensors through a run on fake tensors: lengths, masks, ids.

A fake tensor has a shape and no values, so a run on shapes alone ends where a model reads a length. Integers that a caller
passes are known, and so is what is computed from integers alone; this mode computes it beside the fakes.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakIdKeyDictionary

MOST = 4096  # elements of a tensor whose values are followed
_MADE_OF_NUMBERS = frozenset(("arange", "full", "zeros", "ones", "scalar_tensor"))


@contextlib.contextmanager
def known_integers(fakes: Any, originals: Any) -> Iterator[None]:
    """Follow the values of integer and boolean tensors beside a fake tensor mode, which is entered first.

    Args:
        fakes: the `FakeTensorMode`.
        originals: from fake tensors to the tensors that they stand for.

    Yields:
        Nothing; values are read by `.item()` and its like.

    Examples:
        >>> from torch._subclasses.fake_tensor import FakeTensorMode
        >>> lengths = torch.tensor([2, 3])
        >>> fakes = FakeTensorMode(allow_non_fake_inputs=True)
        >>> stand_in = fakes.from_tensor(lengths)
        >>> with fakes, known_integers(fakes, {stand_in: lengths}):
        ...     (stand_in + 1).max().item()
        4
    """
    with _Pads(), _KnownIntegers(fakes, originals):
        yield


class _Pads(TorchFunctionMode):
    """Pads packed sequences by operators: torch's own padding writes lengths into memory that a fake does not have."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "_pad_packed_sequence":
            return _padded(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _padded(data: Tensor, sizes: Tensor, batch_first: bool, padding: float, total: int) -> tuple[Tensor, Tensor]:
    counts: list[int] = sizes.tolist()
    steps = max(len(counts), total)
    out = data.new_full((steps, counts[0], *data.shape[1:]), padding)
    at = 0
    for step, count in enumerate(counts):
        out[step, :count] = data[at : at + count]
        at += count
    with _disable_current_modes():
        lengths = (sizes[:, None] > torch.arange(counts[0])).sum(0)
    return out.transpose(0, 1) if batch_first else out, lengths


class _KnownIntegers(TorchDispatchMode):
    """Computes integers and booleans from integers and booleans beside the fakes."""

    def __init__(self, fakes: Any, originals: Any) -> None:
        super().__init__()
        self.fakes = fakes
        self.known: Any = WeakIdKeyDictionary()
        with _disable_current_modes():
            for fake, original in originals.items():
                if _is_small_integer(original) and not original.is_meta:
                    self.known[fake] = original.detach().to("cpu", copy=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        special = _SPECIAL.get(getattr(func, "_overloadpacket", func))
        if special is not None and (made := special(self, args)) is not None:
            return made
        leaves = tree_flatten((args, kwargs))[0]
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if not self._may_compute(func, tensors, args):
            if tensors and getattr(func, "_schema", None) is not None and func._schema.is_mutable:
                self._forget(args[0])
            return func(*args, **kwargs)
        return self._computed(func, args, kwargs)

    def value_of(self, tensor: Any) -> Tensor | None:
        """Return the values of a tensor, `None` where they are not known."""
        if not isinstance(tensor, Tensor) or tensor.is_floating_point() or tensor.is_complex():
            return None
        if type(tensor) is Tensor and tensor.device.type == "cpu" and tensor.numel() <= MOST:  # not a fake
            return tensor
        return self.known.get(tensor)

    def fake(self, value: Any) -> Any:
        """Return a fake of a tensor whose values stay known."""
        if not isinstance(value, Tensor):
            return value
        made = self.fakes.from_tensor(value)
        if _is_small_integer(value):
            self.known[made] = value
        return made

    def _may_compute(self, func: Any, tensors: list[Tensor], args: Any) -> bool:
        if not tensors:
            packet = getattr(func, "_overloadpacket", None)
            return getattr(packet, "__name__", "") in _MADE_OF_NUMBERS and _is_small(args)
        if any(self.value_of(tensor) is None for tensor in tensors):
            return False
        return torch.Tag.nondeterministic_seeded not in func.tags

    def _computed(self, func: Any, args: Any, kwargs: Any) -> Any:
        with _disable_current_modes():
            own = tree_map(lambda leaf: self.value_of(leaf) if isinstance(leaf, Tensor) else leaf, (args, kwargs))
            if "device" in own[1]:
                own[1]["device"] = "cpu"
            try:
                real = func(*own[0], **own[1])
            except Exception:  # noqa: BLE001 - the run on fakes says what is wrong with the arguments
                return func(*args, **kwargs)
        parts = list(_tensors_of(real))
        if not parts:
            return real  # a number: what `.item()` reads
        try:
            out = func(*args, **kwargs)
        except Exception:  # noqa: BLE001 - the shape depends on values
            with _disable_current_modes():
                return tree_map(self.fake, real)
        for fake, value in zip(_tensors_of(out), parts, strict=True):
            if _is_small_integer(value) and fake.shape == value.shape:
                self.known[fake] = value
        return out

    def _forget(self, written: Any) -> None:
        """Drop what is known of a tensor that is written into, and of what shares its memory."""
        if not isinstance(written, Tensor) or written not in self.known:
            return
        storage = self.known[written].untyped_storage()._cdata
        for fake in [fake for fake, value in self.known.items() if value.untyped_storage()._cdata == storage]:
            del self.known[fake]


def _is_small_integer(tensor: Tensor) -> bool:
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout is torch.strided and not tensor.is_quantized
    return plain and not tensor.is_floating_point() and not tensor.is_complex() and tensor.numel() <= MOST


def _is_small(args: Any) -> bool:
    """Return whether `arange(start, end)`, `zeros(sizes)` or `full(sizes, value)` makes few elements."""
    if args and isinstance(args[0], (list, tuple)):
        return math.prod(args[0]) <= MOST
    return all(isinstance(number, (int, bool)) and abs(number) <= MOST for number in args)


def _tensors_of(value: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor))


# ----------------------------------------------------------- operators of floats whose output's shape integers decide
def _packed(mode: _KnownIntegers, args: Any) -> Any:
    lengths = mode.value_of(args[1])
    if lengths is None:
        return None
    with _disable_current_modes():
        steps, sizes = torch.ops.aten._pack_padded_sequence(torch.empty(args[0].shape[:2]), lengths, args[2])
    return args[0].new_empty((len(steps), *args[0].shape[2:])), sizes  # the sizes are read outside any operator


def _selected(mode: _KnownIntegers, args: Any) -> Any:
    mask = mode.value_of(args[1])
    if mask is None or mode.value_of(args[0]) is not None:
        return None
    with _disable_current_modes():
        count = int(mask.expand(torch.broadcast_shapes(mask.shape, args[0].shape)).sum())
    return args[0].new_empty((count,))


def _indexed(mode: _KnownIntegers, args: Any) -> Any:
    """Index by a known mask as by the positions at which it is true."""
    masks = [mode.value_of(index) if index is not None and index.dtype is torch.bool else None for index in args[1]]
    if not any(mask is not None for mask in masks) or mode.value_of(args[0]) is not None:
        return None
    indices: list[Tensor | None] = []
    for index, mask in zip(args[1], masks, strict=True):
        if mask is None:
            indices.append(index)
            continue
        with _disable_current_modes():
            indices += [mode.fake(column) for column in mask.nonzero(as_tuple=True)]
    return torch.ops.aten.index(args[0], indices)


_SPECIAL = {
    torch.ops.aten._pack_padded_sequence: _packed,
    torch.ops.aten.masked_select: _selected,
    torch.ops.aten.index: _indexed,
}
