"""How a file of delimited text is written, seen from its first lines: separator, header, quotes, fastText's labels."""

import csv
import dataclasses
import itertools
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from linkboy._reading import Line
from linkboy.classify.reading._columns import (
    ENOUGH,
    FEWEST,
    TEXT_NAMES,
    ColumnTraits,
    Wanted,
    first_row,
    label_comes_first,
    looks_like_header,
    name_key,
    names_columns,
    no_label,
)
from linkboy.classify.reading._content import HEAD_LINES

SEPARATORS = (",", "\t", ";", "|")
SEPARATOR_NAMES = {",": "comma", "\t": "tab", ";": "semicolon", "|": "|"}
_SPELLINGS = {"comma": ",", "tab": "\t", "\\t": "\t", "semicolon": ";", "pipe": "|", "space": " "}
FASTTEXT = "__label__"
_RULER = re.compile(r"\+?(-{3,}\+)+(-{3,})?")
_EXCEL = re.compile(r'"?sep=([,;|\t])"?', re.IGNORECASE)
_HEAD_CHARACTERS = 1 << 20

Quotes = Literal["csv", "lines", "none"]
# What the csv module has to know where quotes inside a field are escaped by a backslash and not doubled, a space stands in front
# of the quotes, or fields are in single ones.
QUOTING: dict[str, dict[str, Any]] = {
    "": {},
    "escaped": {"escapechar": "\\", "doublequote": False},
    "spaced": {"skipinitialspace": True},
    "single": {"skipinitialspace": True, "quotechar": "'"},
}
_QUOTING_SHOWN = {
    "": "",
    "escaped": ", quotes escaped by \\",
    "spaced": ", spaces before quotes",
    "single": ", single quotes",
}


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How the rows of a file of delimited text are written.

    Args:
        separator: what stands between the fields; for `fasttext` a space.
        header: whether the first row names the columns.
        names: the columns: their names, or their numbers.
        quotes: `"csv"`: a quoted field may span lines; `"lines"`: a row is a line, and quotes count where a line is well-formed
            with them; `"none"`: a row is a line, and quotes are part of the text.
        cut: for two columns without quotes: the label is behind the last separator, or before the first one.
        quoting: one of `QUOTING`, how quotes are written beside the usual way.
        fasttext: whether labels are written as `__label__x`.
        rows: the first rows, without the header.
        header_place: where the header is below a title, in a few words.
    """

    separator: str
    header: bool
    names: tuple[str, ...]
    quotes: Quotes
    cut: Literal["last", "first"] | None = None
    quoting: str = ""
    fasttext: bool = False
    rows: Sequence[Sequence[str]] = ()
    header_place: str = ""

    @property
    def shown(self) -> str:
        """Return the form in a few words."""
        if self.fasttext:
            return "fastText's __label__"
        name = SEPARATOR_NAMES.get(self.separator, repr(self.separator))
        return f"{name}, {header_words(self.header, self.header_place)}{_QUOTING_SHOWN[self.quoting]}"


def header_words(header: bool, place: str = "") -> str:
    """Return whether there is a header, and where below a title, in a few words."""
    return f"with header{place}" if header else "no header (columns count from 0)"


def separator_of(given: str | None) -> str | None:
    """Return the separator that was asked for: a character, or a word such as `"tab"`.

    Raises:
        ValueError: it is neither.
    """
    if given is None:
        return None
    separator = _SPELLINGS.get(given.lower(), given)
    if len(separator) != 1 or separator in '"\r\n':
        fix = "; put one character in its place in the file, such as a tab" if len(separator) > 1 else ""
        raise ValueError(f"separator must be one character, or one of {tuple(_SPELLINGS)}, got {given!r}{fix}")
    return separator


def label_separator_of(given: str | None) -> str | None:
    """Return what stands between labels: the text that was asked for, or that of a word such as `"pipe"`.

    Raises:
        TypeError: it is not a string.
        ValueError: it is empty, or holds the end of a line.
    """
    if given is None:
        return None
    if not isinstance(given, str):
        raise TypeError(f"label_separator must be a string, got {given!r} of type {type(given).__name__}")
    if not given or "\n" in given or "\r" in given:
        raise ValueError(f"label_separator must be what stands between labels, such as '|' or 'comma', got {given!r}")
    return _SPELLINGS.get(given.lower(), given)


def peeked(lines: Iterator[Line], most: int = HEAD_LINES) -> tuple[list[Line], Iterator[Line], bool]:
    """Return the first lines, all lines, and whether the first ones are all there are."""
    head: list[Line] = []
    size = 0
    for number, line in lines:
        head.append((number, line))
        size += len(line or "")
        if (len(head) >= most and (most > 1 or (line and line.strip()))) or size >= _HEAD_CHARACTERS:
            return head, itertools.chain(head, lines), False
    return head, iter(head), True


def look(
    path: object,
    head: Sequence[str],
    whole: bool,
    *,
    ending: str,
    wanted: Wanted,
    separator: str | None,
    header: bool | None,
) -> Dialect:
    """Return how a file is written.

    Args:
        path: the file, for messages.
        head: its first lines, blank ones too.
        whole: whether these are all.
        ending: of its name, such as `.csv`.
        wanted: the columns that were asked for.
        separator: the separator, if it was asked for.
        header: whether the first row names the columns, if that was said.

    Raises:
        ValueError: there are two ways to read it; the message names the arguments that choose.
    """
    full = [line for line in head if line.strip()]
    if separator is None and header is None and is_fasttext(full):
        return Dialect(" ", False, ("label", "text"), "none", fasttext=True)
    chosen = separator or _separator(path, head, full, whole, ending, wanted)
    if chosen == "\t" and ending != ".csv":
        return _tab_dialect(path, head, full, whole, wanted, header)
    rows, quoting, _ = _csv_rows(head, whole, chosen)
    return with_header(path, rows, chosen, "csv", wanted, header, quoting=quoting, usual_header=True)


def look_at_first(path: object, first: str, *, wanted: Wanted, separator: str | None, header: bool | None) -> Dialect:
    """Return how a stream is written of which only the first line may be looked at.

    Args:
        path: what to call it in a message.
        first: the line.
        wanted: the columns that were asked for.
        separator: the separator, if it was asked for.
        header: whether the first row names the columns, if that was said.

    Raises:
        ValueError: one line does not tell.
    """
    if separator is None and header is None and is_fasttext([first]):
        return Dialect(" ", False, ("label", "text"), "none", fasttext=True)
    if separator is None:
        raise ValueError(
            f"{path} is read line by line, so say what stands between the columns: separator='tab', or another character"
        )
    names = tsv_fields(first, -1) if separator == "\t" else _parsed([first], True, separator)[0][0]
    stripped = [name.strip() for name in names]
    usual = any(name_key(name) in TEXT_NAMES for name in stripped)
    if header is None and not (usual or _names_wanted(stripped, wanted)):
        raise ValueError(
            f"{path} is read line by line, so say whether the first one, {first[:40]!r}, names the columns: header=True or "
            "header=False"
        )
    quotes: Quotes = "lines" if separator == "\t" else "csv"
    return with_header(path, [names], separator, quotes, wanted, header is not False, usual_header=True)


def excel_separator(line: str) -> str | None:
    """Return the separator that a first line such as `sep=;` tells to Excel, `None` where a line is something else.

    Examples:
        >>> excel_separator("sep=;"), excel_separator("text;label")
        (';', None)
    """
    match = _EXCEL.fullmatch(line.strip(" \r\n"))
    return match[1] if match else None


def is_fasttext(head: Sequence[str]) -> bool:
    """Return whether lines begin or end with fastText's labels.

    Examples:
        >>> is_fasttext(["__label__good well done"]), is_fasttext(["well done __label__good"]), is_fasttext(["well done"])
        (True, True, False)
    """
    labelled = [
        any(word.startswith(FASTTEXT) for word in (*line.split(None, 1)[:1], *line.rstrip().split(" ")[-1:]))
        for line in head
    ]
    return bool(head) and labelled[0] and sum(labelled) > 0.8 * len(head)


def _separator(path: object, head: Sequence[str], full: Sequence[str], whole: bool, ending: str, wanted: Wanted) -> str:
    """Choose the separator: by the names in the first line, then by what gives every row as many fields."""
    first = full[0] if full else ""
    order = SEPARATORS if ending == ".csv" else ("\t", *(each for each in SEPARATORS if each != "\t"))
    named = next((each for each in order if _names_columns(first, each, wanted)), None)
    if named is not None:
        return named
    even = [each for each in order if _is_even(head, whole, each)]
    if not even or _is_usual(order[0], even, full):
        return order[0]
    if len(even) > 1:  # labels that repeat tell them apart: the wrong separator leaves a piece of the text at them
        labels = sorted((_fewest_labels(_csv_rows(head, whole, each)[0]), each) for each in even)
        even = [labels[0][1]] if 2 * labels[0][0] <= labels[1][0] and labels[0][0] < math.inf else even
    if len(even) == 1:
        return even[0]
    choices = " or ".join(f"separator={each!r}" for each in even)
    raise ValueError(
        f"{path} could be separated by {' or by '.join(SEPARATOR_NAMES[each] for each in even)}: each gives all its first rows "
        f"as many fields, for instance {first[:40]!r}; choose one: {choices}"
    )


def _names_columns(first: str, separator: str, wanted: Wanted) -> bool:
    """Return whether the first line, cut at a separator, names the columns that are usual or asked for."""
    return names_columns(
        [name.strip() for name in next(csv.reader([first.replace("\r", " ")], delimiter=separator), [])], wanted
    )


def _is_usual(usual: str, even: Sequence[str], full: Sequence[str]) -> bool:
    """Return whether the separator that goes with the ending of the name is taken without looking at the others."""
    if usual == "\t":
        return "\t" in even or 2 * sum("\t" in line for line in full) >= len(full)
    return usual in even and len(full) < ENOUGH


def _fewest_labels(rows: Sequence[Sequence[str]]) -> float:
    """Return how many values the column has that could be the label and has the fewest; infinity where none could."""
    columns = [ColumnTraits(cells) for cells in zip(*rows[1:], strict=True)]
    return min((column.distinct for column in columns if column.repeats), default=math.inf)


def _is_even(head: Sequence[str], whole: bool, separator: str) -> bool:
    rows, _, sound = _csv_rows(head, whole, separator)
    return sound and len({len(row) for row in rows}) == 1 and len(rows[0]) > 1


def _csv_rows(head: Sequence[str], whole: bool, separator: str) -> tuple[list[list[str]], str, bool]:
    """Return the rows that the csv module finds, how quotes are written (of `QUOTING`), and whether all is well."""
    rows, sound = _parsed(head, whole, separator)
    others = []
    if not sound and any('\\"' in line for line in head):
        others.append("escaped")
    elif separator != "\t" and any(separator + ' "' in line for line in head):
        others.append("spaced")
    elif _in_single_quotes(head):
        others.append("single")
    for quoting in others:
        found, good = _parsed(head, whole, separator, quoting)
        even = len(found) > 1 and len(found[0]) > 1 and len(set(map(len, found))) == 1
        same = found == [[cell.lstrip(" ") for cell in row] for row in rows]
        if good and not same and (even or quoting == "escaped"):
            return found, quoting, True
    return rows, "", sound


def _in_single_quotes(head: Sequence[str]) -> bool:
    """Return whether every row, the first not counted, begins or ends with a single quote, as where fields are in such quotes."""
    rows = [line.strip() for line in head if line.strip()][1:]
    return len(rows) >= FEWEST and (
        all(row.startswith("'") for row in rows) or all(row.endswith("'") and "'" in row[:-1] for row in rows)
    )


def _parsed(head: Sequence[str], whole: bool, separator: str, quoting: str = "") -> tuple[list[list[str]], bool]:
    """Return the rows up to the first that is wrongly quoted, and whether there is none."""
    rows: list[list[str]] = []
    lines = (line.replace("\r", " ") + "\n" for line in head)
    reader = csv.reader(lines, delimiter=separator, strict=True, **QUOTING[quoting])
    with long_fields():
        try:
            for row in reader:
                if not (is_blank_row(row, first=not rows) or is_blank_line(row)):
                    rows.append(row)
        except csv.Error as error:
            # The last row of a beginning may be cut inside its quotes.
            return rows, not whole and "unexpected end" in str(error)
    return rows, True


def is_blank_row(fields: Sequence[str], *, first: bool) -> bool:
    """Return whether a row is only what stands between rows: a blank line, the `,,,` of spreadsheets, or the `---|---` of
    Markdown and the `---+---` of databases.

    A single cell, written `""`, is a row whose text is empty, unless it would be the `first` row of the file.
    """
    if fields and fields[-1].strip().strip("-:+"):
        return False
    cells = [cell for field in fields if (cell := field.strip())]
    if not cells:
        return len(fields) != 1 or first
    if len(cells) == 1:
        return _RULER.fullmatch(cells[0]) is not None
    return len(cells) > 1 and all(re.fullmatch(":?-{3,}:?", cell) for cell in cells)


def _tab_dialect(
    path: object, head: Sequence[str], full: Sequence[str], whole: bool, wanted: Wanted, header: bool | None
) -> Dialect:
    """Return how a file separated by tabs is written: a row is a line, unless only quotes that span lines fit."""
    split = [line.split("\t") for line in full]
    names = [name.strip() for name in tsv_fields(full[0], len(split[0]))] if split else []
    counts = Counter(map(len, split))
    usual, times = counts.most_common(1)[0] if split else (0, 0)
    if spanning := _rows_over_lines(path, head, full, whole, even=len(counts) == 1):
        return with_header(path, spanning, "\t", "csv", wanted, header, usual_header=False)
    if header is None and (_names_wanted(names, wanted) or looks_like_header(names)):
        header = True
    in_columns = usual > 2 and len(names) == usual and _mostly(times, len(full))
    if not header and usual > 2 and not in_columns and len(full) >= ENOUGH and 2 * times > len(full):
        raise ValueError(
            f"{path} has {usual} fields in most of its first lines, but not in all: these are columns, or there are tabs in the "
            "texts; if its first line names the columns pass header=True, else write a header above it; and quote texts with tabs"
        )
    if header or in_columns:
        rows = [tsv_fields(line, len(names)) for line in full]
        return with_header(path, rows, "\t", "lines", wanted, header, usual_header=False)
    return _two_columns(path, full, wanted, header)


def _mostly(times: int, count: int) -> bool:
    """Return whether all lines have as many fields, or of many lines nearly all."""
    return times == count or (count >= ENOUGH and times > 0.9 * count)


def _rows_over_lines(
    path: object, head: Sequence[str], full: Sequence[str], whole: bool, *, even: bool
) -> list[list[str]]:
    """Return the rows of a file in which quoted fields span lines, none where there is no such field.

    Raises:
        ValueError: the lines are `even` too, that is, they could be rows with quotes in their texts.
    """
    if not any('"' in line for line in head):
        return []
    rows, sound = _parsed(head, whole, "\t")
    fewer = len(rows) < len(full) - (0 if whole else 1)
    if not (sound and fewer and len(rows) > 1 and len(rows[0]) > 1 and len(set(map(len, rows))) == 1):
        return []
    if even:
        raise ValueError(
            f"{path} could be read by lines, or with quoted fields that span lines: a quote is opened in one line and closed in "
            "another; write each text on one line, or write the file as CSV, where quotes count"
        )
    return rows


def _names_wanted(names: Sequence[str], wanted: Wanted) -> bool:
    """Return whether columns are asked for by name, so that the first row must name them."""
    known = bool(wanted.known) and set(wanted.known) <= set(names)
    return known or any(isinstance(name, str) and not name.replace(",", "").isdecimal() for name in wanted.all)


def _two_columns(path: object, full: Sequence[str], wanted: Wanted, header: bool | None) -> Dialect:
    """Return how `text<TAB>label` is written: a text may hold tabs, so one end of the line is cut off."""
    quotes: Quotes = "lines" if _is_quoted(full) else "none"
    text_first, label_first = (
        [f for line in full if (f := cut_line(line, side, quotes))] for side in ("last", "first")
    )
    if full and not text_first:
        raise ValueError(
            f"{path}: none of its first lines has a tab between text and label, such as {full[0][:40]!r}; say what stands "
            "between them with separator=, or write a tab there"
        )
    verdict = first_row(text_first[0], text_first[1:]) if header is None and text_first else "row"
    if verdict == "both":
        raise _header_or_row(path, text_first[0])
    if verdict == "header":
        return with_header(path, text_first, "\t", "lines", wanted, True, usual_header=True)
    reversed_ = _asks_for_label_first(wanted) if wanted.all else label_comes_first(label_first)
    if reversed_ is None and any(line.count("\t") > 1 for line in full):
        reversed_ = False
    if reversed_ is None:
        shown = text_first[0]
        raise ValueError(
            f"{path} could hold text and label or label and text: its first line is {shown[0][:40]!r} and "
            f"{shown[1][:40]!r}; choose one: label_column=1 or label_column=0"
        )
    place, rows = (0, label_first) if reversed_ else (1, text_first)
    why = ColumnTraits([row[place] for row in rows]).why_no_label
    if why and wanted.needs_label and not wanted.label:
        raise no_label(path, f"column {place}", why, f"label_column={place}")
    if reversed_:
        return Dialect("\t", False, ("0", "1"), quotes, "first", rows=label_first)
    return Dialect("\t", False, ("0", "1"), quotes, "last", rows=text_first)


def _asks_for_label_first(wanted: Wanted) -> bool:
    return wanted.label in ((0,), ("0",)) or wanted.text in ((1,), ("1",))


def cut_line(line: str, side: str, quotes: Quotes) -> Sequence[str]:
    """Return the two fields of a line that is cut at its last tab, or at its first one; none where there is no tab."""
    if quotes == "lines" and len(fields := tsv_fields(line, 2)) == 2:
        return fields
    before, tab, after = line.rpartition("\t") if side == "last" else line.partition("\t")
    return (before, after) if tab else ()


def _is_quoted(head: Sequence[str]) -> bool:
    """Return whether quotes are how fields are written: all fields have them, or one needs them for what is inside."""
    fields = [field for line in head for field in line.split("\t")]
    if fields and all(len(field) > 1 and field[0] == field[-1] == '"' for field in fields):
        return True
    return any(
        '""' in line and len(tsv_fields(line, 2)) == 2 and tsv_fields(line, 2) != line.split("\t") for line in head
    ) or any(line.count("\t") > 1 and len(tsv_fields(line, 2)) == 2 for line in head)


def _header_or_row(path: object, first: Sequence[str]) -> ValueError:
    shown = ", ".join(repr(cell[:40]) for cell in first[:5])
    return ValueError(
        f"{path}: the first line, {shown}, could name the columns or be a row; choose one: header=True or header=False"
    )


def with_header(
    path: object,
    rows: Sequence[Sequence[str]],
    separator: str,
    quotes: Quotes,
    wanted: Wanted,
    header: bool | None,
    *,
    quoting: str = "",
    usual_header: bool,
) -> Dialect:
    """Decide whether the first row names the columns; where nothing shows it, `usual_header` does."""
    names = [name.strip() for name in rows[0]] if rows else []
    rest = [row for row in rows[1:] if len(row) == len(names)]
    if header is None:
        verdict = "header" if _names_wanted(names, wanted) or looks_like_header(names) else first_row(names, rest)
        if verdict in ("both", "unknown") and not usual_header:
            raise _header_or_row(path, names)
        header = verdict == "header" or (usual_header and verdict != "row")
    if not header:
        kept = [row for row in rows if len(row) == len(names)]
        return Dialect(separator, False, tuple(map(str, range(len(names)))), quotes, quoting=quoting, rows=kept)
    return Dialect(separator, True, tuple(names), quotes, quoting=quoting, rows=rest)


def is_blank_line(fields: Sequence[str]) -> bool:
    """Return whether a row is a line of white space, which is no field written as such.

    Examples:
        >>> is_blank_line(["  "]), is_blank_line([""]), is_blank_line([" ", " "])
        (True, False, False)
    """
    return len(fields) == 1 and bool(fields[0]) and not fields[0].strip()


def tsv_fields(line: str, expected: int) -> list[str]:
    """Split a line at tabs; quotes count where the line is well-formed with them, and are text where it is not."""
    if '"' in line:
        try:
            quoted = next(csv.reader([line.replace("\r", " ")], delimiter="\t", strict=True))
        except csv.Error:
            return line.split("\t")
        if len(quoted) == expected:
            return quoted
    return line.split("\t")


@contextmanager
def long_fields() -> Iterator[None]:
    """Let the csv module read fields of any length, and restore its limit afterwards."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def filled(lines: Iterable[Line]) -> Iterator[tuple[int, str]]:
    """Leave out lines that are blank or could not be decoded."""
    return ((number, line) for number, line in lines if line is not None and line.strip())
