"""What the room returns: what was initialised, and how the signal gets through."""

import dataclasses
import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from linkboy._plots import new_figure
from linkboy._report import Block, Report, Table, format_percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any  # matplotlib is an optional package; type hints can be read without it


@dataclasses.dataclass(frozen=True)
class ActivationRow:
    """One call of one layer in an `ActivationAudit`; a figure that has no meaning for the layer is `nan`.

    Attributes:
        name: path of the layer, with the number of the output where it gives several; `relu behind fc1` for an activation
            that `forward` calls as a function.
        kind: class of the layer, or name of the function.
        mean: mean of the output.
        std: standard deviation of the output.
        dead: share of units that are zero for the whole batch after ReLU, or flat after GELU, SiLU and other activations.
        saturated: share of values beyond 95 % of the range of sigmoid or tanh, also of the gates of a recurrent layer, or of
            rows of a softmax whose maximum is above 0.99, of those with more than one entry that no mask leaves out.
        gradient_std: standard deviation of the gradient at the output; `nan` where there is none.
        weighted: whether the layer multiplies by a weight; the verdict follows the scale along these layers.
        notes: `"not finite"`, `"gradient not finite"`, `"dead"`, `"saturated"`, `"units alike"` or `"zero weights"`.
        gradient_rms: root mean square of the gradient at the output, which the verdict follows; `nan` where there is none.

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
    notes: tuple[str, ...] = ()
    gradient_rms: float = math.nan


@dataclasses.dataclass(frozen=True)
class ActivationAudit(Report):
    """The signal in a model, layer by layer; `audit_activations` makes it.

    Attributes:
        ok: whether the signal, and the gradient where there is one, gets through.
        notes: what is wrong and where; empty where the signal is healthy.
        layer: name of the layer where it goes wrong; `None` where the signal is healthy.
        rows: an `ActivationRow` for each call of each layer without children.

    Examples:
        >>> import torch
        >>> from linkboy import audit_activations
        >>> audit_activations(torch.nn.Linear(4, 4), torch.randn(8, 4)).ok
        True
    """

    ok: bool
    notes: tuple[str, ...]
    layer: str | None
    rows: tuple[ActivationRow, ...]

    @property
    def verdict(self) -> str:
        """`"healthy"`, or the notes on one line."""
        return "; ".join(self.notes) or "healthy"

    @property
    def summary(self) -> str:
        """The verdict, with what it is about."""
        return f"signal: {self.verdict}"

    def _blocks(self) -> Iterable[Block]:
        yield self.summary
        yield Table(
            ("layer", "type", "mean", "std", "dead", "saturated", "gradient rms", "note"),
            [
                (
                    row.name, row.kind, f"{row.mean:.3g}", f"{row.std:.3g}", format_percent(row.dead),
                    format_percent(row.saturated), "-" if math.isnan(row.gradient_rms) else f"{row.gradient_rms:.3g}",
                    "; ".join(row.notes),
                )
                for row in self.rows
            ],
        )  # fmt: skip

    def plot(self) -> Figure:
        """Draw the scale of signal and gradient by layer, the shares of dead and saturated units, and where it goes wrong.

        Returns:
            A matplotlib figure that is neither shown nor saved.

        Raises:
            ModuleNotFoundError: matplotlib is not installed; the message says how to install it.
        """
        figure = new_figure(max(6.0, 0.3 * len(self.rows)), 6.0)
        scale, shares = figure.subplots(2, 1, sharex=True)
        scale.set_title(self.verdict)
        self._plot_scales(scale)
        self._plot_shares(shares)
        places = [place for place, row in enumerate(self.rows) if row.name == self.layer]
        for axes in (scale, shares):
            for place in places[:1]:  # where it goes wrong
                axes.axvline(place, color="tab:red", linestyle="--", label=self.layer)
            if axes.get_legend_handles_labels()[0]:
                axes.legend()
        return figure

    def _plot_scales(self, axes: Any) -> None:
        for label, values in (
            ("signal", [row.std for row in self.rows]),
            ("gradient", [row.gradient_rms for row in self.rows]),
        ):
            shown = [value if math.isfinite(value) and value > 0 else math.nan for value in values]
            if any(map(math.isfinite, shown)):
                axes.semilogy(range(len(shown)), shown, marker="o", label=label)
        axes.set_ylabel("deviation of the signal, rms of the gradient")

    def _plot_shares(self, axes: Any) -> None:
        places = list(range(len(self.rows)))
        for offset, label in ((-0.2, "dead"), (0.2, "saturated")):
            heights = [getattr(row, label) for row in self.rows]
            bars = [0.0 if math.isnan(height) else height for height in heights]
            axes.bar([place + offset for place in places], bars, 0.4, label=label)
        axes.set_ylabel("share of units")
        axes.set_ylim(0, 1)
        axes.set_xticks(places, [row.name for row in self.rows], rotation=90, fontsize="small")


@dataclasses.dataclass(frozen=True)
class InitRow:
    """What happened to one tensor in an `InitReport`.

    Attributes:
        name: its first name.
        names: all its names.
        rule: the rule that filled it, as it is written.
        fan: fan_in and fan_out that the initialiser used; `None` where it uses none.
        std_before: standard deviation before; `nan` on the meta device.
        std_after: standard deviation after.
        notes: what is unusual about it, such as a row that stays zero.

    Examples:
        >>> from torch import nn
        >>> from linkboy import Rule, initialize
        >>> initialize(nn.Linear(2, 1), [Rule("*", init=0.5)]).rows[0].std_after
        0.0
    """

    name: str
    names: tuple[str, ...]
    rule: str
    fan: tuple[float, float] | None
    std_before: float
    std_after: float
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class InitReport(Report):
    """What `initialize` did, and what it did not reach.

    Attributes:
        rows: an `InitRow` for each tensor that was filled.
        unmatched: names of parameters that no rule and no `skip` names.
        skipped: names of parameters that `skip` names.
        unused_rules: rules all of whose tensors an earlier rule had taken.
        before: the audit of the signal before; `None` without a batch to audit.
        after: the audit of the signal after.
        notes: what is unusual about the rules in this model, such as too few residual projections.
        reset: those of `unmatched` and `skipped` that were on the meta device and were filled by their layers' own reset.

    Examples:
        >>> from torch import nn
        >>> from linkboy import Rule, initialize
        >>> layer = nn.Linear(1, 1)
        >>> print(initialize(layer, [Rule("weight", init=0.5)], on_unmatched="keep"))
        tensor  rule                 fan  std before  std after  note
        weight  Rule('weight', 0.5)    -           0          0
        <BLANKLINE>
        unmatched, left unchanged: bias
    """

    rows: tuple[InitRow, ...]
    unmatched: tuple[str, ...]
    skipped: tuple[str, ...]
    unused_rules: tuple[str, ...]
    before: ActivationAudit | None = None
    after: ActivationAudit | None = None
    reset: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """How many tensors were filled and how many no rule reached, on one line."""
        return f"tensors filled: {len(self.rows)}, unmatched: {len(self.unmatched)}, skipped: {len(self.skipped)}"

    def _blocks(self) -> Iterable[Block]:
        if self.rows:
            lines = [_line(rows, name) for name, rows in _folded(self.rows)]
            yield Table(("tensor", "rule", "fan", "std before", "std after", "note"), lines)
        for title, names in (
            ("unmatched, left unchanged", self._without_reset(self.unmatched)),
            ("unmatched, filled by their layers' own reset", self._with_reset(self.unmatched)),
            ("skipped", self._without_reset(self.skipped)),
            ("skipped, filled by their layers' own reset", self._with_reset(self.skipped)),
            ("rules whose tensors an earlier rule had taken", list(self.unused_rules)),
        ):
            if names:
                yield f"{title}: {', '.join(_folded_names(names))}"
        yield from (f"note: {note}" for note in self.notes)
        for time, audit in (("before", self.before), ("after", self.after)):
            if audit is not None:
                yield f"signal {time}: {audit.verdict}"

    def _with_reset(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if name in self.reset]

    def _without_reset(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if name not in self.reset]


def _folded(rows: tuple[InitRow, ...]) -> list[tuple[str, list[InitRow]]]:
    """Put rows that differ in the numbers of their names only under one name, such as `layer.0-11.weight`."""
    groups: dict[tuple[object, ...], list[InitRow]] = {}
    for row in rows:
        look = ("#".join(_NUMBER.split(" = ".join(row.names))), row.rule, row.fan, row.notes)
        groups.setdefault(look, []).append(row)
    return [(_common_name([" = ".join(row.names) for row in group]), group) for group in groups.values()]


def _line(rows: list[InitRow], name: str) -> tuple[str, ...]:
    fan = rows[0].fan
    return (
        name,
        rows[0].rule,
        "-" if fan is None else f"{fan[0]:g} -> {fan[1]:g}",
        _range([row.std_before for row in rows]),
        _range([row.std_after for row in rows]),
        "; ".join(rows[0].notes),
    )


def _range(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.4g}" if f"{low:.2g}" == f"{high:.2g}" else f"{low:.3g} to {high:.3g}"


def _folded_names(names: Iterable[str]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault("#".join(_NUMBER.split(name)), []).append(name)
    return [_common_name(group) for group in groups.values()]


def _common_name(names: list[str]) -> str:
    """Return names that differ in numbers only as one: each number that differs as its least and greatest."""
    texts = _NUMBER.split(names[0])
    columns = zip(*[map(int, _NUMBER.findall(name)) for name in names], strict=True)
    spans = [str(min(column)) if min(column) == max(column) else f"{min(column)}-{max(column)}" for column in columns]
    return "".join(text + span for text, span in zip(texts, [*spans, ""], strict=True))


_NUMBER = re.compile(r"(?<![^.\s])\d+(?![^.\s])")  # a whole part of a path
