"""Read labelled texts from the files that people have: delimited text, JSON, Parquet, Excel, fastText, packed or not."""

import dataclasses
import math
import os
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from linkboy._checks import check_choice, check_flag, did_you_mean
from linkboy._files import local_path
from linkboy._report import Block, Printable, Table, format_count, listed, plural
from linkboy.classify.reading._columns import FIELD, ColumnName, Roles, join_columns, wanted_columns
from linkboy.classify.reading._content import opened
from linkboy.classify.reading._dialect import label_separator_of, separator_of
from linkboy.classify.reading._findings import (
    duplicate_findings,
    encoding_finding,
    label_findings,
    repeated_header_finding,
    spellings,
    text_findings,
)
from linkboy.classify.reading._folders import table_of_folders
from linkboy.classify.reading._frames import ACCEPTED, is_frame, is_pair, table_in_memory
from linkboy.classify.reading._json import MISSING
from linkboy.classify.reading._label_cells import Label, LabelCells, cell_problem
from linkboy.classify.reading._sentences import say
from linkboy.classify.reading._tables import BadRow, Reading, TextTable, table_of

MANY = 100_000  # rows
_SHOWN = 60  # characters of a text in the sentence about the first row


@dataclasses.dataclass(frozen=True)
class SkippedRow:
    """A row that could not be read.

    Attributes:
        line: the line it begins on, from 1; for Parquet, its row; for a directory, its file.
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
        labels: one label per row, as written; or, where a text may have several, a tuple of labels per row, which may be
            empty.
        lines: the line of the file on which each row begins, from 1; for Parquet, the number of the row; for a directory, that
            of the file.
        weights: one non-negative number per row, or `None`.
        skipped: the rows that were left out with `on_bad_row="skip"`.
        text_columns: names of the columns that the texts were read from; empty where they have none.
        label_columns: names of the columns that the labels were read from; empty where they have none.
        notes: what was taken from the file, its first row as read, and what is odd about labels and texts.

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
    labels: Sequence[Any]
    lines: Sequence[int]
    weights: Sequence[float] | None = None
    skipped: Sequence[SkippedRow] = ()
    text_columns: tuple[str, ...] = ()
    label_columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        columns = {"labels": self.labels, "lines": self.lines, "weights": self.weights}
        for name, column in columns.items():
            if column is not None and len(column) != len(self.texts):
                raise ValueError(
                    f"{name} must have one entry for each text, got {len(column)} for {plural(len(self.texts), 'text')}"
                )
        wrong = next((text for text in self.texts if not isinstance(text, str)), None)
        if wrong is not None:
            raise TypeError(f"texts must be strings, got {wrong!r} of type {type(wrong).__name__}")
        self._check_labels()

    def _check_labels(self) -> None:
        several = self.several
        wrong = next((label for label in self.labels if not _is_label(label, several=several)), None)
        if wrong is None:
            return
        expected = "a tuple of strings for each text, as the first row has" if several else "strings"
        hint = (
            ""
            if several or not isinstance(wrong, (list, tuple, set))
            else "; where a text may have several, pass a tuple"
        )
        raise TypeError(f"labels must be {expected}, got {wrong!r} of type {type(wrong).__name__}{hint}")

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def several(self) -> bool:
        """Whether a text may have any number of labels."""
        return len(self.labels) > 0 and isinstance(self.labels[0], tuple)

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
        yield from self.reading_blocks()
        yield "\n".join(duplicate_findings(self.texts, self.labels))
        yield from self.skipped_blocks()

    def reading_blocks(self) -> Iterator[Block]:
        """Yield where the rows come from, what was taken, and what is odd about it."""
        counts = f"{plural(len(self), 'row')}, {plural(len(label_counts(self.labels)), 'label')}"
        yield "\n".join((f"{self.source}: {self.notes[0] if self.notes else counts}", *self.notes[1:]))

    def skipped_blocks(self) -> Iterator[Block]:
        """Yield a table of the first rows that were skipped, and how many more there are."""
        if self.skipped:
            shown = [(row.line, row.reason) for row in self.skipped[:10]]
            more = len(self.skipped) - len(shown)
            yield Table(
                ("line", "why it was skipped"), shown, f"{plural(len(self.skipped), 'row')} skipped", sentences=1
            )
            if more:
                yield f"and {format_count(more)} more"


def read_labelled(
    path: Any,
    *,
    text_column: ColumnName | Sequence[ColumnName] | None = None,
    label_column: ColumnName | Sequence[ColumnName] | None = None,
    label_separator: str | None = None,
    weight_column: ColumnName | None = None,
    separator: str | None = None,
    header: bool | None = None,
    label_map: Mapping[str, str] | None = None,
    on_bad_row: Literal["raise", "skip"] = "raise",
    encoding: str | None = None,
) -> LabelledTexts:
    """Read labelled texts: a file, a data frame, or texts and labels.

    The content says what a file is: text separated by commas, tabs, semicolons or `|`, with or without a header; JSON
    (an array, or an object per line); Parquet; an Excel workbook; fastText's `__label__x text`; each also packed by gzip,
    bz2, xz, zstd, or alone in a zip. The first rows show separator, header and columns. Where they can be read in two ways,
    the message lists both and the argument that chooses. `print` of the result says what was taken.

    Columns are found by usual names (`text`, `review`, `文本`; `label`, `stars`, `标签`), then by what is in them. Two
    columns separated by a tab without a header are `text<TAB>label`, cut at the last tab, unless the first one is plainly
    the label. A byte order mark and CRLF are taken away. Only a line feed ends a line, so other line separators may occur
    inside a text.

    A directory with a folder for each class, and a text in each file, is read in the order of the names.

    A text may have any number of labels, none too: separated by `label_separator`, as lists (of JSON and Parquet, or written
    in a cell as `['a', 'b']`), as several `__label__` of fastText, or in columns of 0 and 1.

    Args:
        path: the file, or the directory; or a polars or pandas frame; or a tuple of texts and labels, two sequences of equal
            length.
        text_column: the column that holds the text, by name or by number from 0; in JSON a dotted name for a value inside
            an object. Several, as a list or as `"title,body"`, are joined, and models tell them apart.
        label_column: the column that holds the label. Several, as a list or as `"toxic,insult"`, hold 0 or 1 each, and a
            text may have several labels: the names of the columns with a 1.
        label_separator: what stands between labels, where a text may have several, for instance `"|"`; a word such as
            `"comma"` as for `separator`.
        weight_column: a column that holds a non-negative weight for each row; none by default.
        separator: what stands between fields: a character, or `"tab"`, `"comma"`, `"semicolon"`, `"pipe"`.
        header: whether the first row names the columns.
        label_map: new names of labels; others keep theirs.
        on_bad_row: whether to stop at the first row that cannot be read, or to leave it out and record it.
        encoding: the encoding of text files, for instance `"gb18030"`; by default that of a byte order mark, or UTF-8.

    Returns:
        The rows in the order of the file.

    Raises:
        FileNotFoundError: there is no such file.
        IsADirectoryError: the path is a directory without folders.
        ModuleNotFoundError: a workbook or a file packed by zstd needs a package that is not installed.
        TypeError: an argument has the wrong type.
        ValueError: the file is empty or damaged or can be read in two ways, a column is missing, or a row is bad and
            `on_bad_row="raise"`.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "reviews.tsv"
        >>> _ = path.write_text("房间很干净\\t好评\\n服务太差\\t差评\\n", "utf-8")
        >>> data = read_labelled(path)
        >>> data.texts, data.labels
        (['房间很干净', '服务太差'], ['好评', '差评'])
        >>> print(data.notes[0])
        text from column 0, label from column 1 (2 classes), 2 rows; tab, no header (columns count from 0), UTF-8
    """
    if header is not None:
        check_flag("header", header)
    wanted = wanted_columns(text_column, label_column, weight_column)
    asked = Reading(wanted, encoding, separator_of(separator), header, label_separator_of(label_separator))
    return read_rows(path, asked, label_map=label_map, on_bad_row=on_bad_row)


def labelled_of(
    name: str, value: object, *, known: Sequence[str] = (), known_label: Sequence[str] = ()
) -> LabelledTexts:
    """Return what was given as labelled texts, whatever form it has.

    Args:
        name: of the argument, for the message.
        value: labelled texts, or what `read_labelled` takes.
        known: columns of the text that a classifier was trained on.
        known_label: columns of the label that it was trained on.

    Raises:
        TypeError: it is something else.
        ValueError: it is bad or can be read in two ways.
    """
    if isinstance(value, LabelledTexts):
        return dataclasses.replace(value, texts=[text.strip() for text in value.texts])  # as texts of files are read
    if not (isinstance(value, (str, os.PathLike)) or is_frame(value) or is_pair(value)):
        raise TypeError(f"{name} must be {ACCEPTED}, got {type(value).__name__}; see read_labelled")
    return read_rows(value, Reading(wanted_columns(None, None, None, known=known, known_label=known_label)))


def read_rows(
    path: Any,
    asked: Reading,
    *,
    label_map: Mapping[str, str] | None = None,
    on_bad_row: Literal["raise", "skip"] = "raise",
) -> LabelledTexts:
    """Read a file of labelled texts as `read_labelled` does; its arguments are checked."""
    check_choice("on_bad_row", on_bad_row, ("raise", "skip"))
    renamed = _checked_map(label_map)
    skipped: list[SkippedRow] = []
    if is_frame(path) or is_pair(path):
        table = table_in_memory(path, asked)
        bad_row = bad_row_of(table.path, on_bad_row, skipped)
        return _read(table, asked, renamed, skipped, bad_row)
    path = existing_file(path, or_directory=True)
    if path.is_dir():
        bad_row = bad_row_of(path, on_bad_row, skipped, unit="file")
        return _read(table_of_folders(path, asked, bad_row), asked, renamed, skipped, bad_row)
    bad_row = bad_row_of(path, on_bad_row, skipped)
    with opened(path) as content:
        return _read(table_of(content, asked, bad_row), asked, renamed, skipped, bad_row)


def _read(
    table: TextTable, asked: Reading, renamed: Mapping[str, str], skipped: list[SkippedRow], bad_row: BadRow
) -> LabelledTexts:
    roles = table.roles(asked.wanted)
    cells = LabelCells(table, roles, asked.label_separator, as_string)
    return _collect(table, roles, cells, renamed, skipped, bad_row, asked.encoding or "utf-8")


def existing_file(path: object, *, or_directory: bool = False) -> Path:
    """Return a path that names a file.

    Args:
        path: what was given.
        or_directory: whether it may be a directory.

    Raises:
        TypeError: it is no path at all.
        FileNotFoundError: there is no such file; the message names one of nearly that name.
        IsADirectoryError: it is a directory.
        ValueError: it is an address of the web.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f"path must be the path of a file, a polars or pandas frame, or (texts, labels), got {path!r:.60}"
        )
    path = local_path("path", path)
    if path.is_dir() and not or_directory:
        raise IsADirectoryError(f"{path} is a directory; name the file with the labelled texts in it")
    if not path.exists():
        near = did_you_mean(path.name, [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else [])
        raise FileNotFoundError(f"there is no file {path}{near or '; check the path'}")
    return path


def bad_row_of(
    path: Path, on_bad_row: Literal["raise", "skip"], skipped: list[SkippedRow], *, unit: str = "line"
) -> BadRow:
    """Return what is called for a row that cannot be read: it raises, or records the row; a row is a line, or a file."""

    def bad_row(line: int, reason: str) -> None:
        if on_bad_row == "raise":
            raise ValueError(f"{path} {unit} {line}: {reason}; correct the {unit} or pass on_bad_row='skip'")
        skipped.append(SkippedRow(line, reason))

    return bad_row


def _checked_map(label_map: Mapping[str, str] | None) -> dict[str, str]:
    if label_map is None:
        return {}
    if not isinstance(label_map, Mapping):
        raise TypeError(f"label_map must be a mapping of labels to names, got {type(label_map).__name__}")
    renamed = {str(label).strip(): name for label, name in label_map.items()}
    wrong = next((name for name in renamed.values() if not isinstance(name, str) or not name.strip()), None)
    if wrong is not None:
        raise ValueError(f"label_map must give names that are not empty, got {wrong!r}")
    return {label: name.strip() for label, name in renamed.items()}


def text_getter(table: TextTable, places: Sequence[int]) -> Callable[[Any], object]:
    """Return a function that takes the text out of a record; several columns are joined by `FIELD`."""
    getters = [table.getter(place) for place in places]
    if len(getters) == 1:
        return getters[0]

    def joined(record: Any) -> object:
        raw = [get(record) for get in getters]
        wrong = next(
            (value for value in raw if value is MISSING or cell_problem("text", as_string(value) or "-", value)), None
        )
        if wrong is not None:
            return wrong
        return join_columns([as_string(value) for value in raw])

    return joined


def _collect(
    table: TextTable,
    roles: Roles,
    cells: LabelCells,
    renamed: Mapping[str, str],
    skipped: list[SkippedRow],
    bad_row: BadRow,
    encoding: str,
) -> LabelledTexts:
    texts: list[str] = []
    labels: list[Label] = []
    weights: list[float] = []
    lines = array("q")  # plain integers: as objects they would take as much memory as the texts
    names: dict[Label, Label] = {}  # each label once, not once per row
    text_of, label_of = text_getter(table, roles.text), cells.read
    weight_of = None if roles.weight is None else table.getter(roles.weight)
    header, headers = _header_cells(table, roles), list[int]()
    for line, record in table.records:
        raw_text = text_of(record)
        text = as_string(raw_text)
        label, wrong_label = label_of(record)
        if label == header[1] and text == header[0]:
            headers.append(line)
            continue
        problem = cell_problem("text", text, raw_text) or wrong_label
        if problem:
            missing = [
                table.names[place] for place in (*roles.text, *roles.label) if table.getter(place)(record) is MISSING
            ]
            bad_row(line, f"there is no key {missing[0]!r}" if missing else problem)
            continue
        if weight_of is not None:
            weight = _weight_in(weight_of(record), line, bad_row)
            if weight is None:
                continue
            weights.append(weight)
        texts.append(text)
        labels.append(names[label] if label in names else names.setdefault(label, _renamed(label, renamed)))
        lines.append(line)
    if not texts:
        raise _nothing_read(table, skipped)
    counts, labels, joined = _one_spelling(labels)
    notes = [*_what_was_taken(table, roles, cells, texts, labels, counts), *_map_notes(renamed, label_counts(names))]
    notes += [*joined, *roles.notes, *repeated_header_finding(headers)]
    notes += [*label_findings(counts), *cells.findings(labels, counts), *text_findings(texts, labels)]
    notes += encoding_finding([row.reason for row in skipped], encoding)
    return LabelledTexts(
        source=str(table.path),
        texts=texts,
        labels=labels,
        lines=lines if len(lines) > MANY else lines.tolist(),
        weights=weights if roles.weight is not None else None,
        skipped=tuple(sorted(skipped, key=lambda row: row.line)),
        text_columns=tuple(table.names[place] for place in roles.text) if table.header else (),
        label_columns=tuple(table.names[place] for place in roles.label) if table.header else (),
        notes=tuple(notes),
    )


def _header_cells(table: TextTable, roles: Roles) -> tuple[str, str] | tuple[None, None]:
    """Return what text and label are in a row that is the header once more, as where files were put together.

    Texts and labels that were passed as they are have fixed roles, and no header.
    """
    if not table.header or table.keyed or table.fixed is not None or len(roles.label) != 1:
        return None, None
    return f" {FIELD} ".join(table.names[place] for place in roles.text), table.names[roles.label[0]]


def _renamed(label: Label, names: Mapping[str, str]) -> Label:
    """Return a label by its new name, or all labels of a row by theirs, each once."""
    if isinstance(label, str):
        return names.get(label, label)
    return tuple(dict.fromkeys(names.get(each, each) for each in label))


def _is_label(label: object, *, several: bool) -> bool:
    if not several:
        return isinstance(label, str)
    return isinstance(label, tuple) and all(isinstance(each, str) for each in label)


def label_counts(labels: Iterable[Label]) -> Counter[str]:
    """Return the number of rows of each label, whether a row has one or several."""
    return Counter(name for label in labels for name in ((label,) if isinstance(label, str) else label))


def _nothing_read(table: TextTable, skipped: Sequence[SkippedRow]) -> ValueError:
    if not skipped:
        return ValueError(f"{table.path} holds no labelled text; it has a header and no rows")
    return ValueError(
        f"{table.path} holds no labelled text: {plural(len(skipped), 'row was', 'rows were')} skipped, the first "
        f"(line {skipped[0].line}) since {skipped[0].reason}"
    )


def _what_was_taken(
    table: TextTable,
    roles: Roles,
    cells: LabelCells,
    texts: Sequence[str],
    labels: Sequence[Label],
    counts: Mapping[str, int],
) -> Iterator[str]:
    yield say(
        "took several" if cells.several else "took folders" if table.folders else "took",
        text=columns_named(table, roles.text),
        label=columns_named(table, roles.label),
        classes=plural(len(counts), "class", "classes"),
        labels=plural(len(counts), "label"),
        each=f"{sum(counts.values()) / len(texts):.2g}",
        written=cells.written,
        rows=plural(len(texts), "row"),
        form=table.form,
    )
    shown = texts[0] if len(texts[0]) <= _SHOWN else f"{texts[0][:_SHOWN]}…"
    first = (labels[0],) if isinstance(labels[0], str) else labels[0]
    yield say(
        "first row" if first else "first row without",
        text=repr(shown).replace(repr(FIELD)[1:-1], "␁"),
        label=listed(map(repr, first)),
    )
    if len(roles.text) > 1:
        yield say("joined")


def columns_named(table: TextTable, places: Sequence[int]) -> str:
    """Name columns in a sentence, by their numbers where they have no names."""
    names = [repr(table.names[place]) if table.header else table.names[place] for place in places]
    return f"column{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _one_spelling(labels: list[Label]) -> tuple[Counter[str], list[Label], list[str]]:
    """Give each number and truth value one spelling; return rows by label, the labels, and what to say about it."""
    counts = label_counts(labels)
    one_of = spellings(counts)
    if not one_of:
        return counts, labels, []
    groups: dict[str, list[str]] = {}
    for label, one in one_of.items():
        groups.setdefault(one, [one] if one in counts else []).append(label)
    notes = [
        say("same value" if len(group) > 1 else "truth", names=" and ".join(map(repr, sorted(group))), one=one)
        for one, group in groups.items()
    ]
    labels = [_renamed(label, one_of) for label in labels]
    return label_counts(labels), labels, notes


def _map_notes(renamed: Mapping[str, str], names: Collection[str]) -> Iterator[str]:
    used = {label: name for label, name in renamed.items() if label in names}
    if used:
        yield say("mapped", labels=listed(f"{label!r} -> {name!r}" for label, name in used.items()))
    unused = [label for label in renamed if label not in names]
    if unused:
        yield say("unmapped", names=listed(map(repr, unused)))


def as_string(raw: object) -> str:
    """Return a cell as text: words as they are, numbers and truth values as they are written, nothing else."""
    if isinstance(raw, str):
        return raw.strip()
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, float) and raw.is_integer():
        raw = int(raw)  # a column of integers with a gap is read as floats
    return str(raw) if isinstance(raw, int) or (isinstance(raw, float) and math.isfinite(raw)) else ""


def _weight_in(raw: object, line: int, bad_row: BadRow) -> float | None:
    """Return the weight in a cell; `None`, once it was reported, where there is none."""
    weight = _weight_value(raw)
    if weight is None:
        bad_row(line, f"the weight must be a number of at least 0, got {None if raw is MISSING else raw!r}")
    return weight


def _weight_value(raw: object) -> float | None:
    try:
        weight = float(raw)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return weight if math.isfinite(weight) and weight >= 0 else None
