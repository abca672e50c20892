"""After a change of order in a stack: number its layers again, and keep what only its first layer owns."""

import dataclasses

from torch import nn

from linkboy.editing._changes import Changes
from linkboy.editing._names import children_of, kind_of

_POSITION = frozenset(("layer_idx", "layer_id", "layer_index", "layer_number", "block_idx", "layer_num"))


@dataclasses.dataclass(frozen=True)
class StackChange:
    """A stack that the model had before and has now, with other layers or another order."""

    name: str
    container: nn.Module
    old: list[nn.Module]
    new: list[nn.Module]

    @property
    def uniform(self) -> bool:
        """Whether all old layers are of one class: a stack with a depth, not a chain of different things."""
        return len({type(layer) for layer in self.old}) == 1


def changed_stacks(changes: Changes) -> list[StackChange]:
    """List the stacks that are still in the model and whose layers changed."""
    found = []
    present = {id(module) for module in changes.model.modules()}
    for key, (name, container, old) in changes.before.stacks.items():
        new = [child for _, child in children_of(container)]
        if key in present and list(map(id, new)) != list(map(id, old)):
            found.append(StackChange(name, container, old, new))
    return found


def renumber(changes: Changes, stack: StackChange) -> None:
    """Set the integers that held a layer's old position to its new one."""
    slots = _slots(stack.old)
    changed: dict[str, int] = {}
    stale: set[str] = set()
    for position, layer in enumerate(stack.new):
        for path, part in layer.named_modules():
            for attribute in _numbers(part):
                offset = slots.get((path, attribute))
                if offset is None:
                    stale |= {attribute} if attribute in _POSITION and part.__dict__[attribute] != position else set()
                elif part.__dict__[attribute] != position + offset:
                    changes.snapshot.keep(part)
                    setattr(part, attribute, position + offset)
                    changed[attribute] = changed.get(attribute, 0) + 1
    for attribute, count in changed.items():
        changes.repairs.append(f"{attribute} renumbered in {stack.name}: {count} values")
    for attribute in sorted(stale):
        changes.warnings.append(
            f"{attribute} in {stack.name} did not follow the positions before the edit and was left alone"
        )


def _numbers(part: nn.Module) -> list[str]:
    return [key for key, value in part.__dict__.items() if type(value) is int and not key.startswith("_")]


def _slots(layers: list[nn.Module]) -> dict[tuple[str, str], int]:
    """Map (path in a layer, attribute) to its distance from the position, where that is the same in all layers.

    A number that equals one position by chance does not grow with the layers; a known name is believed wherever it is
    consistent, another one only if all of two or more layers have it.
    """
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for position, layer in enumerate(layers):
        for path, part in layer.named_modules():
            for attribute in _numbers(part):
                found.setdefault((path, attribute), []).append((position, part.__dict__[attribute]))
    slots = {}
    for (path, attribute), values in found.items():
        distances = {value - position for position, value in values}
        proven = len(values) == len(layers) >= 2
        if len(distances) == 1 and (proven or attribute in _POSITION):
            slots[path, attribute] = distances.pop()
    return slots


def keep_first_owner(changes: Changes, stack: StackChange) -> None:
    """Leave with the first layer what it alone owned for all of them, such as T5's relative position bias.

    Only where the first layer has a submodule that no other layer has, and a flag beside it that says so; then every
    other layer depends on it.

    Raises:
        ValueError: the new first layer has no place for it.
    """
    for path, parent in stack.old[0].named_modules():
        for key, child in children_of(parent):
            others = [_part(layer, path) for layer in stack.old[1:]]
            if not others or any(other is None or key in other._modules for other in others):
                continue
            flags = _flags(parent, others[0])  # type: ignore[arg-type]  # none of them is None
            if flags:
                _move_owned(changes, stack, path, key, child, flags)


def _part(layer: nn.Module, path: str) -> nn.Module | None:
    for name in filter(None, path.split(".")):
        layer = layer._modules.get(name)  # type: ignore[assignment]
        if layer is None:
            return None
    return layer


def _flags(owner: nn.Module, other: nn.Module) -> dict[str, tuple[bool, bool]]:
    """Booleans that are different in the owner and in another layer: name -> (owner's, other's)."""
    return {
        key: (value, other.__dict__[key])
        for key, value in owner.__dict__.items()
        if type(value) is bool and key != "training" and other.__dict__.get(key, value) is not value
    }


def _move_owned(
    changes: Changes, stack: StackChange, path: str, key: str, child: nn.Module, flags: dict[str, tuple[bool, bool]]
) -> None:
    owned = ".".join(filter(None, (path, key)))
    for position, layer in enumerate(stack.new):
        part = _part(layer, path)
        owns = part is not None and part._modules.get(key) is not None
        if owns is (position == 0):
            continue
        if part is None:
            raise ValueError(
                f"the first layer of {stack.name!r} alone owned {owned!r}, on which all layers depend, and the new first "
                f"layer ({kind_of(layer)}) has no place for it; keep layer 0 first"
            )
        changes.snapshot.keep(part)
        if position == 0:
            part._modules[key] = child
            changes.repairs.append(f"{owned} of the first layer of {stack.name} moved to the new first layer")
        else:
            del part._modules[key]
        for flag, (first, other) in flags.items():
            setattr(part, flag, first if position == 0 else other)
