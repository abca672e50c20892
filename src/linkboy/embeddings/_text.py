"""Vectors as text: a word and numbers; read in bytes and cut from the right, so that a word may be anything."""

from collections.abc import Iterator

from linkboy._report import plural
from linkboy.embeddings._collect import AllRows, VocabularyRows
from linkboy.embeddings._layout import Layout
from linkboy.embeddings._numbers import is_number, parse_rows
from linkboy.embeddings._source import Source


def read_text(source: Source, layout: Layout, collector: VocabularyRows | AllRows) -> None:
    """Read all rows; those of words that are not wanted are skipped after one look-up."""
    dim = layout.dim
    batch_size = max(1, collector.numbers_at_once // dim)
    separator = layout.dialect.separator if layout.is_plain else b" "
    words: list[bytes] = []
    tails: list[bytes] = []
    lines: list[int] = []
    source.limit_lines()
    collector.start(dim)
    for line_number, word, tail in (_plain_rows if layout.is_plain else _other_rows)(source, layout, collector):
        words.append(word)
        tails.append(tail)
        lines.append(line_number)
        if len(tails) == batch_size:
            _flush(words, tails, lines, dim, separator, collector)
    _flush(words, tails, lines, dim, separator, collector)


def _plain_rows(
    source: Source, layout: Layout, collector: VocabularyRows | AllRows
) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield line, word and numbers of the rows that may be wanted, where one space or tab separates all fields."""
    separator, wanted, gaps = layout.dialect.separator, collector.wanted, layout.dim - 1
    padding = b" \r\n" if separator == b" " else b" \t\r\n"
    first, line = layout.skipped + 1, b""
    line_number = first
    for line_number, line in enumerate(source.stream, first):
        word, _, tail = line.partition(separator)
        if word not in wanted:
            continue
        tail = tail.rstrip(padding)
        if tail.count(separator) != gaps:
            row = _checked(line, line_number, layout, collector)
            if row is None:
                continue
            word, tail = row[0], separator.join(row[1])
        yield line_number, word, tail
    collector.findings.row_count = line_number + 1 - first - (not line.strip(padding))


def _other_rows(
    source: Source, layout: Layout, collector: VocabularyRows | AllRows
) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield line, word and numbers of the rows that may be wanted, whatever separates the fields; numbers by spaces."""
    first, line = layout.skipped + 1, b""
    line_number, dim, wants = first, layout.dim, collector.wants
    separator = layout.dialect.separator or None
    for line_number, line in enumerate(source.stream, first):
        word, numbers = layout.cut(line)
        if len(numbers) != dim or (wants(word) and (len(word.split(separator)) > 1 or not is_number(numbers[0]))):
            row = _checked(line, line_number, layout, collector)
            if row is None:
                continue
            word, numbers = row
        if wants(word):
            yield line_number, word, b" ".join(numbers)
    collector.findings.row_count = line_number + 1 - first - (not line.strip())


def _flush(
    words: list[bytes],
    tails: list[bytes],
    lines: list[int],
    dim: int,
    separator: bytes,
    collector: VocabularyRows | AllRows,
) -> None:
    if not tails:
        return
    values, bad = parse_rows(tails, dim, separator)
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


def _checked(
    line: bytes, line_number: int, layout: Layout, collector: VocabularyRows | AllRows
) -> tuple[bytes, list[bytes]] | None:
    """Return word and numbers of a row whose first part is not followed by just its numbers, or report the row as bad."""
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
        collector.bad(line_number, first, reason)
    return None
