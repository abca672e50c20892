"""The rows of a trace: one for each call that the user wrote."""

import dataclasses
from collections.abc import Iterable
from typing import Literal

from linkboy._report import Report
from linkboy.shapes._calls import Place, Shape

Kind = Literal["view", "copy", "same", ""]


@dataclasses.dataclass(frozen=True)
class ShapeRow(Report):
    """One call that the user wrote.

    Attributes:
        op: name of the torch function, as it was called.
        code: source text of the call; empty where there is no source.
        file: file of the call.
        line: line of the call.
        function: qualified name of the function around it.
        in_shapes: shapes of the input tensors, taken before the call.
        out_shapes: shapes of the tensors returned.
        kind: `"view"`, `"copy"`, `"same"` (one of the input tensors itself), or `""` for a call that computes values.
        nbytes: bytes that a copy took.
        hazards: names of the rules that found a hazard here.
        column: number of characters before the call on its line.

    Examples:
        >>> import torch
        >>> from linkboy import trace_shapes
        >>> with trace_shapes() as trace:
        ...     _ = torch.zeros(2, 3).unsqueeze(0)
        >>> row = trace.rows[0]
        >>> row.op, row.in_shapes, row.out_shapes, row.kind, row.nbytes
        ('unsqueeze', ((2, 3),), ((1, 2, 3),), 'view', 0)
    """

    op: str
    code: str
    file: str
    line: int
    function: str
    in_shapes: tuple[Shape, ...]
    out_shapes: tuple[Shape, ...]
    kind: Kind
    nbytes: int
    hazards: tuple[str, ...]
    column: int


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One call as it is recorded while the block runs; the source is read only when `row` is called."""

    op: str
    place: Place
    before: list[Shape]
    after: list[Shape]
    kind: Kind
    nbytes: int
    hazards: tuple[str, ...]

    def row(self) -> ShapeRow:
        """Return the row that a reader sees."""
        place = self.place
        return ShapeRow(
            self.op, place.text, place.file, place.line, place.function, plain_shapes(self.before),
            plain_shapes(self.after), self.kind, self.nbytes, self.hazards, place.column,
        )  # fmt: skip


def plain_shapes(shapes: Iterable[Shape]) -> tuple[Shape, ...]:
    """Return shapes as tuples of integers, symbolic sizes as text."""
    return tuple(tuple(size if type(size) is int else str(size) for size in shape) for shape in shapes)
