"""Vectors as text: a word, a space, numbers; read in bytes and cut from the right, so that a word may be anything."""

import re
from collections import Counter
from typing import NamedTuple

from linkboy._report import format_count, plural
from linkboy.embeddings._collect import AllRows, VocabularyRows
from linkboy.embeddings._numbers import is_number, parse_rows
from linkboy.embeddings._source import BUFFER, Source

MOST_NUMBERS = 1 << 20  # in one row
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PADDING = b" \r\n"  # at the right end of a line only; U+3000 and other spaces belong to the word
_HEADER = re.compile(rb" *(\d{1,18})[ \t]+(\d{1,18})[ \t\r]*")
_SAMPLE = 16


class Layout(NamedTuple):
    """What the first lines say: the header, where there is one, and the numbers per row; 0 where no row has any."""

    header: tuple[int, int] | None
    dim: int


def look_at(source: Source, *, format: str, dim: int | None) -> Layout:
    """Read the header, if there is one, and leave the stream at the first row.

    A single row may be bad, so the dimension is the most common one of the first rows. A line of two integers is a header
    unless the rows hold one number each and the second integer is not 1: then it is a row, whose word is a number.
    """
    if source.stream.peek(BUFFER)[:3] == _BYTE_ORDER_MARK:
        source.stream.read(3)
    lines = source.stream.peek(BUFFER).split(b"\n", _SAMPLE + 1)
    if len(lines) > 1:
        del lines[-1]  # cut off in its middle, or empty
    matched = _HEADER.fullmatch(lines[0]) if format != "glove" else None
    counts = [_numbers_at_end(line) for line in (lines[1:] if matched else lines)]
    voted = dim if dim in counts else _most_common(counts)
    if matched is None:
        return Layout(None, voted)
    header = (int(matched[1]), int(matched[2]))
    if voted == 1 and header[1] != 1:
        return Layout(None, 1)
    source.stream.readline()
    return Layout(header, voted)


def read_text(source: Source, layout: Layout, collector: VocabularyRows | AllRows) -> None:
    """Read all rows; those of words that are not wanted are skipped after one look-up."""
    dim, wanted = layout.dim, collector.wanted
    gaps, batch_size = dim - 1, max(1, collector.numbers_at_once // dim)
    first = 1 if layout.header is None else 2
    line_number, line = first, b""
    words: list[bytes] = []
    tails: list[bytes] = []
    lines: list[int] = []
    source.limit_lines()
    collector.start(dim)
    for line_number, line in enumerate(source.stream, first):
        word, _, tail = line.partition(b" ")
        if word not in wanted:
            continue
        tail = tail.rstrip(_PADDING)
        if tail.count(b" ") != gaps:
            row = _cut_from_right(line, line_number, dim, collector)
            if row is None:
                continue
            word, tail = row
        words.append(word)
        tails.append(tail)
        lines.append(line_number)
        if len(tails) == batch_size:
            _flush(words, tails, lines, dim, collector)
    _flush(words, tails, lines, dim, collector)
    collector.findings.row_count = line_number + 1 - first - (not line.strip(_PADDING))


def _flush(
    words: list[bytes], tails: list[bytes], lines: list[int], dim: int, collector: VocabularyRows | AllRows
) -> None:
    if not tails:
        return
    values, bad = parse_rows(tails, dim)
    if bad:
        for position, reason in bad.items():
            if collector.wants(words[position]):
                collector.bad(lines[position], words[position], reason)
        good = [position for position in range(len(words)) if position not in bad]
        collector.add([words[i] for i in good], values[good], [lines[i] for i in good])
    else:
        collector.add(words, values, lines)
    words.clear()
    tails.clear()
    lines.clear()


def _cut_from_right(
    line: bytes, line_number: int, dim: int, collector: VocabularyRows | AllRows
) -> tuple[bytes, bytes] | None:
    """Return word and numbers of a row whose first part is not followed by just its numbers, or report the row as bad."""
    text = line.rstrip(_PADDING)
    if not text:
        return None
    first, *rest = text.split(b" ")
    word, *numbers = text.rsplit(b" ", dim)
    if len(numbers) < dim:
        reason = f"expected {plural(dim, 'number')}, got {len(rest)}"
    elif (wrong := next((token for token in numbers if not is_number(token)), None)) is not None:
        reason = f"{wrong[:40].decode('utf-8', 'replace')!r} is not a number"
    elif collector.names(word):
        return word, b" ".join(numbers)
    elif all(b"." in token and is_number(token) for token in word.split(b" ")[1:]):
        # A word may end in a number (`Boeing 747`), but hardly in one with a point.
        reason = f"expected {plural(dim, 'number')}, got {len(rest)}"
    else:
        return (word, b" ".join(numbers)) if collector.wants(word) else None
    if collector.wants(word) or collector.wants(first):
        collector.bad(line_number, first, reason)
    return None


def _numbers_at_end(line: bytes) -> int:
    """Count the numbers at the end of a line, without its first part, which is a word even if it is a number."""
    tokens = line.rstrip(_PADDING).split(b" ")[1:]
    count = 0
    while count < len(tokens) and is_number(tokens[-1 - count]):
        count += 1
    return count


def _most_common(counts: list[int]) -> int:
    with_numbers = Counter(count for count in counts if count)
    return with_numbers.most_common(1)[0][0] if with_numbers else 0


def check_layout(source: Source, layout: Layout, dim: int | None) -> None:
    """Raise a `ValueError` where there are no rows, or rows of another dimension than was asked for."""
    name = str(source.path)
    if not layout.dim:
        first = bytes(source.stream.peek(BUFFER)[:40]).split(b"\n")[0].decode("utf-8", "replace")
        if not first and layout.header:
            raise ValueError(f"{name!r} holds a header and no rows; get the file again")
        raise ValueError(
            f"{name!r} holds no vectors that can be read: its rows must be a word and numbers, "
            f"separated by single spaces, got {first!r}"
        )
    if layout.dim > MOST_NUMBERS:
        raise ValueError(
            f"{name!r} claims {format_count(layout.dim)} numbers per row, at most {MOST_NUMBERS:,} are read"
        )
    if dim is not None and layout.dim != dim:
        raise ValueError(f"dim must be that of the file, {layout.dim} in {name!r}, got {dim}; leave dim out")
