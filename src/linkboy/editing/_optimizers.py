"""Take removed tensors out of an optimizer and put new ones in, in place; the state of all others is not touched."""

from collections.abc import Container
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from linkboy._optimizers import append, exchange, take_out, torch_optimizer
from linkboy._report import plural
from linkboy.editing._changes import Changes


def unwrap(optimizer: object, model: nn.Module) -> Optimizer | None:
    """Return the torch optimizer itself, out of accelerate's wrapper.

    Raises:
        TypeError: it is not an optimizer.
        ValueError: it holds no parameter of the model.
    """
    if optimizer is None:
        return None
    inner = torch_optimizer(optimizer)
    ours = {id(tensor) for tensor in model.parameters()}
    if not any(id(tensor) in ours for group in inner.param_groups for tensor in group["params"]):
        raise ValueError("optimizer must hold parameters of the model, and this one holds none of them")
    return inner


def rewire(changes: Changes, optimizer: Optimizer | None) -> None:
    """Let an optimizer hold the edited model's tensors; groups keep their number and order, for the schedulers."""
    before = {
        id(place.tensor): place.tensor for place in changes.before.tensors if isinstance(place.tensor, nn.Parameter)
    }
    now = dict(changes.model.named_parameters())
    present = {id(tensor) for tensor in now.values()}
    gone = {key: tensor for key, tensor in before.items() if key not in present}
    new = {name: tensor for name, tensor in now.items() if id(tensor) not in before}
    if not gone and not new:
        return
    if optimizer is None:
        changes.notes.append(
            "an optimizer made before the edit is stale: it holds removed tensors and lacks the new ones; "
            "pass optimizer= to have it updated"
        )
        return
    groups = optimizer.param_groups
    home = _homes(changes, groups)
    heirs = _heirs(changes, {id(tensor) for tensor in new.values()})
    exchanged = exchange(optimizer, _each_once(optimizer, gone, heirs))
    removed = len(take_out(optimizer, gone.values()))
    held = {id(tensor) for group in groups for tensor in group["params"]}
    added = {name: tensor for name, tensor in new.items() if id(tensor) not in held and tensor.requires_grad}
    for name, tensor in added.items():
        append(optimizer, _home(changes, home, name, tensor), name, tensor)
    changes.repairs.append(
        f"optimizer: {plural(removed, 'tensor')} removed, {exchanged} replaced in place, {len(added)} added; the "
        "state of all others is "
        "unchanged, and an optimizer file saved before the edit no longer fits"
    )


def _heirs(changes: Changes, new: set[int]) -> dict[int, Tensor]:
    """Return the new tensor by the `id` of the old one in its place: resized, or of the same name in a replaced module."""
    found = {key: tensor for key, tensor in changes.resized.items() if id(tensor) in new}
    old_modules = {id(module): module for module in changes.before.names.values()}
    for key, module in changes.successor.items():
        inside = dict(module.named_parameters(remove_duplicate=False))
        old = old_modules.get(key)
        for path, tensor in old.named_parameters(remove_duplicate=False) if old is not None else ():
            if path in inside and id(inside[path]) in new:
                found.setdefault(id(tensor), inside[path])
    return found


def _each_once(optimizer: Optimizer, gone: Container[int], heirs: dict[int, Tensor]) -> dict[int, Tensor]:
    """Return the heirs of tensors that an optimizer holds and the model no longer does; no heir may follow two of them."""
    held = [id(tensor) for group in optimizer.param_groups for tensor in group["params"]]
    first = {id(heirs[key]): key for key in reversed(held) if key in gone and key in heirs}
    return {key: heirs[key] for key in first.values()}


def _homes(changes: Changes, groups: list[dict[str, Any]]) -> dict[str, tuple[int, bool]]:
    """Return the group of each parameter in the optimizer by its old name, and whether it is a matrix."""
    group_of = {id(tensor): index for index, group in enumerate(groups) for tensor in group["params"]}
    return {
        place.name: (group_of[id(place.tensor)], place.tensor.dim() > 1)
        for place in changes.before.tensors
        if id(place.tensor) in group_of
    }


def _home(changes: Changes, homes: dict[str, tuple[int, bool]], name: str, tensor: Tensor) -> int:
    """Return the group of a new parameter's counterpart, or of its nearest relative, matrices and vectors apart."""
    counterpart = _counterpart(changes, name)
    if counterpart in homes:
        return homes[counterpart][0]
    parts = counterpart.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        prefix = "".join(f"{part}." for part in parts[:depth])
        near = [home for known, home in homes.items() if known.startswith(prefix)]
        alike = [home for home in near if home[1] == (tensor.dim() > 1)]
        if alike:
            return alike[-1][0]
    return next(iter(homes.values()))[0]


def _counterpart(changes: Changes, name: str) -> str:
    """Return the old name that a new parameter would have had in the module replaced, copied or next to it."""
    old_names = {id(module): path for path, module in changes.before.names.items()}
    replaced = {id(new): key for key, new in changes.successor.items()}
    parts = name.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        module = changes.model.get_submodule(".".join(parts[:depth]))
        source = changes.origin_of(module)
        source = changes.neighbour.get(id(source), source)
        path = old_names.get(id(source), old_names.get(replaced.get(id(source), 0)))
        if path is not None:
            return ".".join(filter(None, (path, *parts[depth:])))
    return name
