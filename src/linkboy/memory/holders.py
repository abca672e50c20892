"""Who holds a tensor: a search from the tensor back to a module, a running function or an exception."""

from typing import Any

import torch
from torch import Tensor, nn

from linkboy._checks import check_number, describe
from linkboy._report import format_bytes, plural
from linkboy.memory._live import StorageKey, frozen_objects, storages
from linkboy.memory._paths import Found, advise, kept_by_interpreter, render
from linkboy.memory._search import HolderSearch
from linkboy.memory.report import Holder, HolderReport


def who_holds(target: Tensor | nn.Module | torch.UntypedStorage, *, depth: int = 8, limit: int = 10) -> HolderReport:
    """Find what keeps a tensor (or a module) alive: names, containers, autograd graphs, exceptions, caches.

    Tensors are matched by storage, so a one-element slice is found as the holder of the whole. Besides what the
    garbage collector shows, the search follows gradients, what autograd graphs have saved, tracebacks, NumPy arrays over
    the same memory, thread locals, context variables and the local variables of running functions. Your own name for
    `target` is one of the holders.

    Args:
        target: a tensor, a storage, or a module (then its parameters and buffers count too).
        depth: longest path to follow, in objects.
        limit: most paths to report.

    Returns:
        A `HolderReport` whose `.holders` have a `.path`, such as
        `__main__.history[3] -> MeanBackward0 -> ReluBackward0._saved_result`, and `.advice`.

    Raises:
        TypeError: `target` is none of these, or a number is not an integer.
        ValueError: `depth` or `limit` is below 1.

    Examples:
        >>> import torch
        >>> class Trainer:
        ...     def __init__(self):
        ...         self.history = []
        >>> trainer = Trainer()
        >>> weight = torch.zeros(3, requires_grad=True)
        >>> hidden = (weight * 2).relu()
        >>> trainer.history.append(hidden.mean())
        >>> path = "trainer.history[0] -> MeanBackward0 -> ReluBackward0._saved_result"
        >>> any(holder.path.endswith(path) for holder in who_holds(hidden).holders)
        True

    `gc.get_referrers` alone answers "nobody" for what a graph has saved: those references live in C++. What only
    C++ holds is reported as not found in Python.
    """
    if not isinstance(target, (Tensor, nn.Module, torch.UntypedStorage)):
        raise TypeError(f"target must be a tensor, a module or a storage, got {describe(target)}")
    check_number("depth", depth, minimum=1, integer=True)
    check_number("limit", limit, minimum=1, integer=True)
    return holders_of([target], depth=depth, limit=limit, named=True)[0]


def holders_of(targets: list[Any], *, depth: int = 8, limit: int = 10, named: bool = False) -> list[HolderReport]:
    """Do the work of `who_holds` for several objects of any type in one search; `named`: as in `HolderSearch.find`."""
    search = HolderSearch()
    below = [_storages_below(target) for target in targets]
    wanted = {
        index: [target, *(tensor for key in keys for tensor in search.by_storage.get(key, (0, []))[1])]
        for index, (target, keys) in enumerate(zip(targets, below, strict=True))
    }
    found = search.find(wanted, limit=limit, depth=depth, named=named)
    return [
        HolderReport(describe_target(target), sum(below[index].values()), *as_holders(found[index]))
        for index, target in enumerate(targets)
    ]


def as_holders(found: list[Found]) -> tuple[tuple[Holder, ...], tuple[str, ...]]:
    """Turn finished paths into text; the notes say why there may be none.

    What the interpreter or a notebook keeps by itself is one holder, under the shortest of its paths.
    """
    found = sorted(found, key=lambda path: len(render(path)))
    holders: dict[str, tuple[str, ...]] = {}
    kept: set[str] = set()
    for path in found:
        cause = kept_by_interpreter(path)
        if cause is None or cause not in kept:
            holders[render(path)] = advise(path)
            kept |= {cause} if cause else set()
    return tuple(Holder(path, advice) for path, advice in holders.items()), () if holders else (_nothing_found(),)


def describe_target(target: object) -> str:
    """Name a storage by its size, everything else as messages do."""
    if isinstance(target, torch.UntypedStorage):
        return f"storage of {format_bytes(target.nbytes())}"
    return describe(target)


def _storages_below(target: Any) -> dict[StorageKey, int]:
    if isinstance(target, torch.UntypedStorage):
        return {(str(target.device), target.data_ptr()): target.nbytes()}
    tensors = [target] if isinstance(target, Tensor) else []
    if isinstance(target, nn.Module):
        tensors = [*target.parameters(), *target.buffers()]
    with torch._C.DisableTorchFunctionSubclass():
        return dict(item for tensor in tensors for item in storages(tensor))


def _nothing_found() -> str:
    frozen = frozen_objects()
    hidden = f"; gc.freeze() hides {plural(frozen, 'object')} from the search" if frozen else ""
    return f"nothing found in Python: held by C++, by a library, or by a reference cycle (gc.collect()){hidden}"
