"""Run a model on shapes alone and record what comes out of every module; leave the model as it was."""

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from linkboy._untouched import same_random_numbers, untouched


@dataclasses.dataclass
class Run:
    """What one forward pass showed; modules are keyed by `id`, FLOPs by name."""

    outputs: dict[int, tuple[tuple[int, ...], ...]] = dataclasses.field(default_factory=dict)
    calls: dict[int, int] = dataclasses.field(default_factory=dict)
    flops: dict[str, int] = dataclasses.field(default_factory=dict)
    without_formula: set[str] = dataclasses.field(default_factory=set)
    saved_bytes: int = 0


def run_shapes(model: nn.Module, inputs: tuple[object, ...], device: str | None) -> tuple[Run | None, str]:
    """Return the record of a forward pass, or `None` and the reason why there is none."""
    if device is None:  # a forward pass on request: its errors are the user's
        with untouched(model), same_random_numbers():
            buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
            return _run(model, dict(model.named_parameters()) | buffers, inputs, contextlib.nullcontext()), ""
    # Plain meta tensors take two thirds of the time; fake ones also get past an `item()` of something constant.
    modes = [None] if device == "meta" else []
    reason = ""
    for mode in (*modes, FakeTensorMode(allow_non_fake_inputs=True)):
        with untouched(model), same_random_numbers():
            try:
                return _run_shapes(model, inputs, device, mode), ""
            except Exception as error:  # noqa: BLE001 - a forward may fail on shapes in any way: the reason is reported
                lines = str(error).strip().splitlines()
                reason = f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
    return None, f"no shapes: the run on {device} tensors failed ({reason}); device=None computes for real"


def _run_shapes(model: nn.Module, inputs: tuple[object, ...], device: str, mode: FakeTensorMode | None) -> Run:
    def without_values(tensor: Tensor) -> Any:
        made = tensor.detach().to("meta") if device == "meta" else tensor.detach()
        made = made if mode is None else mode.from_tensor(made)
        return made.requires_grad_(tensor.requires_grad)

    with contextlib.ExitStack() as stack:
        state = {name: without_values(t) for name, t in [*model.named_parameters(), *model.named_buffers()]}
        given = tree_map_only(Tensor, without_values, inputs)
        stack.enter_context(torch.device("meta") if device == "meta" else sdpa_kernel(SDPBackend.MATH))
        return _run(model, state, given, mode or contextlib.nullcontext())


def _run(
    model: nn.Module,
    state: dict[str, Tensor],
    inputs: tuple[Any, ...],
    mode: contextlib.AbstractContextManager[Any],
) -> Run:
    run = Run()
    saved: dict[int, Any] = {}  # storages, kept alive so that no key is used twice

    def note_output(module: nn.Module, _: object, output: object) -> None:
        run.calls[id(module)] = run.calls.get(id(module), 0) + 1
        shapes = tuple(tuple(leaf.shape) for leaf in tree_leaves(_plain(output)) if isinstance(leaf, Tensor))
        run.outputs.setdefault(id(module), shapes)

    def note_saved(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage
        return tensor

    counter = FlopCounterMode(display=False)
    args, keywords = (inputs, {})
    if len(inputs) == 1 and isinstance(inputs[0], Mapping):
        args, keywords = (), dict(inputs[0])
    for module in model.modules():
        if not isinstance(module, torch.jit.ScriptModule):
            module.register_forward_hook(note_output)  # `untouched` takes it away again
    saving = torch.autograd.graph.saved_tensors_hooks(note_saved, lambda tensor: tensor)
    with mode, torch.enable_grad(), saving, counter, _Formulas(run.without_formula):
        kept = functional_call(model, state, args, keywords)
    given = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    for tensor in [*state.values(), *given]:
        saved.pop(tensor.untyped_storage()._cdata, None)
    run.saved_bytes = sum(storage.nbytes() for storage in saved.values())
    del kept
    root = type(model).__name__
    for path, counts in counter.get_flop_counts().items():
        name = "" if path == "Global" else path.removeprefix(root).removeprefix(".")
        if path == "Global" or path.startswith(f"{root}."):
            run.flops[name] = sum(counts.values())
    return run


def _plain(output: object) -> object:
    # transformers' outputs are mappings that torch's pytree does not always know
    return dict(output) if isinstance(output, Mapping) else output


class _Formulas(TorchDispatchMode):
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
