"""Texts to predict, from a table or from lines, and the table of answers beside what was given."""

import csv
import io
import json
import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from linkboy._files import atomic_write
from linkboy._reading import codec_of
from linkboy.classify.reading._arriving import Arriving, LiveReader
from linkboy.classify.reading._columns import TEXT_NAMES, ColumnTraits, Roles, looks_like_header, name_key
from linkboy.classify.reading._content import Content, arriving, opened
from linkboy.classify.reading._dialect import SEPARATOR_NAMES, SEPARATORS, is_fasttext
from linkboy.classify.reading._json import MISSING, cell_text
from linkboy.classify.reading._sentences import say
from linkboy.classify.reading._tables import BadRow, Reading, TextTable, json_form, table_of, text_lines
from linkboy.classify.reading._titles import Title, title_of_lines
from linkboy.classify.reading.labelled import as_string, columns_named, existing_file, text_getter
from linkboy.classify.saved._thresholds import Threshold
from linkboy.classify.saved.classifier import Classifier
from linkboy.classify.saved.predictions import Predictions

FORMS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
ANSWERS = ("predicted_label", "probability")
LONGEST_TEXT = 1 << 20  # bytes: the n-grams of a text take two hundred times its size


class GivenTexts:
    """Texts to predict, one after the other, with the rows that they are from.

    Args:
        names: the columns of the rows.
        rows: text and cells of each row, the cells in the order of the names.
        note: what was taken; empty for lines.
        reader: what the rows are read from, where they come over time.
        marked: whether a table of them begins with a byte order mark, as `Content.is_marked` says.

    Attributes:
        unknown_count: how many of the texts that were answered hold nothing that the classifier knows.
    """

    def __init__(
        self,
        names: Sequence[str],
        rows: Iterator[tuple[str, Sequence[Any]]],
        note: str = "",
        reader: LiveReader | None = None,
        *,
        marked: bool = False,
    ) -> None:
        self.names, self.note, self.reader, self._rows = _distinct(names), note, reader, rows
        self.marked = marked
        self._given: deque[Sequence[Any]] = deque()
        self.unknown_count = 0

    def texts(self, *, keep: bool) -> Iterator[str]:
        """Yield the texts; with `keep`, their rows wait for `taken`."""
        for text, cells in self._rows:
            if keep:
                self._given.append(cells)
            yield text

    def taken(self, count: int) -> list[Sequence[Any]]:
        """Return the next rows whose texts were yielded."""
        return [self._given.popleft() for _ in range(count)]


def texts_by_hand(texts: Sequence[str]) -> GivenTexts:
    """Return texts that were given one by one."""
    return GivenTexts(("text",), ((text, (text,)) for text in texts))


@contextmanager
def texts_of_file(path: Path, asked: Reading, bad_row: BadRow) -> Iterator[GivenTexts]:
    """Open a file of texts to predict: the column of texts of a table, or each line, blank ones too.

    Args:
        path: the file.
        asked: how to read it; columns that the classifier was trained on count as names of texts.
        bad_row: called with line and reason of a row that cannot be read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file can be read in two ways, or is neither text nor a table.
    """
    with opened(existing_file(path)) as content:
        yield _texts_of(content, asked, bad_row)


def texts_of_stream(stream: Any, asked: Reading, bad_row: BadRow, *, name: str) -> GivenTexts:
    """Return the texts of a stream, such as standard input, as they come; its first line is waited for.

    JSON lines, fastText's lines, and what is asked to be a table are tables; of any other stream each line is a text.

    Args:
        stream: bytes.
        asked: how to read them.
        bad_row: called with line and reason of a row that cannot be read.
        name: what to call the stream in a message.

    Raises:
        ValueError: the stream is not text, or a table whose columns the first line does not tell.
    """
    if asked.encoding is not None:
        codec_of(asked.encoding)  # before anything is waited for
    reader = LiveReader(stream)
    given = _texts_of(arriving(Path(name), reader), asked, bad_row)
    given.reader = reader
    return given


def _texts_of(content: Content, asked: Reading, bad_row: BadRow) -> GivenTexts:
    if content.kind == "text" and not _is_table(content, asked):
        return _lines_of(content, asked, bad_row)
    table = table_of(content, asked, bad_row)
    roles = _text_role(table, asked)
    note = say("took text", text=columns_named(table, roles.text), form=table.form)
    marked = content.is_marked(asked.encoding)
    return GivenTexts(table.shown_names, _table_rows(table, roles, bad_row), note, marked=marked)


def _lines_of(content: Content, asked: Reading, bad_row: BadRow) -> GivenTexts:
    """Return each line as a text."""
    encoding = content.encoding(asked.encoding)
    undecoded: dict[int, str] = {}

    def rows() -> Iterator[tuple[str, Sequence[Any]]]:
        lines = text_lines(content, encoding, undecoded, may_be_blank=True, longest=LONGEST_TEXT)
        for number, line in lines:
            if line is None:
                bad_row(number, undecoded.pop(number))
            else:
                text = line.rstrip("\r")
                yield text, (text,)

    first = content.beginning(encoding).partition("\n")[0]
    seen = next((each for each in SEPARATORS if _has_header([first], each, asked.wanted.known)), None)
    note = say("lines", separator=SEPARATOR_NAMES[seen]) if content.live and seen is not None else ""
    return GivenTexts(("text",), rows(), note, marked=content.is_marked(asked.encoding))


def _is_table(content: Content, asked: Reading) -> bool:
    """Return whether text is a table, not one text per line: by what was asked, the form, the name, or the first lines."""
    encoding = content.encoding(asked.encoding)
    if asked.wanted.all or asked.separator or asked.header is not None or json_form(content, encoding):
        return True
    text = content.beginning(encoding)
    if content.live:  # what follows cannot be waited for
        return is_fasttext([text.lstrip().partition("\n")[0]])
    lines = [line for line in text.split("\n")[:1000] if line.strip()]
    lines = lines[:-1] if len(lines) > 1 and len(content.head) > 1 << 15 else lines  # the last one may be cut off
    first = lines[0] if lines else ""
    title = title_of_lines(list(enumerate(lines, 1)), asked.wanted, separator=None, header=None)
    if title is not None and (title.plain or (content.ending in (".csv", ".tsv") and _has_columns(title))):
        return True
    if content.ending in (".csv", ".tsv"):
        return any(separator in first for separator in SEPARATORS) or name_key(first.strip('" \r')) in TEXT_NAMES
    if any(_has_header(lines, separator, asked.wanted.known) for separator in SEPARATORS):
        return True
    tabs = {line.count("\t") for line in lines}
    return is_fasttext(lines) or (len(lines) > 1 and len(tabs) == 1 and 0 not in tabs)


def _has_columns(title: Title) -> bool:
    """Return whether what is below is columns, not texts with a comma each."""
    return len(title.names) > 2 or any(name_key(name) in TEXT_NAMES for name in title.names)


def _has_header(lines: Sequence[str], separator: str, known: Sequence[str]) -> bool:
    """Return whether the first line names columns, one of them of texts, and the others have as many fields."""
    names = [name.strip(' "\r') for name in lines[0].split(separator)] if lines else []
    if len(names) < 2:
        return False
    even = len({line.count(separator) for line in lines}) == 1
    named = any(name_key(name) in TEXT_NAMES for name in names) and even
    return looks_like_header(names) or named or (bool(known) and set(known) <= set(names))


def _text_role(table: TextTable, asked: Reading) -> Roles:
    """Return the column of texts; of two without a header, the one that reads like texts, where only one does."""
    if table.fixed is not None and not asked.wanted.all:
        columns = [ColumnTraits(cells) for cells in zip(*table.head, strict=True)]
        prose = [place for place, column in enumerate(columns) if column.prose]
        return Roles((prose[0],), (), None) if len(prose) == 1 else table.fixed
    return table.roles(asked.wanted)


def _table_rows(table: TextTable, roles: Roles, bad_row: BadRow) -> Iterator[tuple[str, Sequence[Any]]]:
    text_of = text_getter(table, roles.text)
    getters = [table.getter(place) for place in range(len(table.names))] if table.keyed else []
    for line, record in table.records:
        raw = text_of(record)
        text = as_string(raw)
        if not text and raw is not None and not isinstance(raw, (str, float)):
            wrong = f"the text must be text or a number, got {type(raw).__name__}"
            bad_row(line, "there is no text" if raw is MISSING else wrong)
            continue
        values = [get(record) for get in getters] if table.keyed else record
        yield text, [None if value is MISSING else value for value in values]


def _distinct(names: Sequence[str]) -> list[str]:
    """Give each column a name of its own."""
    found: list[str] = []
    for place, name in enumerate(names):
        name = name or f"column_{place}"
        found.append(name if name not in found else f"{name}_{place}")
    return found


def answers(
    classifier: Classifier, given: GivenTexts, *, top: int, threshold: Threshold | None = None
) -> Iterator[Predictions]:
    """Yield the predictions of one batch of texts after the other; of texts that come over time, as soon as they are there."""
    texts = given.texts(keep=False)
    if given.reader is None:
        return _counted(given, classifier.predict_stream(texts, top=top, threshold=threshold))
    batches = Arriving(texts, given.reader)
    return _counted(given, classifier.predict_batches(batches, top=top, threshold=threshold, more=batches.more))


def _counted(given: GivenTexts, answered: Iterator[Predictions]) -> Iterator[Predictions]:
    for predictions in answered:
        given.unknown_count += len(predictions.known) - sum(predictions.known)
        yield predictions


def write_answers(
    classifier: Classifier,
    given: GivenTexts,
    out: Path,
    *,
    threshold: Threshold | None = None,
    mark: bool | None = None,
) -> int:
    """Write the given columns with the predicted label and its probability, in the form that the ending says.

    Text is written row by row; Parquet is gathered in memory. The file appears whole or not at all.

    Args:
        classifier: predicts.
        given: the texts and their rows.
        out: the file.
        threshold: as for `Classifier.predict`.
        mark: whether CSV and TSV begin with a byte order mark, by which Excel tells UTF-8; by default where `given` is marked.

    Returns:
        How many rows were written.

    Raises:
        ValueError: the ending is unknown, or the columns have a name that the answers need.
    """
    form = out.suffix.lower()
    if form not in FORMS:
        raise ValueError(f"out must end in one of {FORMS}, got {out.name!r}")
    taken = next((name for name in ANSWERS if name in given.names), None)
    if taken is not None:
        raise ValueError(
            f"the given rows have a column {taken!r} already, which the answers need; rename it or leave it out"
        )
    encoding = "utf-8-sig" if (given.marked if mark is None else mark) else "utf-8"
    table = partial(_write_csv, separator="\t" if form == ".tsv" else ",", encoding=encoding)
    write = {".csv": table, ".tsv": table, ".parquet": _write_parquet}.get(form, _write_json)
    with atomic_write(out) as file:
        return write(file, [*given.names, *ANSWERS], _answered(classifier, given, threshold))


def _answered(classifier: Classifier, given: GivenTexts, threshold: Threshold | None) -> Iterator[list[list[Any]]]:
    """Yield the rows of one batch after the other, with label and probability behind them."""
    for predictions in _counted(given, classifier.predict_stream(given.texts(keep=True), threshold=threshold)):
        yield [
            [*cells, *answer]
            for cells, answer in zip(given.taken(len(predictions.texts)), _pairs(predictions), strict=True)
        ]


def _pairs(predictions: Predictions) -> Iterator[tuple[Any, Any]]:
    for label, probability in zip(predictions.labels, predictions.probabilities, strict=True):
        if isinstance(label, tuple):
            yield list(label), [round(share, 6) for share in probability]
            continue
        yield label, round(probability, 6) if math.isfinite(probability) else None


def _write_csv(
    file: BinaryIO, names: Sequence[str], batches: Iterator[list[list[Any]]], *, separator: str, encoding: str
) -> int:
    count = 0
    text = io.TextIOWrapper(file, encoding, newline="")
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    writer.writerow(names)
    for rows in batches:
        writer.writerows([_flat(cell) for cell in row] for row in rows)
        count += len(rows)
    text.flush()
    text.detach()
    return count


def _flat(cell: Any) -> str:
    return cell_text(cell) if cell is None or isinstance(cell, (bool, list, dict)) else str(cell)


def _write_json(file: BinaryIO, names: Sequence[str], batches: Iterator[list[list[Any]]]) -> int:
    count = 0
    for rows in batches:
        lines = (json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False, default=str) for row in rows)
        file.write("".join(f"{line}\n" for line in lines).encode())
        count += len(rows)
    return count


def _write_parquet(file: BinaryIO, names: Sequence[str], batches: Iterator[list[list[Any]]]) -> int:
    import polars as pl

    rows = [row for batch in batches for row in batch]
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    data = {name: pl.Series(name, list(column), strict=False) for name, column in zip(names, columns, strict=True)}
    pl.DataFrame(data).write_parquet(file)
    return len(rows)
