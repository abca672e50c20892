"""What a trace and a batch check give back, and how they read: the annotated source, the findings."""

import dataclasses
import html
import inspect
import itertools
import linecache
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any, Literal

from torch import nn

from linkboy._files import atomic_write
from linkboy._report import Block, Report, Table, format_bytes, listed, plural
from linkboy.shapes._calls import Shape
from linkboy.shapes._rows import ShapeRow, Step
from linkboy.shapes.hazards import Hazard

FindingKind = Literal[
    "error", "shape", "control-flow", "leading-dim", "mixing", "place", "batch-size", "state", "random", "hazard"
]  # fmt: skip

_LISTED_WAYS = 3  # different shapes shown for a line that runs many times
_RUN = 3  # equal shapes of a call from which on they are counted
_MOST_SHAPES = 8
_CODE_WIDTH = 60  # the comment of a longer line follows it directly
_MARK = "^^^"


class ShapeTrace(Report):
    """The shape steps of a block, filled while it runs; see `trace_shapes`.

    Attributes:
        rows: one row for each recorded call, in order.
        hazards: the hazards found, each once for a place and rule.
        notes: what could not be seen, one sentence each.
        deep: with `deep=True` the text of torch's DebugMode, down to the aten operators.

    Examples:
        >>> import torch
        >>> from linkboy import trace_shapes
        >>> with trace_shapes() as trace:
        ...     _ = torch.zeros(6).view(2, 3).t()
        >>> [row.out_shapes for row in trace.rows]
        [((2, 3),), ((3, 2),)]
    """

    def __init__(self) -> None:
        self.deep = ""
        self._steps: list[Step] = []
        self._hazards: list[Hazard] = []
        self._notes: list[str] = []

    @property
    def rows(self) -> tuple[ShapeRow, ...]:
        """One row for each recorded call, in order."""
        return tuple(step.row() for step in self._steps)

    @property
    def hazards(self) -> tuple[Hazard, ...]:
        """The hazards found, each once for a place and rule."""
        return tuple(self._hazards)

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be seen, one sentence each."""
        return tuple(self._notes)

    @property
    def summary(self) -> str:
        """How many calls and hazards there are, on one line."""
        return f"{plural(len(self._steps), 'call')}, {plural(len(self._hazards), 'hazard')}"

    def listing(self, target: object = None) -> str:
        """Return source code with the shapes of each line behind it and its hazards below it.

        Args:
            target: a function, a class, or a module, whose `forward` is then shown; `None` shows every line that made
                a row, file by file.

        Returns:
            The text. A line that ran several times with different shapes shows the first three, separated by `|`. Where
            there is no source (stdin, `exec`), the file and line number are shown instead.

        Raises:
            TypeError: `target` is none of these.

        Examples:
            >>> import torch
            >>> from linkboy import trace_shapes
            >>> with trace_shapes() as trace:
            ...     x = torch.zeros(2, 3).unsqueeze(0)
            >>> "# [2, 3] -> [1, 2, 3]" in trace.listing()
            True
        """
        rows, hazards = self.rows, self.hazards
        if target is None:
            files = dict.fromkeys([*(row.file for row in rows), *(hazard.file for hazard in hazards)])
            return "\n\n".join(_file_listing(file, rows, hazards) for file in files)
        file, first, lines = _source_of(target)
        return "\n".join(_annotated(file, first, lines, rows, hazards))

    def to_html(self, path: str | os.PathLike[str], target: object = None) -> None:
        """Write the listing as an HTML page, with hazards in red.

        Args:
            path: where to write; a file already there is replaced completely or not at all.
            target: as for `listing`.
        """
        with atomic_write(path) as file:
            file.write(_html_page(self.listing(target)).encode())

    def to_dict(self) -> dict[str, Any]:
        """Return rows, hazards, notes and the deep text as plain Python values."""
        rows, hazards = ([entry.to_dict() for entry in entries] for entries in (self.rows, self._hazards))
        return {"rows": rows, "hazards": hazards, "notes": list(self._notes), "deep": self.deep}

    def __repr__(self) -> str:
        return f"<ShapeTrace: {self.summary}>"

    def _blocks(self) -> Iterable[Block]:
        yield self.summary
        cells = [
            (
                f"{PurePath(row.file).name}:{row.line}", row.code or row.op, _cell(row.in_shapes), _cell(row.out_shapes),
                row.kind, format_bytes(row.nbytes) if row.nbytes else "",
            )
            for row in self.rows
        ]  # fmt: skip
        if cells:
            yield Table(("line", "call", "in", "out", "kind", "bytes"), cells)
        yield from map(str, self._hazards)
        yield from self._notes
        yield self.deep


def _cell(shapes: Iterable[Shape]) -> str:
    """Write the shapes of one call in a table: equal ones in a row by their number, of very many different ones the first."""
    runs = [(_chain([shape]), len(list(run))) for shape, run in itertools.groupby(shapes)]
    parts = [part for text, count in runs for part in ([f"{count} x {text}"] if count > _RUN else [text] * count)]
    return listed(parts, most=_MOST_SHAPES)


def _chain(shapes: Iterable[Shape], between: str = ", ") -> str:
    return between.join("[" + ", ".join(map(str, shape)) + "]" for shape in shapes)


def _source_of(target: object) -> tuple[str, int, list[str]]:
    shown = type(target).forward if isinstance(target, nn.Module) else target
    shown = inspect.unwrap(shown) if callable(shown) and not isinstance(shown, type) else shown
    try:
        lines, first = inspect.getsourcelines(shown)  # type: ignore[arg-type]  # the TypeError is caught below
        file = inspect.getsourcefile(shown) or ""  # type: ignore[arg-type]
    except (TypeError, OSError):
        raise TypeError(
            f"target must be a function, class or nn.Module with source, got {type(target).__name__}; "
            "call listing() without a target to see every line recorded"
        ) from None
    return file, max(first, 1), [line.rstrip("\n") for line in lines]


def _file_listing(file: str, rows: Sequence[ShapeRow], hazards: Sequence[Hazard]) -> str:
    numbers = sorted({entry.line for entry in (*rows, *hazards) if entry.file == file})
    text = [file]
    for number in numbers:
        line = linecache.getline(file, number).rstrip("\n") or f"line {number}"
        text += _annotated(file, number, [line], rows, hazards)
    return "\n".join(text)


def _annotated(
    file: str, first: int, lines: list[str], rows: Sequence[ShapeRow], hazards: Sequence[Hazard]
) -> list[str]:
    text: list[str] = []
    for number, line in enumerate(lines, first):
        shapes = _line_shapes([row for row in rows if row.file == file and row.line == number])
        text.append(f"{line:<{_CODE_WIDTH}}  # {shapes}" if shapes else line)
        indent = " " * (len(line) - len(line.lstrip()))
        found = [hazard for hazard in hazards if hazard.file == file and hazard.line == number]
        text += [f"{indent}{_MARK} {hazard.advice}" for hazard in found]
    return text


def _line_shapes(rows: Sequence[ShapeRow]) -> str:
    """Write the calls of one line as chains, one for each time that the line ran with other shapes."""
    visits: list[list[ShapeRow]] = []
    for row in rows:
        # The line has started again where a sub-expression is repeated.
        if not visits or any(
            (row.column, row.code, row.op) == (other.column, other.code, other.op) for other in visits[-1]
        ):
            visits.append([])
        visits[-1].append(row)
    chains = list(dict.fromkeys(_visit_shapes(visit) for visit in visits))
    more = f" | ... {len(chains) - _LISTED_WAYS} more" if len(chains) > _LISTED_WAYS else ""
    return " | ".join(chains[:_LISTED_WAYS]) + more


def _visit_shapes(visit: Sequence[ShapeRow]) -> str:
    text = _chain(visit[0].in_shapes[:1] + visit[0].out_shapes[:1], " -> ")
    for before, row in itertools.pairwise(visit):
        if before.out_shapes[:1] == row.in_shapes[:1]:
            text += f" -> {_chain(row.out_shapes[:1])}"
        else:
            text += f"; {_chain(row.in_shapes[:1] + row.out_shapes[:1], ' -> ')}"
    return text


def _html_page(listing: str) -> str:
    body = re.sub(rf"(?m)^( *{re.escape(_MARK)} .*)$", r'<span class="hazard">\1</span>', html.escape(listing))
    return (
        '<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>Shapes</title>'
        "<style>pre { font-size: 14px } .hazard { color: #c00; font-weight: bold }</style></head>\n"
        f"<body><pre>{body}</pre></body></html>\n"
    )


@dataclasses.dataclass(frozen=True)
class Finding(Report):
    """One place where a model does not treat its batch as a batch.

    Attributes:
        kind: `"error"`: the model raises at this size; `"shape"`: a shape differs from what the other sizes predict;
            `"control-flow"`: other lines run than at the other sizes; `"leading-dim"`: the output does not follow the
            batch; `"mixing"`: a sample's output depends on another sample, `"place"`: on its place in the batch,
            `"batch-size"`: on how many samples there are; `"state"`: a second call gives another result; `"random"`:
            dropout is active in eval mode; `"hazard"`: what `trace_shapes` warns of.
        batch: the batch size at which it showed.
        op: the torch function, or the type of the exception; empty where only the output shows it.
        file: file of the line; empty where no line is known.
        line: line number; 0 where it is not known.
        code: source text of the call.
        expected: what the other sizes predict.
        got: what came instead.
        advice: how to fix it.

    Examples:
        >>> import torch
        >>> from linkboy import check_batch
        >>> finding = check_batch(lambda x: x.squeeze(), lambda B: torch.randn(B, 1, 4)).findings[0]
        >>> finding.kind, finding.batch, finding.expected, finding.got
        ('shape', 1, '(1, 4)', '(4,)')
    """

    kind: FindingKind
    batch: int
    op: str
    file: str
    line: int
    code: str
    expected: str
    got: str
    advice: str

    def _blocks(self) -> Iterable[Block]:
        where = f"{self.file}:{self.line}" if self.line else "the model" if self.kind == "error" else "output"
        text = f" `{self.code}`" if self.code else ""
        yield f"{self.kind} at batch {self.batch}, {where}{text}: expected {self.expected}, got {self.got}; {self.advice}"


@dataclasses.dataclass(frozen=True)
class BatchReport(Report):
    """Whether a model treats its batch as a batch; see `check_batch`.

    Attributes:
        findings: what is wrong, at most one finding for each line.
        inputs: shapes of the input tensors in terms of `B`.
        outputs: shapes of the output tensors in terms of `B`.
        call_count: how many torch calls were compared.
        run: `"shapes"` where calls were compared on fake tensors, without data, `"values"` where on real ones.
        hazards: the hazards of every level that a run showed.
        untested: the tests that could not run and why, one sentence each; they make `ok` false.
        notes: what else is good to know, one sentence each.

    Examples:
        >>> import torch
        >>> from linkboy import check_batch
        >>> report = check_batch(torch.nn.Linear(8, 3), lambda B: torch.randn(B, 8))
        >>> report.ok, report.inputs, report.outputs
        (True, ('(B, 8)',), ('(B, 3)',))
    """

    findings: tuple[Finding, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    call_count: int
    run: Literal["shapes", "values"]
    hazards: tuple[Hazard, ...]
    untested: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every test ran and none found anything."""
        return not self.findings and not self.untested

    @property
    def summary(self) -> str:
        """The verdict on one line."""
        verdict = (
            "no finding" if self.ok else plural(len(self.findings), "finding") if self.findings else "not complete"
        )
        kind = "fake tensors" if self.run == "shapes" else "real data"
        return f"batch check: {verdict}   {plural(self.call_count, 'call')} compared on {kind}"

    def _blocks(self) -> Iterable[Block]:
        yield self.summary
        yield f"{', '.join(self.inputs) or 'no tensor'} -> {', '.join(self.outputs) or 'no tensor'}"
        yield from map(str, self.findings)
        yield from self.untested
        yield from (f"note: {note}" for note in self.notes)

    def to_dict(self) -> dict[str, object]:
        """Return the fields and `ok` as plain Python values."""
        return {"ok": self.ok, **super().to_dict()}
