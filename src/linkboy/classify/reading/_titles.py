"""A title above a table, as spreadsheets have it: rows with one filled cell above the row that names the columns."""

import csv
import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from linkboy._reading import Line
from linkboy._report import shorten
from linkboy.classify.reading._columns import FEWEST, LABEL_NAMES, TEXT_NAMES, Wanted, name_key, names_columns
from linkboy.classify.reading._dialect import SEPARATORS, is_fasttext, long_fields

MOST_ROWS = 3  # of a title
_SHOWN = 40  # characters of a cell

Numbered = tuple[Sequence[int], Sequence[str]]  # the lines of a row, and its cells


@dataclasses.dataclass(frozen=True)
class Title:
    """Rows above the names of the columns.

    Args:
        cells: the filled cell of each.
        lines: all lines that they are on.
        names_line: the line that names the columns, or seems to.
        names: what is in it.
        plain: whether that line plainly names them.
        separator: what stands between its fields.
    """

    cells: Sequence[str]
    lines: frozenset[int]
    names_line: int
    names: Sequence[str]
    plain: bool
    separator: str = ","

    @property
    def shown(self) -> str:
        """Return where the header is, in a few words that follow `with header`."""
        return f" in line {self.names_line} below {_quoted(self.cells)}"

    def refusal(self, path: object) -> ValueError:
        """Return what to do where it could be a title, a row or names."""
        return ValueError(
            f"{path}: only one cell is filled above line {self.names_line}, {_quoted(self.cells[:1])}, and several in that "
            f"line, {_quoted(self.names[:5])}; if it is a title, delete the lines above the names of the columns, else pass "
            "header=True where it names a column, or header=False where it is a row"
        )


def _quoted(cells: Iterable[str]) -> str:
    return ", ".join(repr(shorten(cell, _SHOWN)) for cell in cells)


def title_of_lines(
    lines: Sequence[Line], wanted: Wanted, *, separator: str | None, header: bool | None
) -> Title | None:
    """Return the title above delimited text; one that is not plain only where the first row could be nothing better.

    Args:
        lines: number and text of the first lines.
        wanted: the columns that were asked for.
        separator: the separator, if it was asked for.
        header: whether the first row names the columns, if that was said.
    """
    filled = [line for _, line in lines if line and line.strip()]
    if header is False or not filled or is_fasttext(filled):
        return None
    found: list[Title] = []
    for each in (separator,) if separator else SEPARATORS:
        title = title_of_rows(_rows(lines, each), wanted, header=header, fewest=3 if each == "\t" else 2)
        if title is not None and (title.plain or separator or not _is_split(filled[0], each)):
            found.append(dataclasses.replace(title, separator=each))
    return max(found, key=lambda title: title.plain, default=None)


def _is_split(line: str, separator: str) -> bool:
    """Return whether another separator stands in a line."""
    return any(each in line for each in SEPARATORS if each != separator)


def title_of_rows(rows: Iterable[Numbered], wanted: Wanted, *, header: bool | None, fewest: int = 2) -> Title | None:
    """Return the title above rows; one that is not plain only where the first row could be nothing better.

    Args:
        rows: the first rows, with their lines.
        wanted: the columns that were asked for.
        header: whether the first row names the columns, if that was said.
        fewest: the smallest number of columns for one that is not plain.
    """
    if header is False:
        return None
    remaining = ((numbers, [cell.strip() for cell in cells]) for numbers, cells in rows if any(map(str.strip, cells)))
    above: list[Numbered] = []
    for numbers, names in remaining:
        if sum(map(bool, names)) > 1:
            break
        above.append((numbers, names))
        if len(above) > MOST_ROWS:
            return None
    else:
        return None
    if not above:
        return None
    widths = [len(cells) for _, cells in remaining]
    alike = widths.count(len(names))
    if 2 * alike <= len(widths):  # texts, one of which has separators, or nothing below
        return None
    titles = [next(filter(None, cells)) for _, cells in above]
    first, named = above[0][1], names_columns(names, wanted)
    padded = len(first) == len(names) and bool(first[0])
    lone = len(first) == 1 and alike == len(widths) and alike + 1 >= FEWEST
    is_name = any(name_key(cell) in (*TEXT_NAMES, *LABEL_NAMES) or cell in _asked_names(wanted) for cell in titles)
    plain = named and not is_name
    # A header may name one column only: `text` above rows of several fields.
    unclear = padded and named if is_name else padded or lone
    if not plain and (header is not None or len(names) < fewest or not unclear):
        return None
    lines = frozenset(number for each, _ in above for number in each)
    return Title(titles, lines, numbers[0], names, plain)


def _asked_names(wanted: Wanted) -> tuple[object, ...]:
    return (*wanted.all, *wanted.known, *wanted.known_label)


def _rows(lines: Sequence[Line], separator: str) -> Iterator[Numbered]:
    """Yield rows with their lines; a quoted cell may span lines, but not between tabs."""
    if separator == "\t":
        for number, line in lines:
            yield (number,), [cell.strip(' "\r') for cell in (line or "").split("\t")]
        return
    taken: list[int] = []

    def fed() -> Iterator[str]:
        for number, line in lines:
            taken.append(number)
            yield (line or "").replace("\r", " ") + "\n"

    reader = csv.reader(fed(), delimiter=separator)
    while True:
        taken.clear()
        try:
            with long_fields():
                cells = next(reader)
        except (StopIteration, csv.Error):
            return
        yield tuple(taken), cells
