"""What a trace holds and how it reads: rows, hazards, the annotated source."""

import dataclasses
import os
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

from linkboy._files import atomic_write
from linkboy._report import Block, Report, Table, format_bytes, format_count
from linkboy.shapes.calls import Shape
from linkboy.shapes.hazards import Hazard, Kind
from linkboy.shapes.listing import chain, html_page, listing_of
from linkboy.shapes.places import Place


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One call as it is noted while the block runs; the source is not read then."""

    op: str
    place: Place
    before: list[Shape]
    after: list[Shape]
    kind: Kind
    nbytes: int
    hazards: tuple[str, ...]

    def row(self) -> "ShapeRow":
        """Return the row that a reader sees."""
        place = self.place
        return ShapeRow(
            self.op, place.text, place.file, place.line, place.function, plain_shapes(self.before),
            plain_shapes(self.after), self.kind, self.nbytes, self.hazards, place.column,
        )  # fmt: skip


def plain_shapes(shapes: Iterable[Shape]) -> tuple[Shape, ...]:
    """Return shapes as tuples of integers, symbolic sizes as text."""
    return tuple(tuple(size if type(size) is int else str(size) for size in shape) for shape in shapes)


@dataclasses.dataclass(frozen=True)
class ShapeRow(Report):
    """One call that the user wrote.

    Attributes:
        op: name of the torch function, as it was called.
        code: the sub-expression; empty where there is no source.
        file: file of the call.
        line: line of the call.
        function: qualified name of the function around it.
        in_shapes: shapes of the tensors given, from before the call.
        out_shapes: shapes of the tensors returned.
        kind: `"view"`, `"copy"`, `"same"` (the very tensor given), or `""` for a call that computes values.
        nbytes: bytes that a copy took.
        hazards: codes of the hazards found here.
        column: characters before the sub-expression on its line.

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


@dataclasses.dataclass(frozen=True)
class ShapeTrace(Report):
    """The shape steps of a block, filled while it runs; see `trace_shapes`.

    Attributes:
        hazards: what was found, each once for a place and rule.
        notes: what could not be seen, in sentences.
        deep: with `deep=True` the text of torch's DebugMode, down to the aten operators.

    Examples:
        >>> import torch
        >>> from linkboy import trace_shapes
        >>> with trace_shapes() as trace:
        ...     _ = torch.zeros(6).view(2, 3).t()
        >>> [row.out_shapes for row in trace.rows]
        [((2, 3),), ((3, 2),)]
    """

    hazards: list[Hazard] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    deep: str = ""
    _steps: list[Step] = dataclasses.field(default_factory=list, repr=False)

    @property
    def rows(self) -> tuple[ShapeRow, ...]:
        """One row for each call, in order."""
        return tuple(step.row() for step in self._steps)

    def listing(self, target: object = None) -> str:
        """Return source with the shapes of each line behind it and hazards below it.

        Args:
            target: a function, a class, or a module, whose `forward` is then shown; `None` shows every line that made
                a row, file by file.

        Returns:
            The text. A line that ran several times with different shapes shows the first ways, set off by `|`. Where
            there is no source (stdin, `exec`), file and line stand in its place.

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
        return listing_of(self.rows, self.hazards, target)

    def to_html(self, path: str | os.PathLike[str], target: object = None) -> None:
        """Write the listing as a page of its own, hazards in red.

        Args:
            path: where to write; a file there is replaced at once or not at all.
            target: as for `listing`.
        """
        with atomic_write(path) as file:
            file.write(html_page(self.listing(target)).encode())

    def to_dict(self) -> dict[str, Any]:
        """Return rows, hazards and notes as plain Python values."""
        rows, hazards = ([entry.to_dict() for entry in entries] for entries in (self.rows, self.hazards))
        return {"rows": rows, "hazards": hazards, "notes": list(self.notes), "deep": self.deep}

    def _blocks(self) -> Iterable[Block]:
        rows = self.rows
        calls, hazards = (len(rows), "call"), (len(self.hazards), "hazard")
        yield ", ".join(f"{format_count(count)} {what}" + "s" * (count != 1) for count, what in (calls, hazards))
        cells = [
            (
                f"{PurePath(row.file).name}:{row.line}", row.code or row.op, chain(row.in_shapes), chain(row.out_shapes),
                row.kind, format_bytes(row.nbytes) if row.nbytes else "",
            )
            for row in rows
        ]  # fmt: skip
        if cells:
            yield Table(("line", "call", "in", "out", "kind", "bytes"), cells)
        for hazard in self.hazards:
            yield str(hazard)
        yield from self.notes
        yield self.deep
