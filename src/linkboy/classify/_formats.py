"""The forms of labelled files: bytes to lines, lines to rows of text, label and weight."""

import codecs
import csv
import gzip
import io
import itertools
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from linkboy._checks import did_you_mean

TEXT_NAMES = (
    "text",
    "sentence",
    "content",
    "review",
    "comment",
    "query",
    "question",
    "title",
    "文本",
    "内容",
    "句子",
    "评论",
)
LABEL_NAMES = ("label", "class", "category", "target", "intent", "标签", "类别", "分类")

Row = tuple[int, object, object, object]  # line, text, label, weight
Line = tuple[int, str | None]  # number and text; None for a line that could not be decoded
BadRowHandler = Callable[[int, str], None]

PIECE = 2**20
LONGEST_LINE = 2**24
# Text packs to a tenth of its size, seldom to less than a hundredth; a file of one byte repeated packs to a thousandth.
MOST_UNPACKED = 200
UNPACKED_FREELY = 2**25
BYTES_OF_A_ROW = 32  # of a text and a label in memory, their characters not counted


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file of labelled text for reading, unpacked as it is read if it is `.gz`.

    Raises:
        ValueError: inside the block, where the archive is damaged, or unpacks to far more than text can.
    """
    try:
        with path.open("rb") as file:
            if path.suffix.lower() != ".gz":
                yield file
                return
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield cast(BinaryIO, _Bounded(path, file, unpacked))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a complete gzip file ({error}); compress it again") from error


class _Bounded:
    """An archive that is read no further than its packed size can account for."""

    def __init__(self, path: Path, packed: BinaryIO, unpacked: gzip.GzipFile) -> None:
        self._path, self._packed, self._unpacked, self._given = path, packed, unpacked, 0

    def read(self, size: int) -> bytes:
        content = self._unpacked.read(size)
        self._given += len(content)
        check_unpacked(self._path, self._packed.tell(), self._given)
        return content


def check_unpacked(path: Path, packed: int, unpacked: int) -> None:
    """Raise a `ValueError` where so many bytes came of so few that it is no text, but a file made to fill the memory."""
    if unpacked > UNPACKED_FREELY and unpacked > MOST_UNPACKED * packed:
        raise ValueError(
            f"{path} unpacks to more than {MOST_UNPACKED} times its size, which no text does; unpack it by hand if you trust it"
        )


def decoded_lines(path: Path, file: BinaryIO, encoding: str, bad_row: BadRowHandler) -> Iterator[Line]:
    """Yield number and text of each line, blank ones too; a line that cannot be decoded is reported and yields `None`.

    The file is read piece by piece, so it takes the memory of its longest line.

    Raises:
        ValueError: the encoding is unknown or another one, a line is longer than `LONGEST_LINE` bytes, or all are blank.
    """
    try:
        codec = codecs.lookup(encoding).name
        wide = len("\n".encode(codec)) > 1
    except LookupError:
        raise ValueError(
            f"encoding must be one that Python knows, such as 'utf-8' or 'gb18030', got {encoding!r}"
        ) from None
    first, filled = 1, False
    pieces = _recoded(path, file, codec, encoding) if wide else iter(lambda: file.read(PIECE), b"")
    for piece in _whole_lines(path, pieces):
        if first == 1 and piece.startswith((b"\xff\xfe", b"\xfe\xff")) and codec == "utf-8":
            raise ValueError(f"{path} is UTF-16, not UTF-8; pass encoding='utf-16' or save it as UTF-8")
        filled = filled or bool(piece.strip())
        raws = piece.removeprefix(codecs.BOM_UTF8 if first == 1 else b"").split(b"\n")
        yield from _decoded(raws, first, "utf-8" if wide else codec, encoding, bad_row)
        first += len(raws)
    if not filled:
        raise ValueError(f"{path} holds no labelled text; it is empty")


def _recoded(path: Path, file: BinaryIO, codec: str, encoding: str) -> Iterator[bytes]:
    """Yield as UTF-8 what stands in an encoding whose line feed is more than one byte."""
    decoder = codecs.getincrementaldecoder(codec)()
    try:
        while piece := file.read(PIECE):
            yield decoder.decode(piece).encode("utf-8", "surrogatepass")
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError:
        raise ValueError(f"{path} is not {encoding}; pass the encoding it was saved in") from None


def _whole_lines(path: Path, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield one or more whole lines at a time, without the line feed of the last one."""
    kept: list[bytes] = []
    separator = b""
    length = 0
    for piece in pieces:
        # Files of old Macs end their lines with a carriage return alone.
        separator = separator or (b"\r" if b"\r" in piece and b"\n" not in piece else b"\n")
        if separator == b"\r":
            piece = piece.replace(b"\r", b"\n")
        whole, feed, rest = piece.rpartition(b"\n")
        if feed:
            yield b"".join([*kept, whole])
            kept, length = [], 0
        kept.append(rest)
        length += len(rest)
        if length > LONGEST_LINE:
            raise ValueError(
                f"{path} has a line of more than {LONGEST_LINE >> 20} MiB, so it is not a file with one text per line; check it"
            )
    if length:
        yield b"".join(kept)


def _decoded(raws: Sequence[bytes], first: int, codec: str, encoding: str, bad_row: BadRowHandler) -> Iterator[Line]:
    for number, raw in enumerate(raws, first):
        try:
            line = raw.decode(codec)
        except UnicodeDecodeError as error:
            bad_row(
                number, f"byte {error.start + 1} is not {encoding.upper()} (0x{raw[error.start]:02x}){_in_chinese(raw)}"
            )
            yield number, None
        else:
            yield number, line.removesuffix("\r")


def _in_chinese(raw: bytes) -> str:
    """Show what a line says as Chinese spreadsheets save it; GB 2312 because the larger GB 18030 makes Chinese of Latin-1."""
    try:
        return f", but the line reads {raw.decode('gb2312').strip()[:20]!r} with encoding='gb18030'"
    except UnicodeDecodeError:
        return ""


def _filled(lines: Iterable[Line]) -> Iterator[tuple[int, str]]:
    """Leave out lines that are blank or could not be decoded."""
    return ((number, line) for number, line in lines if line is not None and line.strip())


def tsv_rows(
    path: Path, lines: Iterator[Line], wanted: Mapping[str, str | None], bad_row: BadRowHandler
) -> Iterator[Row]:
    """Yield the rows of a tab-separated file, with a header or as `text<TAB>label`; a row is one line."""
    filled = _filled(lines)
    first = next(filled, None)
    if first is None:
        return
    names = [name.strip() for name in first[1].split("\t")]
    if not any(wanted.values()) and not _looks_like_header(names):
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


def csv_rows(
    path: Path, lines: Iterator[Line], wanted: Mapping[str, str | None], bad_row: BadRowHandler
) -> Iterator[Row]:
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
    reader = csv.reader(fed(), strict=True)
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


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let the csv module read fields of any length, and leave its limit as it was."""
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


def json_rows(
    path: Path, lines: Iterator[Line], wanted: Mapping[str, str | None], bad_row: BadRowHandler
) -> Iterator[Row]:
    """Yield the rows of JSON lines; the first one names the keys."""
    chosen: dict[str, str] = {}
    for number, line in _filled(lines):
        try:
            record = json.loads(line)
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


def parquet_rows(path: Path, file: BinaryIO, wanted: Mapping[str, str | None]) -> Iterator[Row]:
    """Yield the rows of a Parquet file, numbered from 1."""
    import polars as pl

    packed = path.suffix.lower() == ".gz"
    source = io.BytesIO(b"".join(iter(lambda: file.read(PIECE), b""))) if packed else path
    try:
        lazy = pl.scan_parquet(source)
        rows = lazy.select(pl.len()).collect().item()
        check_unpacked(path, path.stat().st_size, rows * BYTES_OF_A_ROW)
        names = lazy.collect_schema().names()
        columns = _columns(path, names, wanted)
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
    found: dict[str, int] = {}
    for role, name in wanted.items():
        if name is None:
            continue
        if name not in names:
            raise ValueError(
                f"{path} has no column {name!r}{did_you_mean(name, names)}; it has the columns {', '.join(map(repr, names))}"
            )
        found[role] = names.index(name)
    lowered = [name.lower() for name in names]
    for role, usual in (("text", TEXT_NAMES), ("label", LABEL_NAMES)):
        candidates = [lowered.index(name) for name in usual if name in lowered]
        free = [index for index in candidates if index not in found.values()]
        if role not in found and free:
            found[role] = free[0]
    left = [index for index in range(len(names)) if index not in found.values()]
    missing = [role for role in ("text", "label") if role not in found]
    repeated = [names[index] for index in found.values() if names.count(names[index]) > 1]
    if repeated:
        raise ValueError(f"{path} has {names.count(repeated[0])} columns named {repeated[0]!r}; rename all but one")
    if len(missing) == 1 and len(left) == 1:
        found[missing[0]] = left[0]
        missing = []
    if missing:
        raise ValueError(
            f"{path}: cannot tell which column is the {missing[0]}; it has the columns {', '.join(map(repr, names))}: "
            f"name one, such as {missing[0]}_column={names[left[0] if left else 0]!r}"
            + (", or if that is a row, write a header such as text,label above it" if ".csv" in path.name else "")
        )
    return found
