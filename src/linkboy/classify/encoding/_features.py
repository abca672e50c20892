"""Texts as bags of n-grams: vectorised hashing, a learned vocabulary, TF-IDF weights in three flat arrays.

Every n-gram is a 64-bit hash of its code points, computed for all positions of all texts at once, so no n-gram is ever
a Python string. Two n-grams with one hash would share a weight; with a million n-grams the chance that this happens
anywhere is about 3e-8.
"""

import dataclasses
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linkboy._compiled import core
from linkboy.classify.encoding._hash_index import HashIndex
from linkboy.classify.reading._columns import FIELD
from linkboy.text._arrays import ranges
from linkboy.text._scripts import unspaced_share

T = TypeVar("T")
START, END = "\x02", "\x03"
FIELD_CODE = ord(FIELD)
CHUNK_CHARACTERS = 1 << 15  # the n-grams of a chunk fit the cache of a core, and a batch of headlines is several chunks
MOST_CHARACTERS = 4_000_000  # to learn a vocabulary from
# Odd, so that they can be undone modulo 2**64; otherwise arbitrary (digits of the golden ratio, xxhash, murmur).
_GOLDEN, _SECOND, _THIRD = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xFF51AFD7ED558CCD


@dataclasses.dataclass(frozen=True)
class FlatFeatures:
    """Sparse rows in three flat arrays: row `r` is `ids[offsets[r]:offsets[r + 1]]` with the weights beside it.

    Args:
        ids: `(K,)` int64.
        weights: `(K,)` float32, or `None` where an entry has no weight.
        offsets: `(rows + 1,)` int64.
    """

    ids: NDArray[np.int64]
    weights: NDArray[np.float32] | None
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def gather(self, rows: NDArray[np.int64]) -> "FlatFeatures":
        """Return the given rows, in the given order."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        where = ranges(starts, lengths)
        return FlatFeatures(self.ids[where], None if self.weights is None else self.weights[where], offsets)

    def part(self, start: int, stop: int) -> "FlatFeatures":
        """Return the rows from `start` to `stop`, exclusive, or to the last, without a copy."""
        offsets = self.offsets[start : stop + 1]
        held = slice(offsets[0], offsets[-1])
        return FlatFeatures(self.ids[held], None if self.weights is None else self.weights[held], offsets - offsets[0])


@dataclasses.dataclass(frozen=True)
class Ngram:
    """A known n-gram at one place in a text.

    Args:
        number: its place in the vocabulary.
        text: its characters, lower-case, with `START` and `END` for the borders of the text.
        kind: `"characters"`, `"word"` or `"word pair"`.
        span: where it begins in the normalized text, and where it ends, exclusive.
    """

    number: int
    text: str
    kind: str
    span: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class NgramEncoder:
    """Character n-grams, and words with word pairs where the script has them, weighted by TF-IDF or by presence.

    White space counts as one space, however much of it there is, and as none at the borders of a text: how far apart words
    stand tells more about where a text comes from than about its class.

    The weight of an n-gram is `(1 + ln count) * (ln((1 + N) / (1 + df)) + 1)`, or 1 if `binary`, and each text is scaled
    to unit length; n-grams outside the vocabulary are dropped.

    Args:
        longest: length of the longest character n-gram.
        words: whether words and pairs of words count too.
        hashes: `(V,)` uint64, sorted: the vocabulary.
        idf: `(V,)` float32.
        binary: whether an n-gram that occurs weighs 1, whatever its count and idf.
        collapse_whitespace: whether white space counts as one space; a classifier that was saved without this setting takes
            it as it is.
    """

    longest: int
    words: bool
    hashes: NDArray[np.uint64]
    idf: NDArray[np.float32]
    binary: bool = False
    collapse_whitespace: bool = True

    def __len__(self) -> int:
        return len(self.hashes)

    @cached_property
    def _index(self) -> HashIndex:
        return HashIndex(self.hashes)

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        *,
        longest: int | None = None,
        words: bool | None = None,
        min_df: int = 2,
        binary: bool = False,
    ) -> Self:
        """Learn the vocabulary: all n-grams that occur in at least `min_df` of the texts.

        Where `longest` or `words` is `None` the texts decide: scripts without spaces get 3 and no words; others get words,
        and 5, or 4 where texts are as short as names. Of more than four million characters a part is looked at, drawn evenly.
        """
        texts = [_collapsed(text) for text in texts[:: max(1, sum(map(len, texts)) // MOST_CHARACTERS)]]
        spaced = unspaced_share(texts) < 0.5
        if longest is None:
            longest = 3 if not spaced else 4 if np.median([len(text) for text in texts]) < 30 else 5
        words = spaced if words is None else words
        chunks = in_threads(lambda chunk: np.sort(_ngrams(chunk, longest, words)[1]), _chunks(texts))
        # What occurs in min_df texts occurs at least min_df times: most n-grams are gone before rows are looked at.
        candidates = _kept(np.sort(np.concatenate(chunks)) if len(chunks) > 1 else chunks[0], min_df)
        encoder = cls(longest, words, candidates, np.ones(len(candidates), np.float32), binary=True)
        df = np.zeros(len(candidates), np.int64)
        for chunk in _chunks(texts):
            df += np.bincount(encoder._encode_chunk(chunk)[0], minlength=len(df))
        kept = df >= min_df
        idf = np.log((1 + len(texts)) / (1 + df[kept])) + 1
        return cls(longest, words, candidates[kept], idf.astype(np.float32), binary)

    def encode(self, texts: Sequence[str]) -> FlatFeatures:
        """Turn texts into weighted n-grams; a text without a known one gets an empty row."""
        texts = list(map(self.normalized, texts))
        # The core needs no memory for what is between texts and n-grams, so that chunks are for several threads alone.
        chunks = [texts] if self._core is not None and torch.get_num_threads() == 1 else _chunks(texts)
        parts = in_threads(self._encode_chunk, chunks)
        ids, weights, lengths = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        return FlatFeatures(ids, weights, np.concatenate(([0], np.cumsum(lengths))))

    def normalized(self, text: str) -> str:
        """Return the text whose n-grams count."""
        return _collapsed(text) if self.collapse_whitespace else text

    @cached_property
    def _core(self) -> Any:
        module = core()
        if module is None or len(self.hashes) != len(self.idf):
            return None
        hashes, idf = np.ascontiguousarray(self.hashes, np.uint64), np.ascontiguousarray(self.idf, np.float32)
        return module.Grams(hashes, idf, self.longest, self.words, self.binary, FIELD_CODE)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_core", "_index")}

    def _encode_chunk(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
        if self._core is not None:
            return _compiled_chunk(self._core, texts)
        rows, ids, counts = _counted(texts, self.longest, self.words, self._index)
        weights = np.ones(len(ids)) if self.binary else (1 + np.log(counts)) * self.idf[ids]
        norms = np.sqrt(np.bincount(rows, weights * weights, minlength=len(texts)))
        weights = (weights / norms[rows]).astype(np.float32)
        return ids, weights, np.bincount(rows, minlength=len(texts))

    def ngrams_of(self, text: str) -> list[Ngram]:
        """Return every known n-gram of a normalized text with its characters, which the encoded features do not hold."""
        marked = f"{START}{text.lower()}{END}"
        # A character may have more than one in lower case; the borders of the text stand at its first and last place.
        origin = np.repeat(np.arange(len(text)), [len(character.lower()) for character in text])
        begin, end = np.concatenate(([0], origin, [len(text)])), np.concatenate(([0], origin + 1, [len(text)]))
        spans = list(_spans(marked, self.longest, self.words))
        numbers = self._index.look_up(_ngrams([text], self.longest, self.words)[1]).tolist()
        return [
            Ngram(number, marked[first:last], kind, (int(begin[first]), int(end[last - 1])))
            for number, (kind, first, last) in zip(numbers, spans, strict=True)
            if number >= 0
        ]

    def collate(self, rows: FlatFeatures) -> tuple[Tensor, ...]:
        """Return ids `(K,)`, offsets `(B + 1,)` and weights `(K,)`."""
        return torch.from_numpy(rows.ids), torch.from_numpy(rows.offsets), torch.from_numpy(rows.weights)

    def settings(self) -> dict[str, Any]:
        """Return what JSON can hold of the encoder."""
        own = {"longest": self.longest, "words": self.words, "binary": self.binary}
        return {**own, "collapse_whitespace": True} if self.collapse_whitespace else own

    def arrays(self) -> dict[str, Tensor]:
        """Return the tensors of the encoder."""
        # torch has few operations on uint64, but it stores and views it well.
        return {"hashes": torch.from_numpy(self.hashes), "idf": torch.from_numpy(self.idf)}

    @classmethod
    def restore(cls, settings: dict[str, Any], arrays: dict[str, Tensor]) -> Self:
        """Build the encoder that `settings` and `arrays` were taken from."""
        longest, words, binary = settings["longest"], settings["words"], settings.get("binary", False)
        collapse = settings.get("collapse_whitespace", False)
        if (
            not isinstance(longest, int)
            or not 1 <= longest <= 16
            or not {type(words), type(binary), type(collapse)} == {bool}
        ):
            raise TypeError("the encoder needs a longest n-gram of 1 to 16 characters, and to know whether words count")
        return cls(longest, words, arrays["hashes"].numpy(), arrays["idf"].numpy(), binary, collapse)


def log_odds(
    pieces: Iterable[tuple[FlatFeatures, NDArray[np.int64], NDArray[np.float32]]], classes: int, vocabulary: int
) -> NDArray[np.float32]:
    """Return `(vocabulary, classes)`, the log-odds of each n-gram for each class, of rows that come in pieces.

    Args:
        pieces: features whose ids are distinct in each row, class indices `(rows,)`, and what each text counts `(rows,)`.
        classes: how many there are.
        vocabulary: how many n-grams there are.
    """
    inside = np.zeros(vocabulary * classes)
    for features, targets, weights in pieces:
        lengths = np.diff(features.offsets)
        cells = features.ids * classes + np.repeat(targets, lengths)
        inside += np.bincount(cells, np.repeat(weights, lengths), minlength=len(inside))
    counts = torch.from_numpy(inside.reshape(vocabulary, classes))
    return log_odds_of(counts, counts.sum(1, keepdim=True) - counts).float().numpy()


def log_odds_of(inside: Tensor, outside: Tensor, unseen: float = 1.0) -> Tensor:
    """Return `(V, C)`: how much likelier a text of a class is to hold an n-gram than a text of the other classes.

    It is `ln(p / q)`, `p` the share of the n-gram among all n-grams of the texts of the class, each counted `unseen` more
    than it was seen, `q` the same for the other classes: the weights of a naive Bayes classifier.

    Args:
        inside: `(V, C)`, how often each n-gram occurs in the texts of each class.
        outside: `(V, C)`, how often in those of the other classes.
        unseen: what one that was never seen counts.

    Source: Wang & Manning 2012, "Baselines and bigrams", section 2.1, https://aclanthology.org/P12-2018.
    """
    inside, outside = inside + unseen, outside + unseen
    return (inside / inside.sum(0)).log() - (outside / outside.sum(0)).log()


def _collapsed(text: str) -> str:
    return " ".join(text.split())


def _chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Split into runs of `CHUNK_CHARACTERS`, which bounds the temporary memory; at least one, maybe empty."""
    start = size = 0
    for index, text in enumerate(texts):
        size += len(text) + 2
        if size >= CHUNK_CHARACTERS:
            yield texts[start : index + 1]
            start, size = index + 1, 0
    if start < len(texts) or start == 0:
        yield texts[start:]


def _counted(
    texts: Sequence[str], longest: int, words: bool, index: HashIndex
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return rows, vocabulary ids and counts of the distinct known n-grams of each text, ordered by row, then id."""
    rows, hashes = _ngrams(texts, longest, words)
    ids = index.look_up(hashes)
    known = np.flatnonzero(ids >= 0)
    # A shift takes a small part of the time of a division, which the way back would otherwise need.
    bits = np.int64(len(index).bit_length())
    keys = np.sort((rows[known] << bits) | ids[known])
    first, counts = _runs(keys)
    distinct = keys[first]
    return distinct >> bits, distinct & ((np.int64(1) << bits) - 1), counts


def _compiled_chunk(
    grams: Any, texts: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Return the same from the compiled core, which asks for what it has to know of characters."""
    lowered = [text.lower() for text in texts]
    logs = _logs(max(map(len, lowered), default=0).bit_length())
    while type(found := grams.encode(lowered, logs)) is list:
        for page in found:
            grams.fill_flags(page, _word_flags(page))
    ids, weights, lengths = found
    return np.frombuffer(ids, np.int64), np.frombuffer(weights, np.float32), np.frombuffer(lengths, np.int64)


@lru_cache(maxsize=32)
def _logs(bits: int) -> NDArray[np.float64]:
    """Return the logarithms, by NumPy, of the counts that texts of so many bits of characters can have."""
    return np.concatenate(([0.0], np.log(np.arange(1, (1 << bits) + 3))))


@lru_cache(maxsize=512)
def _word_flags(page: int) -> bytes:
    """Return which of 256 characters are part of a word."""
    return bytes(is_word_character(chr(code)) for code in range(256 * page, 256 * page + 256))


def _kept(ordered: NDArray[np.uint64], at_least: int) -> NDArray[np.uint64]:
    """Return the distinct values that occur `at_least` times in a sorted array."""
    first, counts = _runs(ordered)
    return ordered[first[counts >= at_least]]


def _runs(ordered: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each distinct value of a sorted array begins, and how often it occurs."""
    edges = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1], [True])))
    return (edges[:-1], np.diff(edges)) if len(ordered) else (np.zeros(0, np.int64), np.zeros(0, np.int64))


def in_threads(function: Callable[[Sequence[str]], T], chunks: Iterable[Sequence[str]]) -> list[T]:
    """Call a function on each chunk, on as many threads as torch has: NumPy lets go of the interpreter's lock."""
    threads = torch.get_num_threads()
    chunks = list(chunks)
    if threads == 1 or len(chunks) == 1:
        return [function(chunk) for chunk in chunks]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, chunks))


def _ngrams(texts: Sequence[str], longest: int, words: bool) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Return row and hash of every n-gram of every text; no n-gram crosses from one text into the next."""
    marked = [f"{START}{text.lower()}{END}" for text in texts]
    codes = np.frombuffer("".join(marked).encode("utf-32-le", "surrogatepass"), np.uint32)
    rows = np.repeat(np.arange(len(marked)), [len(text) for text in marked])
    mixed = _mix(codes.astype(np.uint64) if FIELD_CODE not in codes else _told_apart(codes, rows))
    parts = list(_character_ngrams(codes, mixed, rows, longest))
    if words:
        parts += _word_ngrams(codes, mixed, rows)
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _told_apart(codes: NDArray[np.uint32], rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the codes with the number of their column in the upper half, so that columns share no n-gram but the first's."""
    behind = np.cumsum(codes == FIELD_CODE)  # how many borders there are up to each place, in all texts
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    column = behind - behind[starts][np.searchsorted(rows[starts], rows)]
    return codes.astype(np.uint64) | (column.astype(np.uint64) << np.uint64(32))


def _character_ngrams(
    codes: NDArray[np.uint32], mixed: NDArray[np.uint64], rows: NDArray[np.int64], longest: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint64]]]:
    inside = codes > 3  # the markers count as part of an n-gram, not as one
    yield rows[inside], mixed[inside]
    rolling = mixed
    for n in range(2, longest + 1):
        rolling = _mix(rolling[:-1] * np.uint64(_GOLDEN) + mixed[n - 1 :])
        whole = rows[: len(rolling)] == rows[n - 1 :]
        yield rows[: len(rolling)][whole], rolling[whole]


def _word_ngrams(
    codes: NDArray[np.uint32], mixed: NDArray[np.uint64], rows: NDArray[np.int64]
) -> list[tuple[NDArray[np.int64], NDArray[np.uint64]]]:
    """Return the words, and the pairs of words of one text that follow each other."""
    starts, ends = _word_borders(codes)
    # A word's hash is a difference of running sums: sum of mixed[i] * g**i over the word, divided by g**start.
    powers = _powers(_GOLDEN, len(codes))
    running = np.concatenate((np.zeros(1, np.uint64), np.cumsum(mixed * powers)))
    inverse_powers = _powers(pow(_GOLDEN, -1, 2**64), len(codes))
    hashes = _mix((running[ends] - running[starts]) * inverse_powers[starts] + np.uint64(_SECOND))
    word_rows = rows[starts]
    pairs = _mix(hashes[:-1] * np.uint64(_SECOND) + hashes[1:])
    together = word_rows[:-1] == word_rows[1:]
    return [(word_rows, hashes), (word_rows[:-1][together], pairs[together])]


def _word_borders(codes: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where words, which are runs of letters, digits and marks, begin and end."""
    distinct, inverse = np.unique(codes, return_inverse=True)
    in_word = np.array([is_word_character(chr(code)) for code in distinct.tolist()])[inverse]
    edges = np.flatnonzero(np.diff(in_word, prepend=False, append=False))
    return edges[::2], edges[1::2]


def _spans(marked: str, longest: int, words: bool) -> Iterator[tuple[str, int, int]]:
    """Yield kind, start and end of the n-grams of one text, in the order in which `_ngrams` gives their hashes."""
    codes = np.frombuffer(marked.encode("utf-32-le", "surrogatepass"), np.uint32)
    yield from (("characters", place, place + 1) for place in np.flatnonzero(codes > 3).tolist())
    for n in range(2, longest + 1):
        yield from (("characters", place, place + n) for place in range(len(marked) - n + 1))
    if words:
        starts, ends = (borders.tolist() for borders in _word_borders(codes))
        yield from (("word", start, end) for start, end in zip(starts, ends, strict=True))
        yield from (("word pair", start, end) for start, end in zip(starts, ends[1:], strict=False))


def is_word_character(character: str) -> bool:
    """Return whether a character is part of a word."""
    # Combining marks are not alphanumeric, yet they belong to the words of Hindi, Thai and decomposed Latin.
    return character.isalnum() or character == "_" or unicodedata.category(character)[0] == "M"


def _powers(base: int, count: int) -> NDArray[np.uint64]:
    powers = np.full(count, base, np.uint64)
    powers[:1] = 1
    return np.cumprod(powers)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64 bits so that every input bit reaches every output bit (the finaliser of splitmix64, simplified)."""
    mixed = values * np.uint64(_THIRD)
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(_SECOND)
    mixed ^= mixed >> np.uint64(29)
    return mixed
