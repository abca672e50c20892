"""What differs between the releases of torch and transformers that linkboy runs on; no other file looks at a version."""

import gc
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.optim import Adagrad, Optimizer

OLDEST_TORCH = "2.6"
OLDEST_TRANSFORMERS = "4.46.3"

# Whether torch.compiler.is_compiling() is true too where torch.compile runs a function that it does not read itself.
SAYS_WHEN_IT_COMPILES = hasattr(torch.compiler, "_compile_session_context")


def check_version(package: str, found: str, oldest: str) -> None:
    """Raise unless a package is as new as linkboy needs it.

    Raises:
        ImportError: it is older.

    Examples:
        >>> check_version("torch", "2.10.0+cpu", "2.6")
        >>> check_version("torch", "2.5.1", "2.6")
        Traceback (most recent call last):
        ImportError: linkboy needs torch 2.6 or newer, found 2.5.1; run: pip install 'torch>=2.6'
    """
    if _numbers(found) < _numbers(oldest):
        raise ImportError(
            f"linkboy needs {package} {oldest} or newer, found {found}; run: pip install '{package}>={oldest}'"
        )


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3]]


check_version("torch", torch.__version__, OLDEST_TORCH)


def check_transformers(model: nn.Module) -> None:
    """Raise an `ImportError` if a model has a module of a transformers that is too old."""
    transformers = sys.modules.get("transformers")
    if transformers is not None and any(type(m).__module__.startswith("transformers.") for m in model.modules()):
        check_version("transformers", transformers.__version__, OLDEST_TRANSFORMERS)


def available_accelerator() -> torch.device | None:
    """Return the kind of accelerator that is here, `None` where there is none.

    torch 2.6 raises where there is none, and later releases name the kind they were built for, present or not.

    Examples:
        >>> available_accelerator() == torch.device("cpu")
        False
    """
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None


# Asked once: torch.compile cannot look into the question before torch 2.7. torch raises when it is asked about these.
_WITHOUT_AUTOCAST = frozenset(
    kind for kind in ("meta", "lazy", "vulkan", "fpga", "maia", "mtia") if not torch.amp.is_autocast_available(kind)
)


def autocast_enabled(device: torch.device) -> bool:
    """Return whether autocast is on for a device; never for one that has none, such as `meta`."""
    return device.type not in _WITHOUT_AUTOCAST and torch.is_autocast_enabled(device.type)


def plain_apply(function: type[Function]) -> Callable[..., Any]:
    """Return the `apply` of a Function for a caller that knows that no `torch.func` transform is at work.

    Before torch 2.15 `Function.apply` is written in Python, and takes 7.1 microseconds where this takes 5.2. Like that one it
    takes a tensor that outlived its transform out of its wrapper, without which its gradient would be lost; only the first
    argument may be such a tensor.
    """
    if not isinstance(vars(Function)["apply"], classmethod):
        return function.apply
    apply = super(Function, function).apply  # pyright: ignore[reportAttributeAccessIssue]
    unwrap = torch._C._functorch.unwrap_if_dead  # pyright: ignore[reportAttributeAccessIssue]
    return lambda tensor, *others: apply(unwrap(tensor), *others)


def begin_state(optimizer: Optimizer, tensor: Tensor) -> None:
    """Give a tensor that joins an optimizer the state that Adagrad expects; torch 2.13 makes it at the first step."""
    if isinstance(optimizer, Adagrad) and _numbers(torch.__version__) < [2, 13]:
        first = optimizer.defaults["initial_accumulator_value"]
        first = complex(first, first) if tensor.is_complex() else first
        optimizer.state[tensor] = {"step": torch.tensor(0.0), "sum": torch.full_like(tensor, first)}


_READS_RAW = hasattr(torch._C._autograd.SavedTensor, "data")  # pyright: ignore[reportAttributeAccessIssue]


def may_read_saved() -> bool:
    """Return whether what autograd graphs saved can be read without running anything.

    Before torch 2.10 a saved tensor is read by unpacking it, which recomputes what `torch.utils.checkpoint` left out; then
    nothing is read while something is checkpointed.
    """
    if _READS_RAW:
        return True
    from torch.utils import checkpoint

    return not any(type(thing) is checkpoint._Holder for thing in gc.get_objects())


def saved_by(node: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that a node of an autograd graph saved and a backward pass has not freed, with their attributes."""
    for name in _saved_names(type(node)):
        attribute = name.removeprefix("_raw")
        readable = attribute if hasattr(type(node), attribute) else attribute.removeprefix("_")
        try:
            saved = getattr(node, name if _READS_RAW else readable)
        except RuntimeError:  # freed: a single raw one reads as `None` then, a list of them raises
            continue
        for item in saved if isinstance(saved, (list, tuple)) else [saved]:
            tensor = item.data if _READS_RAW and item is not None else item
            if tensor is not None:
                yield attribute, tensor


_NAMES_OF: dict[type, tuple[str, ...]] = {}


def _saved_names(kind: type) -> tuple[str, ...]:
    if kind not in _NAMES_OF:
        _NAMES_OF[kind] = tuple(name for name in dir(kind) if name.startswith("_raw_saved_"))
    return _NAMES_OF[kind]
