"""Weights that were one tensor before the edit are one tensor after it, or the report says that they are not."""

from torch import Tensor, nn

from linkboy.editing._changes import Changes, TensorPlace
from linkboy.editing._configs import configs_above, set_field
from linkboy.editing._names import named_once


def retie(changes: Changes) -> None:
    """Give every follower of a tie the tensor of the tie's first name, which is the owner.

    Raises:
        ValueError: a follower cannot take the owner's new shape.
    """
    groups: dict[int, list[TensorPlace]] = {}
    for place in changes.before.tensors:
        groups.setdefault(id(place.tensor), []).append(place)
    present = named_once(changes.model)
    for group in groups.values():
        distinct = {(id(place.owner), place.key): place for place in group}
        if len(distinct) > 1:
            _retie_group(changes, list(distinct.values()), present)


def _retie_group(changes: Changes, group: list[TensorPlace], present: dict[int, str]) -> None:
    now = [(place, _holder(changes, place, present)) for place in group]
    left = [(place, holder) for place, holder in now if holder is not None]
    gone = [place.name for place, holder in now if holder is None]
    names = " = ".join(place.name for place in group)
    if gone and left:
        changes.warnings.append(f"the tie {names} lost {', '.join(gone)}")
    if len(left) < 2:
        return
    owner, tensor = left[0][1], _tensor(left[0][1], left[0][0].key)
    if tensor is None:
        return
    for place, holder in left[1:]:
        current = _tensor(holder, place.key)
        if current is None or current is tensor:
            continue
        replaced = holder is not place.owner
        if id(owner) in changes.untied or id(holder) in changes.untied:
            _end(changes, names, holder, "as asked")
        elif replaced and current.shape != tensor.shape:
            _end(changes, names, holder, f"as the new {place.name} has the shape {tuple(current.shape)}")
        else:
            _follow(changes, holder, place, tensor)
            changes.repairs.append(f"tied again: {names}" + " (the new module's own values were dropped)" * replaced)


def _holder(changes: Changes, place: TensorPlace, present: dict[int, str]) -> nn.Module | None:
    """Return the module that now stands where the owner of a tensor stood; `None` if it is gone."""
    if id(place.owner) in present:
        return place.owner
    path = place.name.rpartition(".")[0]
    parts = path.split(".")
    for depth in range(len(parts), 0, -1):  # the nearest ancestor that was replaced, and the same path in its successor
        old = changes.before.names.get(".".join(parts[:depth]))
        new = changes.successor.get(id(old)) if old is not None else None
        if new is not None and id(new) in present:
            part = dict(new.named_modules()).get(".".join(parts[depth:]))
            return part if part is not None and _tensor(part, place.key) is not None else None
    return None


def _tensor(module: nn.Module, key: str) -> Tensor | None:
    found = module._parameters.get(key)
    return found if found is not None else module._buffers.get(key)


def _end(changes: Changes, names: str, holder: nn.Module, why: str) -> None:
    changes.warnings.append(f"the tie {names} has ended, {why}")
    for config in configs_above(changes.model, holder):
        if getattr(config, "tie_word_embeddings", False) is True:
            set_field(changes, config, "tie_word_embeddings", False)


def _follow(changes: Changes, holder: nn.Module, place: TensorPlace, tensor: Tensor) -> None:
    current = _tensor(holder, place.key)
    changes.snapshot.keep(holder)
    if current is not None and current.shape != tensor.shape:
        bias = holder._parameters.get("bias")
        fits = isinstance(holder, nn.Linear) and current.shape[1:] == tensor.shape[1:] and place.key == "weight"
        if not fits or bias is not None:
            raise ValueError(
                f"{place.name} {tuple(current.shape)} is tied to a tensor that now has the shape {tuple(tensor.shape)} "
                "and cannot follow; resize_embeddings changes both together, replace(..., tie=False) ends the tie"
            )
        holder.out_features = tensor.shape[0]  # type: ignore[assignment]
    holder._parameters[place.key] = tensor  # type: ignore[assignment]
    if current is not None:
        changes.resized.setdefault(id(current), tensor)
        changes.hold(current)
