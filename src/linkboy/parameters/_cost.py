"""What one forward pass costs: shapes and calls of every module, FLOPs, and the bytes that autograd keeps."""

import contextlib
import dataclasses
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from linkboy._calls import Arguments, How, ModelRun, model_run, tensors_in, ways
from linkboy._compat import autocast_enabled
from linkboy._tensors import dense_parts

Shapes = tuple[tuple[int, ...], ...]


@dataclasses.dataclass
class Cost:
    """What one forward pass showed; modules are keyed by `id`.

    Attributes:
        inputs: shapes of the tensors among the positional arguments of each module's first call.
        outputs: shapes of the tensors that the first call returned; only modules that returned are in it.
        calls: how often each module was called.
        flops: FLOPs by the modules that were running, from the outermost to the innermost.
        ops_without_flops: names of the operators that have no formula.
        is_lower_bound: whether one of these multiplies matrices or is unknown to torch.
        saved_nbytes: what autograd keeps.
        failed: the innermost module that raised, `None` where the pass succeeded.
    """

    inputs: dict[int, Shapes] = dataclasses.field(default_factory=dict)
    outputs: dict[int, Shapes] = dataclasses.field(default_factory=dict)
    calls: dict[int, int] = dataclasses.field(default_factory=dict)
    flops: dict[tuple[int, ...], int] = dataclasses.field(default_factory=dict)
    ops_without_flops: set[str] = dataclasses.field(default_factory=set)
    is_lower_bound: bool = False
    saved_nbytes: int = 0
    failed: nn.Module | None = None


def cost_of(model: nn.Module, arguments: Arguments, how: How) -> tuple[Cost, str, str]:
    """Return the cost of a forward pass up to its end or its error, the error, and why shapes were not enough."""
    cost, reason = Cost(), ""
    for way in ways(model, how):
        attempt = Cost()
        try:
            with model_run(model, arguments, way, grad=True, integers=True) as run:
                _observe(run, attempt)
        except Exception as error:
            if how == "values":  # a forward pass on request: its errors are the user's
                if attempt.failed is not None:
                    error.add_note(f"raised in {place_of(model, attempt.failed)}")
                raise
            reason = _first_line(error)
            if sum(attempt.calls.values()) >= sum(cost.calls.values()):
                cost = attempt
        else:
            attempt.failed = None  # `forward` may have caught an error
            return attempt, "", reason if way == "values" and how == "auto" else ""
    cost.failed = cost.failed or model
    return cost, reason, ""


def place_of(model: nn.Module, module: nn.Module) -> str:
    """Return where a module is in a model, for a message."""
    name = next((name for name, each in model.named_modules() if each is module), "an unregistered module")
    return f"{name} ({type(module).__name__})" if name else type(module).__name__


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _observe(run: ModelRun, cost: Cost) -> None:
    """Run a model once and write into `cost` what is seen, also where it raises."""
    saved: dict[int, Any] = {}  # storages, kept alive so that no key is used twice

    def note_saved(tensor: Tensor) -> Tensor:
        for part in dense_parts(tensor):
            storage = part.untyped_storage()
            saved[storage._cdata] = storage
        return tensor

    model: Any = run.model
    counter = _Counter(cost, run)
    saving = torch.autograd.graph.saved_tensors_hooks(note_saved, lambda tensor: tensor)
    with _plain_kernels(), counter.seeing_modules(), saving, counter:
        kept = run.call()
    for tensor in [*model.parameters(), *run.originals]:
        for part in dense_parts(tensor):
            saved.pop(part.untyped_storage()._cdata, None)
    cost.saved_nbytes = sum(storage.nbytes() for storage in saved.values())
    del kept


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    # Fused kernels keep less for the backward pass, and each device fuses others. Without them the figures are the same
    # whichever way the model runs.
    onednn, cudnn, mha = (torch.backends.mkldnn, torch.backends.cudnn, torch.backends.mha)
    before = onednn.enabled, cudnn.enabled, mha.get_fastpath_enabled()
    try:
        _set_kernels(False, False, False)  # not `flags`, which also sets what only some builds have, with a warning
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        _set_kernels(*before)


def _set_kernels(onednn: Any, cudnn: Any, fastpath: bool) -> None:
    backends: Any = torch.backends
    backends.mkldnn.enabled, backends.cudnn.enabled = onednn, cudnn
    torch.backends.mha.set_fastpath_enabled(fastpath)


class _Counter(TorchDispatchMode):
    """Counts the FLOPs of each operator, and under which modules it ran.

    `FlopCounterMode` has the formulas. It asks of every operator whether it can be decomposed and adds to a table for each
    parent, which is most of the time of a model of many small modules; here both are asked once.
    """

    supports_higher_order_operators = True

    def __init__(self, cost: Cost, run: ModelRun) -> None:
        super().__init__()
        self.cost = cost
        # What autocast would compute in another dtype if it ran there; inside an operator its state cannot be seen.
        devices = {tensor.device for tensor in run.originals.values()} if run.way == "meta" else set()
        self.devices = set() if torch.device("meta") in devices else devices
        self.running: tuple[int, ...] = ()
        self.thread = threading.get_ident()
        self.raised: BaseException | None = None
        self.kinds: dict[Any, Any] = {}
        self.known: dict[Any, _Known] = {}

    @contextlib.contextmanager
    def seeing_modules(self) -> Iterator[None]:
        """Note shapes and calls of every module, also of those that the model does not register."""
        handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: Any) -> None:
        if threading.get_ident() != self.thread:
            return
        if any(map(autocast_enabled, self.devices)):
            raise RuntimeError("autocast goes by the device of a tensor, and leaves those on the meta device alone")
        key = id(module)
        self.running += (key,)
        calls = self.cost.calls
        if key in calls:
            calls[key] += 1
        else:
            calls[key] = 1
            self.cost.inputs[key] = _shapes(args)

    def _leave(self, module: nn.Module, _: object, output: Any) -> None:
        if threading.get_ident() != self.thread:
            return
        key = id(module)
        self.running = self.running[:-1]
        error = sys.exc_info()[1] if output is None else None
        if error is not None:  # torch calls the hook while the exception passes through
            if error is not self.raised:
                self.raised, self.cost.failed = error, module
        elif key not in self.cost.outputs:
            self.cost.outputs[key] = _shapes(output)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(kind.__name__ == "NestedTensor" for kind in types):
            return NotImplemented  # it calls the operator for its rows, and that call comes here
        kind = self.kinds.get(func)
        if kind is None:
            kind = self.kinds[func] = _kind_of(func)
        if kind is _COMPOSITE:
            with self:
                return func.decompose(*args, **kwargs)
        key = _key_of(func, args, kwargs)
        known = self.known.get(key) if key is not None else None
        if known is not None:
            self._add(known.flops)
            return known.again()
        if not isinstance(kind, str):
            _check_dtypes(func, args)
            kind = _HEAVY if any(map(_is_sparse, args)) else kind  # the formulas are those of dense tensors
        out = _grouped_mm(*args, **kwargs) if _is_grouped_on_shapes(func, args) else func(*args, **kwargs)
        flops = 0
        if not isinstance(kind, str):
            flops = int(kind(*args, **kwargs, out_val=out))
            self._add(flops)
        elif kind is not _FREE:
            self.cost.ops_without_flops.add(_name_of(func))
            self.cost.is_lower_bound |= kind is _HEAVY
        if key is not None and (parts := _all_meta(out)) is not None:
            self.known[key] = _Known(flops, isinstance(out, tuple), parts)
        return out

    def _add(self, flops: int) -> None:
        if flops:
            self.cost.flops[self.running] = self.cost.flops.get(self.running, 0) + flops


def _shapes(value: Any) -> Shapes:
    if isinstance(value, Tensor):
        return (_shape(value),)
    return tuple(map(_shape, tensors_in(value)))


def _shape(tensor: Tensor) -> tuple[int, ...]:
    # Of a nested tensor that is not jagged torch tells only how many tensors are in it.
    return (tensor.size(0),) if tensor.is_nested and tensor.layout is torch.strided else tuple(tensor.shape)


# ------------------------------------------------------------------------------------- the same operator on the same shapes
Look = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]  # shape, strides and dtype of a meta tensor


class _Known(NamedTuple):
    """What an operator gave for meta tensors of some shapes.

    The shape functions of torch are written in Python and take up to two milliseconds, and the layers of a model repeat.
    """

    flops: int
    is_tuple: bool
    parts: list[Look]

    def again(self) -> Any:
        """Return new meta tensors like those that were returned."""
        made = [_EMPTY(size, stride, dtype=dtype, device="meta") for size, stride, dtype in self.parts]
        return tuple(made) if self.is_tuple else made[0]


class _NotMetaError(Exception):
    pass


_EMPTY: Any = torch.ops.aten.empty_strided.default
_FRESH: dict[Any, bool] = {}


def _key_of(func: Any, args: Any, kwargs: Any) -> Any:
    """Return what decides the outputs of an operator on meta tensors; `None` if they may share memory or have values."""
    fresh = _FRESH.get(func)
    if fresh is None:
        schema = getattr(func, "_schema", None)
        alone = schema is not None and all(argument.alias_info is None for argument in schema.arguments)
        fresh = _FRESH[func] = alone and func.namespace == "aten"
    if not fresh:
        return None
    try:
        key = (func, _sketch(args), _sketch(kwargs))
        hash(key)
    except (_NotMetaError, TypeError):  # a tensor with values, an argument that cannot be a key
        return None
    return key


def _sketch(value: Any) -> Any:
    kind = type(value)
    if kind is Tensor or kind is nn.Parameter:
        if not value.is_meta or value.layout is not torch.strided:
            raise _NotMetaError
        return (value.shape, value.stride(), value.dtype)
    if kind is tuple or kind is list:
        return tuple([_sketch(item) for item in value])
    if kind is dict:
        return tuple([(key, _sketch(item)) for key, item in value.items()])
    if isinstance(value, Tensor):
        raise _NotMetaError
    return (kind, value)


def _all_meta(out: Any) -> list[Look] | None:
    parts = out if isinstance(out, tuple) else (out,)
    if not all(type(part) is Tensor and part.is_meta and part.layout is torch.strided for part in parts):
        return None
    return [(tuple(part.shape), part.stride(), part.dtype) for part in parts]


def _without_values(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_meta or type(value).__name__ == "FakeTensor")


def _is_sparse(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout not in (torch.strided, torch.jagged)


def _check_dtypes(func: Any, args: Any) -> None:
    """Raise for a product of two floating dtypes, which kernels refuse and the shape functions of torch do not see."""
    if func._overloadpacket.__name__ in _OF_ONE_DTYPE:
        dtypes = {arg.dtype for arg in args[:3] if _without_values(arg) and arg.is_floating_point()}
        if len(dtypes) > 1:
            got = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
            raise RuntimeError(f"expected inputs and weights of one dtype, got {got}")


_OF_ONE_DTYPE = frozenset(("mm", "addmm", "bmm", "baddbmm", "convolution"))


def _is_grouped_on_shapes(func: Any, args: Any) -> bool:
    return func is _GROUPED_MM and _without_values(args[0])


# --------------------------------------------------------------------------------------------------- kinds of operators
_FREE, _COMPOSITE, _LINEAR, _HEAVY = "free", "composite", "linear", "heavy"
_FREE_NAMES = frozenset((
    "_unsafe_view", "arange", "clone", "copy_", "detach", "empty", "empty_like", "empty_strided", "fill_", "full",
    "full_like", "new_empty", "new_full", "new_ones", "new_zeros", "ones", "ones_like", "scalar_tensor", "_to_copy",
    "zero_", "zeros", "zeros_like", "lift_fresh", "_local_scalar_dense", "new_empty_strided", "_reshape_alias",
))  # fmt: skip
# Operators of torch whose cost is more than proportional to their inputs and outputs.
_HEAVY_NAME = re.compile(
    r"_?(linalg|fft|cdist|pdist|trilinear|cholesky|lstsq|qr|svd|eigh?|inverse|matrix_exp|triangular_solve|sparse|scaled|"
    r"weight_int|dyn_quant|wrapped_linear|mkldnn|miopen|cudnn_rnn|flash|efficient_attention|native_multi_head|triton|"
    r"transformer_encoder|conv_|fused_sdp_attention)"
)


def _kind_of(func: Any) -> Any:
    """Return the formula of an operator, or what is known of an operator that has none."""
    if isinstance(func, HigherOrderOperator):
        return flop_registry.get(func) or _HEAVY
    packet = func._overloadpacket
    formula = flop_registry.get(packet) or _FORMULAS.get(packet)
    if formula is not None:
        return formula
    name = packet.__name__
    if func.namespace == "prim" or func.is_view or name in _FREE_NAMES:
        return _FREE
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        return _COMPOSITE
    return _HEAVY if func.namespace not in ("aten", "prims") or _HEAVY_NAME.match(name) else _LINEAR


def _name_of(func: Any) -> str:
    return func._overloadpacket.__name__ if hasattr(func, "_overloadpacket") else str(func)


def _grouped_mm_flops(a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    if a.dim() == 3 and b.dim() == 2:
        return 2 * a.shape[1] * b.numel()
    return 2 * a.numel() * b.shape[-1]


def _grouped_mm(
    a: Tensor, b: Tensor, offs: Tensor | None = None, bias: Any = None, out_dtype: torch.dtype | None = None
) -> Tensor:
    """Return what `torch._grouped_mm` returns for tensors without values; torch's shape function takes bfloat16 only."""
    shape = [a.shape[-2], b.shape[-1]]
    if a.dim() == b.dim():
        shape = [a.shape[0] if a.dim() == 3 or offs is None else offs.shape[0], *shape]
    return a.new_empty(shape, dtype=out_dtype or a.dtype)


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return 2 * query.numel() * key.shape[-2] + 2 * query[..., 0].numel() * key.shape[-2] * value.shape[-1]


def _layer_flops(input: Tensor, weight: Tensor, recurrent: Tensor, *_: Any, **__: Any) -> int:
    return 2 * (input.numel() // input.shape[-1]) * (weight.numel() + recurrent.numel())


def _recurrent_flops(input: Tensor, weights: Any, *_: Any, **__: Any) -> int:
    return 2 * (input.numel() // input.shape[-1]) * sum(weight.numel() for weight in weights if weight.dim() == 2)


def _formulas() -> dict[Any, Callable[..., int]]:
    """Return formulas for operators that multiply matrices, and for which the counter of torch has none."""
    formulas: dict[str, Callable[..., int]] = {
        "mv": lambda a, b, out_val: 2 * a.numel(),
        "addmv": lambda self, a, b, beta=1, alpha=1, out_val=None: 2 * a.numel(),
        "dot": lambda a, b, out_val: 2 * a.numel(),
        "vdot": lambda a, b, out_val: 2 * a.numel(),
        "addbmm": lambda self, a, b, beta=1, alpha=1, out_val=None: 2 * a.numel() * b.shape[-1],
        "_int_mm": lambda a, b, out_val: 2 * a.numel() * b.shape[-1],
        "_grouped_mm": _grouped_mm_flops,
        "_scaled_dot_product_flash_attention_for_cpu": _attention_flops,
        "_scaled_dot_product_fused_attention_overrideable": _attention_flops,
        "mkldnn_rnn_layer": _layer_flops,
        "_cudnn_rnn": _recurrent_flops,
    }
    aten: Any = torch.ops.aten
    return {getattr(aten, name): formula for name, formula in formulas.items() if hasattr(aten, name)}


_FORMULAS = _formulas()
_GROUPED_MM = getattr(getattr(torch.ops.aten, "_grouped_mm", None), "default", None)
