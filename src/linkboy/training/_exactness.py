"""Whether what the caller passed keeps state that no checkpoint holds, so that a resumed run may not have the same bits.

The objects that take part in the training (the data set, callbacks, the loss, functions of the batch, the model's plain
attributes and the buffers that it does not save) are walked at the start of a run and again at each save: attributes, items
of containers, the variables that a function closes over and the global ones that it names, random generators. What changed
in between is state. Nothing is copied: of a tensor its version is kept, of an array and of a generator a digest.
"""

import functools
import hashlib
import itertools
import random
import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

_MOST, _ITEMS = 5000, 64  # objects looked at in all, and items of each container
_LARGE = 1 << 16
_OF_TORCH = frozenset(vars(nn.Module()))


class Unsaved:
    """What the caller's objects held at the start, compared with what they hold now.

    Args:
        roots: the objects by the names that a message has for them.
        saved: objects whose state a checkpoint does hold.

    Examples:
        >>> calls = []
        >>> unsaved = Unsaved({"callbacks[0]": lambda event, state: calls.append(event)}, ())
        >>> unsaved.changed()
        ''
        >>> calls.append("step")
        >>> unsaved.changed()
        'callbacks[0].calls'
    """

    def __init__(self, roots: Mapping[str, Any], saved: Iterable[Any]) -> None:
        self._roots = dict(roots)
        self._saved = {id(thing) for thing in saved} | {id(thing) for thing in _global_streams()}
        self._keep = list(saved)  # so that no id is given to another object
        self._before = self._walk()

    def changed(self) -> str:
        """Return the name of something that is not what it was at the start, or an empty string.

        What was not there then, such as a table that a model makes in its first call, counts from now on.
        """
        now = self._walk()
        for path, value in now.items():
            before = self._before.setdefault(path, value)
            if before is None:
                self._before[path] = value
            elif before != value:
                return path
        return ""

    def generators(self, name: str) -> str:
        """Return the name of a random generator that belongs to one of the objects, or an empty string."""
        found = (p for p, value in self._walk().items() if isinstance(value, tuple) and value[:1] == ("generator",))
        return next((path for path in found if path.startswith(name)), "")

    def _walk(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        seen = set(self._saved)
        queue: deque[tuple[str, Any]] = deque(self._roots.items())
        while queue and len(found) < _MOST:
            path, thing = queue.popleft()
            if thing is None or isinstance(thing, (bool, int, float, complex, str, bytes)):
                found[path] = None if thing is None else repr(thing)
                continue
            if id(thing) in seen or isinstance(thing, (type, types.ModuleType, DataLoader)):
                continue
            seen.add(id(thing))
            found[path] = _mark(thing)
            queue.extend((f"{path}{step}", part) for step, part in _parts(thing))
        return found


def _mark(thing: Any) -> Any:
    """Return what shows that an object itself has changed, its parts apart."""
    if isinstance(thing, Tensor):
        return "tensor", thing.data_ptr() if thing.layout is torch.strided else 0, thing._version, tuple(thing.shape)
    if (state := _state_of_generator(thing)) is not None:
        return "generator", state
    if hasattr(thing, "__array_interface__") and hasattr(thing, "tobytes"):
        some = thing if thing.nbytes <= _LARGE else thing.ravel()[:4096]
        return "array", thing.shape, _digest(some.tobytes())
    if isinstance(thing, (dict, list, tuple, set, frozenset, deque)):
        return "items", len(thing)
    return type(thing).__qualname__


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    """Yield what an object is made of, each with the text that leads to it."""
    if isinstance(thing, Tensor) or _state_of_generator(thing) is not None:
        return
    if isinstance(thing, dict):
        yield from ((f"[{key!r}]", value) for key, value in itertools.islice(thing.items(), _ITEMS))
    elif isinstance(thing, (list, tuple, deque)):
        yield from ((f"[{place}]", value) for place, value in enumerate(itertools.islice(thing, _ITEMS)))
    elif isinstance(thing, types.MethodType):
        yield "", thing.__self__
        yield "", thing.__func__
    elif isinstance(thing, functools.partial):
        yield from (("", part) for part in (thing.func, *thing.args, *thing.keywords.values()))
    elif isinstance(thing, types.FunctionType):
        yield from _of_function(thing)
    elif isinstance(thing, nn.Module):
        if type(thing).get_extra_state is nn.Module.get_extra_state:  # otherwise it says itself what its state is
            yield from ((f".{name}", value) for name, value in vars(thing).items() if name not in _OF_TORCH)
            yield from ((f".{name}", thing._buffers[name]) for name in thing._non_persistent_buffers_set)
        yield from ((f".{name}", part) for name, part in thing.named_children())
    else:
        yield from ((f".{name}", value) for name, value in getattr(thing, "__dict__", {}).items())


def _of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f".{name}", cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    yield from ((f".{place}", value) for place, value in enumerate(function.__defaults__ or ()))
    for name in _names(function.__code__):
        if name in function.__globals__:
            yield f".{name}", function.__globals__[name]


def _names(code: types.CodeType) -> set[str]:
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*inner)


def _state_of_generator(thing: Any) -> str | None:
    """Return a digest of the state of a random generator of torch, Python or NumPy; `None` for anything else."""
    if isinstance(thing, torch.Generator):
        return _digest(thing.get_state().numpy().tobytes()) if thing.device.type == "cpu" else thing.device.type
    if isinstance(thing, random.Random):
        return _digest(repr(thing.getstate()).encode())
    if type(thing).__module__.startswith("numpy.random"):
        state = getattr(getattr(thing, "bit_generator", thing), "state", None) or getattr(thing, "get_state", dict)()
        return _digest(repr(state).encode())
    return None


def _global_streams() -> list[Any]:
    """The generators whose state a checkpoint does hold."""
    numpy = sys.modules.get("numpy")
    return [torch.default_generator, random._inst, *([numpy.random.mtrand._rand] if numpy else [])]  # type: ignore[attr-defined]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
