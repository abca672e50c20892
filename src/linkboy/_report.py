"""One look for every result: `print(report)`, `report.to_dict()`, a table on a terminal, HTML in a notebook.

A report is a frozen dataclass that inherits from `Report` and says in `_blocks` what a reader should see: strings (one
paragraph each) and `Table`s. The three renderers below are the only ones in linkboy; no room prints by itself.
"""

import dataclasses
import enum
import html
import json
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under named columns; numbers are set to the right.

    Args:
        columns: one heading per column; all empty for a table without a heading.
        rows: cells, already formatted (`format_count`, `format_bytes`) or plain numbers and strings.
        title: a line above the table.
        sentences: the column whose cells are sentences and no data, which a page in another language translates.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    title: str = ""
    sentences: int | None = None

    def cells(self) -> list[list[str]]:
        return [[_cell(value) for value in row] for row in self.rows]

    def right_aligned(self) -> list[bool]:
        return [
            bool(self.rows) and all(_is_numeric(row[index]) for row in self.rows) for index in range(len(self.columns))
        ]

    def first(self, most: int) -> "Table":
        """Return a table of the first `most` rows and a last row that says how many more there are.

        Examples:
            >>> print(Table(("name",), [("a",), ("b",), ("c",)]).first(1).cells())
            [['a'], ['and 2 more']]
        """
        if len(self.rows) <= most:
            return self
        rest = (and_more(len(self.rows), most).strip(), *[""] * (len(self.columns) - 1))
        return dataclasses.replace(self, rows=[*self.rows[:most], rest])


Block = str | Table

# Tabs and line feeds stay; what follows 127 are controls that no picture stands for.
_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {127: 0x2421}
_CONTROLS |= dict.fromkeys(range(128, 160), 0xFFFD)


class Printable:
    """What can be shown to a reader: as text, as tables on a terminal, as HTML in a notebook; `_blocks` says what."""

    def _blocks(self) -> Iterable[Block]:
        raise NotImplementedError

    def __str__(self) -> str:
        return "\n\n".join(_to_text(block) for block in self._blocks() if block)

    def __rich__(self) -> "RenderableType":
        from rich.console import Group

        blocks = [block for block in self._blocks() if block]
        spaced: list[RenderableType] = []
        for block in blocks:
            spaced += ["", _to_rich(block)] if spaced else [_to_rich(block)]
        return Group(*spaced)

    def _repr_html_(self) -> str:
        return "".join(_to_html(block) for block in self._blocks() if block)


class Report(Printable):
    """Base of every result; a subclass is a frozen dataclass and overrides `_blocks` if a list of fields is hard to read.

    Examples:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Freed(Report):
        ...     device: str
        ...     freed_nbytes: int
        >>> print(Freed("cpu", 1048576))
        Freed
        device           cpu
        freed_nbytes  1048576
        >>> Freed("cpu", 1048576).to_dict()
        {'device': 'cpu', 'freed_nbytes': 1048576}
    """

    def _blocks(self) -> Iterable[Block]:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
        yield Table(("", ""), [(f.name, _plain(getattr(self, f.name))) for f in fields if f.repr], type(self).__name__)

    @property
    def summary(self) -> str:
        """The first line of the report, which says the most important thing."""
        return str(self).partition("\n")[0]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values (dicts, lists, numbers, strings, `None`)."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    def to_json(self, *, indent: int | None = None) -> str:
        """Return `to_dict()` as strict JSON: NaN and infinities, which JSON does not have, become `null`."""
        return json_text(self.to_dict(), indent=indent)


def json_text(value: object, *, indent: int | None = None) -> str:
    """Write a report, or plain values with reports and arrays in them, as strict JSON, in which NaN is `null`.

    Examples:
        >>> json_text({"类别": "体育", "recall": math.nan})
        '{"类别": "体育", "recall": null}'
    """
    return json.dumps(_strict(_plain(value)), ensure_ascii=False, indent=indent, allow_nan=False)


def format_count(count: int) -> str:
    """Write an integer with thousands separators: `1,234,567`."""
    return f"{count:,}"


def plural(count: int, noun: str, nouns: str = "") -> str:
    """Write a number of things; `nouns` is the plural if it is not the noun with an `s`.

    Examples:
        >>> plural(1, "row"), plural(1234, "row"), plural(2, "process", "processes")
        ('1 row', '1,234 rows', '2 processes')
    """
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def and_more(count: int, most: int) -> str:
    """Return `" and 3 more"` where `most` of `count` things are shown; an empty string where all are.

    Examples:
        >>> "a, b" + and_more(5, 2), "a, b" + and_more(2, 2)
        ('a, b and 3 more', 'a, b')
    """
    return f" and {count - most:,} more" if count > most else ""


def listed(names: Iterable[object], most: int = 5) -> str:
    """Join the first names with commas and count the rest.

    Examples:
        >>> listed(["a", "b"]), listed("abcdefgh", most=3)
        ('a, b', 'a, b, c and 5 more')
    """
    names = [str(name) for name in names]
    return ", ".join(names[:most]) + and_more(len(names), most)


def shorten(text: str, width: int) -> str:
    """Cut a text to so many columns of a terminal, with an ellipsis if something is left out.

    Examples:
        >>> shorten("unbelievable", 6), shorten("今天天气很好", 6), shorten("short", 6)
        ('unbel…', '今天…', 'short')
    """
    if len(text) * 2 <= width or display_width(text) <= width:
        return text
    room, kept = width - 1, 0
    for character in text:
        room -= display_width(character)
        if room < 0:
            break
        kept += 1
    return text[:kept] + "…"


def format_bytes(nbytes: float) -> str:
    """Write a number of bytes in the unit that keeps it short.

    Examples:
        >>> format_bytes(512), format_bytes(3 * 2**20), format_bytes(-1536)
        ('512 B', '3.0 MiB', '-1.5 KiB')
    """
    size = float(nbytes)
    if abs(size) < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if abs(size) < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"


def format_seconds(seconds: float) -> str:
    """Write a duration as a reader would say it.

    Examples:
        >>> format_seconds(0.0123), format_seconds(7.25), format_seconds(75), format_seconds(7384)
        ('12 ms', '7.2 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def format_percent(share: float) -> str:
    """Write a share of one as a percentage with two decimals; `nan` as a dash."""
    return "-" if math.isnan(share) else f"{share:.2%}"


def display_width(text: str) -> int:
    """Count the terminal columns a text takes: East Asian wide characters two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def visible(text: str) -> str:
    """Show control characters, on which a terminal would act, as the pictures that Unicode has for them.

    Examples:
        >>> visible("\x1b[31mred\ttab")
        '␛[31mred\ttab'
    """
    return text.translate(_CONTROLS)


def _cell(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {None: "-", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    return visible(str(value))


def _is_numeric(value: object) -> bool:
    # "1.2 MiB", "12 ms" and "91.20%" line up on the right like numbers; "3 x 3" does not need to be guessed at.
    text = _cell(value)
    return text == "-" or ((text[:1].isdigit() or text[:2].lstrip("-+").isdigit()) and len(text.split()) <= 2)


def _to_text(block: Block) -> str:
    if isinstance(block, str):
        return visible(block)
    body = block.cells()
    heading = [list(block.columns)] if any(block.columns) else []
    right = block.right_aligned()
    widths = [max((display_width(row[i]) for row in heading + body), default=0) for i in range(len(right))]
    lines = [block.title] if block.title else []
    for row in heading + body:
        padded = []
        for cell, width, to_right in zip(row, widths, right, strict=True):
            space = " " * (width - display_width(cell))
            padded.append(space + cell if to_right else cell + space)
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _to_rich(block: Block) -> "RenderableType":
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    if isinstance(block, str):
        return Text(visible(block))
    table = RichTable(
        title=Text(block.title) if block.title else None,
        title_justify="left",
        box=box.SIMPLE_HEAD if any(block.columns) else box.SIMPLE,
        show_header=any(block.columns),
        pad_edge=False,
    )
    for name, to_right in zip(block.columns, block.right_aligned(), strict=True):
        table.add_column(Text(name), justify="right" if to_right else "left", overflow="fold")
    for row in block.cells():
        table.add_row(*(Text(cell) for cell in row))  # Text: brackets in a user's label are not markup
    return table


def _to_html(block: Block) -> str:
    if isinstance(block, str):
        return f"<p>{html.escape(block)}</p>".replace("\n", "<br>")
    styles = [' style="text-align:right"' if right else "" for right in block.right_aligned()]

    def line(tag: str, row: Sequence[str]) -> str:
        cells = zip(row, styles, strict=True)
        return "<tr>" + "".join(f"<{tag}{style}>{_escaped(cell)}</{tag}>" for cell, style in cells) + "</tr>"

    caption = f"<caption>{html.escape(block.title)}</caption>" if block.title else ""
    head = f"<thead>{line('th', block.columns)}</thead>" if any(block.columns) else ""
    return f"<table>{caption}{head}<tbody>{''.join(line('td', row) for row in block.cells())}</tbody></table>"


def _escaped(cell: str) -> str:
    """Escape a cell; leading blanks, which show a tree and which a browser would collapse, are kept."""
    text = cell.lstrip(" ")
    return "&nbsp;" * (len(cell) - len(text)) + html.escape(text)


def _plain(value: object) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Report):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, PurePath):
        return str(value)
    # NumPy and torch values without importing either: both have `tolist`, which gives a scalar for zero dimensions.
    tolist = getattr(value, "tolist", None)
    return tolist() if callable(tolist) and not isinstance(value, type) else str(value)


def _strict(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    return [_strict(item) for item in value] if isinstance(value, list) else value
