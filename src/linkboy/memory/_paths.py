"""Paths to a holder as a reader would write them, and what to do about each."""

import builtins
import dataclasses
import functools
import inspect
import re
import sys
import types
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linkboy._checks import describe
from linkboy._report import format_bytes
from linkboy.memory._live import Edge
from linkboy.memory._unseen import SHELL

# The last three outputs `_`, `__`, `___`, each numbered one, and the dict of all; not a user's own `_name`.
NOTEBOOK_OUTPUT = re.compile(r"__main__\.(Out|_oh|_{1,3}|_\d+)(?!\w)")
TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
MODULE_DICTS = ("_parameters", "_buffers", "_modules")
_SHELL_OUTPUT = re.compile(r"^\S+ \w+(\.user_ns(_hidden)?\['_|\._|\.output_hist\[)")
_NO_ERROR = "`import sys; sys.last_value = sys.last_traceback = sys.last_exc = "
# What to run for what is kept without a name of the user's; each is run in a notebook by the tests.
_KEPT = {
    "error": f"the interpreter keeps the last error: run {_NO_ERROR}None`",
    "error in IPython": f"IPython keeps the last error: run {_NO_ERROR}get_ipython().InteractiveTB.tb = None`",
    "output": "IPython keeps outputs, also under hidden names: run "
    "`get_ipython().displayhook.flush(); get_ipython().user_ns_hidden.update(_='', __='', ___='')`",
}
GENERATORS = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)


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


def local_names(frame: types.FrameType) -> list[tuple[str, int]]:
    """Return name and id of each local variable of a function's frame, leaving no reference to any behind."""
    values = frame.f_locals
    names = [(name, id(value)) for name, value in values.items()]
    # Up to Python 3.12 the frame keeps this dict, and would hold every local until it returns, deleted or not. It is
    # cleared unless someone else holds it too (2: the frame and `values`, +1 for the call) or a debugger may write it back.
    alone = type(values) is dict and sys.getrefcount(values) <= 3
    if alone and frame.f_code.co_flags & inspect.CO_OPTIMIZED and sys.gettrace() is None and frame.f_trace is None:
        values.clear()
    return names


def render(found: Found) -> str:
    """Write a path from its root down: `__main__.history[3] -> MeanBackward0 -> ReluBackward0._saved_result`."""
    text, node, above = found.root, found.node, None
    named = found.root_object is not None and type(found.root_object) is dict  # the root is a namespace
    while node.child is not None:
        held, child = node.held, node.child.held
        if node.edge is not None:
            text, named = text + node.edge.text, node.edge.kind == "thread"
        else:
            step, named = _step(held, child, above, named)
            text += step
        above, node = held, node.child
    return text


def _step(holder: Any, child: Any, above: Any, named: bool) -> tuple[str, bool]:
    """Return the text between a holder and what it holds, and whether that is a dict of attributes to name next."""
    if type(child) is dict and (isinstance(holder, type) or _own_dict(holder) is child):
        return "", True
    if isinstance(holder, dict):
        return _dict_step(holder, child, above, named)
    if isinstance(holder, types.FrameType):
        return _frame_step(holder, child), False
    if isinstance(holder, GENERATORS):
        frame = next(getattr(holder, name) for name in ("gi_frame", "cr_frame", "ag_frame") if hasattr(holder, name))
        return _frame_step(frame, child), False
    if isinstance(holder, types.FunctionType) and (type(child) is tuple or child is holder.__kwdefaults__):
        return "", False  # its closure or its defaults, which the next step names
    if isinstance(holder, (types.CellType, list, tuple, deque, set, frozenset)):
        return _item_step(holder, child, above), False
    if isinstance(holder, np.ndarray):
        return _array_step(holder, child), False
    if type(holder) is functools._lru_cache_wrapper:
        return " -> its lru_cache", False
    return _attribute_step(holder, child)


def _attribute_step(holder: Any, child: Any) -> tuple[str, bool]:
    name = _attribute(holder, child)
    if name in MODULE_DICTS:  # since Python 3.13 a module can hold these without a `__dict__` between
        return "", True
    if not name and isinstance(holder, Tensor):
        name = next((name for name in TENSOR_HOOKS if getattr(holder, name, None) is child), "")
    return f".{name}" if name else f" -> inside {type(holder).__name__}", False


def _item_step(holder: Any, child: Any, above: Any) -> str:
    """Return the text between what holds items and one of them; `above` is what holds the holder."""
    if isinstance(holder, types.CellType):
        return ""
    if isinstance(holder, (set, frozenset)):
        return "{...}"
    # A copy, since a deque that another thread appends to cannot be walked.
    index = next((i for i, item in enumerate(list(holder)) if item is child), None)
    if isinstance(above, types.FunctionType) and index is not None:
        code = above.__code__
        if type(child) is types.CellType and holder is above.__closure__:
            return f" -> {above.__name__}'s closure variable {code.co_freevars[index]}"
        if holder is above.__defaults__:
            name = code.co_varnames[code.co_argcount - len(holder) + index]
            return f" -> {above.__name__}'s default of {name}"
    return "[...]" if index is None else f"[{index}]"


def _array_step(holder: Any, child: Any) -> str:
    index = next((i for i, item in enumerate(holder.flat) if item is child), None)
    return "[...]" if index is None else f"[{', '.join(map(str, np.unravel_index(index, holder.shape)))}]"


def _dict_step(holder: dict[Any, Any], child: Any, above: Any, named: bool) -> tuple[str, bool]:
    key = next((key for key, value in list(holder.items()) if value is child), None)
    if key is None:
        return " (a key)", False
    if isinstance(above, types.FunctionType) and holder is above.__kwdefaults__:
        return f" -> {above.__name__}'s default of {key}", False
    if named and isinstance(key, str):
        return ("", True) if key in MODULE_DICTS else (f".{key}", False)
    shown = repr(key) if isinstance(key, (str, int, float, type(None))) else describe(key)
    return f"[{shown[:40]}]", False


def _frame_step(frame: types.FrameType, child: Any) -> str:
    name = next((name for name, item in local_names(frame) if item == id(child)), "a temporary value")
    code = frame.f_code
    return f" -> {code.co_name}() at {Path(code.co_filename).name}:{frame.f_lineno}, local {name}"


def _own_dict(holder: Any) -> Any:
    try:
        return object.__getattribute__(holder, "__dict__")
    except AttributeError:
        return None


def _attribute(holder: Any, child: Any) -> str:
    """Name the attribute of `holder` that is `child`, without running any code of its class."""
    own = _own_dict(holder)
    if type(own) is dict:
        for name, value in list(own.items()):
            if value is child:
                return name
    for kind in type(holder).__mro__:
        for name, member in list(vars(kind).items()):
            plain = isinstance(member, (types.MemberDescriptorType, types.GetSetDescriptorType))
            if plain and kind.__module__ != "torch._C":
                try:
                    if member.__get__(holder) is child:
                        return name
                except (AttributeError, RuntimeError, TypeError, ValueError):
                    continue
    return ""


def advise(found: Found) -> tuple[str, ...]:
    """Return what to do so that the object is released, by the kinds of holder on the path."""
    kept = kept_by_interpreter(found)
    if kept is not None:
        return (_KEPT[kept],)
    kinds, chain, node = set[str](), [], found.node
    while node is not None:
        chain.append(node.held)
        kinds |= {node.edge.kind} if node.edge is not None else set()
        node = node.child
    path = render(found)
    lines = [
        ("traceback" in kinds,
         "drop the exception (`del error`), or call `traceback.clear_frames(error.__traceback__)`"),
        ("graph" in kinds, "store `loss.item()` or `.detach()`: a tensor with a graph keeps all activations"),
        ("gradient" in kinds, "call `zero_grad(set_to_none=True)`"),
        (any(isinstance(item, torch.optim.Optimizer) for item in chain), "delete the optimizer together with the model"),
        (any(type(item) is functools._lru_cache_wrapper for item in chain), "call `cache_clear()` on that function"),
        ("_hooks[" in path, "call `handle.remove()` on the hook"),
        ("array" in kinds, "an array from `.numpy()` keeps the tensor's memory: drop it, or keep `.copy()` of the part you need"),
        (path.startswith("context variable"), "set the variable to `None`, or call `reset` on it with its token"),
        (_small_view(chain[-1]), f"store `.clone()`: this view {_view_sizes(chain[-1])}"),
    ]  # fmt: skip
    return tuple(line for applies, line in lines if applies) or ("delete that name, or take it out of that container",)


def kept_by_interpreter(found: Found) -> str | None:
    """Return what a path shows that the interpreter or the notebook keeps by itself, which one piece of advice releases."""
    path = render(found)
    in_notebook = "get_ipython" in vars(builtins)
    if path.startswith("sys.last_"):
        return "error in IPython" if in_notebook else "error"
    if path.startswith(SHELL):
        return "error in IPython" if ".tb ->" in path else "output" if _SHELL_OUTPUT.search(path) else None
    if path.startswith("sys.displayhook._") or NOTEBOOK_OUTPUT.match(path) is not None:
        return "output"
    return None


def _small_view(item: Any) -> bool:
    return isinstance(item, Tensor) and item.layout is torch.strided and bool(_view_sizes(item))


def _view_sizes(item: Any) -> str:
    try:
        shown, whole = item.numel() * item.element_size(), item.untyped_storage().nbytes()
    except (AttributeError, RuntimeError, NotImplementedError):
        return ""
    return f"of {format_bytes(shown)} keeps all {format_bytes(whole)} of its storage" if shown < whole else ""
