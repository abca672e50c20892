"""Whether a signal gets through a model: scale, dead and saturated units, gradients, layer by layer."""

import contextlib
import inspect
import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from linkboy._calls import arguments_of, model_run, tensors_in, without_values
from linkboy._tensors import check_module, in_work_dtype
from linkboy._walk import unwrapped
from linkboy.init._slots import read_computed
from linkboy.init.report import ActivationAudit, ActivationRow

_RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.Threshold)
_NOT_LAYERS = (nn.Dropout, nn.Identity, torch.jit.ScriptModule)  # what these give is what came before them
_GIVE_ZERO = frozenset(("relu", *[kind.__name__ for kind in _RECTIFIERS]))
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_WEIGHTED_SUMS = (nn.Linear, nn.Bilinear, _ConvNd)


def audit_activations(
    model: nn.Module, batch: object, *, loss: Callable[[Any], Tensor] | None = None
) -> ActivationAudit:
    """Run one batch and report, layer by layer, whether the signal and its gradient keep their scale.

    One forward pass in the mode in which each module is, and with `loss` one backward pass. Activations that `forward`
    calls as functions and the gates of recurrent layers are seen as well. Statistics are taken during the pass; no activation
    is kept for them. Flags, hooks, buffers (of BatchNorm in training mode), gradients and random generators are unchanged
    afterwards.

    Args:
        model: the module to look at; of what torch.compile, DataParallel or DDP wrapped, the module inside.
        batch: what `forward` takes: a tensor, a tuple or list of arguments, or a mapping of keywords.
        loss: from the model's output to a scalar; adds standard deviation and root mean square of the gradient at each layer.

    Returns:
        An `ActivationAudit`; where it is not `ok`, its `notes` say what is wrong and where.
        The bounds behind the verdict are rules of thumb: more than half of the units dead or saturated, or a scale
        that changes steadily, and by more than a factor of 100, over the layers that multiply by a weight.

    Raises:
        TypeError: `model` is not a module, `batch` is a bare shape or a loader, or `loss` wants more than the output.
        ValueError: `loss` does not give a scalar with a gradient, or the model is lazy, a script or on the meta device.

    Examples:
        >>> import torch
        >>> from linkboy import audit_activations
        >>> _ = torch.manual_seed(0)
        >>> layers = [torch.nn.Linear(64, 64) for _ in range(8)]
        >>> for layer in layers:
        ...     _ = torch.nn.init.normal_(layer.weight, std=1.0)
        >>> audit_activations(torch.nn.Sequential(*layers), torch.randn(32, 64)).summary
        'signal: explodes: the scale grows 7.9-fold a layer, beyond 100 times the first at 3'
    """
    check_module("model", model)
    model = unwrapped(model)  # a compiled graph has no layers to look at
    if without_values(model):
        raise ValueError("model must have values, got one on the meta device; load its weights first")
    layers = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
    if not layers:
        raise ValueError("model must have layers that can be looked at, got a script; pass the module it was made of")
    if loss is not None:
        _check_loss(loss)
    arguments = arguments_of(batch, model, name="batch")
    probe = _Probe(alike=all(map(_all_alike, tensors_in((arguments.args, arguments.kwargs)))))
    with model_run(model, arguments, "values", grad=loss is not None) as run:
        for name, module in _layers(model):
            if not isinstance(module, _NOT_LAYERS):
                module.register_forward_hook(probe.hook(name))
                if isinstance(module, _RECURRENT):
                    module.register_forward_pre_hook(probe.open_gates)
        with probe, _named_in_errors(model):
            output = run.call()
        if loss is not None:
            _backward(model, loss(output))
    rows = probe.rows()
    found = _judge(rows, set() if probe.alike else probe.same_for_all)
    return ActivationAudit(found is None, () if found is None else found[:1], found and found[1], tuple(rows))


def _check_loss(loss: Callable[[Any], Tensor]) -> None:
    """Refuse a loss that wants a target as well, as those of torch do."""
    try:
        inspect.signature(loss).bind(None)
    except TypeError:
        name = getattr(loss, "__name__", type(loss).__name__)
        raise TypeError(
            f"loss must take the output of the model alone, got {name}; pass lambda output: {name}(output, target)"
        ) from None
    except ValueError:  # a function written in C may have no signature to read
        return


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that are looked at: those without others inside, but for steps that compute a weight."""
    steps = {
        id(step)
        for module in model.modules()
        if parametrize.is_parametrized(module)
        for step in module.parametrizations.modules()  # type: ignore[union-attr]
    }
    for name, module in model.named_modules():
        inside = any(id(child) not in steps for child in module.children())
        # An attention reads the weight of its projection without calling it.
        if id(module) not in steps and (not inside or isinstance(module, nn.MultiheadAttention)):
            yield name, module


def _all_alike(tensor: Tensor) -> bool:
    tensor = _dense(tensor)
    return tensor.dim() == 0 or bool((tensor == tensor[:1]).all())


def _dense(tensor: Tensor) -> Tensor:
    """Return the rows of a nested tensor one below the other, and a sparse one with its zeros."""
    if tensor.is_nested:
        return torch.cat(tensor.unbind())
    return tensor if tensor.layout is torch.strided else tensor.to_dense()


@contextlib.contextmanager
def _named_in_errors(model: nn.Module) -> Iterator[None]:
    """Add the layer that raised to an exception."""
    try:
        yield
    except Exception as error:
        names = {id(module): name for name, module in model.named_modules()}
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        layer = next((own for frame in reversed(frames) if id(own := frame.f_locals.get("self")) in names), None)
        if layer is not None:
            error.add_note(f"raised in {names[id(layer)] or 'the model'} ({type(layer).__name__})")
        raise


def _backward(model: nn.Module, value: object) -> None:
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss must give a scalar tensor, got {got}")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if parameters and not value.requires_grad:
        raise ValueError("loss must depend on trained parameters, got a value without a gradient; leave out .detach()")
    if parameters:
        # grad, not backward: the hooks on the way run, and no gradient is kept
        torch.autograd.grad(value.reshape(()), parameters, allow_unused=True)


class _Probe(TorchFunctionMode):
    """Collects statistics as tensors on their device and reads them all at the end.

    Layers are seen by hooks, activations that `forward` calls as functions by this mode, the gates of recurrent layers by a
    dispatch mode for as long as such a layer runs.

    Args:
        alike: whether all samples of the batch are the same, so that it says nothing if their outputs are.
    """

    def __init__(self, *, alike: bool) -> None:
        super().__init__()
        self.alike = alike
        self.records: list[dict[str, Any]] = []
        self.channels_first = False
        self.gates: _Gates | None = None
        self.open = contextlib.ExitStack()  # of a recurrent layer that runs

    def __exit__(self, *error: Any) -> None:
        self.open.close()
        super().__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        kind = _FUNCTIONS.get(getattr(func, "__name__", ""))
        if kind is not None and type(out) is Tensor and self.gates is None:
            behind = self.records[-1]["name"] if self.records else "the input"
            given = args[0] if args and isinstance(args[0], Tensor) else None
            if (record := self._observe(f"{kind} behind {behind}", kind, out, given)) is not None:
                record["of"] = out
                if kind == "softmax":
                    dim = args[1] if len(args) > 1 else (kwargs or {}).get("dim")
                    record["saturated"] = _peaked(out, given, dim)
        return out

    def open_gates(self, module: nn.Module, _: Any) -> None:
        """Watch the gates of a recurrent layer, by kernels that compute them one by one."""
        self.gates = self.open.enter_context(_Gates())

    def hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def observe(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(module, _WEIGHTED_SUMS):
                self.channels_first = isinstance(module, _ConvNd)
            gates, self.gates = self.gates, None
            self.open.close()
            called: dict[str, Any] = {}
            if self.records and self.records[-1].get("of") is output:  # the layer called a function that was seen
                called = self.records.pop()
            given = args[0] if args and isinstance(args[0], Tensor) else None
            for index, tensor in enumerate(tensors_in(output)):
                known = None if index else called
                record = self._observe(f"{name}[{index}]" if index else name or "(root)", module, tensor, given, known)
                if record is not None and not index:  # of a class of its own the function tells what is dead
                    record |= {
                        key: called[key] for key in ("dead", "saturated") if record.get(key) is None and key in called
                    }
                if gates is not None and not index:
                    self.records[-1]["saturated"] = gates.share()  # its first output is a float, so it has a record

        return observe

    def _observe(
        self,
        name: str,
        module: nn.Module | str,
        tensor: Tensor,
        given: Tensor | None = None,
        known: Mapping[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        """Record what a layer or a function gave; of a function's result that a layer passes on, `known` has the figures."""
        if not tensor.is_floating_point() or tensor.numel() == 0:
            return None
        kind = module if isinstance(module, str) else type(module).__name__
        weighted = isinstance(module, _WEIGHTED_SUMS) or kind == "Conv1D"
        record: dict[str, Any] = {"name": name, "kind": kind, "weighted": weighted}
        self.records.append(record)
        with torch._C.DisableTorchFunction():  # what is computed here is not the model's
            values = in_work_dtype(_dense(tensor.detach()))
            record["mean"], record["std"] = (known["mean"], known["std"]) if known else (values.mean(), _std(values))
            if isinstance(module, _RECTIFIERS) or kind == "relu":
                record["dead"] = self._dead(values)
            elif given is not None and (steep := _steep(module, given, tensor)) is not None:
                record["dead"] = self._dead(steep)
            record["saturated"] = _saturated(module, values)
            if weighted:
                record["layer"], record["pair"] = module, self._first_two_alike(values)
                record["same"] = True if self.alike else _same_rows(values)
            elif isinstance(module, (*_RECURRENT, nn.MultiheadAttention)) and values.shape[-1] > 1:
                record["alike"] = (values == values[..., :1]).all()
        if tensor.requires_grad:
            tensor.register_hook(lambda gradient: record.update(gradient=_std(gradient), rms=_rms(gradient)))
        return record

    def _first_two_alike(self, values: Tensor) -> Tensor | None:
        unit = self._unit_of(values)
        if values.dim() < 2 or values.shape[unit] < 2:
            return None
        return (values.select(unit, 0) == values.select(unit, 1)).all()

    def _unit_of(self, values: Tensor) -> int:
        # (N, C, ...) behind a convolution, (..., C) behind a Linear: a unit is a channel
        return 1 if values.dim() > 3 or self.channels_first else values.dim() - 1

    def _dead(self, alive: Tensor) -> Tensor:
        """Return the share of units that are zero, or `False`, for the whole batch."""
        if alive.dim() < 2:
            return (alive == 0).float().mean()
        unit = self._unit_of(alive)
        others = [dim for dim in range(alive.dim()) if dim != unit]
        if alive.dtype is not torch.bool:
            return (torch.count_nonzero(alive, dim=others) == 0).float().mean()
        return alive.any(others).logical_not().float().mean()  # for truth values the quicker one

    def rows(self) -> list[ActivationRow]:
        return [_row(record) for record in self.records]

    @property
    def same_for_all(self) -> set[str]:
        """Names of the layers that gave all samples the same."""
        return {record["name"] for record in self.records if record.get("same") is not None and bool(record["same"])}


class _Gates(TorchDispatchMode):
    """Counts the values of sigmoid and tanh that are at the end of their range, in a recurrent layer that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[Tensor] = []
        self.count = 0
        self.kernels = contextlib.ExitStack()

    def __enter__(self) -> "_Gates":
        backends: Any = torch.backends  # fused kernels show no gates
        for backend in (backends.mkldnn, backends.cudnn):
            self.kernels.callback(setattr, backend, "enabled", backend.enabled)
            backend.enabled = False
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.kernels.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        kind = _FUNCTIONS.get(func._overloadpacket.__name__)
        if kind in ("sigmoid", "tanh") and (share := _ended(kind, out)) is not None:
            self.ended.append(share.sum())
            self.count += out.numel()
        return out

    def share(self) -> Tensor | None:
        """Return the share of values at the end of the range, `None` if the layer showed none."""
        return torch.stack(self.ended).sum() / self.count if self.count else None


def _row(record: dict[str, Any]) -> ActivationRow:
    mean, std, dead, saturated, gradient, rms = (
        float(record[key]) if isinstance(record.get(key), Tensor) else math.nan
        for key in ("mean", "std", "dead", "saturated", "gradient", "rms")
    )
    note = ""
    if not math.isfinite(std):
        note = "not finite"
    elif "gradient" in record and not math.isfinite(gradient):
        note = "gradient not finite"
    elif dead > 0.5:
        note = "dead"
    elif saturated > 0.5:
        note = "saturated"
    elif std > 0 and _all_units_alike(record):
        note = "units alike"
    elif record["weighted"] and (std == 0 or bool(record.get("same"))) and _is_zero(_weight(record["layer"])):
        note = "zero weights"
    return ActivationRow(
        name=record["name"],
        kind=record["kind"],
        mean=mean,
        std=std,
        dead=dead,
        saturated=saturated,
        gradient_std=gradient,
        weighted=record["weighted"],
        notes=(note,) * bool(note),
        gradient_rms=rms,
    )


def _all_units_alike(record: dict[str, Any]) -> bool:
    if record.get("alike") is not None:
        return bool(record["alike"])
    return record.get("pair") is not None and bool(record["pair"]) and _units_alike(record["layer"])


def _weight(layer: Any) -> Tensor:
    return read_computed(layer, "weight") if parametrize.is_parametrized(layer, "weight") else layer.weight.detach()


def _is_zero(weight: Tensor) -> bool:
    return not weight[:1].any() and not weight.any()  # nearly every weight is told by its first row


def _units_alike(layer: Any) -> bool:
    """Return whether all units of a layer have the same weights, so that they compute the same and learn the same."""
    weight = _weight(layer)
    if type(layer).__name__ == "Conv1D" or getattr(layer, "transposed", False):
        weight = weight.transpose(0, 1)
    return len(weight) > 1 and bool((weight == weight[:1]).all())


def _rms(tensor: Tensor) -> Tensor:
    return torch.linalg.vector_norm(_dense(tensor.detach()).float()) / math.sqrt(max(tensor.numel(), 1))


def _std(tensor: Tensor) -> Tensor:
    values = _dense(tensor.detach()).float()  # torch.std on a CPU takes thirty times as long as these two passes
    return torch.linalg.vector_norm(values - values.mean()) / math.sqrt(values.numel())


_FUNCTIONS = {
    "relu": "relu", "relu_": "relu", "relu6": "relu", "threshold": "relu", "threshold_": "relu", "sigmoid": "sigmoid",
    "sigmoid_": "sigmoid", "special_expit": "sigmoid", "expit": "sigmoid", "tanh": "tanh", "tanh_": "tanh", "gelu": "gelu",
    "silu": "silu", "mish": "mish", "elu": "elu", "celu": "elu", "selu": "elu", "softplus": "softplus",
    "hardswish": "hardswish", "hardsigmoid": "hardsigmoid", "hardtanh": "hardtanh", "softmax": "softmax",
}  # fmt: skip
# Below these inputs (and above, for the last two) a function hardly changes any more: its slope is under a thousandth.
_FLAT = {
    "gelu": (-4.0, math.inf), "silu": (-10.0, math.inf), "mish": (-10.0, math.inf), "elu": (-8.0, math.inf),
    "softplus": (-8.0, math.inf), "hardswish": (-3.0, math.inf), "hardsigmoid": (-3.0, 3.0), "hardtanh": (-1.0, 1.0),
}  # fmt: skip
_ACTIVATIONS = {
    nn.GELU: "gelu", nn.SiLU: "silu", nn.Mish: "mish", nn.ELU: "elu", nn.CELU: "elu", nn.SELU: "elu",
    nn.Softplus: "softplus", nn.Hardswish: "hardswish", nn.Hardsigmoid: "hardsigmoid", nn.Hardtanh: "hardtanh",
}  # fmt: skip


def _steep(module: nn.Module | str, given: Tensor, output: Tensor) -> Tensor | None:
    """Return where the input of an activation is not in a flat part; `None` for other layers, or if it wrote over its input."""
    kind = module if isinstance(module, str) else _ACTIVATIONS.get(type(module), "")
    if kind not in _FLAT or given.data_ptr() == output.data_ptr():
        return None
    low, high = _FLAT[kind]
    values = _dense(given.detach())
    return values >= low if math.isinf(high) else (values >= low) & (values <= high)


def _same_rows(values: Tensor) -> Tensor | bool | None:
    """Return whether all samples have the same values; looking at two of them first is free on a CPU only."""
    if values.dim() < 2 or len(values) < 2:
        return None
    if values.device.type == "cpu" and not torch.equal(values[0], values[1]):
        return False
    return (values == values[:1]).all()


def _saturated(module: nn.Module | str, values: Tensor) -> Tensor | None:
    kind = module if isinstance(module, str) else {nn.Sigmoid: "sigmoid", nn.Tanh: "tanh"}.get(type(module), "")
    ended = _ended(kind, values)
    return None if ended is None else ended.float().mean()


_MASKED = -1e4  # and below: what is added to scores that must not be chosen


def _peaked(values: Tensor, scores: Tensor | None, dim: object) -> Tensor | None:
    """Return the share of rows of a softmax that choose one of several entries; `None` where no row has a choice."""
    if scores is None or not isinstance(dim, int) or values.dim() == 0 or values.shape[dim] < 2:
        return None
    with torch._C.DisableTorchFunction():
        choice = (scores.detach() > _MASKED).sum(dim) > 1
        chosen = (values.detach().amax(dim) > 0.99) & choice
        return chosen.sum() / choice.sum().clamp(min=1)


def _ended(kind: str, values: Tensor) -> Tensor | None:
    if kind == "sigmoid":
        return (values - 0.5).abs() > 0.475
    return values.abs() > 0.95 if kind == "tanh" else None


Found = tuple[str, str] | None  # what is wrong, and at which layer


def _judge(rows: list[ActivationRow], same_for_all: set[str]) -> Found:
    weighted = [row for row in rows if row.weighted] or rows
    return (
        _not_finite(rows)
        or _dead_or_saturated(rows)
        or _symmetric(rows, weighted[-1:])
        or _constant(weighted, same_for_all)
        or _changing_signal(weighted)
        or _gradient_not_finite(rows)
        or _changing_gradient(weighted)
    )


def _not_finite(rows: list[ActivationRow]) -> Found:
    name = next((row.name for row in rows if "not finite" in row.notes), None)
    return None if name is None else (f"not finite from {name} on", name)


def _dead_or_saturated(rows: list[ActivationRow]) -> Found:
    for row in rows:
        if "dead" in row.notes:
            how = "zero" if row.kind in _GIVE_ZERO else "flat"
            return f"dies: {row.dead:.0%} of the units of {row.name} are {how} for the whole batch", row.name
        if "saturated" in row.notes:
            what = "gates" if row.kind in _GATED else "rows" if row.kind.lower() == "softmax" else "values"
            return f"saturates: {row.saturated:.0%} of the {what} of {row.name} are at the end of its range", row.name
    return None


_GATED = frozenset(("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"))


def _symmetric(rows: list[ActivationRow], last: list[ActivationRow]) -> Found:
    # Those of the last layer are told apart by their targets.
    name = next((row.name for row in rows if "units alike" in row.notes and row not in last), None)
    return None if name is None else (f"symmetric: all units of {name} have the same weights, and stay alike", name)


def _constant(weighted: list[ActivationRow], same_for_all: set[str]) -> Found:
    """Find where the signal ends for good; a last layer that begins with zeros learns all the same, as authors intend."""
    first = len(weighted)
    while first and (weighted[first - 1].std == 0 or weighted[first - 1].name in same_for_all):
        first -= 1
    ended = weighted[first:]
    if all("zero weights" in row.notes for row in ended) or (not first and all(row.std == 0 for row in ended)):
        return None
    name = ended[0].name
    what = "value everywhere" if all(row.std == 0 for row in ended) else "for every sample"
    return f"dies: {name} gives the same {what}, and so does all that follows", name


def _changing_signal(weighted: list[ActivationRow]) -> Found:
    found = _trend([row.std for row in weighted])
    if found is None:
        return None
    place, rate = found
    word = (
        f"explodes: the scale grows {rate:.1f}-fold" if rate > 1 else f"vanishes: the scale shrinks {1 / rate:.1f}-fold"
    )
    return f"{word} a layer, {_beyond(rate)} the first at {weighted[place].name}", weighted[place].name


def _gradient_not_finite(rows: list[ActivationRow]) -> Found:
    broken = [row.name for row in rows if "gradient not finite" in row.notes]
    return (f"the gradient is not finite from {broken[-1]} back", broken[-1]) if broken else None


def _changing_gradient(weighted: list[ActivationRow]) -> Found:
    back = [row for row in reversed(weighted) if not math.isnan(row.gradient_rms)]
    found = _trend([row.gradient_rms for row in back])
    if found is None:
        return None
    place, rate = found
    word = "explodes" if rate > 1 else "vanishes"
    name = back[place].name
    last, first = back[0].gradient_rms, back[-1].gradient_rms
    evidence = f"from {last:.2g} at {back[0].name} to {first:.2g} at {back[-1].name}"
    return f"the gradient {word} on its way back, {_beyond(rate)} the last layer's at {name}: {evidence}", name


def _beyond(rate: float) -> str:
    return "beyond 100 times" if rate > 1 else "below a hundredth of"


def _trend(scales: list[float]) -> tuple[int, float] | None:
    """Return where a scale has changed by more than 100, and its growth a layer, if the change is a steady one.

    Steady: a straight line through the logarithms explains 80 % of them. Branches of different scale, as the queries
    and values of attention have, are scatter around such a line and no reason for alarm.
    """
    if len(scales) < 3 or not scales[0] > 0 or not all(math.isfinite(scale) for scale in scales):
        return None
    logs = [math.log10(max(scale, 1e-45)) for scale in scales]
    centre, mean = (len(logs) - 1) / 2, sum(logs) / len(logs)
    spread = sum((place - centre) ** 2 for place in range(len(logs)))
    slope = sum((place - centre) * (log - mean) for place, log in enumerate(logs)) / spread
    variance = sum((log - mean) ** 2 for log in logs)
    if abs(slope) * (len(logs) - 1) < 2 or slope**2 * spread < 0.8 * variance:
        return None
    sign = math.copysign(1, slope)
    beyond = [place for place, log in enumerate(logs) if sign * (log - logs[0]) > 2]
    return (beyond[0] if beyond else len(logs) - 1), 10**slope
