"""Vectors as text: a word and numbers; read in bytes and cut from the right, so that a word may be anything."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from linkboy._report import plural
from linkboy.embeddings._collect import AllRows, VocabularyRows, rows_of_core
from linkboy.embeddings._layout import Layout
from linkboy.embeddings._numbers import is_number, parse_rows
from linkboy.embeddings._source import BUFFER, Source


class _Lines:
    """The lines of a stream with their numbers; the last one is remembered."""

    def __init__(self, stream: Iterable[bytes], first: int) -> None:
        self._stream, self._first = stream, first
        self.number, self.line = first - 1, b""

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        for number, line in enumerate(self._stream, self._first):
            self.number, self.line = number, line
            yield number, line


class _Bad(NamedTuple):
    """A row that cannot be read, and why."""

    word: bytes
    reason: str


def read_text(source: Source, layout: Layout, collector: VocabularyRows | AllRows) -> None:
    """Read all rows; those of words that are not wanted are skipped after one look-up."""
    source.limit_lines()
    collector.start(layout.dim)
    first = layout.skipped + 1
    rows = rows_of_core(collector, layout.dim, layout.dialect.separator, first) if layout.is_plain else None
    if rows is not None:
        collector.findings.row_count = _read_by_core(rows, source, layout, collector)
        return
    lines = _Lines(source.stream, first)
    _read_lines(lines, layout, collector)
    count, padding = lines.number + 1 - first, _padding(layout)
    collector.findings.row_count = count - (count > 0 and not lines.line.strip(padding))


def _read_by_core(rows: Any, source: Source, layout: Layout, collector: VocabularyRows | AllRows) -> int:
    """Let the core read what is plain, and the rest as without it, in the order of the file; return the count of rows."""
    buffer, held, count, ends_blank, padding = bytearray(BUFFER), 0, 0, False, _padding(layout)
    while True:
        if held == len(buffer):
            buffer += bytes(held)  # a line is longer
        with memoryview(buffer) as view:
            more = source.stream.readinto(view[held:])
            filled = held + more
            values, words, lines, odd, stop, seen = rows.text(view, filled, not more)
            ends = np.frombuffer(odd, np.int64).reshape(-1, 4).tolist()
            others = [(before, number, bytes(view[begin:end])) for before, number, begin, end in ends]
            if seen:
                count, ends_blank = count + seen, not buffer[buffer.rfind(b"\n", 0, stop - 1) + 1 : stop].strip(padding)
            held = filled - stop
            view[:held] = view[stop:filled]
        values, done = np.frombuffer(values, collector.dtype).reshape(-1, layout.dim), 0
        lines = np.frombuffer(lines, np.int64).tolist()
        for before, some in groupby(others, lambda line: line[0]):
            if before > done:
                collector.add(words[done:before], values[done:before], lines[done:before])
                done = before
            _read_lines((line[1:] for line in some), layout, collector)
        if done < len(words):
            collector.add(words[done:], values[done:], lines[done:])
        if not more:
            return count - ends_blank


def _read_lines(lines: Iterable[tuple[int, bytes]], layout: Layout, collector: VocabularyRows | AllRows) -> None:
    separator = layout.dialect.separator if layout.is_plain else b" "
    batch = _Batch(layout.dim, separator, collector)
    for number, word, numbers in (_plain_rows if layout.is_plain else _other_rows)(lines, layout, collector):
        batch.add(number, word, numbers)
    batch.flush()


def _padding(layout: Layout) -> bytes | None:
    if not layout.is_plain:
        return None
    return b" \r\n" if layout.dialect.separator == b" " else b" \t\r\n"


def _plain_rows(
    lines: Iterable[tuple[int, bytes]], layout: Layout, collector: VocabularyRows | AllRows
) -> Iterator[tuple[int, bytes, bytes | str]]:
    """Yield line, word and numbers of the rows that may be wanted, where one space or tab separates all fields.

    The reason stands in the place of the numbers where a row cannot be read.
    """
    separator, wanted, gaps = layout.dialect.separator, collector.wanted, layout.dim - 1
    padding = _padding(layout)
    for number, line in lines:
        word, _, tail = line.partition(separator)
        if word not in wanted:
            continue
        tail = tail.rstrip(padding)
        if tail.count(separator) == gaps:
            yield number, word, tail
        elif row := _checked(line, layout, collector):
            yield number, row[0], row[1] if isinstance(row, _Bad) else separator.join(row[1])


def _other_rows(
    lines: Iterable[tuple[int, bytes]], layout: Layout, collector: VocabularyRows | AllRows
) -> Iterator[tuple[int, bytes, bytes | str]]:
    """Yield the same, whatever separates the fields; numbers by spaces."""
    dim, wants, separator = layout.dim, collector.wants, layout.dialect.separator or None
    for number, line in lines:
        word, numbers = layout.cut(line)
        if len(numbers) != dim or (wants(word) and (len(word.split(separator)) > 1 or not is_number(numbers[0]))):
            row = _checked(line, layout, collector)
            if isinstance(row, _Bad):
                yield number, row.word, row.reason
            if row is None or isinstance(row, _Bad):
                continue
            word, numbers = row
        if wants(word):
            yield number, word, b" ".join(numbers)


class _Batch:
    """Rows whose numbers are parsed together, and reported in the order of the file."""

    def __init__(self, dim: int, separator: bytes, collector: VocabularyRows | AllRows) -> None:
        self._dim, self._separator, self._collector = dim, separator, collector
        self._size = max(1, collector.numbers_at_once // dim)
        self._words: list[bytes] = []
        self._tails: list[bytes] = []
        self._lines: list[int] = []

    def add(self, line: int, word: bytes, numbers: bytes | str) -> None:
        """Take a row; in place of its numbers the reason why it cannot be read."""
        if isinstance(numbers, str):
            self.flush()
            self._collector.bad(line, word, numbers)
            return
        self._words.append(word)
        self._tails.append(numbers)
        self._lines.append(line)
        if len(self._tails) == self._size:
            self.flush()

    def flush(self) -> None:
        """Hand all rows to the collector."""
        if not self._tails:
            return
        values, bad = parse_rows(self._tails, self._dim, self._separator)
        words, lines, done = self._words, self._lines, 0
        for position in [*bad, len(words)]:
            if position > done:
                self._collector.add(words[done:position], values[done:position], lines[done:position])
            if position in bad and self._collector.wants(words[position]):
                self._collector.bad(lines[position], words[position], bad[position])
            done = position + 1
        self._words, self._tails, self._lines = [], [], []


def _checked(
    line: bytes, layout: Layout, collector: VocabularyRows | AllRows
) -> tuple[bytes, list[bytes]] | _Bad | None:
    """Return word and numbers of a row whose first part is not followed by just its numbers, if that can be told."""
    dim = layout.dim
    text = layout.dialect.trimmed(line)
    if not text:
        return None
    separator = layout.dialect.separator or None
    first, *rest = text.split(separator)
    word, numbers = layout.cut(line)
    if len(numbers) < dim:
        reason = f"expected {plural(dim, 'number')}, got {len(rest)}"
    elif (wrong := next((token for token in numbers if not is_number(token)), None)) is not None:
        reason = f"{wrong[:40].decode('utf-8', 'replace')!r} is not a number"
    elif collector.names(word):
        return word, numbers
    elif (more := word.split(separator)[1:]) and all(
        b"." in n and is_number(n) for n in map(layout.dialect.number, more)
    ):
        # A word may end in a number (`Boeing 747`), but hardly in one with a point.
        reason = f"expected {plural(dim, 'number')}, got {len(rest)}"
    else:
        return (word, numbers) if collector.wants(word) else None
    if collector.wants(word) or collector.wants(layout.word(first)):
        return _Bad(first, reason)
    return None
