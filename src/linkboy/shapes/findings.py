"""What the batch check finds: one place where a model does not treat its batch as a batch."""

import dataclasses
from collections.abc import Iterable
from typing import Literal

from linkboy._report import Block, Report
from linkboy.shapes.hazards import Hazard
from linkboy.shapes.places import Place
from linkboy.shapes.report import ShapeRow

FindingKind = Literal["error", "shape", "control-flow", "leading-dim", "leak", "hazard"]

_LONGEST = 300  # characters of an error's first line; torch lists every signature below it


@dataclasses.dataclass(frozen=True)
class Finding(Report):
    """One place where a model does not treat its batch as a batch.

    Attributes:
        kind: `"error"`: it raises at this size; `"shape"`: a shape is not what the other sizes foretell;
            `"control-flow"`: other lines run than at the other sizes; `"leading-dim"`: the output does not follow the
            batch; `"leak"`: a sample's output depends on another sample; `"hazard"`: what `trace_shapes` warns of.
        batch: the batch size at which it showed.
        op: the torch function, or the type of the exception; empty where only the output shows it.
        file: file of the line, empty where no line is known.
        line: its number, 0 where it is not known.
        code_text: the sub-expression.
        expected: what the other sizes foretell.
        got: what came.
        advice: how to mend it.

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
    code_text: str
    expected: str
    got: str
    advice: str

    def _blocks(self) -> Iterable[Block]:
        where = f"{self.file}:{self.line}" if self.line else "the model" if self.kind == "error" else "output"
        text = f" `{self.code_text}`" if self.code_text else ""
        yield f"{self.kind} at batch {self.batch}, {where}{text}: expected {self.expected}, got {self.got}; {self.advice}"


def at_row(kind: FindingKind, batch: int, row: ShapeRow | None, *, expected: str, got: str, advice: str) -> Finding:
    """Return a finding on the line of a traced call, or on none."""
    where = ("", "", 0, "") if row is None else (row.op, row.file, row.line, row.code)
    return Finding(kind, batch, *where, expected, got, advice)


def from_error(batch: int, error: Exception, place: Place | None, *, always: bool = False) -> Finding:
    """Return the finding for an exception, on the user's line from which it came.

    Args:
        batch: the batch size.
        error: what was raised.
        place: the user's line, if it came through one.
        always: whether every batch size raises, so that the batch is not the cause.
    """
    said = (str(error).strip().splitlines() or [""])[0][:_LONGEST]
    where = ("", 0, "") if place is None else (place.file, place.line, place.text)
    advice = "make this line work for every batch size"
    if always:
        advice = "so it is at every batch size: mend the model, or let make_inputs give what it takes"
    return Finding("error", batch, type(error).__name__, *where, "a result", f"{type(error).__name__}: {said}", advice)


def from_hazard(batch: int, hazard: Hazard) -> Finding:
    """Return the finding for a hazard of the trace."""
    return Finding(
        "hazard", batch, hazard.op, hazard.file, hazard.line, hazard.code_text, "no hazard", hazard.code, hazard.advice
    )


def one_for_each_line(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Keep the first finding of each line: the same mistake often shows in several ways."""
    kept: dict[object, Finding] = {}
    for finding in findings:
        kept.setdefault((finding.file, finding.line) if finding.line else finding.kind, finding)
    return tuple(kept.values())
