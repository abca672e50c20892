"""Whether what the caller passed keeps state that no checkpoint holds, so that a resumed run may not have the same bits.

The objects that take part in the training (the data set, callbacks, the loss, functions of the batch, the model's plain
attributes and the buffers that it does not save, an optimizer's that its `state_dict` leaves out) are walked when a run starts
and again at each save: attributes, items of containers, random generators, the variables that a function closes over and the
global ones that it reads, and those of the methods that the training calls, where the class is the caller's. What changed in
between is state. Nothing is copied: of a large tensor the version is kept, of a small one, an array or a generator a digest.
"""

import dis
import functools
import hashlib
import inspect
import itertools
import random
import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from linkboy._watch._places import in_library

_MOST, _ITEMS = 5000, 64  # objects looked at in all, and items of each container
_LARGE = 1 << 16
_OF_TORCH = frozenset(vars(nn.Module()))
_CALLED = ("forward", "__call__", "__getitem__", "__getitems__", "__iter__", "__next__", "step")


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
        if (
            type(thing) is Tensor
            and thing.device.type == "cpu"
            and thing.layout is torch.strided
            and thing.nbytes <= _LARGE
        ):
            # the memory of one that is gone is soon that of the next one of its size
            return "tensor", tuple(thing.shape), _digest(thing.detach().reshape(-1).view(torch.uint8).numpy().tobytes())
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
        items = enumerate(itertools.islice(thing.items(), _ITEMS))
        yield from ((f"[{place if isinstance(key, Tensor) else repr(key)}]", value) for place, (key, value) in items)
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
        yield from _of_methods(thing)
    elif isinstance(thing, Optimizer):
        yield from _of_optimizer(thing)
        yield from _of_methods(thing)
    else:
        yield from ((f".{name}", value) for name, value in getattr(thing, "__dict__", {}).items())
        slots = [
            name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ()) if hasattr(thing, name)
        ]
        yield from ((f".{name}", getattr(thing, name)) for name in slots if _is_ours(type(thing)))
        yield from _of_methods(thing)


def _of_optimizer(thing: Optimizer) -> Iterator[tuple[str, Any]]:
    """Yield what a checkpoint does not hold of the caller's own optimizer, unless its `state_dict` holds more than torch's."""
    if set(thing.state_dict()) > {"state", "param_groups"}:
        return
    own = _of_torch_optimizers()
    yield from ((f".{name}", value) for name, value in vars(thing).items() if name not in own)


@functools.cache
def _of_torch_optimizers() -> frozenset[str]:
    """Return what torch itself keeps in an optimizer, also through its schedules, and saves or needs for one run only.

    Not at import: the first optimizer of a process loads torch's compiler, for more than a second.
    """
    kept = set(vars(torch.optim.SGD([torch.zeros(())], lr=0.1))) - {"state", "param_groups"}
    return frozenset(kept | {"step", "_opt_called", "_warned_capturable_if_run_uncaptured"})


def _of_methods(thing: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a class of the caller's holds itself, and what those of its methods read that the training calls."""
    found = {key: each for kind in reversed(type(thing).__mro__) if _is_ours(kind) for key, each in vars(kind).items()}
    yield from ((f".{key}", each) for key, each in found.items() if key[:2] != "__" and not hasattr(each, "__get__"))
    names, known = list[str](_CALLED), set[str]()
    for name in names:  # and those that they call
        method = inspect.unwrap(each) if callable(each := found.get(name)) else None  # torch wraps `step`
        if name not in known and isinstance(method, types.FunctionType):
            known.add(name)
            names += method.__code__.co_names
            yield from ((f".{name}{step}", part) for step, part in _of_function(method))


@functools.cache
def _is_ours(kind: type) -> bool:
    """Return whether a class is the caller's, and not one of Python or of an installed package."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return kind.__module__ != "builtins" and not (file and in_library(file))


def _of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f".{name}", cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    yield from ((f".{place}", value) for place, value in enumerate(function.__defaults__ or ()))
    for name in _globals(function.__code__):
        if name in function.__globals__:
            yield f".{name}", function.__globals__[name]


@functools.cache
def _globals(code: types.CodeType) -> frozenset[str]:
    """Return the global names that a function reads; an attribute may have the name of one."""
    mine = {each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    inner = (_globals(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return frozenset(mine).union(*inner)


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
