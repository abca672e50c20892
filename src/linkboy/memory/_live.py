"""The tensors that are alive: named by Python, held as gradients, or saved in an autograd graph."""

import dataclasses
import gc
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from linkboy._compat import may_read_saved, saved_by
from linkboy._tensors import dense_parts, is_plain

INTERPRETERS_OWN = 1000  # Python 3.12 keeps some 400 immortal objects among the frozen ones; torch makes 100,000 others
StorageKey = tuple[str, int]  # device, address: one storage, whichever of its views is looked at


def scan() -> tuple[list[Any], list[Tensor]]:
    """Return every object the collector knows and, out of those, the tensors."""
    objects, (tensors,) = scan_for(Tensor)
    return objects, tensors


def scan_for(*kinds: type) -> tuple[list[Any], list[list[Any]]]:
    """Return every object the collector knows and, for each kind, those of that type or of a subclass."""
    objects = gc.get_objects()
    # Where objects are few, to ask for their types takes a third of the time that the tree of subclasses takes. (No
    # comprehension may name `objects`: the list would hold the cell that holds the list, until the next collection.)
    types = set(map(type, objects)) if len(objects) < 1000 else None
    wanted = {kind: index for index, base in enumerate(kinds) for kind in _subclasses(base, types)}
    # Chained C iterators: a million objects take some 50 ms, a Python loop twice that; and only types are asked,
    # since an attribute of a foreign object may run code (lazy modules import themselves).
    found: list[list[Any]] = [[] for _ in kinds]
    for item in itertools.compress(objects, map(wanted.__contains__, map(type, objects))):
        found[wanted[type(item)]].append(item)
    return objects, found


def frozen_objects() -> int:
    """Count what `gc.freeze()` hides from a search; 0 where only the interpreter has put objects of its own there."""
    count = gc.get_freeze_count()
    return count if count > INTERPRETERS_OWN else 0


def _subclasses(kind: type, among: set[type] | None) -> set[type]:
    if among is not None:
        return {each for each in among if type.__subclasscheck__(kind, each)}
    found, waiting = {kind}, [kind]
    while waiting:
        new = set(type.__subclasses__(waiting.pop())) - found
        found |= new
        waiting += new
    return found


def storages(tensor: Tensor) -> Iterator[tuple[StorageKey, int]]:
    """Yield key and size in bytes of the memory below a tensor; nothing for meta, fake and opaque ones."""
    return ((key, storage.nbytes()) for key, storage in memory_below(tensor))


def memory_below(tensor: Tensor) -> Iterator[tuple[StorageKey, torch.UntypedStorage]]:
    """Yield the key of each storage of a tensor, and the storage."""
    for part in _parts(tensor):
        try:
            storage = part.untyped_storage()
            address = 0 if storage.device.type == "meta" else storage.data_ptr()
        except (RuntimeError, NotImplementedError):  # opaque (MKL-DNN), batched, functional: no storage to look at
            continue
        if address and storage.nbytes():
            yield (str(storage.device), address), storage


def _parts(tensor: Tensor) -> Iterable[Tensor]:
    if is_plain(tensor):  # nearly all are
        return (tensor,)
    try:
        return list(dense_parts(tensor))
    except Exception:  # noqa: BLE001  # a subclass may raise anything when it is taken apart
        return (tensor,)


@dataclasses.dataclass(frozen=True)
class Edge:
    """`holder` keeps `held` alive in C++, where the collector cannot see it; `text` is what to print between them."""

    holder: Any
    text: str
    held: Any
    kind: str


class Hidden:
    """What gradients and autograd graphs keep alive; nothing is recomputed for it.

    Everything looked at is held by this object, so that an id stays the name of one thing for the length of a search.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.saved: list[Any] = []
        self._reads = may_read_saved()
        self._gradients: dict[int, Tensor] = {}
        self._owners: dict[int, list[Tensor]] = {}  # node -> tensors whose grad_fn it is
        self._parents: dict[int, list[Any]] = {}  # node -> nodes that lead to it
        self._nodes: dict[int, Any] = {}
        self._keepers: dict[int, list[tuple[Any, str]]] = {}  # saved object -> node and attribute
        for tensor in tensors:
            try:
                leaf, node = tensor.is_leaf, tensor.grad_fn
            except RuntimeError:
                continue  # a view made without gradients whose base was then changed with them: it has no graph
            if leaf:
                if tensor.grad is not None:
                    self._gradients[id(tensor.grad)] = tensor
                    self.saved.append(tensor.grad)
            elif node is not None:
                self._owners.setdefault(id(node), []).append(tensor)
                self._walk(node)

    def _walk(self, first: Any) -> None:
        waiting = [first]
        while waiting:
            node = waiting.pop()
            if id(node) in self._nodes:
                continue
            self._nodes[id(node)] = node
            for name, item in self._saved_by(node):
                self._keepers.setdefault(id(item), []).append((node, name))
                self.saved.append(item)
            for following, _ in node.next_functions:
                if following is not None:
                    self._parents.setdefault(id(following), []).append(node)
                    waiting.append(following)

    def _saved_by(self, node: Any) -> Iterator[tuple[str, Any]]:
        if self._reads:
            yield from saved_by(node)
        if _name(node) == "AccumulateGrad":
            yield "variable", node.variable

    def edges_to(self, held: Any) -> Iterator[Edge]:
        """Yield what keeps an object from C++: the leaf of a gradient, the tensors above a graph that saved it."""
        if id(held) in self._gradients:
            yield Edge(self._gradients[id(held)], ".grad", held, "gradient")
        if id(held) in self._nodes:
            yield from self._edges_above(held, "", held)
        for node, name in self._keepers.get(id(held), ()):
            yield from self._edges_above(node, f".{name}", held)

    def _edges_above(self, node: Any, ending: str, held: Any) -> Iterator[Edge]:
        seen = {id(node)}
        waiting: list[tuple[Any, tuple[str, ...]]] = [(node, (_name(node),))]
        for above, path in waiting:  # grows while it is walked: nearest tensors first
            for owner in self._owners.get(id(above), ()):
                yield Edge(owner, "".join(f" -> {name}" for name in path) + ending, held, "graph")
            for parent in self._parents.get(id(above), ()):
                if id(parent) not in seen:
                    seen.add(id(parent))
                    longer = (
                        path if len(path) < 5 else (path[0], "...", *path[-2:])
                    )  # deep graphs: leave out the middle
                    waiting.append((parent, (_name(parent), *longer)))


def _name(node: Any) -> str:
    return node.name().rpartition("::")[2]
