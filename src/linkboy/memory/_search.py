"""A search from an object back to what holds it: a module, a running function, an exception."""

import contextvars
import gc
import inspect
import sys
import threading
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linkboy.memory._live import Edge, Hidden, StorageKey, scan_for, storages
from linkboy.memory._paths import Found, Node, local_names
from linkboy.memory._unseen import Arrays, askable, context_values, of_ipython, thread_local_dicts

_ARRAY_TEXT = " (a NumPy array over its memory)"
OWN_FOLDER = str(Path(__file__).parent)


class HolderSearch:
    """The state of one search: every live object, and the edges that the collector does not show.

    All of it is made before the search and dies with it; an object that is younger than the list of live objects is
    one of ours, and never a holder.
    """

    def __init__(self) -> None:
        self.modules = _module_namespaces()
        self.locals = _running_locals(self.modules)  # before the scan, whose list would hold what this must let go
        # The list of objects holds this search too, so keeping it would be a cycle.
        objects, (self.tensors, tracebacks, thread_locals, contexts) = scan_for(
            Tensor, types.TracebackType, threading.local, contextvars.Context
        )
        # A sorted array: for a million ids a quarter of the time, and a tenth of the memory, that a set takes.
        self.known = np.sort(np.fromiter(map(id, objects), np.uint64, len(objects)))
        with torch._C.DisableTorchFunctionSubclass():
            self.hidden = Hidden(self.tensors)
            self.by_storage = self._tensors_by_storage()
        self.tracebacks = _first_tracebacks(tracebacks)
        self.thread_locals, self.between = thread_local_dicts(thread_locals)
        self.contexts = context_values(contexts)
        self.arrays: Arrays | None = None

    def _tensors_by_storage(self) -> dict[StorageKey, tuple[int, list[Any]]]:
        found: dict[StorageKey, tuple[int, list[Any]]] = {}
        saved = [item for item in self.hidden.saved if isinstance(item, Tensor)]
        seen: set[int] = set()
        for tensor in [*self.tensors, *saved]:
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            for key, nbytes in storages(tensor):
                found.setdefault(key, (nbytes, []))[1].append(tensor)
        return found

    def find(
        self, targets: Mapping[Any, list[Any]], *, limit: int, depth: int, named: bool = False
    ) -> dict[Any, list[Found]]:
        """For each key, find up to `limit` shortest paths from a root to any of its objects.

        NumPy arrays are looked for where nothing else holds an object, since that takes as long again.

        Args:
            targets: the objects of each key.
            limit: most paths for each.
            depth: longest path, in objects.
            named: names that running functions have for the objects themselves do not count as holding them.
        """
        found = self._find(targets, limit, depth)
        left = {
            key: items
            for key, items in targets.items()
            if all(named and path.node.child is None and path.root_object is None for path in found[key])
        }
        if left:
            self.arrays = self.arrays or Arrays(gc.get_objects())
            found |= self._find(left, limit, depth)
        return found

    def _find(self, targets: Mapping[Any, list[Any]], limit: int, depth: int) -> dict[Any, list[Found]]:
        found: dict[Any, list[Found]] = {key: [] for key in targets}
        frontier = [Node(item, key) for key, items in targets.items() for item in items]
        seen = {(node.key, id(node.held)) for node in frontier}
        while frontier:
            for node in frontier:
                for places in (self.locals, self.contexts):
                    found[node.key] += [Found(text, node) for text in places.get(id(node.held), ())]
            above = [*self._hidden_holders(frontier), *self._referrers(frontier)]
            frontier = []
            for node in above:
                root = self._root_of(node)
                if root is not None:
                    found[node.key].append(Found(root, node, node.held))
                elif (node.key, id(node.held)) not in seen and node.hops <= depth:
                    seen.add((node.key, id(node.held)))
                    frontier.append(node)
            frontier = [node for node in frontier if len(found[node.key]) < limit]
        return {key: paths[:limit] for key, paths in found.items()}

    def _hidden_holders(self, frontier: list[Node]) -> Iterable[Node]:
        for node in frontier:
            for edge in self.hidden.edges_to(node.held):
                yield Node(edge.holder, node.key, node, edge, node.hops + 1)
            for container in self.arrays.held_by.get(id(node.held), ()) if self.arrays else ():
                yield Node(container, node.key, node, None, node.hops + (type(container) is not dict))
            under = self.arrays.around(_address(node.held)) if self.arrays and node.child is None else ()
            for array in [*self.arrays.over.get(id(node.held), ()), *under] if self.arrays else ():
                yield Node(array, node.key, node, Edge(array, _ARRAY_TEXT, node.held, "array"), node.hops + 1)
            if id(node.held) in self.thread_locals:
                owner = self.thread_locals[id(node.held)]
                yield Node(owner, node.key, node, Edge(owner, "", node.held, "thread"), node.hops + 1)
            if type(node.held) is types.FrameType:
                for head in self.tracebacks.get(id(node.held), ()):
                    yield Node(head, node.key, node, Edge(head, "", node.held, "traceback"), node.hops + 1)

    def _referrers(self, frontier: list[Node]) -> Iterable[Node]:
        below: dict[int, list[Node]] = {}
        for node in frontier:
            below.setdefault(id(node.held), []).append(node)
        holders = askable(gc.get_referrers(*{id(node.held): node.held for node in frontier}.values()))
        for holder, known in zip(holders, self._are_known(holders), strict=True):
            if not known or type(holder) is types.TracebackType or id(holder) in self.between:
                continue
            for item in below.keys() & set(map(id, gc.get_referents(holder))):
                for node in below[item]:
                    # A dict is how an object keeps its attributes, not a step of the path a reader sees.
                    yield Node(holder, node.key, node, None, node.hops + (type(holder) is not dict))

    def _are_known(self, items: list[Any]) -> list[bool]:
        ids = np.fromiter(map(id, items), np.uint64, len(items))
        places = np.searchsorted(self.known, ids).clip(max=len(self.known) - 1)
        return (self.known[places] == ids).tolist()

    def _root_of(self, node: Node) -> str | None:
        if id(node.held) in self.modules:
            return self.modules[id(node.held)]
        if isinstance(node.held, type):
            return f"class {node.held.__module__}.{node.held.__qualname__}"
        return of_ipython(node.held)


def _address(item: Any) -> int:
    """Return where the memory of a tensor or storage on the CPU begins; 0 for anything else."""
    if isinstance(item, torch.UntypedStorage):
        return item.data_ptr() if item.device.type == "cpu" else 0
    if not isinstance(item, Tensor):
        return 0
    with torch._C.DisableTorchFunctionSubclass():
        return next((address for (device, address), _ in storages(item) if device == "cpu"), 0)


def _first_tracebacks(links: list[Any]) -> dict[int, list[Any]]:
    # A traceback is a chain with one link per call; going from a frame to its head at once keeps paths short.
    followers = {id(link.tb_next) for link in links}
    heads: dict[int, list[Any]] = {}
    for head in links:
        link = head if id(head) not in followers else None
        while link is not None:
            heads.setdefault(id(link.tb_frame), []).append(head)
            link = link.tb_next
    return heads


def _module_namespaces() -> dict[int, str]:
    names = {}
    for name, module in list(sys.modules.items()):
        if isinstance(module, types.ModuleType):
            names.setdefault(id(object.__getattribute__(module, "__dict__")), name)  # "__main__" before its aliases
    return names


def _running_locals(modules: dict[int, str]) -> dict[int, list[str]]:
    """Map the id of each object that a running function names to the text of that place."""
    found: dict[int, list[str]] = {}
    for thread_frame in sys._current_frames().values():
        frame: types.FrameType | None = thread_frame
        while frame is not None:
            code = frame.f_code
            if not code.co_filename.startswith(OWN_FOLDER):
                place = f"{code.co_name}() at {Path(code.co_filename).name}:{frame.f_lineno}, "
                if code.co_flags & inspect.CO_OPTIMIZED:
                    for name, item in local_names(frame):
                        found.setdefault(item, []).append(f"{place}local {name}")
                modules.setdefault(id(frame.f_globals), str(frame.f_globals.get("__name__", "globals")))
            frame = frame.f_back
        del thread_frame  # our own frame would hold itself, and through its callers all that they held
    return found
