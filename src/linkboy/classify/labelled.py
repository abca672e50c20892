"""Read labelled text: TSV without a header, CSV and TSV with one, JSON lines and Parquet, each also as `.gz`."""

import dataclasses
import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from linkboy._checks import check_choice, did_you_mean
from linkboy._report import Block, Printable, Table, format_count
from linkboy.classify._formats import (
    BadRow,
    Row,
    csv_rows,
    json_rows,
    opened,
    parquet_rows,
    text_lines,
    tsv_rows,
)

MANY = 100_000  # rows
SUFFIXES = (".txt", ".tsv", ".csv", ".jsonl", ".ndjson", ".parquet")


@dataclasses.dataclass(frozen=True)
class SkippedRow:
    """A row that could not be read.

    Attributes:
        line: the line it begins on, from 1; for Parquet, its row.
        reason: why it could not be read.
    """

    line: int
    reason: str


@dataclasses.dataclass(frozen=True)
class LabelledTexts(Printable):
    """Texts with their labels, as read.

    Attributes:
        source: the file, or a description of where the rows come from.
        texts: one text per row.
        labels: one label per row, as written.
        lines: the line of the file on which each row begins, from 1; for Parquet, the number of the row.
        weights: one non-negative number per row, or `None`.
        skipped: the rows that were left out with `on_bad_row="skip"`.

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
    skipped: Sequence[SkippedRow] = ()

    def __post_init__(self) -> None:
        columns = {"labels": self.labels, "lines": self.lines, "weights": self.weights}
        for name, column in columns.items():
            if column is not None and len(column) != len(self.texts):
                raise ValueError(
                    f"{name} must have one entry for each text, got {len(column)} for {len(self.texts)} texts"
                )
        for name, column in (("texts", self.texts), ("labels", self.labels)):
            wrong = next((value for value in column if not isinstance(value, str)), None)
            if wrong is not None:
                raise TypeError(f"{name} must be strings, got {wrong!r} of type {type(wrong).__name__}")

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int]) -> "LabelledTexts":
        """Return the rows of the given positions, in that order; rows that were skipped in reading are not repeated."""
        return dataclasses.replace(
            self,
            texts=[self.texts[row] for row in rows],
            labels=[self.labels[row] for row in rows],
            lines=array("q", (self.lines[row] for row in rows))
            if len(rows) > MANY
            else [self.lines[row] for row in rows],
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
    on_bad_row: Literal["raise", "skip"] = "raise",
    encoding: str = "utf-8",
) -> LabelledTexts:
    """Read a file of labelled texts.

    The form follows from the name: `.csv` (with a header), `.tsv` and `.txt` (with a header if the first line names a
    text and a label column, or if a column is asked for; else `text<TAB>label`, cut at the last tab), `.jsonl` /
    `.ndjson`, `.parquet`; each also with `.gz` behind it. A byte order mark and CRLF are taken away. Only a line feed
    ends a line, so other line separators may occur inside a text.

    Args:
        path: the file.
        text_column: name of the column that holds the text; by default the one with a usual name (`text`, `review`,
            `文本`, ...), or in a file of two columns the one that is not the label.
        label_column: name of the column that holds the label; found in the same way.
        weight_column: name of a column that holds a non-negative weight for each row; none by default.
        on_bad_row: whether to stop at the first row that cannot be read, or to leave it out and record it.
        encoding: the encoding of text files, for instance `"gb18030"`.

    Returns:
        The rows in the order of the file.

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
        raise FileNotFoundError(f"there is no file {path}{near or '; check the path'}")
    suffix = Path(path.stem).suffix if path.suffix.lower() == ".gz" else path.suffix
    suffix = suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f"cannot tell the form of {path} from its name; it must end in one of {SUFFIXES}, also with .gz"
        )
    skipped: list[SkippedRow] = []

    def bad_row(line: int, reason: str) -> None:
        if on_bad_row == "raise":
            raise ValueError(f"{path} line {line}: {reason}; correct the line or pass on_bad_row='skip'")
        skipped.append(SkippedRow(line, reason))

    wanted = {"text": text_column, "label": label_column, "weight": weight_column}
    with opened(path) as file:
        if suffix == ".parquet":
            rows = parquet_rows(path, file, wanted)
        else:
            lines = text_lines(path, file, encoding, bad_row)
            read_rows = {".csv": csv_rows, ".jsonl": json_rows, ".ndjson": json_rows}.get(suffix, tsv_rows)
            rows = read_rows(path, lines, wanted, bad_row)
        return _collect(path, rows, weight_column, skipped, bad_row)


def _collect(
    path: Path, rows: Iterable[Row], weight_column: str | None, skipped: list[SkippedRow], bad_row: BadRow
) -> LabelledTexts:
    texts: list[str] = []
    labels: list[str] = []
    weights: list[float] = []
    lines = array("q")  # plain integers: as objects they would take as much memory as the texts
    names: dict[str, str] = {}  # each label once, not once per row
    for line, raw_text, raw_label, raw_weight in rows:
        text, label = _as_string(raw_text), _as_string(raw_label)
        problem = _problem("text", text, raw_text) or _problem("label", label, raw_label)
        if problem:
            bad_row(line, problem)
            continue
        if weight_column is not None:
            weight = _weight_value(raw_weight)
            if weight is None:
                bad_row(line, f"the weight must be a number of at least 0, got {raw_weight!r}")
                continue
            weights.append(weight)
        texts.append(text)
        labels.append(names.setdefault(label, label))
        lines.append(line)
    if not texts and skipped:
        raise ValueError(
            f"{path} holds no labelled text: all {len(skipped)} rows were skipped, the first (line {skipped[0].line}) since "
            f"{skipped[0].reason}"
        )
    if not texts:
        raise ValueError(f"{path} holds no labelled text; it has a header and no rows")
    return LabelledTexts(
        source=str(path),
        texts=texts,
        labels=labels,
        lines=lines if len(lines) > MANY else lines.tolist(),
        weights=weights if weight_column is not None else None,
        skipped=tuple(sorted(skipped, key=lambda row: row.line)),
    )


def _as_string(raw: object) -> str:
    """Return a cell as text: words as they are, numbers and truth values as they are written, nothing else."""
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, float) and raw.is_integer():
        raw = int(raw)  # a column of integers with a gap is read as floats
    if isinstance(raw, str):
        return raw.strip()
    return str(raw) if isinstance(raw, int) or (isinstance(raw, float) and math.isfinite(raw)) else ""


def _problem(role: str, value: str, raw: object) -> str:
    if not value:
        wrong_type = not (raw is None or isinstance(raw, (str, float)))
        return (
            f"the {role} must be text or a number, got {type(raw).__name__}" if wrong_type else f"the {role} is empty"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        return f"the {role} holds half of a surrogate pair, which no file can store"
    return ""


def _weight_value(raw: object) -> float | None:
    try:
        weight = float(raw)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return weight if math.isfinite(weight) and weight >= 0 else None
