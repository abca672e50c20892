"""Read labelled text: TSV without a header, CSV and TSV with one, JSON lines and Parquet, each also as `.gz`."""

import csv
import dataclasses
import gzip
import io
import itertools
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from linkboy._checks import check_choice, did_you_mean
from linkboy._report import Block, Report, Table, format_count

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
SUFFIXES = (".txt", ".tsv", ".csv", ".jsonl", ".ndjson", ".parquet")


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that could not be read: its line in the file (its row for Parquet), and why."""

    line: int
    reason: str


@dataclasses.dataclass(frozen=True)
class LabelledTexts(Report):
    """Texts with their labels, as read.

    Args:
        source: the file, or what takes its place.
        texts: one text per row.
        labels: one label per row, as written.
        lines: where each row stands in the file, from 1 (the row number for Parquet).
        weights: one non-negative number per row, or `None`.
        skipped: the rows left out with `on_bad_row="skip"`.

    Examples:
        >>> import linkboy as lb
        >>> data = lb.LabelledTexts("by hand", texts=["很好", "很差"], labels=["good", "bad"], lines=[1, 2])
        >>> print(data)
        by hand: 2 rows, 2 labels
        >>> data.take([1]).texts
        ['很差']
    """

    source: str
    texts: Sequence[str]
    labels: Sequence[str]
    lines: Sequence[int]
    weights: Sequence[float] | None = None
    skipped: Sequence[BadRow] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int]) -> "LabelledTexts":
        """Return the rows of the given positions, in that order; rows that were skipped in reading are not repeated."""
        return dataclasses.replace(
            self,
            texts=[self.texts[row] for row in rows],
            labels=[self.labels[row] for row in rows],
            lines=[self.lines[row] for row in rows],
            weights=None if self.weights is None else [self.weights[row] for row in rows],
            skipped=(),
        )

    def _blocks(self) -> Iterator[Block]:
        yield f"{self.source}: {format_count(len(self))} rows, {len(set(self.labels))} labels"
        yield from self.skipped_blocks()

    def skipped_blocks(self) -> Iterator[Block]:
        """Yield a table of the first rows that were skipped, and how many more there are."""
        if self.skipped:
            shown = [(row.line, row.reason) for row in self.skipped[:10]]
            more = len(self.skipped) - len(shown)
            yield Table(("line", "why it was skipped"), shown, f"{format_count(len(self.skipped))} rows skipped")
            if more:
                yield f"and {format_count(more)} more"


def read_labelled(
    path: str | Path,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    weight_column: str | None = None,
    on_bad_row: str = "raise",
    encoding: str = "utf-8",
) -> LabelledTexts:
    """Read a file of labelled texts.

    The form follows from the name: `.csv` (with a header), `.tsv` and `.txt` (with a header if the first line names a
    text and a label column, or if a column is asked for; else `text<TAB>label`, cut at the last tab), `.jsonl` /
    `.ndjson`, `.parquet`; each also with `.gz` behind it. A byte order mark and CRLF are taken away. Only a line feed
    ends a line, so other line separators may stand inside a text.

    Args:
        path: the file.
        text_column: name of the column with the text; by default the one of a usual name (`text`, `review`, `文本`, ...),
            or in a file of two columns the one that is not the label.
        label_column: name of the column with the label; found in the same way.
        weight_column: name of a column of non-negative weights; none by default.
        on_bad_row: `"raise"` stops at the first row that cannot be used, `"skip"` leaves it out and records it.
        encoding: of text files, e.g. `"gb18030"`.

    Raises:
        FileNotFoundError: there is no such file.
        IsADirectoryError: the path is a directory.
        ValueError: the file is empty or damaged, a column is missing, or a row is bad and `on_bad_row="raise"`.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "reviews.tsv"
        >>> _ = path.write_text("房间很干净\\t好评\\n服务太差\\t差评\\n", "utf-8")
        >>> data = read_labelled(path)
        >>> data.texts, data.labels
        (['房间很干净', '服务太差'], ['好评', '差评'])
    """
    check_choice("on_bad_row", on_bad_row, ("raise", "skip"))
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; name the file with the labelled texts in it")
    if not path.exists():
        near = did_you_mean(path.name, [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else [])
        raise FileNotFoundError(f"there is no file {path}{near}")
    suffix = Path(path.stem).suffix if path.suffix.lower() == ".gz" else path.suffix
    suffix = suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f"cannot tell the form of {path} from its name; it must end in one of {SUFFIXES}, also with .gz"
        )
    content = _read_bytes(path)
    skipped: list[BadRow] = []

    def bad_row(line: int, reason: str) -> None:
        if on_bad_row == "raise":
            raise ValueError(f"{path} line {line}: {reason}; mend the line or pass --on-bad-row skip")
        skipped.append(BadRow(line, reason))

    wanted = {"text": text_column, "label": label_column, "weight": weight_column}
    rows: Iterable[_Row]
    if suffix == ".parquet":
        rows = _parquet_rows(path, content, wanted)
    else:
        lines = _decoded_lines(path, content, encoding, bad_row)
        if suffix in (".jsonl", ".ndjson"):
            rows = _json_rows(path, lines, wanted, bad_row)
        else:
            rows = _delimited_rows(path, lines, "," if suffix == ".csv" else "\t", wanted, bad_row)
    return _collect(path, rows, weight_column, skipped, bad_row)


_Row = tuple[int, object, object, object]  # line, text, label, weight
_BadRow = Callable[[int, str], None]


def _collect(
    path: Path, rows: Iterable[_Row], weight_column: str | None, skipped: list[BadRow], bad_row: _BadRow
) -> LabelledTexts:
    texts: list[str] = []
    labels: list[str] = []
    weights: list[float] = []
    lines: list[int] = []
    for line, raw_text, raw_label, raw_weight in rows:
        text = "" if raw_text is None else str(raw_text).strip()
        label = _label_name(raw_label)
        if not text or not label:
            bad_row(line, f"the {'label' if text else 'text'} is empty")
            continue
        if weight_column is not None:
            weight = _weight_value(raw_weight)
            if weight is None:
                bad_row(line, f"the weight must be a number of at least 0, got {raw_weight!r}")
                continue
            weights.append(weight)
        texts.append(text)
        labels.append(label)
        lines.append(line)
    if not texts:
        raise ValueError(
            f"{path} holds no labelled text"
            + (
                f": all {len(skipped)} rows were skipped, the first (line {skipped[0].line}) since {skipped[0].reason}"
                if skipped
                else "; it is empty"
            )
        )
    return LabelledTexts(
        source=str(path),
        texts=texts,
        labels=labels,
        lines=lines,
        weights=weights if weight_column is not None else None,
        skipped=tuple(sorted(skipped, key=lambda row: row.line)),
    )


def _label_name(raw: object) -> str:
    if raw is None:
        return ""
    if isinstance(raw, float) and raw.is_integer():
        raw = int(raw)  # a column of integers with a gap is read as floats
    return str(raw).strip()


def _weight_value(raw: object) -> float | None:
    try:
        weight = float(raw)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return weight if math.isfinite(weight) and weight >= 0 else None


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".gz":
            content = gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is no whole gzip file ({error}); compress it anew") from error
    if not content.strip():
        raise ValueError(f"{path} holds no labelled text; it is empty")
    return content


def _decoded_lines(path: Path, content: bytes, encoding: str, bad_row: _BadRow) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line that is not blank."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) and encoding.lower().replace("_", "-") == "utf-8":
        raise ValueError(f"{path} is UTF-16, not UTF-8; pass --encoding utf-16 or save it as UTF-8")
    try:
        text = content.decode(encoding)
    except LookupError:
        raise ValueError(
            f"encoding must be one that Python knows, such as 'utf-8' or 'gb18030', got {encoding!r}"
        ) from None
    except UnicodeDecodeError:
        pass
    else:
        for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
            if line.strip():
                yield number, line.removesuffix("\r")
        return
    if encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32")):
        raise ValueError(f"{path} is not {encoding}; pass the encoding it was saved in")
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            line = raw.decode(encoding)
        except UnicodeDecodeError as error:
            bad_row(number, f"byte {error.start + 1} is not {encoding.upper()} (0x{raw[error.start]:02x})")
            continue
        if line.strip():
            yield number, line.removesuffix("\r")


def _delimited_rows(
    path: Path, lines: Iterator[tuple[int, str]], delimiter: str, wanted: Mapping[str, str | None], bad_row: _BadRow
) -> Iterator[_Row]:
    first = next(lines, None)
    if first is None:
        return
    names = [name.strip() for name in next(csv.reader([first[1]], delimiter=delimiter))]
    if delimiter == "\t" and not any(wanted.values()) and not _looks_like_header(names):
        for number, line in itertools.chain([first], lines):
            text, tab, label = line.rpartition("\t")
            if tab:
                yield number, text, label, None
            else:
                bad_row(number, "there is no tab between text and label")
        return
    columns = _columns(path, names, wanted)
    yield from _quoted_rows(lines, delimiter, names, columns, bad_row)


def _quoted_rows(
    lines: Iterator[tuple[int, str]], delimiter: str, names: list[str], columns: Mapping[str, int], bad_row: _BadRow
) -> Iterator[_Row]:
    numbers: list[int] = []

    def fed() -> Iterator[str]:
        for number, line in lines:
            numbers.append(number)
            yield line + "\n"

    # A row may span lines (quoted line breaks); it is named by the line it begins on.
    for fields in csv.reader(fed(), delimiter=delimiter):
        number, numbers[:] = numbers[0], []
        if len(fields) != len(names):
            bad_row(number, f"{len(fields)} fields where the header has {len(names)}")
            continue
        yield (
            number,
            fields[columns["text"]],
            fields[columns["label"]],
            fields[columns["weight"]] if "weight" in columns else None,
        )


def _json_rows(
    path: Path, lines: Iterator[tuple[int, str]], wanted: Mapping[str, str | None], bad_row: _BadRow
) -> Iterator[_Row]:
    names: list[str] | None = None
    chosen: dict[str, str] = {}
    for number, line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            bad_row(number, f"no JSON ({error.msg} at column {error.colno})")
            continue
        if not isinstance(record, dict):
            bad_row(number, f"a JSON object is due, got {type(record).__name__}")
            continue
        if names is None:
            names = list(record)
            chosen = {role: names[index] for role, index in _columns(path, names, wanted).items()}
        missing = [name for name in chosen.values() if name not in record]
        if missing:
            bad_row(number, f"there is no key {missing[0]!r}")
            continue
        yield number, record[chosen["text"]], record[chosen["label"]], record.get(chosen.get("weight", ""))


def _parquet_rows(path: Path, content: bytes, wanted: Mapping[str, str | None]) -> Iterator[_Row]:
    import polars as pl

    try:
        frame = pl.read_parquet(io.BytesIO(content))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(f"{path} is no whole Parquet file; write it anew") from error
    columns = _columns(path, frame.columns, wanted)
    weight = frame.columns[columns["weight"]] if "weight" in columns else None
    texts, labels = frame[frame.columns[columns["text"]]], frame[frame.columns[columns["label"]]]
    weights: Iterable[object] = frame[weight] if weight is not None else [None] * len(frame)
    yield from zip(range(1, len(frame) + 1), texts, labels, weights, strict=True)


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
    if len(missing) == 1 and len(left) == 1:
        found[missing[0]] = left[0]
        missing = []
    if missing:
        raise ValueError(
            f"{path}: cannot tell which column is the {missing[0]}; it has the columns {', '.join(map(repr, names))}: "
            f"name one with --{missing[0]}-column"
        )
    return found
