"""What one forward pass costs: shapes and calls of every module, FLOPs, and the bytes that autograd keeps."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from linkboy._calls import Arguments, How, ModelRun, model_run, tensors_in, ways


@dataclasses.dataclass
class Cost:
    """What one forward pass showed; modules are keyed by `id`, FLOPs by name."""

    outputs: dict[int, tuple[tuple[int, ...], ...]] = dataclasses.field(default_factory=dict)
    calls: dict[int, int] = dataclasses.field(default_factory=dict)
    flops: dict[str, int] = dataclasses.field(default_factory=dict)
    ops_without_flops: set[str] = dataclasses.field(default_factory=set)
    saved_nbytes: int = 0


def cost_of(model: nn.Module, arguments: Arguments, how: How) -> tuple[Cost | None, str]:
    """Return the cost of a forward pass, `None` where it fails, and a note on why or on how it was run."""
    reason = ""
    for way in ways(model, how):
        try:
            with model_run(model, arguments, way, grad=True) as run:
                cost = _observed(run)
        except Exception as error:
            if how == "values":  # a forward pass on request: its errors are the user's
                raise
            reason = _first_line(error)
        else:
            by_values = way == "values" and how == "auto"
            return cost, f"computed on values, as shapes alone were not enough ({reason})" if by_values else ""
    if how == "shapes":
        reason += "; run='values' runs it on values instead"
    return None, f"no shapes: the forward pass failed ({reason})"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _observed(run: ModelRun) -> Cost:
    cost = Cost()
    saved: dict[int, Any] = {}  # storages, kept alive so that no key is used twice

    def note_output(module: nn.Module, _: object, output: object) -> None:
        cost.calls[id(module)] = cost.calls.get(id(module), 0) + 1
        if id(module) not in cost.outputs:
            cost.outputs[id(module)] = tuple(tuple(tensor.shape) for tensor in tensors_in(output))

    def note_saved(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage
        return tensor

    model: Any = run.model
    for module in model.modules():
        if not isinstance(module, torch.jit.ScriptModule):
            module.register_forward_hook(note_output)
    counter = FlopCounterMode(display=False)
    saving = torch.autograd.graph.saved_tensors_hooks(note_saved, lambda tensor: tensor)
    with _plain_kernels(), saving, counter, _WithoutFormula(cost.ops_without_flops):
        kept = run.call()
    for tensor in [*model.parameters(), *run.originals]:
        saved.pop(tensor.untyped_storage()._cdata, None)
    cost.saved_nbytes = sum(storage.nbytes() for storage in saved.values())
    del kept
    root = type(model).__name__
    for path, counts in counter.get_flop_counts().items():
        name = "" if path == "Global" else path.removeprefix(root).removeprefix(".")
        if path == "Global" or path.startswith(f"{root}."):
            cost.flops[name] = sum(counts.values())
    return cost


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    # The fused kernels of a CPU for attention and LSTM have no formula; meta tensors never take them. Without them the
    # figures are the same whichever way the model runs.
    onednn: Any = torch.backends.mkldnn
    before = onednn.enabled
    try:
        onednn.enabled = False  # not `flags`, which also sets what only some builds have, with a warning
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        onednn.enabled = before


class _WithoutFormula(TorchDispatchMode):
    """Collect the operators for which torch's counter has no formula; views and bookkeeping cost nothing."""

    def __init__(self, missing: set[str]) -> None:
        super().__init__()
        self.missing = missing

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func._overloadpacket
        if (
            func.namespace != "prim"
            and packet not in flop_registry
            and not func.is_view
            and packet.__name__ not in _FREE
        ):
            self.missing.add(packet.__name__)
        return func(*args, **(kwargs or {}))


_FREE = frozenset((
    "_unsafe_view", "arange", "clone", "copy_", "detach", "empty", "empty_like", "empty_strided", "fill_", "full",
    "full_like", "new_empty", "new_full", "new_ones", "new_zeros", "ones", "ones_like", "scalar_tensor", "_to_copy",
    "zero_", "zeros", "zeros_like", "lift_fresh", "_local_scalar_dense", "new_empty_strided", "_reshape_alias",
))  # fmt: skip
