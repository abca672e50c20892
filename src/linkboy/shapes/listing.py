"""Source with the shapes behind each line and the hazards below it, as text and as a page."""

import html
import inspect
import itertools
import linecache
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from linkboy.shapes.calls import Shape
    from linkboy.shapes.hazards import Hazard
    from linkboy.shapes.report import ShapeRow

_WAYS = 3  # different shapes shown for a line that runs many times
_WIDTH = 60  # the comment of a longer line follows it directly
_MARK = "^^^"


def chain(shapes: Iterable["Shape"], between: str = ", ") -> str:
    """Write shapes one after the other: `[2, 3], [3]`."""
    return between.join("[" + ", ".join(map(str, shape)) + "]" for shape in shapes)


def listing_of(rows: Sequence["ShapeRow"], hazards: Sequence["Hazard"], target: object) -> str:
    """Return the source of `target`, or every line that made a row, annotated."""
    if target is None:
        files = dict.fromkeys([*(row.file for row in rows), *(hazard.file for hazard in hazards)])
        return "\n\n".join(_of_file(file, rows, hazards) for file in files)
    file, first, lines = _source(target)
    return "\n".join(_annotated(file, first, lines, rows, hazards))


def html_page(listing: str) -> str:
    """Return a page that shows a listing, its hazards in red."""
    body = re.sub(rf"(?m)^( *{re.escape(_MARK)} .*)$", r'<span class="hazard">\1</span>', html.escape(listing))
    return (
        '<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>Shapes</title>'
        "<style>pre { font-size: 14px } .hazard { color: #c00; font-weight: bold }</style></head>\n"
        f"<body><pre>{body}</pre></body></html>\n"
    )


def _source(target: object) -> tuple[str, int, list[str]]:
    shown = type(target).forward if isinstance(target, nn.Module) else target
    shown = inspect.unwrap(shown) if callable(shown) and not isinstance(shown, type) else shown
    try:
        lines, first = inspect.getsourcelines(shown)  # type: ignore[arg-type]  # a TypeError is what it is for
        file = inspect.getsourcefile(shown) or ""  # type: ignore[arg-type]
    except (TypeError, OSError):
        raise TypeError(
            f"target must be a function, class or nn.Module with source, got {type(target).__name__}; "
            "listing() without a target shows what there is"
        ) from None
    return file, max(first, 1), [line.rstrip("\n") for line in lines]


def _of_file(file: str, rows: Sequence["ShapeRow"], hazards: Sequence["Hazard"]) -> str:
    numbers = sorted({entry.line for entry in (*rows, *hazards) if entry.file == file})
    text = [f"{file}"]
    for number in numbers:
        line = linecache.getline(file, number).rstrip("\n") or f"line {number}"
        text += _annotated(file, number, [line], rows, hazards)
    return "\n".join(text)


def _annotated(
    file: str, first: int, lines: list[str], rows: Sequence["ShapeRow"], hazards: Sequence["Hazard"]
) -> list[str]:
    text: list[str] = []
    for number, line in enumerate(lines, first):
        here = [row for row in rows if row.file == file and row.line == number]
        shapes = _ways(here)
        text.append(f"{line:<{_WIDTH}}  # {shapes}" if shapes else line)
        indent = " " * (len(line) - len(line.lstrip()))
        found = [hazard for hazard in hazards if hazard.file == file and hazard.line == number]
        text += [f"{indent}{_MARK} {hazard.advice}" for hazard in found]
    return text


def _ways(rows: Sequence["ShapeRow"]) -> str:
    """Write the calls of one line as chains, one for each time that the line ran with other shapes."""
    visits: list[list[ShapeRow]] = []
    for row in rows:
        # The line has begun anew where a sub-expression comes again.
        if not visits or any(
            (row.column, row.code, row.op) == (other.column, other.code, other.op) for other in visits[-1]
        ):
            visits.append([])
        visits[-1].append(row)
    chains = list(dict.fromkeys(_chain_of(visit) for visit in visits))
    more = f" | ... {len(chains) - _WAYS} more" if len(chains) > _WAYS else ""
    return " | ".join(chains[:_WAYS]) + more


def _chain_of(visit: Sequence["ShapeRow"]) -> str:
    text = chain(visit[0].in_shapes[:1] + visit[0].out_shapes[:1], " -> ")
    for before, row in itertools.pairwise(visit):
        follows = before.out_shapes[:1] == row.in_shapes[:1]
        text += (
            f" -> {chain(row.out_shapes[:1])}"
            if follows
            else f"; {chain(row.in_shapes[:1] + row.out_shapes[:1], ' -> ')}"
        )
    return text
