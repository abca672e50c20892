"""Find modules by qualified name, and every place that refers to a module."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from torch import nn

from linkboy._checks import did_you_mean


@dataclasses.dataclass(frozen=True)
class Place:
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
        """Whether nothing is registered there, or `None`."""
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
    """Say whether the children of a module are a sequence."""
    return isinstance(module, (nn.Sequential, nn.ModuleList))


def kind_of(module: nn.Module) -> str:
    """Name the class of a module."""
    return type(module).__name__


def children_of(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """List the children that are there; an attribute set to `None` is none."""
    return [(key, child) for key, child in module._modules.items() if child is not None]


def listed(module: nn.Module) -> str:
    """List the children of a module with their classes, for messages."""
    children = [f"{key} {kind_of(child)}" for key, child in children_of(module)]
    more = f" and {len(children) - 12} more" if len(children) > 12 else ""
    return (", ".join(children[:12]) or "nothing") + more


def find(model: nn.Module, name: str) -> Place:
    """Return the place of a qualified name; the last part may count from the end of a stack (`"layer.-1"`).

    Raises:
        TypeError: `name` is no text.
        ValueError: `name` is empty: the model itself cannot be exchanged in place.
        KeyError: there is no such module; the message lists what there is.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be the qualified name of a module, got {type(name).__name__}")
    if not name:
        raise ValueError("name must name a module below the model, got '': the model itself cannot be edited in place")
    parent, path = model, ""
    *ancestors, last = name.split(".")
    for part in ancestors:
        child = parent._modules.get(part)
        if child is None:
            raise _unknown(model, name, parent, path)
        parent, path = child, f"{path}.{part}" if path else part
    if is_stack(parent) and last.startswith("-") and last[1:].isdigit() and 0 < int(last[1:]) <= len(parent._modules):
        last = list(parent._modules)[-int(last[1:])]
    if parent._modules.get(last) is None:
        raise _unknown(model, name, parent, path)
    return Place(parent, last, f"{path}.{last}" if path else last)


def _unknown(model: nn.Module, name: str, parent: nn.Module, path: str) -> KeyError:
    names = [known for known, _ in model.named_modules(remove_duplicate=False) if known]
    holder = repr(path) if path else "the model"
    return KeyError(f"no module {name!r}; {holder} holds {listed(parent)}{did_you_mean(name, names)}")


def named_once(model: nn.Module) -> dict[int, str]:
    """Map the `id` of every module to its first name."""
    return {id(module): name for name, module in model.named_modules()}


def places_of(model: nn.Module, module: nn.Module, *, outside: nn.Module | None = None) -> list[Place]:
    """List every place at which a module is registered, each parent once, but none below `outside`."""
    below = {id(part) for part in outside.modules()} if outside is not None else set()
    return [
        Place(parent, key, f"{path}.{key}" if path else key)
        for path, parent in model.named_modules()
        if id(parent) not in below
        for key, child in parent._modules.items()
        if child is module
    ]


def references(model: nn.Module, modules: set[int], *, outside: nn.Module | None = None) -> list[Reference]:
    """List the plain attributes that hold one of `modules` (by `id`), looking one level into lists, tuples and dicts."""
    below = {id(part) for part in outside.modules()} if outside is not None else set()
    return [
        found
        for path, owner in model.named_modules()
        if id(owner) not in below
        for attribute, value in owner.__dict__.items()
        if attribute != "_modules"
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
