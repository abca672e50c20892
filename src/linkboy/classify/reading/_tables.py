"""Every form of a file as one thing: names of columns, the first rows to look at, and a stream of records."""

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from linkboy._encodings import EncodingAdvice
from linkboy._reading import LONGEST_LINE, Line, check_unpacked, decoded_lines
from linkboy._report import listed, plural
from linkboy.classify.reading._columns import LABEL_NAMES, TEXT_NAMES, Header, Roles, Wanted, choose_columns, name_key
from linkboy.classify.reading._content import HEAD_LINES, Content, whole
from linkboy.classify.reading._dialect import (
    FASTTEXT,
    QUOTING,
    Dialect,
    cut_line,
    excel_separator,
    filled,
    header_words,
    is_blank_line,
    is_blank_row,
    long_fields,
    look,
    look_at_first,
    peeked,
    tsv_fields,
    with_header,
)
from linkboy.classify.reading._json import cell_text, names_in, value_at, values_of
from linkboy.classify.reading._titles import title_of_lines, title_of_rows

BadRow = Callable[[int, str], None]  # called with line and reason
Record = Any  # cells by position, or an object of JSON

_ENDS = "\x1a\0"  # what some programs write behind the last line, to fill a block or to end the file
_SHOWN = 500  # characters of a cell that are looked at
BYTES_OF_A_ROW = 32  # of a text and a label in memory, their characters not counted


@dataclasses.dataclass
class TextTable:
    """A file as columns and records.

    Args:
        path: the file.
        form: what it is, in a few words.
        names: of the columns, or their numbers.
        header: whether the names are from the file, `"row"` where its first row was taken for them.
        head: the cells of the first rows as text.
        records: line and record of each row.
        fixed: the roles, where the form itself gives them.
        keyed: whether a record is an object of JSON.
        lists: whether the label of a record is a list of labels, in a form that itself says so.
        folders: whether a record is a file, and its label the folder it is in.
    """

    path: Path
    form: str
    names: Sequence[str]
    header: Header
    head: Sequence[Sequence[str]]
    records: Iterator[tuple[int, Record]]
    fixed: Roles | None = None
    keyed: bool = False
    lists: bool = False
    folders: bool = False

    def roles(self, wanted: Wanted) -> Roles:
        """Return which column is what.

        Raises:
            ValueError: they cannot be told, or one that was asked for is not there.
        """
        if self.fixed is not None and not wanted.all:
            return self.fixed
        return choose_columns(self.path, self.names, self.head, wanted, header=self.header)

    def getter(self, place: int) -> Callable[[Record], object]:
        """Return a function that takes the cell of a column out of a record; of JSON it may be `MISSING`."""
        name = self.names[place]
        return (lambda record: value_at(record, name)) if self.keyed else itemgetter(place)

    @property
    def shown_names(self) -> list[str]:
        """The names of the columns to write above them."""
        return list(self.names) if self.header else [f"column_{name}" for name in self.names]


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a file was asked to be read; `None` where the file has to show it.

    Args:
        wanted: the columns.
        encoding: the encoding.
        separator: the separator, one character.
        header: whether the first row names the columns.
        label_separator: what stands between the labels of a row, where it may have several.
    """

    wanted: Wanted
    encoding: str | None = None
    separator: str | None = None
    header: bool | None = None
    label_separator: str | None = None


def table_of(content: Content, asked: Reading, bad_row: BadRow) -> TextTable:
    """Return a file as a table, whatever its form; its bytes say which, and its name where they do not.

    Args:
        content: the file, open.
        asked: how to read it.
        bad_row: called with line and reason of a row that cannot be read.

    Raises:
        ValueError: the file is empty, not what it seems to be, or could be read in two ways.
    """
    if content.kind in ("parquet", "xlsx"):
        _check_text_options(content, asked)
        return parquet_table(content, asked.wanted) if content.kind == "parquet" else workbook_table(content, asked)
    encoding = content.encoding(asked.encoding)
    form = json_form(content, encoding)
    if form is not None:
        _check_text_options(content, asked, encoding=True)
    if form == "stream":
        return json_table(content.path, values_of(content.path, content.file, encoding), "JSON", encoding, bad_row)
    undecoded: dict[int, str] = {}
    lines = text_lines(content, encoding, undecoded)
    if form == "lines":
        objects = _objects(_reported(lines, undecoded, bad_row), bad_row)
        return json_table(content.path, objects, "JSON lines", encoding, bad_row, looked_at=content.looked_at)
    head, lines, all_read = peeked(lines, content.looked_at)
    first = next((number for number, line in head if line is None or line.strip()), 0)
    readable = sum(bool(line and line.strip()) for _, line in head)
    if undecoded and len(undecoded) >= readable:  # the rest does not show which column is what
        first = min(undecoded)
    if first in undecoded:  # what follows cannot be understood without it
        bad_row(first, undecoded.pop(first))
    if not any(line and line.strip() for _, line in head):
        raise ValueError(f"{content.path} holds no labelled text: none of its first lines is {encoding.upper()}")
    lines = _reported(lines, undecoded, bad_row)
    return delimited_table(content, head, all_read, lines, encoding, asked, bad_row)


def _check_text_options(content: Content, asked: Reading, *, encoding: bool = False) -> None:
    given = {"separator": asked.separator, "header": asked.header if content.kind != "xlsx" else None}
    given["encoding"] = None if encoding else asked.encoding
    wrong = [name for name, value in given.items() if value is not None]
    if wrong:
        kind = {"parquet": "a Parquet file", "xlsx": "an Excel workbook"}.get(content.kind, "JSON")
        raise ValueError(f"{content.path} is {kind}, for which {wrong[0]} has no meaning; leave {wrong[0]} out")


def text_lines(
    content: Content,
    encoding: str,
    undecoded: dict[int, str],
    *,
    may_be_blank: bool = False,
    longest: int = LONGEST_LINE,
) -> Iterator[Line]:
    """Yield number and text of each line, blank ones too; one that cannot be decoded is recorded, and yields `None`.

    Args:
        content: the file, open.
        encoding: its encoding.
        undecoded: gets the reason for each such line by its number.
        may_be_blank: whether there may be blank lines only.
        longest: the largest line allowed, in bytes.

    Raises:
        ValueError: the encoding is unknown or plainly another one, a line is too long, or all lines are blank.
    """

    advice = EncodingAdvice(encoding, content.head)

    def bad_line(number: int, error: UnicodeDecodeError, raw: bytes) -> None:
        undecoded[number] = advice.of(raw, error.start)

    something = may_be_blank
    lines = decoded_lines(
        str(content.path), content.file, encoding, bad_line, carriage_returns=not content.live, longest=longest
    )
    for number, line in lines:
        if line and line[0] == "\ufeff":  # of another file that was put behind this one
            line = line.lstrip("\ufeff")
        if line and line[-1] in _ENDS and not line.strip(_ENDS):
            line = ""
        something = something or line is None or bool(line.strip())
        yield number, line
    if not something:
        raise ValueError(f"{content.path} holds no labelled text; it is empty")


def _reported(lines: Iterable[Line], undecoded: dict[int, str], bad_row: BadRow) -> Iterator[Line]:
    """Yield the lines, and report those that could not be decoded when their turn comes."""
    for number, line in lines:
        if number in undecoded:
            bad_row(number, undecoded.pop(number))
        yield number, line


# --- JSON ----------------------------------------------------------------------------------------------------------------


def json_form(content: Content, encoding: str) -> str | None:
    """Return `"lines"` or `"stream"` for JSON, `None` for anything else."""
    start = content.beginning(encoding).lstrip()
    if content.ending in (".jsonl", ".ndjson"):
        return "lines"
    if content.ending == ".json" and not start:
        return "lines"
    first = start.partition("\n")[0]
    if start.startswith("{"):
        if _is_object(first):
            return "lines"
        return "stream" if content.ending == ".json" or first.strip() == "{" else None
    if start.startswith("[") and (content.ending == ".json" or start[1:].lstrip().startswith("{")):
        return "stream"
    if content.ending == ".json":
        raise ValueError(
            f"{content.path} is not JSON: it begins with {start[:20]!r}; rename it to what it is, such as .csv or .tsv"
        )
    return None


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _objects(lines: Iterator[Line], bad_row: BadRow) -> Iterator[tuple[int, Any]]:
    """Yield the value of each line; one that is not JSON is reported."""
    for number, line in filled(lines):
        try:
            yield number, json.loads(line, parse_float=str)  # a label is named as it is written
        except json.JSONDecodeError as error:
            bad_row(number, f"it is not JSON ({error.msg} at column {error.colno})")
        except (ValueError, RecursionError):
            bad_row(number, "it is JSON that cannot be read (nested too deeply, or a number too long)")


def json_table(
    path: Path,
    values: Iterator[tuple[int, Any]],
    form: str,
    encoding: str,
    bad_row: BadRow,
    *,
    looked_at: int = HEAD_LINES,
) -> TextTable:
    """Return a stream of objects as a table; the columns are the keys of the first ones, dotted where they are nested."""

    def records() -> Iterator[tuple[int, dict[str, Any]]]:
        for line, value in values:
            if isinstance(value, dict):
                yield line, value
            else:
                bad_row(line, f"expected a JSON object, got {type(value).__name__}")

    stream = records()
    head = list(islice(stream, looked_at))
    lists = [key for key, value in head[0][1].items() if _is_rows(value)] if len(head) == 1 and looked_at > 1 else []
    if lists and (form == "JSON" or not _has_text(head[0][1])):
        if _are_columns(head[0][1]):
            raise ValueError(
                f"{path} holds one object with a column under each of {listed(map(repr, lists))}, got no rows; write an object "
                "for each row, as to_json(orient='records') of pandas does"
            )
        raise ValueError(
            f"{path} holds one object with rows under {listed(map(repr, lists))}, got no array of rows at its top; write "
            "that array, or one object per line, into a file of its own"
        )
    names = list(dict.fromkeys(name for _, record in head for name in names_in(record)))
    cells = [[cell_text(value_at(record, name)) for name in names] for _, record in head]
    return TextTable(path, f"{form}, {encoding.upper()}", names, True, cells, chain(head, stream), keyed=True)


def _has_text(record: dict[str, Any]) -> bool:
    """Return whether a record is itself a row: it has a text under a usual name."""
    return any(isinstance(value, str) and name_key(name) in TEXT_NAMES for name, value in record.items())


def _are_columns(record: dict[str, Any]) -> bool:
    """Return whether an object holds columns of cells, as pandas writes a frame by itself: lists, or objects with equal keys."""
    columns = [list(value.values()) if isinstance(value, dict) else value for value in record.values()]
    usual = {*map(name_key, record)} & {*TEXT_NAMES, *LABEL_NAMES}
    if not usual or not all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        return False
    return not any(isinstance(cell, (dict, list)) for column in columns for cell in column[:HEAD_LINES])


def _is_rows(value: object) -> bool:
    return isinstance(value, (list, dict)) and bool(value) and len(value) > 1


# --- delimited text ------------------------------------------------------------------------------------------------------


def delimited_table(
    content: Content,
    head: Sequence[Line],
    all_read: bool,
    lines: Iterator[Line],
    encoding: str,
    asked: Reading,
    bad_row: BadRow,
) -> TextTable:
    """Return delimited text, whose first lines were looked at, as a table."""
    (first, line), *more = [each for each in head if each[1] is not None and each[1].strip()]
    separator = excel_separator(line or "")
    if separator is not None and more:  # a line for Excel above the table
        asked = dataclasses.replace(asked, separator=asked.separator or separator)
        head, lines = [each for each in head if each[0] != first], (each for each in lines if each[0] != first)
    title = None
    if not content.live:
        title = title_of_lines(head, asked.wanted, separator=asked.separator, header=asked.header)
    if title is not None and not title.plain:
        raise title.refusal(content.path)
    if title is not None:
        above = title.lines
        asked = dataclasses.replace(asked, separator=title.separator, header=True)
        head, lines = [each for each in head if each[0] not in above], (each for each in lines if each[0] not in above)
    texts = [line for _, line in head if line is not None]
    options = {"wanted": asked.wanted, "separator": asked.separator, "header": asked.header}
    dialect = (
        look_at_first(content.path, next(line for line in texts if line.strip()), **options)
        if content.live
        else look(content.path, texts, all_read, ending=content.ending, **options)
    )
    if title is not None:
        dialect = dataclasses.replace(dialect, header_place=title.shown)
    fixed, lists = None, False
    if dialect.fasttext:
        lists = any(line.count(FASTTEXT) > 1 and len(_fasttext_labels(line)) > 1 for line in texts)
        records = fasttext_records(lines, bad_row, several=lists)
        fixed = Roles((1,), (0,), None)
    elif dialect.quotes == "csv":
        records = csv_records(content.path, lines, dialect, bad_row)
    elif dialect.cut is not None:
        records = cut_records(lines, dialect, bad_row)
        fixed = Roles((0,), (1,), None) if dialect.cut == "last" else Roles((1,), (0,), None)
    else:
        records = line_records(lines, dialect, bad_row)
    form = f"{dialect.shown}, {encoding.upper()}"
    named: Header = "row" if dialect.header else dialect.fasttext
    return TextTable(content.path, form, dialect.names, named, dialect.rows, records, fixed, lists=lists)


def fasttext_records(lines: Iterator[Line], bad_row: BadRow, *, several: bool) -> Iterator[tuple[int, Record]]:
    """Yield label and text of lines such as `__label__x some text`, or a list of labels where a line may have several."""
    for number, line in filled(lines):
        labels = _fasttext_labels(line)
        if len(labels) != 1 and not several:
            more = "; the first lines have one each" if len(labels) > 1 else ""
            bad_row(number, f"expected one {FASTTEXT} in a line, got {len(labels)}{more}")
            continue
        for label in labels:
            before, _, after = line.partition(label)
            line = f"{before.rstrip()} {after.lstrip()}".strip()
        names = [label.removeprefix(FASTTEXT) for label in labels]
        yield number, (names if several else names[0], line.strip())


def _fasttext_labels(line: str) -> list[str]:
    return [word for word in line.split() if word.startswith(FASTTEXT)]


def cut_records(lines: Iterator[Line], dialect: Dialect, bad_row: BadRow) -> Iterator[tuple[int, Record]]:
    """Yield the two fields of lines that are cut at the last tab, or at the first one."""
    plain = dialect.cut == "last" and dialect.quotes == "none"  # the usual form, without a call for each row
    for number, line in filled(lines):
        if plain:
            before, tab, after = line.rpartition("\t")
            fields = (before, after) if tab else ()
        else:
            fields = cut_line(line, dialect.cut or "last", dialect.quotes)
        if fields:
            yield number, fields
        else:
            bad_row(number, "there is no tab between text and label")


def line_records(lines: Iterator[Line], dialect: Dialect, bad_row: BadRow) -> Iterator[tuple[int, Record]]:
    """Yield the fields of lines that are separated by tabs."""
    rows, expected = filled(lines), len(dialect.names)
    if dialect.header:
        next(rows, None)
    for number, line in rows:
        fields = tsv_fields(line, expected)
        if len(fields) == expected:
            yield number, fields
        else:
            bad_row(number, _wrong_count(fields, dialect))


def _wrong_count(fields: Sequence[str], dialect: Dialect) -> str:
    count, expected = len(fields), len(dialect.names)
    said = f"{plural(count, 'field')} where the {'header' if dialect.header else 'first row'} has {expected}"
    if dialect.header and count == expected + 1 and fields[0].strip('"') == "1":
        said += ", as where R writes the names of rows without a heading (row.names = FALSE leaves them out)"
    return said


def csv_records(path: Path, lines: Iterator[Line], dialect: Dialect, bad_row: BadRow) -> Iterator[tuple[int, Record]]:
    """Yield the fields of rows as the csv module reads them; a quoted field may span lines."""
    numbers: list[int] = []
    undecodable: list[int] = []

    def fed() -> Iterator[str]:
        for number, line in lines:
            numbers.append(number)
            if line is None:
                undecodable.append(number)
            # A bare carriage return ends a line for the csv module, here it is a space in a text.
            yield (line or "").replace("\r", " ") + "\n"

    reader = csv.reader(fed(), delimiter=dialect.separator, strict=True, **QUOTING[dialect.quoting])
    expected, awaits_header, anything = len(dialect.names), dialect.header, False
    while True:
        numbers.clear()
        undecodable.clear()
        problem, fields = "", []
        try:
            with long_fields():
                fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise ValueError(f"{path} line {numbers[0]}: a quote is opened and never closed; close it") from None
            problem = f"a quote inside a field must be doubled and the field quoted ({error})"
        if not problem and (is_blank_row(fields, first=not anything) or (expected > 1 and is_blank_line(fields))):
            continue
        anything = True
        if awaits_header and not problem:
            awaits_header = False
        elif problem or len(fields) != expected:
            if not undecodable:
                bad_row(numbers[0], problem or _wrong_count(fields, dialect))
        elif not undecodable:
            yield numbers[0], fields  # a row may span lines; it is named by the one it begins on


# --- tables of other programs --------------------------------------------------------------------------------------------


def parquet_table(content: Content, wanted: Wanted) -> TextTable:
    """Return a Parquet file as a table, its rows numbered from 1."""
    import polars as pl

    path = content.path
    source: Any = whole(content) if content.packed else path
    try:
        lazy = pl.scan_parquet(source)
        count = lazy.select(pl.len()).collect().item()
        check_unpacked(path, path.stat().st_size, count * BYTES_OF_A_ROW)
        names = lazy.collect_schema().names()
        _rewound(source)
        first = pl.read_parquet(source, n_rows=min(count, HEAD_LINES))
    except _polars_errors() as error:
        raise _incomplete(path) from error
    first = first.with_columns(pl.col(pl.String).str.slice(0, _SHOWN))
    head = [[_cell(value) for value in row] for row in first.iter_rows()]
    table = TextTable(path, "Parquet", names, True, head, iter(()))
    keep = None
    if wanted.needs_label:  # else the given columns are written again, all of them
        roles = table.roles(wanted)
        keep = [*roles.text, *roles.label, *(() if roles.weight is None else (roles.weight,))]
    return dataclasses.replace(table, records=_parquet_records(path, source, names, keep))


def _polars_errors() -> tuple[type[BaseException], ...]:
    import polars as pl

    return (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, OverflowError)


def _incomplete(path: Path) -> ValueError:
    return ValueError(f"{path} is not a complete Parquet file; write it again")


def _rewound(source: object) -> None:
    if isinstance(source, io.BytesIO):
        source.seek(0)


def _cell(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _parquet_records(
    path: Path, source: Any, names: Sequence[str], keep: Sequence[int] | None
) -> Iterator[tuple[int, Record]]:
    """Yield the rows; columns that nobody asked for are `None` in them and are not read."""
    import polars as pl

    places = sorted(set(range(len(names)) if keep is None else keep))
    try:
        _rewound(source)
        frame = pl.read_parquet(source, columns=[names[place] for place in places])
    except _polars_errors() as error:
        raise _incomplete(path) from error
    size = sum(int(column.str.len_bytes().sum()) for column in frame if column.dtype == pl.String)
    check_unpacked(path, path.stat().st_size, size)
    columns: list[Iterable[object]] = [[None] * len(frame)] * len(names)
    for place, column in zip(places, frame, strict=True):
        columns[place] = column.to_list() if isinstance(column.dtype, (pl.List, pl.Array)) else column
    yield from enumerate(zip(*columns, strict=True), 1)


def workbook_table(content: Content, asked: Reading) -> TextTable:
    """Return the one sheet with rows of an Excel workbook as a table; cells are read as text.

    Raises:
        ModuleNotFoundError: the package that reads workbooks is not installed.
        ValueError: the workbook is damaged, or several sheets have rows.
    """
    try:
        import fastexcel
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "an Excel workbook needs the package fastexcel, which is not installed; run: pip install 'linkboy[files]'"
        ) from None
    path = content.path
    try:
        book = fastexcel.read_excel(path)
        sheets = {name: book.load_sheet(name, header_row=None, dtypes="string") for name in book.sheet_names}
        frames = {name: sheet.to_polars() for name, sheet in sheets.items() if sheet.width and sheet.height}
    except fastexcel.FastExcelError as error:
        raise ValueError(
            f"{path} cannot be read as an Excel workbook ({' '.join(str(error).split())[:200]}); save it again"
        ) from error
    if len(frames) != 1:
        names = ": " * bool(frames) + listed(map(repr, frames))
        raise ValueError(
            f"{path} must have one sheet with rows, got {len(frames)}{names}; save the one to read as a file of its own"
        )
    rows = [[_cell(cell) for cell in row] for row in next(iter(frames.values())).iter_rows()]
    numbered = [(number, row) for number, row in enumerate(rows, 1) if any(map(str.strip, row))]
    title = title_of_rows(
        (((number,), row) for number, row in numbered[:HEAD_LINES]), asked.wanted, header=asked.header
    )
    if title is not None and not title.plain:
        raise title.refusal(path)
    if title is not None:
        numbered = [each for each in numbered if each[0] not in title.lines]
    dialect = with_header(
        path, [row for _, row in numbered[:HEAD_LINES]], ",", "csv", asked.wanted, asked.header, usual_header=True
    )
    records = iter(numbered[1:] if dialect.header else numbered)
    form = f"Excel, {header_words(dialect.header, '' if title is None else title.shown)}"
    return TextTable(path, form, dialect.names, "row" if dialect.header else False, dialect.rows, records)
