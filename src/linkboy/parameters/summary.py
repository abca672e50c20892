"""Describe a model as a tree: shapes, parameters, FLOPs and memory, from a run that computes nothing."""

import dataclasses
from collections.abc import Iterable
from typing import Literal

from torch import nn

from linkboy._checks import check_choice, check_number
from linkboy._report import Block, Report, Table, format_bytes, format_count
from linkboy._tensors import check_module
from linkboy.parameters._held import is_uninitialized
from linkboy.parameters._shape_run import Run, run_shapes
from linkboy.parameters.count import ParameterCount, count_parameters, listed


@dataclasses.dataclass(frozen=True)
class SummaryRow:
    """One module of a `ModelSummary`, with everything below it.

    `outputs` holds the shapes of the tensors that it returned when first called, `calls` how often that was.

    Examples:
        >>> import torch
        >>> from linkboy import summarize
        >>> row = summarize(torch.nn.Sequential(torch.nn.Linear(3, 2)), torch.zeros(5, 3)).rows[1]
        >>> row.name, row.outputs, row.parameters, row.flops
        ('0', ((5, 2),), 8, 60)
    """

    name: str
    kind: str
    depth: int
    parameters: int
    trainable: int
    dtype: str
    outputs: tuple[tuple[int, ...], ...] = ()
    calls: int = 0
    flops: int | None = None


@dataclasses.dataclass(frozen=True)
class ModelSummary(Report):
    """A model as a tree with its cost; see `summarize` for the fields.

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
    activation_bytes: int | None
    training_bytes: dict[str, int]
    notes: tuple[str, ...] = ()

    def _blocks(self) -> Iterable[Block]:
        yield from self.count._blocks()
        yield self._table()
        lines: list[str] = []
        if self.flops is not None:
            lines.append(f"FLOPs of one forward pass (a multiply-add counts 2): {format_count(self.flops)}")
            if self.ops_without_flops:
                lines.append(f"not counted, no formula: {listed(self.ops_without_flops, 8)}")
        parts = ", ".join(f"{part} {format_bytes(nbytes)}" for part, nbytes in self.training_bytes.items())
        lines.append(f"training memory {format_bytes(sum(self.training_bytes.values()))}: {parts}")
        lines += [f"note: {note}" for note in self.notes]
        yield "\n".join(lines)

    def _table(self) -> Table:
        ran = any(row.calls for row in self.rows)
        body: list[list[str]] = []
        for row, label, times in _folded(self.rows):
            cells = ["  " * row.depth + label, row.kind + (f" x {times}" if times > 1 else "")]
            if ran:
                cells.append(_outputs(row))
            share = "-" if not row.parameters else f"{row.trainable / row.parameters:.0%}"
            cells += [format_count(row.parameters), share, row.dtype or "-"]
            if ran:
                cells.append(format_count(row.flops) if row.flops is not None else "-")
            body.append(cells)
        columns = ["module", "type"] + ["output"] * ran + ["parameters", "trainable", "dtype"] + ["FLOPs"] * ran
        return Table(columns, body)


def summarize(
    model: nn.Module, *inputs: object, depth: int = 3, device: Literal["meta", "fake"] | None = "meta"
) -> ModelSummary:
    """Show what a model is made of and what a forward pass costs, without computing it and without touching it.

    Without inputs nothing runs. With inputs the forward pass runs on shapes alone, in the mode (train or eval) in
    which each module is. Whatever happens in it, the model keeps every flag, hook, parameter, buffer, gradient and
    plain attribute, and the random generators keep their state; an object that an attribute holds and that `forward`
    changes in place (a list, say) is not restored, and forward hooks of your own do run; where plain meta tensors do not get
    through, the run is tried again with fake ones, so hooks may run twice.

    Args:
        model: any module.
        *inputs: what `forward` takes; a single mapping is passed as keywords. Only shapes and dtypes are used.
        depth: levels of modules below the root to show.
        device: `"meta"` runs shapes on the meta device, where attention is counted exactly; `"fake"` pretends that
            the tensors are on their own device, for models that compare devices; `None` computes for real.

    Returns:
        `count`: the `ParameterCount`. `rows`: the modules, in order; siblings alike are printed once, `x 32`, with
        the figures of one. `flops`: of one forward pass, by torch's counter, a multiply-add as 2;
        `ops_without_flops`: the operators that ran and for which it has no formula. `activation_bytes`: what autograd
        keeps for the backward pass, each storage once, parameters, buffers and inputs apart; on the meta device
        attention is computed the plain way, which keeps its matrix, so this is an upper bound for fused attention.
        `training_bytes`: weights, buffers, gradients and the two states of AdamW, with the activations where known.
        `notes`: why something is missing: a run that fails leaves the table without shapes.

    Raises:
        TypeError: `model` is no module.
        ValueError: `depth` or `device` is out of range.

    Examples:
        >>> import torch
        >>> from linkboy import summarize
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> print(summarize(model, torch.zeros(16, 8)))
        Sequential: 46 parameters, all trainable, 184 B
        <BLANKLINE>
        module      type        output  parameters  trainable  dtype    FLOPs
        Sequential  Sequential  16 x 2          46       100%  float32  1,280
          0         Linear      16 x 4          36       100%  float32  1,024
          1         ReLU        16 x 4           0          -  -            0
          2         Linear      16 x 2          10       100%  float32    256
        <BLANKLINE>
        FLOPs of one forward pass (a multiply-add counts 2): 1,280
        not counted, no formula: relu
        training memory 992 B: weights 184 B, buffers 0 B, gradients 184 B, AdamW states 368 B, activations 256 B

    Differs from torchinfo 1.8: tied weights count once, FLOPs are the operators' own rather than parameters times
    positions, the flags of submodules survive, and lazy modules stay lazy.
    """
    check_module("model", model)
    check_number("depth", depth, minimum=0, integer=True)
    check_choice("device", device, ("meta", "fake", None))
    model = getattr(model, "_orig_mod", model)  # torch.compile's wrapper: shapes need no compiler
    count = count_parameters(model)
    notes: list[str] = []
    run = None
    if inputs and count.uninitialized:
        notes.append("no shapes: the model has lazy parameters; run one batch through it first")
    elif inputs:
        run, reason = run_shapes(model, inputs, device)
        notes += [reason] if reason else []
    rows: list[SummaryRow] = []
    held = _describe(model, "", depth, 0, run, rows, set())
    training = _training_bytes(held, count, run)
    if count.logical != count.total:
        notes.append("the training memory of packed weights is that of their trainable parameters")
    return ModelSummary(
        count=count,
        rows=tuple(rows),
        flops=run.flops.get("", 0) if run else None,
        ops_without_flops=tuple(sorted(run.without_formula)) if run else (),
        activation_bytes=run.saved_bytes if run else None,
        training_bytes=training,
        notes=tuple(notes),
    )


Size = tuple[int, int, str, int]  # elements, trainable elements, dtype, bytes of gradient


def _size(parameter: nn.Parameter) -> Size:
    if is_uninitialized(parameter):
        return 0, 0, str(parameter.dtype).removeprefix("torch."), 0
    numel, trained = parameter.numel(), parameter.requires_grad
    return numel, numel * trained, str(parameter.dtype).removeprefix("torch."), parameter.nbytes * trained


def _training_bytes(held: dict[int, Size], count: ParameterCount, run: Run | None) -> dict[str, int]:
    gradients = sum(size[3] for size in held.values())
    parts = {"weights": count.bytes, "buffers": count.buffer_bytes, "gradients": gradients}
    parts["AdamW states"] = 2 * gradients
    return parts | ({"activations": run.saved_bytes} if run else {})


def _describe(
    module: nn.Module, name: str, depth: int, level: int, run: Run | None, rows: list[SummaryRow], above: set[int]
) -> dict[int, Size]:
    """Append the rows of a module and its children; return the sizes of its parameters, each once."""
    place = len(rows)
    held = {id(p): _size(p) for p in module._parameters.values() if p is not None}
    children = [(key, child) for key, child in module._modules.items() if child is not None and id(child) not in above]
    if children:
        above = above | {id(module)}
    for key, child in children:
        held |= _describe(child, f"{name}.{key}" if name else key, depth, level + 1, run, rows, above)
    if level <= depth:
        sizes = held.values()
        rows.insert(
            place,
            SummaryRow(
                name=name,
                kind=type(module).__name__,
                depth=level,
                parameters=sum(size[0] for size in sizes),
                trainable=sum(size[1] for size in sizes),
                dtype=", ".join(dict.fromkeys(size[2] for size in sizes)),
                outputs=run.outputs.get(id(module), ()) if run else (),
                calls=run.calls.get(id(module), 0) if run else 0,
                flops=run.flops.get(name, 0) if run else None,
            ),
        )
    return held


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
        (row.name[start:], row.kind, row.parameters, row.trainable, row.dtype, row.outputs, row.calls, row.flops)
        for row in block
    )


def _outputs(row: SummaryRow) -> str:
    if not row.outputs:
        return "-" if not row.calls else "(no tensor)"
    text = " x ".join(map(str, row.outputs[0])) or "()"
    return text + (f" (+{len(row.outputs) - 1})" if len(row.outputs) > 1 else "")
