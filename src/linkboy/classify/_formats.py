"""The forms of labelled files: bytes to lines, lines to rows of text, label and weight."""

import csv
import gzip
import io
import itertools
import json
import lzma
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from linkboy._checks import did_you_mean
from linkboy._reading import (
    PIECE,
    BoundedText,
    Line,
    Reader,
    check_unpacked,
    compression_of,
    damaged,
    decoded_lines,
    unpacked,
)

# The first of these that a file has is its column, so a general name stands behind a special one.
TEXT_NAMES = (
    "text", "sentence", "content", "review", "comment", "query", "question", "title", "tweet", "document", "review_text",
    "文本", "内容", "句子", "评论",
)  # fmt: skip
LABEL_NAMES = (
    "label", "class", "category", "target", "intent", "sentiment", "stars", "polarity", "标签", "类别", "分类",
)  # fmt: skip
SEPARATORS = (",", "\t", ";", "|")
PEEKED = 50  # lines that show whether a file has more columns than a text and a label

Row = tuple[int, object, object, object]  # line, text, label, weight
BadRow = Callable[[int, str], None]  # called with line and reason

BYTES_OF_A_ROW = 32  # of a text and a label in memory, their characters not counted


@contextmanager
def opened(path: Path) -> Iterator[Reader]:
    """Open a file of labelled text for reading; one that is packed is unpacked as it is read.

    Raises:
        ValueError: inside the block, if the archive is damaged or unpacks to far more than text can.
    """
    with path.open("rb") as file:
        compression = compression_of(file.read(8))
        file.seek(0)
        if compression not in ("gzip", "bz2", "xz"):
            yield file
            return
        try:
            yield BoundedText(path, file, unpacked(file, compression))
        except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
            raise damaged(path, compression, error) from error


def text_lines(path: Path, file: Reader, encoding: str, bad_row: BadRow) -> Iterator[Line]:
    """Yield number and text of each line, blank ones too; a line that cannot be decoded is reported and yields `None`.

    Raises:
        ValueError: the encoding is unknown or plainly another one, a line is too long, or all lines are blank.
    """

    def bad_line(number: int, error: UnicodeDecodeError, raw: bytes) -> None:
        where = f"byte {error.start + 1} is not {encoding.upper()} (0x{raw[error.start]:02x})"
        bad_row(number, where + _in_other_encodings(raw))

    filled = False
    for number, line in decoded_lines(str(path), file, encoding, bad_line, carriage_returns=True):
        filled = filled or line is None or bool(line.strip())
        yield number, line
    if not filled:
        raise ValueError(f"{path} holds no labelled text; it is empty")


def _in_other_encodings(raw: bytes) -> str:
    """Show what a line that is not UTF-8 says in the encoding that it most likely has."""
    # GB 2312, because the larger GB 18030 makes Chinese of nearly any bytes; one ideograph among Latin words is an accident.
    for codec, name, plausible in (("gb2312", "gb18030", _mostly_han), ("cp1252", "cp1252", str.isprintable)):
        try:
            line = raw.decode(codec).strip()
        except UnicodeDecodeError:
            continue
        if plausible(line.replace("\t", " ")):
            return f", but the line reads {line[:20]!r} with encoding={name!r}"
    return ""


def _mostly_han(line: str) -> bool:
    letters = [character for character in line if character.isalpha()]
    return 2 * sum("\u3400" <= letter <= "\u9fff" for letter in letters) > len(letters)


def _filled(lines: Iterable[Line]) -> Iterator[tuple[int, str]]:
    """Leave out lines that are blank or could not be decoded."""
    return ((number, line) for number, line in lines if line is not None and line.strip())


def tsv_rows(path: Path, lines: Iterator[Line], wanted: Mapping[str, str | None], bad_row: BadRow) -> Iterator[Row]:
    """Yield the rows of a tab-separated file, with a header or as `text<TAB>label`; a row is one line."""
    filled = _filled(lines)
    first = next(filled, None)
    if first is None:
        return
    names = [name.strip() for name in first[1].split("\t")]
    if not any(wanted.values()) and not _looks_like_header(names):
        peeked = [first, *itertools.islice(filled, PEEKED)]
        filled = itertools.chain(peeked[1:], filled)
        # A tab may occur inside a text, but hardly the same number of them in each.
        if len(names) > 2 and len(peeked) > 1 and {line.count("\t") + 1 for _, line in peeked} == {len(names)}:
            raise ValueError(
                f"{path} has {len(names)} columns, and its first line does not name a text and a label among them: "
                f"{', '.join(map(repr, names))}; write a header above it and name both, such as text_column='text' and "
                "label_column='label'"
            )
        for number, line in itertools.chain([first], filled):
            text, tab, label = line.rpartition("\t")
            if tab:
                yield number, text, label, None
            else:
                bad_row(number, "there is no tab between text and label")
        return
    columns = _columns(path, names, wanted)
    for number, line in filled:
        fields = _tsv_fields(line, len(names))
        if len(fields) == len(names):
            yield _row(number, fields, columns)
        else:
            bad_row(number, f"{len(fields)} fields where the header has {len(names)}")


def _tsv_fields(line: str, expected: int) -> list[str]:
    """Split a line at tabs; quotes count where the line is well-formed with them, and are text where it is not."""
    if '"' in line:
        try:
            quoted = next(csv.reader([line.replace("\r", " ")], delimiter="\t", strict=True))
        except csv.Error:
            return line.split("\t")
        if len(quoted) == expected:
            return quoted
    return line.split("\t")


def csv_rows(path: Path, lines: Iterator[Line], wanted: Mapping[str, str | None], bad_row: BadRow) -> Iterator[Row]:
    """Yield the rows of a comma-separated file with a header; a quoted field may span lines."""
    numbers: list[int] = []
    undecodable: list[int] = []

    def fed() -> Iterator[str]:
        for number, line in lines:
            numbers.append(number)
            if line is None:
                undecodable.append(number)
            # A bare carriage return ends a line for the csv module, here it is a space in a text.
            yield (line or "").replace("\r", " ") + "\n"

    names: list[str] = []
    columns: dict[str, int] = {}
    header, lines = _first_filled(lines)
    reader = csv.reader(fed(), delimiter=_separator_of(header, wanted), strict=True)
    while True:
        numbers.clear()
        undecodable.clear()
        problem, fields = "", []
        try:
            with _long_fields():
                fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise ValueError(f"{path} line {numbers[0]}: a quote is opened and never closed; close it") from None
            problem = f"a quote inside a field must be doubled and the field quoted ({error})"
        number = numbers[0]  # a row may span lines; it is named by the one it begins on
        if not fields and not problem:
            continue
        if not names and not problem:
            if not any(map(str.strip, fields)):
                continue
            names = [name.strip() for name in fields]
            columns = _columns(path, names, wanted)
        elif problem or len(fields) != len(names):
            if not undecodable:
                bad_row(number, problem or f"{len(fields)} fields where the header has {len(names)}")
        elif not undecodable:
            yield _row(number, fields, columns)


def _first_filled(lines: Iterator[Line]) -> tuple[str, Iterator[Line]]:
    """Return the first line that is not blank, and all lines from there on."""
    for number, line in lines:
        if line is None or line.strip():
            return line or "", itertools.chain([(number, line)], lines)
    return "", lines


def _separator_of(header: str, wanted: Mapping[str, str | None]) -> str:
    """Return what separates the fields of a header: the comma, unless only another separator gives the columns asked for."""
    names_by = {separator: next(csv.reader([header], delimiter=separator), []) for separator in SEPARATORS}
    for separator, names in names_by.items():
        given = {name for name in wanted.values() if name is not None}
        stripped = [name.strip() for name in names]
        if len(names) > 1 and (_looks_like_header(stripped) or (given and given <= set(stripped))):
            return separator
    return ","


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let the csv module read fields of any length, and restore its limit afterwards."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _row(number: int, fields: Sequence[str], columns: Mapping[str, int]) -> Row:
    return (
        number,
        fields[columns["text"]],
        fields[columns["label"]],
        fields[columns["weight"]] if "weight" in columns else None,
    )


def json_rows(path: Path, lines: Iterator[Line], wanted: Mapping[str, str | None], bad_row: BadRow) -> Iterator[Row]:
    """Yield the rows of JSON lines; the first one names the keys."""
    chosen: dict[str, str] = {}
    for number, line in _filled(lines):
        try:
            record = json.loads(line, parse_float=str)  # a label is named as it is written
        except json.JSONDecodeError as error:
            bad_row(number, f"it is not JSON ({error.msg} at column {error.colno})")
            continue
        except (ValueError, RecursionError):
            bad_row(number, "it is JSON that cannot be read (nested too deeply, or a number too long)")
            continue
        if not isinstance(record, dict):
            bad_row(number, f"expected a JSON object, got {type(record).__name__}")
            continue
        if not chosen:
            names = list(record)
            chosen = {role: names[index] for role, index in _columns(path, names, wanted).items()}
        missing = [name for name in chosen.values() if name not in record]
        if missing:
            bad_row(number, f"there is no key {missing[0]!r}")
            continue
        yield number, record[chosen["text"]], record[chosen["label"]], record.get(chosen.get("weight", ""))


def parquet_rows(path: Path, file: Reader, wanted: Mapping[str, str | None]) -> Iterator[Row]:
    """Yield the rows of a Parquet file, numbered from 1."""
    import polars as pl

    packed = isinstance(file, BoundedText)
    source = io.BytesIO(b"".join(iter(lambda: file.read(PIECE), b""))) if packed else path
    try:
        lazy = pl.scan_parquet(source)
        rows = lazy.select(pl.len()).collect().item()
        check_unpacked(path, path.stat().st_size, rows * BYTES_OF_A_ROW)
        names = lazy.collect_schema().names()
        columns = _columns(path, names, wanted)
        if isinstance(source, io.BytesIO):
            source.seek(0)
        frame = pl.read_parquet(source, columns=[names[column] for column in columns.values()])
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, OverflowError) as error:
        raise ValueError(f"{path} is not a complete Parquet file; write it again") from error
    of_role = {role: frame[names[column]] for role, column in columns.items()}
    size = sum(int(column.str.len_bytes().sum()) for column in of_role.values() if column.dtype == pl.String)
    check_unpacked(path, path.stat().st_size, size)
    weights: Iterable[object] = of_role.get("weight", [None] * len(frame))
    yield from zip(range(1, len(frame) + 1), of_role["text"], of_role["label"], weights, strict=True)


def _looks_like_header(names: Sequence[str]) -> bool:
    lowered = {name.lower() for name in names}
    return bool(lowered & set(TEXT_NAMES)) and bool(lowered & set(LABEL_NAMES))


def _columns(path: Path, names: Sequence[str], wanted: Mapping[str, str | None]) -> dict[str, int]:
    """Map `text`, `label` and, if asked for, `weight` to positions in `names`."""
    found = {role: _position(path, name, names) for role, name in wanted.items() if name is not None}
    for role, usual in (("text", TEXT_NAMES), ("label", LABEL_NAMES)):
        free = _usual_positions(usual, names) - set(found.values())
        if role not in found and free:
            found[role] = min(free, key=lambda index: usual.index(names[index].lower()))
    for index in found.values():
        if names.count(names[index]) > 1:
            raise ValueError(
                f"{path} has {names.count(names[index])} columns named {names[index]!r}; rename all but one"
            )
    left = [index for index in range(len(names)) if index not in found.values()]
    missing = [role for role in ("text", "label") if role not in found]
    if len(missing) == 1 and len(left) == 1:
        return found | {missing[0]: left[0]}
    if missing:
        row = ", or if that is a row, write a header such as text,label above it" if ".csv" in path.name else ""
        raise ValueError(
            f"{path}: cannot tell which column is the {missing[0]}; it has the columns {', '.join(map(repr, names))}: "
            f"name one, such as {missing[0]}_column={names[left[0] if left else 0]!r}{row}"
        )
    return found


def _position(path: Path, name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise ValueError(
            f"{path} has no column {name!r}{did_you_mean(name, names)}; it has the columns {', '.join(map(repr, names))}"
        )
    return names.index(name)


def _usual_positions(usual: Sequence[str], names: Sequence[str]) -> set[int]:
    lowered = [name.lower() for name in names]
    return {lowered.index(name) for name in usual if name in lowered}
