"""Find modules by name or pattern, and every place that refers to a module."""

import dataclasses
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from linkboy._checks import did_you_mean
from linkboy._report import listed, plural
from linkboy._tensors import check_module
from linkboy._walk import first_lazy, wrapped_under


@dataclasses.dataclass(frozen=True)
class ModulePlace:
    """Where a module is registered: `parent._modules[key]`, and its qualified name."""

    parent: nn.Module
    key: str
    name: str

    @property
    def module(self) -> nn.Module:
        """The module that is registered there."""
        return self.parent._modules[self.key]  # type: ignore[return-value]  # a place that was found has one

    @property
    def is_empty(self) -> bool:
        """Whether nothing, or `None`, is registered there."""
        return self.parent._modules.get(self.key) is None

    def leave_out(self) -> None:
        """Delete the key of a ModuleDict; set an attribute to `None`, so that the owner's `forward` can ask for it."""
        if isinstance(self.parent, nn.ModuleDict):
            del self.parent._modules[self.key]
        else:
            self.parent._modules[self.key] = None


@dataclasses.dataclass(frozen=True)
class Reference:
    """A module that a plain attribute holds, itself or in a list, tuple or dict."""

    owner: nn.Module
    attribute: str
    index: Any  # `None` for the attribute itself
    name: str

    def redirect(self, module: nn.Module) -> None:
        """Let the attribute hold another module instead."""
        held: Any = self.owner.__dict__[self.attribute]
        if self.index is None:
            self.owner.__dict__[self.attribute] = module
        elif isinstance(held, tuple):
            kind: Any = type(held)
            changed = [module if index == self.index else item for index, item in enumerate(held)]
            self.owner.__dict__[self.attribute] = kind(*changed) if hasattr(kind, "_fields") else kind(changed)
        else:
            held[self.index] = module


def is_stack(module: nn.Module) -> bool:
    """Return whether the children of a module are a sequence."""
    return isinstance(module, (nn.Sequential, nn.ModuleList))


def kind_of(module: nn.Module) -> str:
    """Return the name of a module's class."""
    return type(module).__name__


def saved_by_adapter(place: ModulePlace) -> list[ModulePlace]:
    """Return the modules inside a ModulesToSaveWrapper of peft, that of the active adapter first; else an empty list.

    Such a wrapper holds the original module and a copy of it for each adapter, which the adapter saves.
    """
    wrapper = place.module
    if "ModulesToSaveWrapper" not in {cls.__name__ for cls in type(wrapper).__mro__}:
        return []
    copies: Any = wrapper._modules["modules_to_save"]
    active = [key for key in getattr(wrapper, "active_adapters", ()) if key in copies._modules]
    keys = [*active, *(key for key in copies._modules if key not in active)]
    inside = [ModulePlace(copies, key, f"{place.name}.modules_to_save.{key}") for key in keys]
    return [*inside, ModulePlace(wrapper, "original_module", f"{place.name}.original_module")]


def refuse_adapted(model: nn.Module, name: str) -> None:
    """Raise if a module carries an adapter of peft with matrices of its own, or is the module below one."""
    for path in (name, name.rpartition(".")[0]):
        module = model.get_submodule(path)
        if {"base_layer", "token_adapter"} & set(module._modules):
            raise TypeError(
                f"{path!r} ({kind_of(module)}) carries an adapter of peft, whose matrices have the old size; resize the model "
                "before the adapter is added, or after it is merged or unloaded"
            )


def children_of(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the children of a module with their keys; an attribute set to `None` is not a child."""
    return [(key, child) for key, child in module._modules.items() if child is not None]


def children_listed(module: nn.Module) -> str:
    """Return the children of a module with their classes as text, for messages."""
    return listed([f"{key} {kind_of(child)}" for key, child in children_of(module)], most=12) or "nothing"


def find(model: nn.Module, name: str) -> ModulePlace:
    """Return the place of a qualified name; the last part may count from the end of a stack (`"layer.-1"`).

    Raises:
        TypeError: `name` is not a string, or is inside of a scripted module.
        ValueError: `name` is empty: the model itself cannot be replaced in place.
        KeyError: there is no such module; the message lists the modules there are.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be the qualified name of a module, got {type(name).__name__}")
    if not name:
        raise ValueError(
            "name must name a module below the model, got '': the model itself cannot be replaced in place"
        )
    parent, path = model, ""
    *ancestors, last = name.split(".")
    for part in ancestors:
        child = parent._modules.get(part)
        if child is None:
            raise _unknown(model, name, parent, path)
        parent, path = child, f"{path}.{part}" if path else part
        if isinstance(parent, torch.jit.ScriptModule):
            raise TypeError(f"{path!r} is a {kind_of(parent)}, which cannot be edited; edit before scripting it")
    if is_stack(parent) and last.startswith("-") and last[1:].isdigit() and 0 < int(last[1:]) <= len(parent._modules):
        last = list(parent._modules)[-int(last[1:])]
    if parent._modules.get(last) is None:
        raise _unknown(model, name, parent, path)
    return ModulePlace(parent, last, f"{path}.{last}" if path else last)


def _unknown(model: nn.Module, name: str, parent: nn.Module, path: str) -> KeyError:
    names = [known for known, _ in model.named_modules(remove_duplicate=False) if known]
    holder = repr(path) if path else "the model"
    return KeyError(f"no module {name!r}; {holder} holds {children_listed(parent)}{did_you_mean(name, names)}")


def named_once(model: nn.Module) -> dict[int, str]:
    """Return the first name of every module by its `id`."""
    return {id(module): name for name, module in model.named_modules()}


def places_of(model: nn.Module, module: nn.Module, *, outside: nn.Module | None = None) -> list[ModulePlace]:
    """Return every place at which a module is registered, each parent once; places below `outside` do not count."""
    below = {id(part) for part in outside.modules()} if outside is not None else set()
    return [
        ModulePlace(parent, key, f"{path}.{key}" if path else key)
        for path, parent in model.named_modules()
        if id(parent) not in below
        for key, child in parent._modules.items()
        if child is module
    ]


def references(model: nn.Module, modules: set[int], *, outside: nn.Module | None = None) -> list[Reference]:
    """Return the plain attributes that hold one of `modules` (by `id`), also one level deep in lists, tuples and dicts."""
    below = {id(part) for part in outside.modules()} if outside is not None else set()
    return [
        found
        for path, owner in model.named_modules()
        if id(owner) not in below
        for attribute, value in owner.__dict__.items()
        if attribute != "_modules"
        and (isinstance(value, nn.Module) or (isinstance(value, (list, tuple, dict)) and value))  # most hold neither
        for found in _held(owner, attribute, value, modules, f"{path}.{attribute}" if path else attribute)
    ]


def _held(owner: nn.Module, attribute: str, value: object, modules: set[int], name: str) -> Iterator[Reference]:
    if isinstance(value, nn.Module):
        if id(value) in modules:
            yield Reference(owner, attribute, None, name)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            if id(item) in modules and isinstance(item, nn.Module):
                yield Reference(owner, attribute, index, f"{name}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            if id(item) in modules and isinstance(item, nn.Module):
                yield Reference(owner, attribute, key, f"{name}[{key!r}]")


def check_editable(model: object) -> None:
    """Raise unless a model is a plain tree of modules.

    Raises:
        TypeError: it is not a module, or it is scripted, compiled or wrapped for several devices.
    """
    model = check_module("model", model)
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(f"model is a {kind_of(model)}, which cannot be edited; edit the model before scripting it")
    kinds: dict[type, tuple[str | None, bool]] = {}  # asked once a class: a large model has few
    for name, module in model.named_modules():
        if type(module) not in kinds:
            kinds[type(module)] = _wrapper(module)
        inner, is_sharded = kinds[type(module)]
        where = f"{name!r}" if name else "model"
        if inner is not None:
            if not name:
                raise TypeError(f"model is wrapped in {kind_of(module)}; edit model.{inner} and wrap it again")
            raise TypeError(
                f"{where} is wrapped in {kind_of(module)}; put what is inside back, model.set_submodule({name!r}, "
                f"model.get_submodule('{name}.{inner}')), and wrap it again after the edit"
            )
        if is_sharded:
            raise TypeError(f"{where} is sharded by fully_shard; edit the model before sharding it")
        if _is_offloaded(module):
            raise TypeError(
                f"{where} is offloaded by accelerate, whose hooks keep its weights elsewhere; edit the model before "
                "cpu_offload or dispatch_model, or after accelerate.hooks.remove_hook_from_submodules(model)"
            )
        if module.__dict__.get("_compiled_call_impl") is not None:
            raise TypeError(f"{where} was compiled in place; edit the model before compiling it")


def _wrapper(module: nn.Module) -> tuple[str | None, bool]:
    """Return where a wrapper holds the model to be edited instead of it, and whether a module is sharded in place."""
    classes = {cls.__name__ for cls in type(module).__mro__}
    inner = None if "ActivationWrapper" in classes else wrapped_under(module)  # checkpointed layers are edited in place
    return inner, "FSDPModule" in classes


def _is_offloaded(module: nn.Module) -> bool:
    hook = module.__dict__.get("_hf_hook")
    return any(getattr(one, "offload", False) for one in (hook, *getattr(hook, "hooks", ())))


Kind = type[nn.Module] | str


def find_all(model: nn.Module, names: str | Iterable[str], kind: Kind | None = None) -> list[ModulePlace]:
    """Return the places that names and patterns stand for, in the order of the model, each place once.

    A pattern may match any part of a name, dots included, and then `kind` selects among the matches; a plain name must
    be there and be of that kind. Modules below another match do not count.

    Raises:
        KeyError: there is no such module, or a pattern matches none.
        TypeError: a name is not a string, or the module with that name is not of `kind`.
        ValueError: a name is empty, or the module has lazy parameters.
    """
    if kind is not None and not isinstance(kind, (str, type)):
        raise TypeError(f"kind must be a class or the name of one, got {kind!r}")
    found: dict[tuple[int, str], ModulePlace] = {}
    for name in [names] if isinstance(names, str) or not isinstance(names, Iterable) else names:
        matches = _matches(model, name, kind) if _is_pattern(name) else [find_editable(model, name)]
        for place in matches:
            _check_kind(place, kind)
            found.setdefault((id(place.parent), place.key), place)
    if not found:
        raise KeyError("names must hold at least one name or pattern, got none")
    below = {id(part) for place in found.values() for part in place.module.modules() if part is not place.module}
    order = {name: index for index, (name, _) in enumerate(model.named_modules(remove_duplicate=False))}
    outermost = [place for place in found.values() if id(place.module) not in below]
    return sorted(outermost, key=lambda place: order[place.name])


def _is_pattern(name: object) -> bool:
    return isinstance(name, str) and any(letter in name for letter in "*?[")


def _matches(model: nn.Module, pattern: str, kind: Kind | None) -> list[ModulePlace]:
    names = [known for known, _ in model.named_modules(remove_duplicate=False) if known]
    matches = [find(model, known) for known in names if fnmatchcase(known, pattern)]
    chosen = [find_editable(model, place.name) for place in matches if kind is None or is_kind(place.module, kind)]
    if not matches:
        raise KeyError(
            f"pattern {pattern!r} matches none of the {plural(len(names), 'module')}{did_you_mean(pattern, names)}"
        )
    if not chosen:
        kinds = ", ".join(sorted({kind_of(place.module) for place in matches}))
        raise KeyError(f"pattern {pattern!r} matches no {_kind_name(kind)}; what it matches is of type {kinds}")
    return chosen


def is_kind(module: nn.Module, kind: Kind) -> bool:
    """Return whether a module is of a class, given itself or by its name, which may leave the number of dims out."""
    if isinstance(kind, str):
        names = {cls.__name__ for cls in type(module).__mro__}
        return kind in names or kind in {re.sub(r"(\d|N)d$", "", name.lstrip("_")) for name in names}
    return isinstance(module, kind)


def _check_kind(place: ModulePlace, kind: Kind | None) -> None:
    if kind is not None and not is_kind(place.module, kind):
        raise TypeError(
            f"{place.name!r} is a {kind_of(place.module)}, not a {_kind_name(kind)}; "
            f"beside it there are {children_listed(place.parent)}"
        )


def _kind_name(kind: Kind | None) -> str:
    return kind if isinstance(kind, str) else getattr(kind, "__name__", "")


def find_editable(model: nn.Module, name: str) -> ModulePlace:
    """Return the place of a module that may be replaced.

    Raises:
        KeyError: there is no such module.
        TypeError: it is scripted.
        ValueError: it has lazy parameters.
    """
    place = find(model, name)
    if isinstance(place.module, torch.jit.ScriptModule):
        raise TypeError(
            f"{place.name!r} is a {kind_of(place.module)}, which cannot be edited; edit before scripting it"
        )
    if first_lazy(place.module) is not None:
        raise ValueError(f"{place.name!r} has lazy parameters; run one batch through the model before editing it")
    return place
