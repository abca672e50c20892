"""Models of fastText: vectors of the words they know, and of any other word from its pieces."""

import itertools
import re
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from linkboy._report import format_count
from linkboy.embeddings._collect import SUBWORD_RANK, AllRows, VocabularyRows
from linkboy.embeddings._foreign import FASTTEXT_ARGUMENTS, FASTTEXT_MAGIC
from linkboy.embeddings._layout import MOST_NUMBERS
from linkboy.embeddings._source import Source
from linkboy.embeddings._vocabulary import SUBWORD, encode

_LONGEST_WORD = 4096
_LONGEST_PIECE = 255  # characters; fastText's own default is 6
_SUPERVISED = 3
_NEWEST_VERSION = 12  # of fastText 0.9, which refuses a newer one as well
_END_OF_SENTENCE = b"</s>"
_CHUNK = 1 << 20
_WORDS_TOGETHER = 4096
_NUMBERS_TOGETHER = 1 << 20  # of rows held at a time, 4 MiB
_MOST_ROWS = 1 << 26
_ENTRY = re.compile(rb"([^\0]{0,%d})\0.{8}(.)" % _LONGEST_WORD, re.DOTALL)
_OFFSET, _PRIME = np.uint32(2166136261), np.uint32(16777619)


class _Header(NamedTuple):
    """What a model says of itself."""

    dim: int
    bucket: int
    shortest: int
    longest: int
    entries: int
    words: int
    is_old: bool  # of the first format, which has no magic number and gives `</s>` pieces too


def read_fasttext(source: Source, collector: VocabularyRows | AllRows) -> None:
    """Read a model: the words that are wanted, and for a vocabulary whose fallback allows it those that it does not know."""
    header = _read_header(source)
    known, numbers = _read_words(source, header, collector)
    unknown, rows = _unknown(collector, known)
    with _Matrix(source, header) as matrix:
        matrix.keep(itertools.chain(_pieces(known, numbers, header), _pieces(unknown, None, header)))
        collector.start(header.dim)
        for some, pieces, counts in _pieces(known, numbers, header):
            collector.add(known[some], matrix.means(pieces, counts), [number + 1 for number in numbers[some]])
        if isinstance(collector, VocabularyRows):
            for some, pieces, counts in _pieces(unknown, None, header):
                has_any = counts > 0  # a word without any stays missing
                chosen = np.asarray(rows[some])[has_any]
                collector.matrix[chosen] = matrix.means(pieces, counts)[has_any]
                for row in chosen.tolist():
                    collector.rank[row] = SUBWORD_RANK
    collector.findings.row_count = header.words


def _read_header(source: Source) -> _Header:
    stream = source.stream
    magic, version = struct.unpack("<2i", stream.peek(8)[:8])
    is_old = magic != FASTTEXT_MAGIC
    if not is_old:
        stream.read(8)
        if not 0 < version <= _NEWEST_VERSION:
            raise ValueError(
                f"{str(source.path)!r} is a fastText model of version {version}; those up to {_NEWEST_VERSION} are read"
            )
    try:
        dim, *_, model, bucket, shortest, longest, _, _ = FASTTEXT_ARGUMENTS.unpack(
            stream.read(FASTTEXT_ARGUMENTS.size)
        )
        entries, words, labels = struct.unpack("<3i", stream.read(12))
        stream.read(8)
        pruned = -1 if is_old else struct.unpack("<q", stream.read(8))[0]
    except struct.error:
        raise _cut_short(source) from None
    if model == _SUPERVISED and version == 11:
        longest = 0  # such classifiers were trained without pieces, whatever they say
    if not (0 < dim <= MOST_NUMBERS and 0 <= words <= entries == words + labels and 0 <= bucket < _MOST_ROWS):
        raise ValueError(f"{str(source.path)!r} is a fastText model with a damaged header; get the file again")
    if longest > _LONGEST_PIECE or shortest < 0:
        raise ValueError(
            f"{str(source.path)!r} is a fastText model with pieces of {shortest} to {longest} characters; at most "
            f"{_LONGEST_PIECE} are read"
        )
    if pruned > 0:
        raise _quantised(source)
    return _Header(dim, bucket, shortest, longest if pruned else 0, entries, words, is_old)


def _read_words(source: Source, header: _Header, collector: VocabularyRows | AllRows) -> tuple[list[bytes], list[int]]:
    """Return the words that are wanted and their numbers, and leave the stream behind the dictionary."""
    words: list[bytes] = []
    numbers: list[int] = []
    number, wants = 0, collector.wants
    held = b""
    stream = source.stream
    while number < header.entries:
        more = stream.peek(_CHUNK)
        chunk = held + more
        at = 0
        for entry in _ENTRY.finditer(chunk):
            if entry.start() != at or number == header.entries:
                break
            at = entry.end()
            if number < header.words and wants(word := entry[1]):
                words.append(word)
                numbers.append(number)
            number += 1
        if number == header.entries:
            stream.read(at - len(held))
            return words, numbers
        held = chunk[at:]
        if not more:
            raise _cut_short(source)
        if len(held) > _LONGEST_WORD + 16:
            raise ValueError(f"{str(source.path)!r} is a fastText model with a damaged dictionary; get the file again")
        stream.read(len(more))
    return words, numbers


def _unknown(collector: VocabularyRows | AllRows, known: Sequence[bytes]) -> tuple[list[bytes], list[int]]:
    """Return the words of the vocabulary that the model does not know, and their rows; none where that is not wanted."""
    if not isinstance(collector, VocabularyRows) or SUBWORD not in collector.vocabulary.fallback:
        return [], []
    vocabulary = collector.vocabulary
    met = {claim % vocabulary.size for word in known for claim in vocabulary.claims_of(word)}
    missing = [(encode(word, vocabulary.codec), row) for word, row in vocabulary.rows.items() if row not in met]
    missing = [(word, row) for word, row in missing if b"\n" not in word]
    return [word for word, _ in missing], [row for _, row in missing]


def _pieces(
    words: Sequence[bytes], numbers: Sequence[int] | None, header: _Header
) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.int64]]]:
    """Yield some words at a time, the rows of the model that they are the means of, and how many each has.

    Args:
        words: the words.
        numbers: the rows of the words themselves, where the model knows them.
        header: what the model says of itself.
    """
    for start in range(0, len(words), _WORDS_TOGETHER):
        some = slice(start, start + _WORDS_TOGETHER)
        asked = [b"" if word == _END_OF_SENTENCE and not header.is_old else b"<" + word + b">" for word in words[some]]
        hashes, counts = piece_hashes(asked, header.shortest, header.longest if header.bucket else 0)
        pieces = hashes.astype(np.int64) % max(header.bucket, 1) + header.words
        if numbers is not None:
            ends = np.cumsum(counts)
            pieces = np.insert(pieces, ends - counts, numbers[some])
            counts = counts + 1
        yield some, pieces, counts


def piece_hashes(words: Sequence[bytes], shortest: int, longest: int) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Return the hashes of the pieces of `<word>`s, one word after the other, and how many pieces each has.

    Pieces have `shortest` to `longest` characters of UTF-8 and come in the order of fastText, by where they begin and then
    by length; a piece of one character that begins or ends the word is left out. The hash is FNV-1a on signed bytes.
    """
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    codes = np.frombuffer(b"".join(words), np.uint8)
    word_of = np.repeat(np.arange(len(words)), lengths)
    ends = np.cumsum(lengths)
    continues = (codes & 0xC0) == 0x80
    signed = codes.view(np.int8).astype(np.int32).view(np.uint32)
    begin = np.flatnonzero(~continues)
    stop, first = ends[word_of[begin]], (ends - lengths)[word_of[begin]]
    active, at = np.arange(len(begin)), begin.copy()
    hashes = np.full(len(begin), _OFFSET)
    found: list[tuple[NDArray[np.int64], NDArray[np.uint32]]] = []
    for length in range(1, longest + 1):
        active = active[at[active] < stop[active]]
        if not len(active):
            break
        taking = active
        while len(taking):  # the bytes of one more character
            hashes[taking] = (hashes[taking] ^ signed[at[taking]]) * _PRIME
            at[taking] += 1
            taking = taking[at[taking] < stop[taking]]
            taking = taking[continues[at[taking]]]
        if length >= shortest:
            whole = active
            if length == 1:
                whole = active[(begin[active] != first[active]) & (at[active] != stop[active])]
            found.append((whole, hashes[whole]))
    if not found:
        return np.zeros(0, np.uint32), np.zeros(len(words), np.int64)
    starts = np.concatenate([where for where, _ in found])
    order = np.argsort(starts, kind="stable")  # lengths are in order already
    starts = starts[order]
    return np.concatenate([some for _, some in found])[order], np.bincount(word_of[begin[starts]], minlength=len(words))


class _Matrix:
    """The rows of a model, read where they are in the file, or from a temporary file where that is packed."""

    def __init__(self, source: Source, header: _Header) -> None:
        self._source, self._header = source, header
        self._file: Any = None
        self._start, self._kept = 0, np.zeros(0, np.int64)

    def __enter__(self) -> "_Matrix":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()

    def keep(self, asked: Iterable[tuple[slice, NDArray[np.int64], NDArray[np.int64]]]) -> None:
        """Make the rows that will be asked for readable; the stream stands before the head of the matrix."""
        source, header = self._source, self._header
        size = 16 if header.is_old else 17
        head = source.stream.read(size)
        if len(head) < size:
            raise _cut_short(source)
        if not header.is_old and head[0]:
            raise _quantised(source)
        shape, expected = struct.unpack("<2q", head[-16:]), (header.words + header.bucket, header.dim)
        if shape != expected:
            raise ValueError(
                f"{str(source.path)!r} is a fastText model whose matrix is {' x '.join(map(format_count, shape))}, expected "
                f"{' x '.join(map(format_count, expected))}; get the file again"
            )
        if source.compression == "none":
            self._start = source.stream.tell()
            if self._start + shape[0] * 4 * header.dim > source.size:
                raise _cut_short(source)
            self._file = source.path.open("rb", buffering=0)
            return
        needed = np.zeros(shape[0], np.bool_)
        for _, pieces, _ in asked:
            needed[pieces] = True
        self._kept = np.flatnonzero(needed)
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # closed in __exit__
        self._spill(4 * header.dim)

    def _spill(self, width: int) -> None:
        """Write the rows that are needed to the temporary file, in their order."""
        per_chunk = max(1, _CHUNK // width)
        last = int(self._kept[-1]) + 1 if len(self._kept) else 0
        for start in range(0, last, per_chunk):
            count = min(per_chunk, last - start)
            content = self._source.stream.read(count * width)
            if len(content) < count * width:
                raise _cut_short(self._source)
            low, high = np.searchsorted(self._kept, (start, start + count))
            some = np.frombuffer(content, f"V{width}")[self._kept[low:high] - start]
            self._file.write(some.tobytes())

    def means(self, pieces: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the mean of the rows of each word, added in order in float32 as fastText and gensim do."""
        total = np.zeros((len(counts), self._header.dim), np.float32)
        ends = np.cumsum(counts)
        most, start = max(1, _NUMBERS_TOGETHER // self._header.dim), 0
        while start < len(counts):
            done = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + most, "right")))
            self._add(total[start:stop], pieces[done : ends[stop - 1]], counts[start:stop], most)
            start = stop
        return total / np.maximum(counts, 1).astype(np.float32)[:, None]

    def _add(self, total: NDArray[np.float32], pieces: NDArray[np.int64], counts: NDArray[np.int64], most: int) -> None:
        if len(counts) == 1:  # perhaps with more pieces than are held at a time
            for start in range(0, len(pieces), most):
                values, place = self._take(pieces[start : start + most])
                for position in place:
                    total[0] += values[position]
            return
        values, place = self._take(pieces)
        first = np.cumsum(counts) - counts
        for step in range(int(counts.max(initial=0))):
            longer = np.flatnonzero(counts > step)
            total[longer] += values[place[first[longer] + step]]

    def _take(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the different ones of some rows, and where in them each row is."""
        wanted, place = np.unique(rows, return_inverse=True)
        at = wanted if self._source.compression == "none" else np.searchsorted(self._kept, wanted)
        values = np.empty((len(wanted), self._header.dim), "<f4")
        width = values.itemsize * self._header.dim
        for number, row in enumerate(at.tolist()):
            self._file.seek(self._start + row * width)
            if self._file.readinto(memoryview(values[number]).cast("B")) != width:
                raise _cut_short(self._source)
        return values, place.reshape(-1)


def _cut_short(source: Source) -> ValueError:
    return ValueError(f"{str(source.path)!r} is a fastText model that is cut short; get the file again")


def _quantised(source: Source) -> ValueError:
    return ValueError(
        f"{str(source.path)!r} is a fastText model with compressed rows (.ftz), which are not read; use the .bin or .vec file"
    )
