"""What the room returns: counts, summaries, comparisons, and what was frozen."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from linkboy._report import (
    Block,
    Report,
    Table,
    and_more,
    display_width,
    format_bytes,
    format_count,
    listed,
    plural,
    shorten,
)


@dataclasses.dataclass(frozen=True)
class ParameterRow:
    """One line of a `ParameterCount`: the parameters of one module, of one dtype or under one key of a checkpoint.

    Attributes:
        name: path of the module, `(root)` for the model itself, or the dtype.
        kind: class of the module; empty for a dtype or a file.
        tensors: name and shape of each parameter; a tied one is in the row that comes first.
        parameter_count: how many elements they have.
        trainable_count: how many of these are trained; `None` for a file, which does not say.
        nbytes: what they take where they are stored, scales and indices included.

    Examples:
        >>> import torch
        >>> from linkboy import count_parameters
        >>> count_parameters(torch.nn.Linear(3, 2), by="module").rows[0].tensors
        (('weight', (2, 3)), ('bias', (2,)))
    """

    name: str
    kind: str
    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    parameter_count: int
    trainable_count: int | None
    nbytes: int


@dataclasses.dataclass(frozen=True)
class ParameterCount(Report):
    """What a model or a checkpoint holds; `count_parameters` makes it.

    Attributes:
        source: class of the model, or name of the file.
        total: elements of all parameters, each tensor once.
        trainable: how many of these are trained; `None` for a file, which does not say.
        frozen: how many are not; `None` for a file.
        logical: what the parameters stand for: packed weights unpacked, and the weights that quantised modules hide from
            `parameters()` included.
        nbytes: what the parameters take where they are stored, scales and zero points included.
        unique_storage_nbytes: the storages behind them, each once.
        buffer_count: elements of all buffers.
        buffer_nbytes: what the buffers take.
        nonzero: what `torch.nn.utils.prune` has left; `None` where nothing is pruned.
        tied: all names of each tensor that has several.
        uninitialized: names of lazy parameters, which make `total` a lower bound.
        uncounted: names of layers whose packed weights cannot be read, which make `logical` a lower bound.
        sharded: elements on this process and in all, where a parameter is a DTensor; else `None`.
        by: what the rows stand for, `"module"` or `"dtype"`; `None` without rows.
        rows: a `ParameterRow` for each.
        notes: what the count cannot know.

    Examples:
        >>> import torch
        >>> from linkboy import count_parameters
        >>> print(count_parameters(torch.nn.Linear(3, 2)))
        Linear: 8 parameters, all trainable, 32 B
    """

    source: str
    total: int
    trainable: int | None
    frozen: int | None
    logical: int
    nbytes: int
    unique_storage_nbytes: int
    buffer_count: int = 0
    buffer_nbytes: int = 0
    nonzero: int | None = None
    tied: tuple[tuple[str, ...], ...] = ()
    uninitialized: tuple[str, ...] = ()
    sharded: tuple[int, int] | None = None
    by: Literal["module", "dtype"] | None = None
    rows: tuple[ParameterRow, ...] = ()
    notes: tuple[str, ...] = ()
    uncounted: tuple[str, ...] = ()

    def _blocks(self) -> Iterable[Block]:
        yield self._headline()
        if self.rows:
            yield self._table()
        if self.tied:
            yield _tied(self.tied)
        if self.notes:
            yield "\n".join(f"note: {note}" for note in self.notes)

    def _headline(self) -> str:
        at_least = "at least " if self.uninitialized or self.uncounted else ""
        packed = f" (packed in {format_count(self.total)})" if self.logical != self.total else ""
        share = ""
        if self.trainable is not None and self.frozen is not None:
            share = ", all trainable"
            if self.frozen:
                share = f", {format_count(self.trainable)} trainable, {format_count(self.frozen)} frozen"
            elif self.logical != self.total:  # what is packed outside of the parameters cannot be trained
                share = f", {format_count(self.trainable)} trainable"
        text = f"{self.source}: {at_least}{plural(self.logical, 'parameter')}{packed}{share}"
        text += f", {format_bytes(self.nbytes)}"
        if self.unique_storage_nbytes != self.nbytes:
            text += f" (in {format_bytes(self.unique_storage_nbytes)} of storage)"
        if self.buffer_count:
            text += f"; buffers {format_count(self.buffer_count)}, {format_bytes(self.buffer_nbytes)}"
        if self.nonzero is not None:
            text += f"; {format_count(self.nonzero)} left after pruning"
        if self.sharded is not None:
            local, whole = self.sharded
            text += f"; sharded: {format_count(local)} of {format_count(whole)} on this process"
        return text

    def _table(self) -> Table:
        per_module, trained = self.by == "module", self.trainable is not None
        body: list[list[str]] = []
        for row in self.rows:
            cells = [row.name]
            if per_module:
                cells += [row.kind] * trained + [_shapes(row.tensors)]
            else:
                cells += [format_count(len(row.tensors))]
            cells += [format_count(row.parameter_count)] + [_share(row.trainable_count, row.parameter_count)] * trained
            body.append([*cells, format_bytes(row.nbytes)])
        columns = ["module"] + ["type"] * trained + ["shapes"] if per_module else [str(self.by), "tensors"]
        total = ["total"] + [""] * (len(columns) - 1) + [format_count(self.total)]
        total += [_share(self.trainable, self.total)] * trained + [format_bytes(sum(row.nbytes for row in self.rows))]
        return Table([*columns, "parameters", *["trainable"] * trained, "size"], [*body, total])


@dataclasses.dataclass(frozen=True)
class SummaryRow:
    """One module of a `ModelSummary`, with everything below it.

    Attributes:
        name: path of the module; empty for the model itself.
        kind: class of the module.
        depth: how many levels below the model it is.
        parameter_count: elements of the parameters, each tensor once within the row.
        trainable_count: how many of these are trained.
        dtype: dtypes of the parameters, joined by commas.
        outputs: shapes of the tensors that the module returned when it was first called.
        call_count: how often it was called.
        flops: FLOPs of all its calls; of a container that is never called itself, those of its layers; `None` where
            nothing ran or the run failed.
        inputs: shapes of the tensors among its positional arguments when it was first called.
        kernel: size of the kernel of a convolution or pooling layer.

    Examples:
        >>> import torch
        >>> from linkboy import summarize
        >>> row = summarize(torch.nn.Sequential(torch.nn.Linear(3, 2)), torch.zeros(5, 3)).rows[1]
        >>> row.name, row.outputs, row.parameter_count, row.flops
        ('0', ((5, 2),), 8, 60)
    """

    name: str
    kind: str
    depth: int
    parameter_count: int
    trainable_count: int
    dtype: str
    outputs: tuple[tuple[int, ...], ...] = ()
    call_count: int = 0
    flops: int | None = None
    inputs: tuple[tuple[int, ...], ...] = ()
    kernel: tuple[int, ...] = ()


Column = Literal["input", "output", "kernel", "parameters", "share", "trainable", "dtype", "calls", "flops"]
COLUMNS: tuple[Column, ...] = get_args(Column)
_WIDTH = 90  # columns of a terminal


@dataclasses.dataclass(frozen=True)
class ModelSummary(Report):
    """A model as a tree with its cost; `summarize` makes it.

    Attributes:
        count: the `ParameterCount`.
        rows: the modules, in order; equal siblings are printed once, `x 32`, with the figures of one of them.
        flops: FLOPs of one forward pass by torch's formulas, a multiply-add as 2; `None` where nothing ran or the run failed.
        flops_are_lower_bound: whether an operator without a formula multiplies matrices or is unknown to torch.
        ops_without_flops: the operators that ran and that have no formula; most are elementwise.
        activation_nbytes: what autograd keeps for the backward pass, each storage once, apart from parameters, buffers and
            inputs; `None` where nothing ran. Attention is computed the plain way, which keeps its matrix, so this is an
            upper bound for fused attention.
        training_memory: bytes of weights, buffers, gradients and the two states of AdamW, and of activations where known;
            empty for a model that was not trained so, and not shown then.
        failed: path of the module in which the forward pass failed; empty for the model itself, `None` where none did.
        columns: what the printed table shows, `None` for what `summarize` shows by itself.
        notes: why something is missing, or how the model was run.

    Examples:
        >>> import torch
        >>> from linkboy import summarize
        >>> summarize(torch.nn.Linear(3, 2)).count.total
        8
    """

    count: ParameterCount
    rows: tuple[SummaryRow, ...]
    flops: int | None
    ops_without_flops: tuple[str, ...]
    activation_nbytes: int | None
    training_memory: dict[str, int]
    notes: tuple[str, ...] = ()
    flops_are_lower_bound: bool = False
    failed: str | None = None
    columns: tuple[Column, ...] | None = None

    def _blocks(self) -> Iterable[Block]:
        yield from self.count._blocks()
        yield self._table()
        lines: list[str] = []
        if (
            self.columns is None
            and "dtype" not in self._columns()
            and (dtype := self.rows[0].dtype) not in ("", "float32")
        ):
            lines.append(f"dtype of all parameters: {dtype}")
        if self.flops is not None:
            at_least = "at least " if self.flops_are_lower_bound else ""
            lines.append(f"FLOPs of one forward pass (a multiply-add counts 2): {at_least}{format_count(self.flops)}")
            if self.ops_without_flops:
                lines.append(f"not counted, no formula: {listed(self.ops_without_flops, 8)}")
        if self.training_memory:
            parts = ", ".join(f"{part} {format_bytes(nbytes)}" for part, nbytes in self.training_memory.items())
            lines.append(f"training memory {format_bytes(sum(self.training_memory.values()))}: {parts}")
        lines += [f"note: {note}" for note in self.notes]
        yield "\n".join(lines)

    def _columns(self) -> tuple[Column, ...]:
        if self.columns is not None:
            return self.columns
        ran = any(row.call_count for row in self.rows)
        shares = {row.trainable_count / row.parameter_count for row in self.rows if row.parameter_count}
        dtypes = {row.dtype for row in self.rows if row.dtype}
        chosen = {
            "output": ran,
            "parameters": True,
            "trainable": len(shares) > 1,
            "dtype": len(dtypes) > 1,
            "flops": ran,
        }
        return tuple(column for column in COLUMNS if chosen.get(column))

    def _table(self) -> Table:
        columns = self._columns()
        body = [
            ["  " * row.depth + label, row.kind + (f" x {times}" if times > 1 else "")]
            + [self._cell(row, column) for column in columns]
            for row, label, times in _folded(self.rows)
        ]
        headings = ["FLOPs" if column == "flops" else column for column in columns]
        return _narrowed(["module", "type", *headings], body)

    def _cell(self, row: SummaryRow, column: Column) -> str:
        if column == "parameters":
            return format_count(row.parameter_count)
        if column == "flops":
            return "-" if row.flops is None else format_count(row.flops)
        if column == "trainable":
            return "-" if not row.parameter_count else f"{row.trainable_count / row.parameter_count:.0%}"
        if column == "share":
            return "-" if not self.count.total else f"{row.parameter_count / self.count.total:.1%}"
        if column == "output":
            return (
                "failed"
                if row.name == self.failed
                else _first_shape(row.outputs, bool(row.call_count and self.failed is None))
            )
        if column == "input":
            return _first_shape(row.inputs, bool(row.call_count))
        if column == "kernel":
            return " x ".join(map(str, row.kernel)) or "-"
        return row.dtype or "-" if column == "dtype" else format_count(row.call_count)


@dataclasses.dataclass(frozen=True)
class FreezeReport(Report):
    """What `freeze` or `unfreeze` did; each tensor is listed once, with all its names.

    Attributes:
        action: `"froze"` or `"unfroze"`.
        changed: the tensors whose flag was set.
        unchanged: the tensors that had been frozen already, or, for `unfreeze`, that were frozen by other means.
        element_count: elements of the tensors that changed.
        norms: normalisation layers whose running statistics are held still, or move again.
        matched: how many tensors each pattern matched.
        optimizer_tensor_count: how many tensors left the optimizer, or came back to it.

    Examples:
        >>> import torch
        >>> from linkboy import freeze
        >>> print(freeze(torch.nn.Linear(3, 2), "bias"))
        froze 1 tensor, 2 elements: bias
    """

    action: Literal["froze", "unfroze"]
    changed: tuple[tuple[str, ...], ...]
    unchanged: tuple[tuple[str, ...], ...]
    element_count: int
    norms: tuple[str, ...]
    matched: dict[str, int]
    optimizer_tensor_count: int = 0

    def _blocks(self) -> Iterable[Block]:
        names = listed([" = ".join(names) for names in self.changed])
        tensors = f"{plural(len(self.changed), 'tensor')}, {plural(self.element_count, 'element')}"
        lines = [f"{self.action} {tensors}" + f": {names}" * bool(names)]
        if self.unchanged:
            why = "already frozen" if self.action == "froze" else "not frozen by freeze, so left unchanged"
            lines.append(f"{why}: {listed([' = '.join(names) for names in self.unchanged])}")
        if self.norms:
            what = "running statistics held still" if self.action == "froze" else "running statistics move again"
            lines.append(f"{what}: {listed(self.norms)}")
        if self.optimizer_tensor_count:
            way = "taken out of" if self.action == "froze" else "put back into"
            lines.append(f"{way} the optimizer: {plural(self.optimizer_tensor_count, 'tensor')}")
        yield "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Difference:
    """One tensor that two models hold differently.

    Attributes:
        name: the name under which both models have it.
        what: what differs: `"shape"`, `"dtype"`, `"layout"`, `"value"`, `"tie"` or `"requires_grad"`.
        first: what the first model has, as `f32[2, 3]`; all names of the tensor for a tie.
        second: what the second model has.
        largest: the greatest absolute difference of two values; `None` where values were not compared.

    Examples:
        >>> import torch
        >>> from linkboy import compare_models
        >>> compare_models(torch.nn.Linear(3, 2), torch.nn.Linear(4, 2)).differences[0].what
        'shape'
    """

    name: str
    what: Literal["shape", "dtype", "layout", "value", "tie", "requires_grad"]
    first: str
    second: str
    largest: float | None = None


@dataclasses.dataclass(frozen=True)
class ModelComparison(Report):
    """What differs between two models; `compare_models` makes it.

    Attributes:
        ok: whether the models are identical.
        equal_count: how many tensors are equal.
        only_in_first: names that the second model does not have.
        only_in_second: names that the first model does not have.
        differences: the tensors that differ, each with what differs.
        not_compared: names whose values do not exist (meta device, lazy); with any, the models do not count as identical.

    Examples:
        >>> import torch
        >>> from linkboy import compare_models
        >>> model = torch.nn.Linear(3, 2)
        >>> print(compare_models(model, model))
        the models are identical: 2 tensors
    """

    ok: bool
    equal_count: int
    only_in_first: tuple[str, ...]
    only_in_second: tuple[str, ...]
    differences: tuple[Difference, ...]
    not_compared: tuple[str, ...] = ()

    def _blocks(self) -> Iterable[Block]:
        if self.ok:
            yield f"the models are identical: {plural(self.equal_count, 'tensor')}"
            return
        lines = [f"equal tensors: {self.equal_count}, different: {len(self.differences)}"]
        if self.only_in_first:
            lines.append(f"only in the first: {listed(self.only_in_first)}")
        if self.only_in_second:
            lines.append(f"only in the second: {listed(self.only_in_second)}")
        if self.not_compared:
            lines.append(f"values that do not exist, so cannot be compared: {listed(self.not_compared)}")
        yield "\n".join(lines)
        if self.differences:
            rows = [
                (d.name, d.what, d.first, d.second, "-" if d.largest is None else f"{d.largest:.3g}")
                for d in self.differences
            ]
            yield Table(("name", "differs in", "first", "second", "largest difference"), rows)


def _tied(tied: Sequence[tuple[str, ...]], most: int = 8) -> str:
    lines = [f"tied: {' = '.join(names[:most])}{and_more(len(names), most)}" for names in tied[:most]]
    return "\n".join(lines + [f"tied:{and_more(len(tied), most)}"] * (len(tied) > most))


def _share(trainable: int | None, parameters: int) -> str:
    if trainable == parameters:
        return "yes"
    return format_count(trainable) if trainable else "no"


def _shapes(tensors: Sequence[tuple[str, tuple[int, ...]]], most: int = 4) -> str:
    shapes = [" x ".join(map(str, shape)) or "()" for _, shape in tensors]
    return listed(shapes, most)


def _folded(rows: tuple[SummaryRow, ...]) -> list[tuple[SummaryRow, str, int]]:
    """Put runs of equal siblings into one line: the first of them, its label `0-31`, and how many there are."""
    ends: list[int] = []  # the position behind each row's descendants
    for start, row in enumerate(rows):
        end = start + 1
        while end < len(rows) and rows[end].depth > row.depth:
            end += 1
        ends.append(end)
    looks = [_look(rows[start:end]) for start, end in zip(range(len(rows)), ends, strict=True)]
    lines: list[tuple[SummaryRow, str, int]] = []

    def walk(start: int, stop: int) -> None:
        while start < stop:
            after, last, times = ends[start], start, 1
            while after < stop and rows[after].depth == rows[start].depth and looks[after] == looks[start]:
                after, last, times = ends[after], after, times + 1
            label = rows[start].name.rpartition(".")[2] or rows[start].kind
            if times > 1:
                label += f"-{rows[last].name.rpartition('.')[2]}"
            lines.append((rows[start], label, times))
            walk(start + 1, ends[start])
            start = after

    walk(0, len(rows))
    return lines


def _look(block: tuple[SummaryRow, ...]) -> tuple[object, ...]:
    start = len(block[0].name)
    return tuple(
        (
            row.name[start:],
            row.kind,
            row.parameter_count,
            row.trainable_count,
            row.dtype,
            row.outputs,
            row.call_count,
            row.flops,
            row.inputs,
            row.kernel,
        )
        for row in block
    )


def _first_shape(shapes: tuple[tuple[int, ...], ...], called: bool) -> str:
    if not shapes:
        return "(no tensor)" if called else "-"
    text = " x ".join(map(str, shapes[0])) or "()"
    return text + (f" (+{len(shapes) - 1})" if len(shapes) > 1 else "")


def _narrowed(headings: list[str], body: list[list[str]]) -> Table:
    """Shorten the classes and then the names of modules until a table is as wide as a terminal."""
    widths = [max(map(display_width, column)) for column in zip(headings, *body, strict=True)]
    excess = sum(widths) + 2 * (len(widths) - 1) - _WIDTH
    for place, least in ((1, 18), (0, 24), (2, 16)):
        if excess > 0 and place < len(widths) and widths[place] > least:
            width = max(least, widths[place] - excess)
            excess -= widths[place] - width
            for row in body:
                text, times, count = row[place].partition(" x ") if place == 1 else (row[place], "", "")
                row[place] = shorten(text, width - len(times + count)) + times + count
    return Table(headings, body)
