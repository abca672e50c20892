"""The tensors that are alive: named by Python, held as gradients, or saved in an autograd graph."""

import dataclasses
import gc
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

StorageKey = tuple[str, int]  # device, address: one storage, whichever of its views is looked at


def scan() -> tuple[list[Any], list[Tensor]]:
    """Return every object the collector knows and, out of those, the tensors."""
    objects = gc.get_objects()
    wanted = _subclasses(Tensor)
    # Chained C iterators: a million objects take some 50 ms, a Python loop twice that; and only types are asked,
    # since an attribute of a foreign object may run code (lazy modules import themselves).
    return objects, list(itertools.compress(objects, map(wanted.__contains__, map(type, objects))))


def _subclasses(kind: type) -> set[type]:
    found, waiting = {kind}, [kind]
    while waiting:
        new = set(type.__subclasses__(waiting.pop())) - found
        found |= new
        waiting += new
    return found


def storages(tensor: Tensor) -> Iterator[tuple[StorageKey, int]]:
    """Yield key and size in bytes of the memory below a tensor; nothing for meta, fake and opaque ones."""
    for part in _dense_parts(tensor):
        try:
            storage = part.untyped_storage()
            address = 0 if storage.device.type == "meta" else storage.data_ptr()
        except (RuntimeError, NotImplementedError):  # opaque (MKL-DNN), batched, functional: no storage to look at
            continue
        if address and storage.nbytes():
            yield (str(storage.device), address), storage.nbytes()


def _dense_parts(tensor: Tensor) -> list[Tensor]:
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [tensor]


@dataclasses.dataclass(frozen=True)
class Edge:
    """`holder` keeps `held` alive in C++, where the collector cannot see it; `text` is what to print between them."""

    holder: Any
    text: str
    held: Any
    kind: str


def hidden_edges(tensors: Iterable[Tensor]) -> list[Edge]:
    """Find what gradients and autograd graphs keep; no saved-tensor hook is run, so nothing is recomputed or moved."""
    edges: list[Edge] = []
    seen: set[int] = set()
    nodes: list[Any] = []  # keeps each node's Python object, and with it its id, for the length of the search
    for tensor in tensors:
        if tensor.is_leaf:
            if tensor.grad is not None:
                edges.append(Edge(tensor, ".grad", tensor.grad, "gradient"))
        elif tensor.grad_fn is not None:
            edges += _graph_edges(tensor, seen, nodes)
    return edges


def _graph_edges(root: Tensor, seen: set[int], nodes: list[Any]) -> Iterator[Edge]:
    waiting: list[tuple[Any, str]] = [(root.grad_fn, "")]
    for node, path in waiting:  # grows while it is walked: breadth first
        if id(node) in seen:
            continue
        seen.add(id(node))
        nodes.append(node)
        here = _longer(path, node.name().rpartition("::")[2])
        yield Edge(root, here, node, "graph")
        for name in _saved_names(type(node)):
            saved = getattr(node, name)
            for item in saved if isinstance(saved, (list, tuple)) else [saved]:
                if item is not None and item.data is not None:
                    yield Edge(root, f"{here}.{name.removeprefix('_raw')}", item.data, "graph")
        if node.name().endswith("AccumulateGrad"):
            yield Edge(root, f"{here}.variable", node.variable, "graph")
        waiting += [(following, here) for following, _ in node.next_functions if following is not None]


def _longer(path: str, name: str) -> str:
    """Append a node to a path through a graph, leaving out the middle of a long one."""
    steps = [*path.split(" -> ")[1:], name]
    if len(steps) > 5:
        steps = [steps[0], steps[1], "...", *steps[-2:]]
    return " -> ".join(["", *steps])


_NAMES_OF: dict[type, tuple[str, ...]] = {}


def _saved_names(kind: type) -> tuple[str, ...]:
    if kind not in _NAMES_OF:
        _NAMES_OF[kind] = tuple(name for name in dir(kind) if name.startswith("_raw_saved_"))
    return _NAMES_OF[kind]
