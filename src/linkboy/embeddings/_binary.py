"""Vectors in the binary form of word2vec: a word, a space, float32 numbers; records have neither a length nor an end."""

import re
from collections.abc import Container
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linkboy._encodings import decoded, likely_encodings
from linkboy._report import plural
from linkboy.embeddings._collect import AllRows, VocabularyRows, rows_of_core
from linkboy.embeddings._encodings import note_on_words
from linkboy.embeddings._layout import MOST_NUMBERS, Layout
from linkboy.embeddings._source import Source

_CHUNK = 1 << 20
_LONGEST_WORD = 4096
_CONTROL = bytes({*range(32)} - set(b"\t\n\r"))
_LOOKED_AT = 4  # numbers at the start of a record
_START = 1 << 16  # bytes of records that show what a file is
_LOOKED_AT_WORDS = 50
_SHOWN = 20
_SMALL, _LARGE = 1e-10, 1e6  # between these, or zero, are the numbers of word vectors


def read_binary(source: Source, layout: Layout, collector: VocabularyRows | AllRows) -> None:
    """Read all records; a word ends at the first space unless what follows shows that it holds one."""
    if layout.header is None or not 0 < layout.header[1] <= MOST_NUMBERS:
        raise ValueError(
            f"{str(source.path)!r} is not a word2vec binary file: it must begin with a line of two integers, the second "
            f"from 1 to {MOST_NUMBERS:,}"
        )
    dim = layout.header[1]
    collector.start(dim)
    core = rows_of_core(collector, dim, b" ", 0)
    records = _Records(4 * dim)
    number, held, at_end = 1, b"", False
    while not at_end:
        more = source.stream.read(max(_CHUNK, 16 * dim))
        if number == 1 and not held:
            _check_start(source, records, more, dim, collector)
        chunk, at_end = held + more, not more
        found = core.records(chunk, at_end) if core else None
        values, words, positions, count, stop = found or records.choose(chunk, at_end, collector.wanted)
        if words:
            values = np.frombuffer(values, "<f4").reshape(-1, dim)
            collector.add(words, values, (np.frombuffer(positions, np.int64) + number).tolist())
        number += count
        held = chunk[stop:]
        if len(held) > len(more) + 2 * (4 * dim + _LONGEST_WORD):
            raise ValueError(
                f"{str(source.path)!r} record {number}: no word ends within {_LONGEST_WORD} bytes; it is not a word2vec "
                "binary file, or its header is wrong"
            )
    if held.strip(b"\n"):
        collector.bad(number, held.lstrip(b"\n").partition(b" ")[0], "the file ends within its numbers")
    collector.findings.row_count = number - 1


def _check_start(
    source: Source, records: "_Records", start: bytes, dim: int, collector: VocabularyRows | AllRows
) -> None:
    """Raise where the first records are not what the header says, and note words that are not in the encoding."""
    looked_at = start[: max(_START, 8 * dim)]
    words, starts, _ = records.cut(looked_at, at_end=len(looked_at) == len(start) < _CHUNK)
    if not words:
        return
    collector.findings.see(words, collector.codec)
    numbers = _floats_at(looked_at, starts, min(_LOOKED_AT, dim))
    last = _floats_at(looked_at, starts + 4 * (dim - 1), 1)
    odd = _out_of_step(words, numbers, last, collector.codec)
    if odd is not None:
        raise ValueError(
            f"{str(source.path)!r} does not hold {plural(dim, 'float32 number')} per word as its header claims: behind the "
            f"first there are words such as {odd[:_SHOWN]!r}; its numbers may be of another size or another count, so "
            "write it again as text"
        )
    swapped = numbers.view(">f4").astype("<f4")
    if _share(numbers) < 0.5 < _share(swapped):
        raise ValueError(
            f"{str(source.path)!r} holds its numbers with the highest byte first; write it again as text or with the "
            "lowest byte first"
        )
    if note := note_on_words([word for word in words if not word.isascii()], collector.codec):
        collector.findings.notes.append(note)


def _out_of_step(words: list[bytes], numbers: NDArray[Any], last: NDArray[Any], codec: str) -> bytes | None:
    """Return a word which shows that records do not begin where the header says."""
    odd = [word for word, some in zip(words, numbers, strict=True) if _is_odd(word, some, codec)]
    if 2 * len(odd) > len(words):
        return odd[0]
    bad = [word for word in words if decoded(word, codec) is None]
    if 2 * len(bad) > len(words) and not likely_encodings(b"\n".join(bad[:_LOOKED_AT_WORDS])):
        return bad[0]  # with the end of a number in front, which no encoding reads
    return words[-1] if _share(numbers) > 0.5 > _share(last) else None  # a row ends in the next word, read as a number


def _is_odd(word: bytes, numbers: NDArray[Any], codec: str) -> bool:
    """Return whether this is no word, or hardly one before numbers that are hardly those of vectors."""
    if not word or b"\n" in word.strip(b"\n") or len(word.translate(None, _CONTROL)) < len(word):
        return True
    return decoded(word, codec) is None and not _usual(numbers)


def _share(numbers: NDArray[Any]) -> float:
    return float(np.mean([bool(_usual(row)) for row in numbers]))


class _Records:
    """Cuts chunks into records of `size` bytes of numbers behind a word and a space."""

    def __init__(self, size: int) -> None:
        self._size = size
        # One pass in C; what is not a record is taken whole, or each of its bytes would be tried as the start of one.
        self._record = re.compile(rb"([^ ]{0,%d}) .{%d}|.+" % (_LONGEST_WORD, size), re.DOTALL)

    def choose(
        self, chunk: bytes, at_end: bool, wanted: Container[bytes]
    ) -> tuple[NDArray[np.float32], list[bytes], NDArray[np.int64], int, int]:
        """Return numbers, words and positions of the wanted records, how many there are in all, and where they end."""
        words, starts, stop = self.cut(chunk, at_end)
        chosen = np.array(list(compress(range(len(words)), map(wanted.__contains__, words))), np.int64)
        values = _floats_at(chunk, starts[chosen], self._size // 4)
        return values, [words[i] for i in chosen.tolist()], chosen, len(words), stop

    def cut(self, chunk: bytes, at_end: bool) -> tuple[list[bytes], NDArray[np.int64], int]:
        """Return words, where their numbers start, and where the records that are whole end.

        The last record is left for the next chunk, whose beginning shows whether its word was cut where it ends.
        """
        words, starts = self._cut_at_first_spaces(chunk)
        joined = b" ".join(words)
        if not _is_text(joined) or not _usual(_floats_at(chunk, starts, min(_LOOKED_AT, self._size // 4))):
            words = self._cut_where_it_fits(chunk, at_end)
            starts = self._starts(words)
            joined = b"\n"
        if not at_end:
            words, starts = words[:-1], starts[:-1]
        stop = int(starts[-1]) + self._size if words else 0
        return [word.lstrip(b"\n") for word in words] if b"\n" in joined else words, starts, stop

    def _cut_at_first_spaces(self, chunk: bytes) -> tuple[list[bytes], NDArray[np.int64]]:
        words = self._record.findall(chunk)
        starts = self._starts(words)
        if words:
            rest = int(starts[-1]) - len(words[-1]) - 1
            if chunk.find(b" ", rest, min(rest + _LONGEST_WORD + 1, len(chunk) - self._size)) < 0:
                return words[:-1], starts[:-1]  # the last is what is left over at the end of the chunk
        return words, starts

    def _starts(self, words: list[bytes]) -> NDArray[np.int64]:
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        return np.cumsum(lengths + self._size + 1) - self._size

    def _cut_where_it_fits(self, chunk: bytes, at_end: bool) -> list[bytes]:
        words, at = [], 0
        needed = 0 if at_end else 2 * (self._size + _LONGEST_WORD)
        while at + needed < len(chunk):
            candidates = self._candidates(chunk, at)
            if not candidates:
                break
            space = max(candidates, key=lambda candidate: self._fit(chunk, candidate))  # of equals the first
            words.append(chunk[at:space])
            at = space + 1 + self._size
        return words

    def _candidates(self, chunk: bytes, at: int) -> list[int]:
        """Return the spaces at which the word may end: the first one, and others that follow within text."""
        found: list[int] = []
        space = chunk.find(b" ", at, at + _LONGEST_WORD)
        while space >= 0 and space + 1 + self._size <= len(chunk):
            if found and not _is_text(chunk[at:space]):
                break
            found.append(space)
            space = chunk.find(b" ", space + 1, at + _LONGEST_WORD)
        return found

    def _fit(self, chunk: bytes, space: int) -> int:
        """Count the signs that a word ends at this space."""
        end = space + 1 + self._size
        follows = chunk[end : end + _LONGEST_WORD]
        next_word, found, _ = follows.lstrip(b"\n").partition(b" ")
        fits = 2 * bool(_usual(np.frombuffer(chunk[space + 1 : end], "<f4")))
        fits += not follows or follows.startswith(b"\n")
        return fits + (not follows or bool(found and _is_text(next_word)))


def _floats_at(chunk: bytes, starts: NDArray[np.int64], count: int) -> NDArray[np.float32]:
    """Return `count` numbers from each start, `(starts, count)`, copied by one look-up of items of that many bytes."""
    width = 4 * count
    items: NDArray[Any] = np.ndarray((max(len(chunk) - width + 1, 0),), f"V{width}", chunk, strides=(1,))
    return items[starts].view("<f4").reshape(-1, count)


def _is_text(content: bytes) -> bool:
    if len(content.translate(None, _CONTROL)) < len(content):
        return False
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _usual(numbers: NDArray[np.float32]) -> np.bool_:
    size = np.abs(numbers)
    with np.errstate(invalid="ignore"):
        return ((size == 0) | ((size > _SMALL) & (size < _LARGE))).all()
