"""The structural edits: remove, replace, insert, wrap, keep, truncate."""

import copy as copying
import dataclasses
import operator
from collections.abc import Callable, Iterable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from linkboy._report import plural
from linkboy._walk import first_lazy
from linkboy.editing._changes import Changes
from linkboy.editing._names import (
    Kind,
    ModulePlace,
    children_of,
    find,
    find_all,
    find_editable,
    is_stack,
    kind_of,
    places_of,
    references,
    saved_by_adapter,
)  # fmt: skip

Make = Callable[[Any], nn.Module]

_HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip


def remove(changes: Changes, names: str | Iterable[str], kind: Kind | None) -> None:
    """Take modules out of their stacks, or mark attributes for removal; see `surgery.remove`."""
    places = find_all(changes.model, names, kind)
    gone = {id(place.module) for place in places}
    if all(id(child) in gone for _, child in children_of(changes.model)):
        raise ValueError(
            f"names must leave at least one of the {plural(len(children_of(changes.model)), 'module')} of the model, and "
            f"{names!r} stands for all of them; kind= selects among what a pattern matches"
        )
    changes.edits += [f"removed {place.name} ({kind_of(place.module)})" for place in places]
    for place in reversed(places):  # from the end, so that the numbers of those before it stay
        if not place.is_empty:  # a module with several names goes from all attributes at once
            _take_out(changes, place)
            if not place.parent._modules:
                path = place.name.rpartition(".")[0]
                changes.notes.append(f"{path} ({kind_of(place.parent)}) is empty now")


def _take_out(changes: Changes, place: ModulePlace) -> None:
    old = place.module
    changes.hold(old)
    if is_stack(place.parent):
        set_children(place.parent, [item for item in children_of(place.parent) if item[0] != place.key])
        return
    for alias in places_of(changes.model, old):
        if not is_stack(alias.parent):
            alias.leave_out()
            changes.removals.append((alias, old))


def replace(
    changes: Changes,
    names: str | Iterable[str],
    module: nn.Module | Make,
    *,
    kind: Kind | None,
    like: bool,
    hooks: bool,
    tie: bool,
) -> None:
    """Put another module in the place of each one named, at every name it has; see `surgery.replace`."""
    places = _each_module_once(find_all(changes.model, names, kind))
    if len(places) > 1 and isinstance(module, nn.Module):
        raise TypeError(
            f"module must be a function of the old module where names stand for several ({len(places)} here), such as "
            f"lambda old: nn.Identity(), got {kind_of(module)}"
        )
    for place in map(_saved_place, places):
        made = _called(module, place, "module") if _makes(module) else module
        new = _check_new(changes, place, made)
        changes.edits.append(f"replaced {place.name} ({kind_of(place.module)}) by {kind_of(new)}")
        exchange(changes, place, new, like=like, hooks=hooks, tie=tie)


def wrap(changes: Changes, names: str | Iterable[str], fn: Make, *, kind: Kind | None, like: bool) -> None:
    """Put `fn(module)` in the place of each module named; see `surgery.wrap`."""
    places = _each_module_once(find_all(changes.model, names, kind))
    if not callable(fn) or isinstance(fn, nn.Module):
        raise TypeError(
            "fn must be a function of the old module that returns the new one, such as "
            f"lambda old: nn.Sequential(old, new), got {type(fn).__name__}"
        )
    for place in map(_saved_place, places):
        module = _check_new(changes, place, _called(fn, place, "fn"))
        changes.edits.append(f"wrapped {place.name} ({kind_of(place.module)}) in {kind_of(module)}")
        exchange(changes, place, module, like=like, hooks=False, tie=True)


def insert_after(changes: Changes, name: str, module: nn.Module, *, key: str | None, copy: bool, like: bool) -> None:
    """Put a module behind another one of a stack; see `surgery.insert_after`."""
    place = find_editable(changes.model, name)
    if not is_stack(place.parent):
        raise TypeError(
            f"insert_after needs a module of a Sequential or ModuleList, and {place.name!r} is an attribute of "
            f"{kind_of(place.parent)}, whose forward decides what is called; "
            f"wrap({place.name!r}, lambda old: nn.Sequential(old, new)) puts a module behind it"
        )
    _check_new(changes, place, module)
    children = children_of(place.parent)
    named = not numbered(place.parent)
    if key is not None and (not named or not key or "." in key or key in place.parent._modules):
        raise ValueError(_key_error(key, place, named))
    module = _one_of_its_own(changes, module, copy)
    changes.snapshot.keep_data(module)
    changes.hold(module)
    if id(module) not in changes.origin:  # a copy is like its origin, mixed dtypes included
        changes.neighbour[id(module)] = place.module
        if like:
            conform(changes.model, module, likeness(changes.model, place.name, place.module), place.name)
    at = [known for known, _ in children].index(place.key) + 1
    children.insert(at, (key or _free_key(place.parent, module), module))
    set_children(place.parent, children)
    changes.edits.append(f"inserted {kind_of(module)} after {place.name}")


def keep_layers(changes: Changes, name: str, indices: Iterable[int], *, copy: bool) -> None:
    """Keep the layers of a stack at `indices`, in that order; see `surgery.keep_layers`."""
    stack = find_editable(changes.model, name).module if name else changes.model
    where = name or "the model"
    if not is_stack(stack):
        stacks = [known for known, part in changes.model.named_modules() if known and is_stack(part)]
        raise TypeError(
            f"keep_layers needs a Sequential or ModuleList, and {where!r} is a {kind_of(stack)}; "
            f"the model has {', '.join(stacks) or 'none'}"
        )
    chosen = _positions(indices, len(stack._modules), where)
    old, layers, used = children_of(stack), [], set()
    for index in chosen:
        key, layer = old[index]
        if index in used:
            layer = _one_of_its_own(changes, layer, copy)
            key = _free_key(stack, layer, taken={known for known, _ in layers})
        used.add(index)
        layers.append((key, layer))
    changes.hold(*(layer for _, layer in old))
    set_children(stack, layers)
    changes.edits.append(f"kept {len(chosen)} of {plural(len(old), 'layer')} of {where}: {', '.join(map(str, chosen))}")


def truncate(changes: Changes, name: str) -> None:
    """Drop what follows a module in its stack, and in the stacks that this one ends; see `surgery.truncate`."""
    place = find_editable(changes.model, name)
    if not is_stack(place.parent):
        raise TypeError(
            f"truncate needs a module of a Sequential or ModuleList, and {place.name!r} is an attribute of "
            f"{kind_of(place.parent)}, whose forward decides what follows it; remove by name what has to go"
        )
    dropped = 0
    while is_stack(place.parent):
        children = children_of(place.parent)
        at = [key for key, _ in children].index(place.key) + 1
        changes.hold(*(child for _, child in children))
        dropped += len(children) - at
        set_children(place.parent, children[:at])
        path = place.name.rpartition(".")[0]
        if not path or isinstance(place.parent, nn.ModuleList):  # what runs behind a ModuleList, its owner decides
            break
        place = find(changes.model, path)
    if not dropped:
        raise ValueError(f"nothing follows {name!r}, so there is nothing to truncate")
    changes.edits.append(f"truncated after {name}: {plural(dropped, 'module')} dropped")


def exchange(changes: Changes, place: ModulePlace, module: nn.Module, *, like: bool, hooks: bool, tie: bool) -> None:
    """Redirect every name and every reference of the module at `place` to `module`."""
    old = place.module
    if module is old:
        raise ValueError(f"module for {place.name!r} is the module that is there already")
    changes.hold(old, module)
    changes.snapshot.keep_data(module)
    if like:
        conform(changes.model, module, likeness(changes.model, place.name, old), place.name)
    places = places_of(changes.model, old, outside=module)
    held = references(changes.model, {id(old)}, outside=module)
    for alias in places:
        alias.parent._modules[alias.key] = module
    for reference in held:
        reference.redirect(module)
    also = [alias.name for alias in places if alias.name != place.name] + [reference.name for reference in held]
    if also:
        changes.repairs.append(f"{', '.join(also)} followed {place.name}, being the same module")
    kept = any(part is old for part in module.modules())
    if not kept:
        _hooks(changes, place.name, old, module, hooks)
    changes.successor[id(old)] = module
    if not tie:
        changes.untied |= {id(part) for part in module.modules()}


def _saved_place(place: ModulePlace) -> ModulePlace:
    """Return where an adapter of peft keeps its copy of a module, which it saves; else the place itself."""
    inside = saved_by_adapter(place)
    return inside[0] if inside else place


def set_children(container: nn.Module, children: list[tuple[str, nn.Module]]) -> None:
    """Set the children of a stack; a numbered stack is numbered again, a named one keeps its names."""
    if numbered(container):
        children = [(str(index), child) for index, (_, child) in enumerate(children)]
    container._modules.clear()
    container._modules.update(children)


def numbered(container: nn.Module) -> bool:
    """Return whether the children of a stack are called 0, 1, 2 and so on."""
    return isinstance(container, nn.ModuleList) or list(container._modules) == [
        str(index) for index in range(len(container._modules))
    ]


def _check_new(changes: Changes, place: ModulePlace, module: object) -> nn.Module:
    if not isinstance(module, nn.Module):
        got = f"the class {module.__name__}; build it first" if isinstance(module, type) else type(module).__name__
        raise TypeError(f"module for {place.name!r} must be an nn.Module, got {got}")
    lazy = first_lazy(module)
    if lazy is not None:
        raise ValueError(
            f"module for {place.name!r} has a lazy parameter {lazy!r}, which neither a check nor an optimizer can use; "
            "pass its sizes to the class without Lazy"
        )
    path = changes.model
    for part in ["", *place.name.split(".")[:-1]]:
        path = path if not part else path.get_submodule(part)
        if any(inner is path for inner in module.modules()):
            raise ValueError(f"module for {place.name!r} contains the {kind_of(path)} it would be put into")
    return module


def _called(make: Make, place: ModulePlace, argument: str) -> object:
    try:
        return make(place.module)
    except Exception as error:
        error.add_note(
            f"linkboy.surgery called {argument} with the {kind_of(place.module)} at {place.name!r}; "
            "it must return the new module"
        )
        raise


def _each_module_once(places: list[ModulePlace]) -> list[ModulePlace]:
    return list({id(place.module): place for place in reversed(places)}.values())[::-1]


def _makes(module: object) -> TypeGuard[Make]:
    return callable(module) and not isinstance(module, (nn.Module, type))


def _one_of_its_own(changes: Changes, module: nn.Module, copy: bool) -> nn.Module:
    """Return the module, or a deep copy of it if the model holds it already."""
    if not any(part is module for part in changes.model.modules()):
        return module
    if not copy:
        changes.shared_layers = True
        changes.notes.append(
            f"one {kind_of(module)} object is in two positions: its weights are shared, and state that is kept per layer, "
            "such as a cache, is mixed up; copy=True gives each position its own"
        )
        return module
    twin = copying.deepcopy(module)
    changes.origin[id(twin)] = module
    changes.hold(twin, module)
    parts = {id(part): copied for part, copied in zip(module.modules(), twin.modules(), strict=True)}
    changes.removals += [  # what was removed from the module before is settled in the copy too
        (ModulePlace(parts[id(place.parent)], place.key, place.name), old)
        for place, old in changes.removals
        if id(place.parent) in parts and place.is_empty
    ]
    return twin


def _positions(indices: Iterable[int], length: int, name: str) -> list[int]:
    try:
        chosen = [_position(index) for index in indices]
    except TypeError:
        raise TypeError(f"indices must be integers, positions in {name!r}, got {indices!r}") from None
    if not chosen:
        raise ValueError(f"indices must keep at least one of the {plural(length, 'layer')} of {name!r}, got none")
    wrong = [index for index in chosen if not -length <= index < length]
    if wrong:
        raise IndexError(
            f"indices must lie in [{-length}, {length}), as {name!r} has {plural(length, 'layer')}, got {wrong}"
        )
    return [index % length for index in chosen]


def _position(index: object) -> int:
    if isinstance(index, bool):
        raise TypeError("a mask of booleans is not a list of positions")
    return operator.index(index)  # type: ignore[arg-type]  # a TypeError is what it is for


def _key_error(key: str, place: ModulePlace, named: bool) -> str:
    container = place.name.rpartition(".")[0] or "the model"
    if not named:
        return f"key must be None, as the layers of {container!r} are numbered, got {key!r}"
    return f"key must be a new name without dots for {container!r}, which has {', '.join(place.parent._modules)}, got {key!r}"


def _free_key(container: nn.Module, module: nn.Module, taken: set[str] | None = None) -> str:
    """Return a name that a named stack does not have yet; a numbered stack is numbered later."""
    used = set(container._modules) | (taken or set())
    base = kind_of(module).lower()
    return next(name for count in range(len(used) + 1) if (name := f"{base}_{count}" if count else base) not in used)


def _hooks(changes: Changes, name: str, old: nn.Module, module: nn.Module, carry: bool) -> None:
    placed = old.__dict__.get("_hf_hook")
    if placed is not None and "_hf_hook" not in module.__dict__:  # it moves inputs to the device of the module
        from accelerate.hooks import add_hook_to_module

        add_hook_to_module(module, placed)
        changes.repairs.append(f"{type(placed).__name__} of accelerate carried over to the new {name}")
    count = sum(len(old.__dict__[kind]) for kind in _HOOKS if not kind.endswith(("kwargs", "called")))
    if not count:
        return
    hooks = plural(count, "hook")
    if not carry:
        changes.notes.append(
            f"{hooks} of the old {name} {'was' if count == 1 else 'were'} dropped; hooks=True carries them over"
        )
        return
    for kind in _HOOKS:
        module.__dict__[kind].update(old.__dict__[kind])
    changes.repairs.append(f"{hooks} carried over to the new {name}")


@dataclasses.dataclass(frozen=True)
class Likeness:
    """What a new module takes over from the old one, or from the nearest module around it that has parameters."""

    dtype: torch.dtype | None
    device: torch.device | None
    training: bool


def likeness(model: nn.Module, name: str, module: nn.Module) -> Likeness:
    """Return dtype and device of `module`, or of the nearest ancestor of `name` that has floating parameters."""
    parts = name.split(".")
    around = [model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts) - 1, -1, -1)]
    for candidate in [module, *around]:
        for tensor in candidate.parameters():
            if tensor.is_floating_point() and tensor.dtype.itemsize > 1:  # eight bits are storage, not arithmetic
                return Likeness(tensor.dtype, tensor.device, module.training)
    return Likeness(None, None, module.training)


def conform(model: nn.Module, new: nn.Module, like: Likeness, name: str) -> None:
    """Cast, move and switch what is new in `new`; tensors and flags of modules that the model has are unchanged."""
    known = {id(part) for part in model.modules()}
    fresh = [part for part in new.modules() if id(part) not in known]
    for part in fresh:
        part.training = like.training
    if like.device is None:
        return
    held = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    moved: dict[int, nn.Parameter] = {}
    for part in fresh:
        for key, tensor in [*part._parameters.items(), *part._buffers.items()]:
            if tensor is None or id(tensor) in held or nn.parameter.is_lazy(tensor):
                continue
            if tensor.is_meta and like.device.type != "meta":
                raise ValueError(
                    f"module for {name!r} has {key!r} on the meta device, without values, and the model is on "
                    f"{like.device}; build the {kind_of(new)} on a real device"
                )
            _move(part, key, tensor, like, moved)


def _move(part: nn.Module, key: str, tensor: Tensor, like: Likeness, moved: dict[int, nn.Parameter]) -> None:
    dtype = like.dtype if tensor.is_floating_point() else tensor.dtype
    if tensor.dtype == dtype and tensor.device == like.device:
        return
    cast = tensor.detach().to(device=like.device, dtype=dtype)
    if key in part._buffers:
        part._buffers[key] = cast
    elif tensor.device.type == cast.device.type:
        tensor.data = cast  # the same parameter object, so that a reference of the caller stays valid
        tensor.grad = None
    else:
        part._parameters[key] = moved.setdefault(id(tensor), nn.Parameter(cast, tensor.requires_grad))
