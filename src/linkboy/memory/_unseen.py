"""Holders that the garbage collector does not show: NumPy arrays, thread locals, context variables, IPython's shell."""

import contextvars
import functools
import gc
import itertools
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

_LOOKED_AT = {np.ndarray, np.memmap, tuple, dict}
_PLAIN = {str, bytes, int, float, bool, type(None)}
_MOST_OBJECTS = 1_000_000  # in an array: a column of a table may have any number, which are seldom tensors
_TOGETHER = 4096  # objects whose references are listed at a time
_ENDLESS = (3, 12) <= sys.version_info < (3, 12, 6)  # python/cpython#122695
SHELL = "IPython's"
_IPYTHONS = {"InteractiveShell", "DisplayHook", "HistoryManager", "TBTools", "Kernel"}


def askable(objects: list[Any]) -> list[Any]:
    """Return those of the objects whose references may be listed.

    Before Python 3.12.6, listing those of the module `_asyncio` revives what it keeps for later use, and the next collection
    never ends.
    """
    module = sys.modules.get("_asyncio") if _ENDLESS else None
    return objects if module is None else [item for item in objects if item is not module]


class Arrays:
    """NumPy arrays, whose memory and objects the collector does not know: over a tensor, under one, or holding objects.

    They are found in what holds them: the containers that the collector does know, and tuples and dicts of arrays alone, which
    it has ceased to look at.

    Args:
        objects: every object that the collector knows.
    """

    def __init__(self, objects: list[Any]) -> None:
        self.over: dict[int, list[Any]] = {}  # id of an object -> the arrays that show its memory
        self.held_by: dict[int, list[Any]] = {}  # id of an object -> containers that the collector does not know
        self._seen: set[int] = set()
        self._owners: list[tuple[int, int, Any]] = []  # start and end of the memory of each array that has its own
        objects = askable(objects)
        for start in range(0, len(objects), _TOGETHER):
            self._look_through(gc.get_referents(*objects[start : start + _TOGETHER]))

    def around(self, address: int) -> list[Any]:
        """Return the arrays whose own memory an address is in, as that of a tensor from `torch.from_numpy` is."""
        return [array for start, end, array in self._owners if start <= address < end]

    def _look_through(self, items: list[Any]) -> None:
        for item in itertools.compress(items, map(_LOOKED_AT.__contains__, map(type, items))):
            if id(item) in self._seen:
                continue
            if isinstance(item, np.ndarray):
                self._add(item)
            elif not gc.is_tracked(item):
                self._look_inside(item)

    def _look_inside(self, container: Any) -> None:
        self._seen.add(id(container))
        inside = [item for item in gc.get_referents(container) if type(item) in _LOOKED_AT]
        for item in inside:
            self.held_by.setdefault(id(item), []).append(container)
        self._look_through(inside)

    def _add(self, array: Any) -> None:
        while isinstance(array, np.ndarray) and id(array) not in self._seen:
            self._seen.add(id(array))
            if array.base is not None:
                self.over.setdefault(id(array.base), []).append(array)
            elif array.nbytes:
                start = array.__array_interface__["data"][0]
                self._owners.append((start, start + array.nbytes, array))
            if array.dtype == object and array.size <= _MOST_OBJECTS:
                self._add_objects(array)
            array = array.base

    def _add_objects(self, array: Any) -> None:
        inside = [item for item in array.flat if type(item) not in _PLAIN]
        for item in inside:
            self.held_by.setdefault(id(item), []).append(array)
        self._look_through(inside)


def thread_local_dicts(objects: Iterable[Any]) -> tuple[dict[int, Any], set[int]]:
    """Return the `threading.local` behind each dict of one's attributes by the dict's id, and ids of what stands between."""
    owners: dict[int, Any] = {}
    between: set[int] = set()
    for item in objects:
        for middle in gc.get_referents(item):
            if type(middle) is not dict:
                continue
            below = [value for value in middle.values() if type(value) is dict]
            if below:
                between.add(id(middle))
            owners |= {id(value): item for value in below}
    return owners, between


def context_values(contexts: Iterable[contextvars.Context]) -> dict[int, list[str]]:
    """Map the id of each value of a context variable to the text of that place."""
    found: dict[int, list[str]] = {}
    for context in [contextvars.copy_context(), *contexts]:
        for variable, value in list(context.items()):
            places = found.setdefault(id(value), [])
            if (place := f"context variable {variable.name!r}") not in places:
                places.append(place)
    return found


def of_ipython(item: Any) -> str | None:
    """Return the name of an object of IPython's that keeps outputs and errors, without importing it; `None` for others."""
    return f"{SHELL} {type(item).__name__}" if _is_ipythons(type(item)) else None


@functools.cache
def _is_ipythons(kind: type) -> bool:
    return any(
        base.__name__ in _IPYTHONS and base.__module__.partition(".")[0] in ("IPython", "ipykernel")
        for base in kind.__mro__
    )
