"""Who holds a tensor: a search from the tensor back to a module, a running function or an exception."""

import dataclasses
import gc
import inspect
import sys
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from linkboy._checks import check_number, describe
from linkboy._report import Block, Report, format_bytes
from linkboy.memory.live import Edge, Hidden, StorageKey, frozen_objects, scan_for, storages
from linkboy.memory.paths import advise, local_names, render

OWN_FOLDER = str(Path(__file__).parent)


@dataclasses.dataclass(frozen=True)
class Holder:
    """One way in which an object is held: the path to it, and what to do about it."""

    path: str
    advice: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return the path, and each piece of advice indented below it."""
        return [self.path, *(f"    {line}" for line in self.advice)]


@dataclasses.dataclass(frozen=True)
class HolderReport(Report):
    """What `who_holds` found, as text only: the report keeps nothing alive.

    Args:
        what: the object asked about.
        nbytes: its memory, each storage counted once, in bytes.
        holders: the shortest paths first.
        note: why there are none, or what may be missing.
    """

    what: str
    nbytes: int
    holders: tuple[Holder, ...]
    note: str

    def _blocks(self) -> Iterable[Block]:
        yield f"{self.what}, {format_bytes(self.nbytes)}, is held by"
        yield "\n".join(line for holder in self.holders for line in holder.lines()) or self.note


@dataclasses.dataclass(eq=False)
class Node:
    """An object on the way from a holder (`parent` is unknown yet) down to the target, through `child`."""

    held: Any
    key: object
    child: "Node | None" = None
    edge: Edge | None = None  # how `held` keeps the child, where the collector cannot see it
    hops: int = 0


@dataclasses.dataclass(frozen=True)
class Found:
    """A finished path: the text of its root, and the node just below."""

    root: str
    node: Node
    root_object: Any = None


class Search:
    """The state of one search: every live object, and the edges that the collector does not show.

    All of it is made before the search and dies with it; an object that is younger than the list of live objects is
    one of ours, and never a holder.
    """

    def __init__(self) -> None:
        self.modules = _module_namespaces()
        self.locals = _running_locals(self.modules)  # before the scan, whose list would hold what this must let go
        # The list of objects holds this search too, so keeping it would be a cycle.
        objects, (self.tensors, tracebacks) = scan_for(Tensor, types.TracebackType)
        # A sorted array: for a million ids a quarter of the time, and a tenth of the memory, that a set takes.
        self.known = np.sort(np.fromiter(map(id, objects), np.uint64, len(objects)))
        with torch._C.DisableTorchFunctionSubclass():
            self.hidden = Hidden(self.tensors)
            self.by_storage = self._tensors_by_storage()
        self.tracebacks = _first_tracebacks(tracebacks)

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

    def find(self, targets: Mapping[Any, list[Any]], *, limit: int, depth: int) -> dict[Any, list[Found]]:
        """For each key, find up to `limit` shortest paths from a root to any of its objects."""
        found: dict[Any, list[Found]] = {key: [] for key in targets}
        frontier = [Node(item, key) for key, items in targets.items() for item in items]
        seen = {(node.key, id(node.held)) for node in frontier}
        while frontier:
            for node in frontier:
                found[node.key] += [Found(text, node) for text in self.locals.get(id(node.held), ())]
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
            if type(node.held) is types.FrameType:
                for head in self.tracebacks.get(id(node.held), ()):
                    yield Node(head, node.key, node, Edge(head, "", node.held, "traceback"), node.hops + 1)

    def _referrers(self, frontier: list[Node]) -> Iterable[Node]:
        below: dict[int, list[Node]] = {}
        for node in frontier:
            below.setdefault(id(node.held), []).append(node)
        holders = gc.get_referrers(*{id(node.held): node.held for node in frontier}.values())
        for holder, known in zip(holders, self._are_known(holders), strict=True):
            if not known or type(holder) is types.TracebackType:
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
        return None


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


def who_holds(target: Tensor | nn.Module | torch.UntypedStorage, *, depth: int = 8, limit: int = 10) -> HolderReport:
    """Find what keeps a tensor (or a module) alive: names, containers, autograd graphs, exceptions, caches.

    Tensors are matched by storage, so a one-element slice is found as the holder of the whole. Besides what the
    garbage collector shows, the search follows gradients, what autograd graphs have saved, tracebacks and the local
    variables of running functions. Your own name for `target` is one of the holders.

    Args:
        target: a tensor, a storage, or a module (then its parameters and buffers count too).
        depth: longest path to follow, in objects.
        limit: most paths to report.

    Returns:
        A `HolderReport` whose `.holders` have a `.path`, such as
        `__main__.history[3] -> MeanBackward0 -> ReluBackward0._saved_result`, and `.advice`.

    Raises:
        TypeError: `target` is neither of these, or a number is no integer.
        ValueError: `depth` or `limit` is below 1.

    Examples:
        >>> import torch
        >>> class Trainer:
        ...     def __init__(self):
        ...         self.history = []
        >>> trainer = Trainer()
        >>> weight = torch.zeros(3, requires_grad=True)
        >>> hidden = (weight * 2).relu()
        >>> trainer.history.append(hidden.mean())
        >>> path = "trainer.history[0] -> MeanBackward0 -> ReluBackward0._saved_result"
        >>> any(holder.path.endswith(path) for holder in who_holds(hidden).holders)
        True

    `gc.get_referrers` alone answers "nobody" for what a graph has saved: those references live in C++. What only
    C++ or a library such as NumPy holds is reported as not found in Python.
    """
    if not isinstance(target, (Tensor, nn.Module, torch.UntypedStorage)):
        raise TypeError(f"target must be a tensor, a module or a storage, got {describe(target)}")
    check_number("depth", depth, minimum=1, integer=True)
    check_number("limit", limit, minimum=1, integer=True)
    return holders_of([target], depth=depth, limit=limit)[0]


def holders_of(targets: list[Any], *, depth: int = 8, limit: int = 10) -> list[HolderReport]:
    """Do the work of `who_holds` for several objects of any type in one search."""
    search = Search()
    below = [_storages_below(target) for target in targets]
    wanted = {
        index: [target, *(tensor for key in keys for tensor in search.by_storage.get(key, (0, []))[1])]
        for index, (target, keys) in enumerate(zip(targets, below, strict=True))
    }
    found = search.find(wanted, limit=limit, depth=depth)
    return [
        HolderReport(describe_target(target), sum(below[index].values()), *verdict(found[index]))
        for index, target in enumerate(targets)
    ]


def verdict(found: list[Found]) -> tuple[tuple[Holder, ...], str]:
    """Turn finished paths into text, or say why there may be none."""
    holders = {render(path): advise(path) for path in found}
    holders = dict(sorted(holders.items(), key=lambda item: len(item[0])))
    return tuple(Holder(path, advice) for path, advice in holders.items()), "" if holders else nothing_found()


def describe_target(target: object) -> str:
    """Name a storage by its size, everything else as messages do."""
    if isinstance(target, torch.UntypedStorage):
        return f"storage of {format_bytes(target.nbytes())}"
    return describe(target)


def _storages_below(target: Any) -> dict[StorageKey, int]:
    if isinstance(target, torch.UntypedStorage):
        return {(str(target.device), target.data_ptr()): target.nbytes()}
    tensors = [target] if isinstance(target, Tensor) else []
    if isinstance(target, nn.Module):
        tensors = [*target.parameters(), *target.buffers()]
    with torch._C.DisableTorchFunctionSubclass():
        return dict(item for tensor in tensors for item in storages(tensor))


def nothing_found() -> str:
    """Say why a search may end without a holder."""
    frozen = frozen_objects()
    hidden = f"; gc.freeze() hides {frozen} objects from the search" if frozen else ""
    return f"nothing found in Python: held by C++, by a library, or by a reference cycle (gc.collect()){hidden}"
