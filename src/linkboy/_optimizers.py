"""Take tensors out of an optimizer and put them in, in place: schedulers hold its groups, and all other state stays."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim import LBFGS, Optimizer

from linkboy._compat import begin_state


class Taken(NamedTuple):
    """A tensor that was taken out of an optimizer, with everything needed to put it back."""

    tensor: Tensor
    group: int
    position: int
    name: str | None
    state: dict[str, Any] | None


def torch_optimizer(optimizer: object) -> Optimizer:
    """Return the torch optimizer itself, out of accelerate's wrapper.

    Raises:
        TypeError: it is not an optimizer.
    """
    inner = getattr(optimizer, "optimizer", None) if type(optimizer).__name__ == "AcceleratedOptimizer" else optimizer
    if not isinstance(inner, Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    return inner


def take_out(optimizer: Optimizer, tensors: Iterable[Tensor]) -> list[Taken]:
    """Take tensors out of the groups of an optimizer, with their state; groups keep their number and order.

    Examples:
        >>> import torch
        >>> first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
        >>> optimizer = torch.optim.AdamW([first, second])
        >>> taken = take_out(optimizer, [first])
        >>> len(optimizer.param_groups[0]["params"])
        1
        >>> put_back(optimizer, taken)
        >>> optimizer.param_groups[0]["params"][0] is first
        True
    """
    ids = {id(tensor) for tensor in tensors}
    taken: list[Taken] = []
    for index, group in enumerate(optimizer.param_groups):
        for position in reversed([place for place, p in enumerate(group["params"]) if id(p) in ids]):
            tensor = group["params"].pop(position)
            name = group["param_names"].pop(position) if "param_names" in group else None
            taken.append(Taken(tensor, index, position, name, optimizer.state.pop(tensor, None)))
    if taken:
        _forget_history(optimizer)
    return taken


def put_back(optimizer: Optimizer, taken: Iterable[Taken]) -> None:
    """Put tensors back where `take_out` found them, with the state they had."""
    taken = list(taken)
    for entry in reversed(taken):
        group = optimizer.param_groups[entry.group]
        group["params"].insert(entry.position, entry.tensor)
        if entry.name is not None:
            group["param_names"].insert(entry.position, entry.name)
        if entry.state is not None:
            optimizer.state[entry.tensor] = entry.state
    if taken:
        _forget_history(optimizer)


def exchange(optimizer: Optimizer, heirs: Mapping[int, Tensor]) -> int:
    """Replace each tensor whose `id` is a key, without the state of the old one; return how many were replaced."""
    count = 0
    for group in optimizer.param_groups:
        for position, tensor in enumerate(group["params"]):
            if (heir := heirs.get(id(tensor))) is not None:
                optimizer.state.pop(tensor, None)
                group["params"][position] = heir
                begin_state(optimizer, heir)
                count += 1
    if count:
        _forget_history(optimizer)
    return count


def append(optimizer: Optimizer, group: int, name: str, tensor: Tensor) -> None:
    """Put a new tensor at the end of a group."""
    found = optimizer.param_groups[group]
    found["params"].append(tensor)
    if "param_names" in found:
        found["param_names"].append(name)
    begin_state(optimizer, tensor)
    _forget_history(optimizer)


def _forget_history(optimizer: Optimizer) -> None:
    if isinstance(optimizer, LBFGS):  # its history is one flat vector over all parameters
        optimizer.state.clear()
        optimizer._numel_cache = None
