"""See whether a signal gets through a model: scale, dead and saturated units, gradients, layer by layer."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd

from linkboy._plots import new_figure
from linkboy._report import Block, Report, Table, format_percent
from linkboy._tensors import check_module
from linkboy._untouched import same_random_numbers, untouched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.Threshold)
_NOT_LAYERS = (nn.Dropout, nn.Identity, torch.jit.ScriptModule)  # what these give is what came before them
_WEIGHTED_SUMS = (nn.Linear, nn.Bilinear, _ConvNd)


@dataclasses.dataclass(frozen=True)
class ActivationRow:
    """One call of one layer; shares are `nan` where they have no meaning, `gradient_std` where there is no gradient.

    `weighted`: whether the layer multiplies by a weight; the verdict follows the scale along these.

    Examples:
        >>> import torch
        >>> from linkboy import audit_activations
        >>> audit_activations(torch.nn.ReLU(), torch.tensor([[-1.0, 2.0]])).rows[0].dead
        0.5
    """

    name: str
    kind: str
    mean: float
    std: float
    dead: float
    saturated: float
    gradient_std: float
    weighted: bool = False
    note: str = ""


@dataclasses.dataclass(frozen=True)
class ActivationAudit(Report):
    """The signal in a model, layer by layer; see `audit_activations`.

    Examples:
        >>> import torch
        >>> from linkboy import audit_activations
        >>> audit_activations(torch.nn.Linear(4, 4), torch.randn(8, 4)).verdict
        'healthy'
    """

    verdict: str
    layer: str | None
    rows: tuple[ActivationRow, ...]

    def _blocks(self) -> Iterable[Block]:
        yield f"signal: {self.verdict}"
        yield Table(
            ("layer", "type", "mean", "std", "dead", "saturated", "gradient std", "note"),
            [
                (
                    row.name, row.kind, f"{row.mean:.3g}", f"{row.std:.3g}", format_percent(row.dead),
                    format_percent(row.saturated), "-" if math.isnan(row.gradient_std) else f"{row.gradient_std:.3g}",
                    row.note,
                )
                for row in self.rows
            ],
        )  # fmt: skip

    def plot(self) -> "Figure":
        """Draw the standard deviation of signal and gradient by layer, and the shares of dead and saturated units.

        Returns:
            A matplotlib figure that is neither shown nor saved.

        Raises:
            ModuleNotFoundError: matplotlib is not installed; the message says how to install it.
        """
        figure = new_figure(max(6.0, 0.3 * len(self.rows)), 6.0)
        scale, shares = figure.subplots(2, 1, sharex=True)
        places = list(range(len(self.rows)))
        for label, values in (
            ("signal", [row.std for row in self.rows]),
            ("gradient", [row.gradient_std for row in self.rows]),
        ):
            shown = [value if math.isfinite(value) and value > 0 else math.nan for value in values]
            if any(math.isfinite(value) for value in shown):
                scale.semilogy(places, shown, marker="o", label=label)
        scale.set_ylabel("standard deviation")
        scale.set_title(self.verdict)
        for offset, label in ((-0.2, "dead"), (0.2, "saturated")):
            heights = [getattr(row, label) for row in self.rows]
            bars = [0.0 if math.isnan(height) else height for height in heights]
            shares.bar([place + offset for place in places], bars, 0.4, label=label)
        shares.set_ylabel("share of units")
        shares.set_ylim(0, 1)
        shares.set_xticks(places, [row.name for row in self.rows], rotation=90, fontsize="small")
        for axes in (scale, shares):
            if axes.get_legend_handles_labels()[0]:
                axes.legend()
        return figure


def audit_activations(
    model: nn.Module, batch: object, *, loss: Callable[[Any], Tensor] | None = None
) -> ActivationAudit:
    """Run one batch and say, layer by layer, whether the signal and its gradient keep their scale.

    One forward pass in the mode in which each module is, and with `loss` one backward pass. Statistics are taken as
    the pass goes; no activation is kept for them. Flags, hooks, buffers (of BatchNorm in training mode), gradients and
    random generators are as before.

    Args:
        model: the module to look at.
        batch: what `forward` takes: a tensor, a tuple of arguments, or a mapping of keywords.
        loss: from the model's output to a scalar; adds the standard deviation of the gradient at each layer.

    Returns:
        `rows`: for each call of each layer without children the mean and standard deviation of its output; the share
        of dead units (zero for the whole batch, after ReLU and its like); the share of saturated values (beyond 95 %
        of the range of sigmoid or tanh; rows of a softmax with a maximum above 0.99). `verdict`: `"healthy"`, or what is
        wrong and where; `layer`: that layer.
        The bounds behind the verdict are rules of thumb: more than half of the units dead or saturated, or a scale
        that changes steadily, and by more than a factor of 100, over the layers that multiply by a weight.

    Raises:
        TypeError: `model` is no module.
        ValueError: `loss` does not give a scalar.

    Examples:
        >>> import torch
        >>> from linkboy import audit_activations
        >>> _ = torch.manual_seed(0)
        >>> layers = [torch.nn.Linear(64, 64) for _ in range(8)]
        >>> for layer in layers:
        ...     _ = torch.nn.init.normal_(layer.weight, std=1.0)
        >>> audit_activations(torch.nn.Sequential(*layers), torch.randn(32, 64)).verdict
        'explodes: the scale grows 7.9-fold a layer, beyond 100 times the first at 3'
    """
    check_module("model", model)
    model = getattr(model, "_orig_mod", model)  # torch.compile's wrapper: a compiled graph has no layers to look at
    probe = _Probe()
    args: tuple[Any, ...] = batch if isinstance(batch, tuple) else () if isinstance(batch, Mapping) else (batch,)
    keywords = dict(batch) if isinstance(batch, Mapping) else {}
    with untouched(model), same_random_numbers():
        for name, module in model.named_modules():
            if not (any(True for _ in module.children()) or isinstance(module, _NOT_LAYERS)):
                module.register_forward_hook(probe.hook(name))  # `untouched` takes it away again
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        with torch.set_grad_enabled(loss is not None):
            output = functional_call(model, buffers, args, keywords)
            if loss is not None:
                _backward(model, loss(output))
    rows = probe.rows()
    verdict, layer = _judge(rows)
    return ActivationAudit(verdict, layer, tuple(rows))


def _backward(model: nn.Module, value: object) -> None:
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss must give a scalar tensor, got {got}")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if parameters and value.requires_grad:
        # grad, not backward: the parameters' own gradients stay as they are, the hooks on the way run all the same
        torch.autograd.grad(value.reshape(()), parameters, allow_unused=True)


class _Probe:
    """Collects statistics as tensors on their device and reads them all at the end."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.channels_first = False

    def hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def observe(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(module, _WEIGHTED_SUMS):
                self.channels_first = isinstance(module, _ConvNd)
            for index, tensor in enumerate(_tensors(output)):
                self._observe(f"{name}[{index}]" if index else name or "(root)", module, tensor)

        return observe

    def _observe(self, name: str, module: nn.Module, tensor: Tensor) -> None:
        if not tensor.is_floating_point() or tensor.numel() == 0:
            return
        record: dict[str, Any] = {"name": name, "kind": type(module).__name__}
        record["weighted"] = isinstance(module, _WEIGHTED_SUMS) or type(module).__name__ == "Conv1D"
        self.records.append(record)
        values = tensor.detach()
        if values.dtype in (torch.float16, torch.bfloat16):
            values = values.float()
        record["mean"], record["std"] = values.mean(), _std(values)
        if isinstance(module, _RECTIFIERS):
            record["dead"] = self._dead(values)
        record["saturated"] = _saturated(module, values)
        if tensor.requires_grad:
            tensor.register_hook(lambda gradient: record.__setitem__("gradient", _std(gradient)))

    def _dead(self, values: Tensor) -> Tensor:
        if values.dim() < 2:
            return (values == 0).float().mean()
        # (N, C, ...) behind a convolution, (..., C) behind a Linear: a unit is a channel
        unit = 1 if values.dim() > 3 or self.channels_first else values.dim() - 1
        others = [dim for dim in range(values.dim()) if dim != unit]
        return (torch.count_nonzero(values, dim=others) == 0).float().mean()

    def rows(self) -> list[ActivationRow]:
        rows: list[ActivationRow] = []
        for record in self.records:
            number = {
                key: float(record[key]) if isinstance(record.get(key), Tensor) else math.nan
                for key in ("mean", "std", "dead", "saturated", "gradient")
            }
            note = ""
            if not math.isfinite(number["std"]):
                note = "not finite"
            elif "gradient" in record and not math.isfinite(number["gradient"]):
                note = "gradient not finite"
            elif number["dead"] > 0.5:
                note = "dead"
            elif number["saturated"] > 0.5:
                note = "saturated"
            rows.append(
                ActivationRow(
                    record["name"], record["kind"], number["mean"], number["std"], number["dead"],
                    number["saturated"], number["gradient"], record["weighted"], note,
                )
            )  # fmt: skip
        return rows


def _std(tensor: Tensor) -> Tensor:
    values = tensor.detach().float()  # torch.std on a CPU takes thirty times as long as these two passes
    return torch.linalg.vector_norm(values - values.mean()) / math.sqrt(values.numel())


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, (tuple, list)):
        return [tensor for item in output for tensor in _tensors(item)]
    return []


def _saturated(module: nn.Module, values: Tensor) -> Tensor | None:
    if isinstance(module, nn.Sigmoid):
        return ((values - 0.5).abs() > 0.475).float().mean()
    if isinstance(module, nn.Tanh):
        return (values.abs() > 0.95).float().mean()
    if isinstance(module, nn.Softmax) and module.dim is not None:
        return (values.amax(dim=module.dim) > 0.99).float().mean()
    return None


def _judge(rows: list[ActivationRow]) -> tuple[str, str | None]:
    for row in rows:
        if row.note == "not finite":
            return f"not finite from {row.name} on", row.name
    for row in rows:
        if row.note == "dead":
            return f"dies: {row.dead:.0%} of the units of {row.name} are zero for the whole batch", row.name
        if row.note == "saturated":
            return f"saturates: {row.saturated:.0%} of the values of {row.name} are at the end of its range", row.name
    weighted = [row for row in rows if row.weighted] or rows
    for row in weighted:
        if row.std == 0 and weighted[0].std > 0:
            return f"dies: {row.name} gives the same value everywhere", row.name
    found = _trend([row.std for row in weighted])
    if found is not None:
        place, rate = found
        word = (
            f"explodes: the scale grows {rate:.1f}-fold"
            if rate > 1
            else f"vanishes: the scale shrinks {1 / rate:.1f}-fold"
        )
        side = "beyond 100 times" if rate > 1 else "below a hundredth of"
        return f"{word} a layer, {side} the first at {weighted[place].name}", weighted[place].name
    if broken := [row.name for row in rows if row.note == "gradient not finite"]:
        return f"the gradient is not finite from {broken[-1]} back", broken[-1]
    back = [row for row in reversed(weighted) if not math.isnan(row.gradient_std)]
    found = _trend([row.gradient_std for row in back])
    if found is not None:
        place, rate = found
        word = "explodes" if rate > 1 else "vanishes"
        side = "beyond 100 times" if rate > 1 else "below a hundredth of"
        return f"the gradient {word} on its way back, {side} the last layer's at {back[place].name}", back[place].name
    return "healthy", None


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
