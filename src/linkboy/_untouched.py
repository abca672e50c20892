"""Restore the attributes of modules after a run."""

import contextlib
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn


def remember(thing: object) -> Callable[[], None]:
    """Return a function that restores the present attributes of an object; no tensor is copied.

    The contents of the dicts, lists and sets among them are restored as well, one level deep, and these stay the same
    objects.

    Examples:
        >>> model = nn.Linear(2, 2)
        >>> undo = remember(model)
        >>> del model.bias
        >>> undo()
        >>> model.bias.shape
        torch.Size([2])
    """
    attributes, kind = dict(thing.__dict__), type(thing)
    containers = [value for value in attributes.values() if type(value) in (list, set) or isinstance(value, dict)]
    contents = [
        (value, dict(value) if isinstance(value, dict) else type(value)(value)) for value in containers if value
    ]
    empty = [value for value in containers if not value]  # most are: a module has ten tables for hooks

    def undo() -> None:
        if type(thing) is not kind:
            object.__setattr__(thing, "__class__", kind)
        thing.__dict__.clear()
        thing.__dict__.update(attributes)
        for container, before in contents:
            _refill(container, before)
        for container in empty:
            if container:
                container.clear()

    return undo


def _refill(container: Any, before: Any) -> None:
    # An untouched container is left alone: a hook dict has weak references to it, a set its iteration order.
    same = len(container) == len(before) and all(map(operator.is_, _entries(container), _entries(before)))
    if not same:
        container.clear()
        container.extend(before) if isinstance(container, list) else container.update(before)


def _entries(container: Any) -> Iterable[Any]:
    if isinstance(container, dict):
        return (part for item in container.items() for part in item)
    return container


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Restore the attributes of every module when the block ends: flags, hooks, tensors, what `forward` added.

    A buffer that was written in place is not restored, so run on copies of buffers.

    Examples:
        >>> model = nn.Dropout()
        >>> with untouched(model):
        ...     _ = model.eval()
        >>> model.training
        True
    """
    undo = [remember(module) for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
    try:
        yield
    finally:
        for back in undo:
            back()
