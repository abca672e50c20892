"""Many texts to ids at once, in arrays: one look-up per character, one per word, no loop over either."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from linkboy.text._arrays import Array, ranges
from linkboy.text._characters import Rules
from linkboy.text._flat import MARK, FlatIds, join_parts
from linkboy.text._sigma import is_final_sigma
from linkboy.text._symbols import DROPPED, LETTER, NEEDS_SIGMA, NEEDS_TEXT, SEPARATOR, SymbolTable
from linkboy.text._trie import PieceTrie
from linkboy.text._word_cache import FoundWords, WordCache
from linkboy.text._wordpiece import Pieces, TextReader

CHUNK = 1 << 18  # characters processed at once: bounds the memory, and stays in the processor's cache
LONGEST = 256  # characters of a word on the array path


class ArrayEncoder:
    """The array path of a WordPiece tokenizer.

    Args:
        vocabulary: token to id.
        rules: what a character becomes.
        unknown_id: the id of words without a cut.
        limit: characters above which a word is unknown.
        reader: cuts one text at a time; used for the texts that the array path cannot handle.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        rules: Rules,
        *,
        unknown_id: int,
        limit: int,
        reader: TextReader,
    ) -> None:
        self._reader, self._unknown_id, self._limit = reader, unknown_id, limit
        # A word of this path is not longer than LONGEST, so longer pieces never match, and the trie has at most that many levels.
        tokens = [t for t in vocabulary if t not in ("", "##") and len(t.removeprefix("##")) <= LONGEST]
        continued = np.array([token.startswith("##") for token in tokens], bool)
        bodies = [token.removeprefix("##") for token in tokens]
        codes = np.frombuffer("".join(bodies).encode("utf-32-le", "surrogatepass"), "<u4")
        self.table = SymbolTable(rules, vocabulary, unknown_id, np.unique(codes))
        lengths = np.fromiter(map(len, bodies), np.int64, len(bodies))
        numbers = np.fromiter(map(vocabulary.__getitem__, tokens), np.int32, len(tokens))
        self.trie = PieceTrie(self.table.symbols_of(codes), lengths, continued, numbers)
        self.cache = WordCache(self.table, self.trie, unknown_id, limit)
        self.encode([body for body, more in zip(bodies, continued.tolist(), strict=True) if not more])

    def encode(self, texts: Sequence[str], *, spans: bool = False) -> FlatIds:
        """Return the ids of all texts; memory beyond the result stays that of one chunk."""
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        if not len(sizes) or int(sizes.max()) <= CHUNK:
            return self._encode_all(texts, sizes, spans)
        cuts = [(number, start, end) for number, text in enumerate(texts) for start, end in _cuts(text)]
        parts = [texts[number][start:end] for number, start, end in cuts]
        owners, origins, ends = np.array(cuts).T
        return join_parts(self._encode_all(parts, ends - origins, spans), owners, origins)

    def _encode_all(self, texts: Sequence[str], sizes: Array, spans: bool) -> FlatIds:
        parts = [self._encode_chunk(texts[a:b], sizes[a:b], spans) for a, b in _chunks(sizes)]
        if len(parts) == 1:
            return parts[0]
        shifts = np.cumsum([0] + [len(part.ids) for part in parts])[:-1].tolist()
        no_ids, no_places, no_spans = np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros((0, 2), np.int32)
        return FlatIds(
            np.concatenate([no_ids, *(part.ids for part in parts)]),
            np.concatenate([no_places, *(part.begin + shift for part, shift in zip(parts, shifts, strict=True))]),
            np.concatenate([no_places, *(part.end + shift for part, shift in zip(parts, shifts, strict=True))]),
            np.concatenate([no_spans, *(p.spans for p in parts if p.spans is not None)]) if spans else None,
        )

    def _encode_chunk(self, texts: Sequence[str], sizes: Array, spans: bool) -> FlatIds:
        ends = np.cumsum(sizes + 2) - 1  # the mark after each text
        begins = ends - sizes - 1
        values, readable = self._look_up(texts, begins)
        wide: list[tuple[int, int]] = []
        starts, lengths, found = self._find_words(values, readable, wide, begins, ends)
        read = {text: self._read(texts[text], spans) for text in sorted(readable)}
        return _IdLayout(values, starts, lengths, begins, ends, found, read, wide).collect(spans)

    def _read(self, text: str, spans: bool) -> Pieces:
        return self._reader.read(text) if spans else [(number, 0, 0) for number in self._reader.ids(text)]

    def _look_up(self, texts: Sequence[str], begins: Array) -> tuple[Array, set[int]]:
        """Return the class of every character, and the texts that the array path cannot handle."""
        joined = "\n" + "\n\n".join(texts) + "\n"
        values = self.table.look_up(code_points(joined))
        readable: set[int] = set()
        literal = self._reader.literal
        if literal is not None and literal.search(joined):
            readable = {index for index, text in enumerate(texts) if literal.search(text)}
        if values.max() >= NEEDS_TEXT:
            for at in np.flatnonzero(values >= NEEDS_TEXT).tolist():
                if values[at] == NEEDS_SIGMA:
                    values[at] = self.table.sigmas[is_final_sigma(joined, at, self.table.rules)]
                if values[at] >= NEEDS_TEXT:
                    readable.add(int(np.searchsorted(begins, at, "right")) - 1)
        return values, readable

    def _find_words(
        self, values: Array, readable: set[int], wide: list[tuple[int, int]], begins: Array, ends: Array
    ) -> tuple[Array, Array, FoundWords]:
        """Return where words start, their lengths and pieces; blank the texts to be read one by one.

        Words over the limit become one token, of which `wide` remembers the place and where the word ends.
        """
        while True:
            for text in readable:
                values[begins[text] : ends[text]] = SEPARATOR
            letters = values >= LETTER
            edges = np.flatnonzero(letters[1:] != letters[:-1]) + 1
            starts, lengths = edges[0::2], edges[1::2] - edges[0::2]
            refused = np.flatnonzero(lengths > LONGEST)
            if refused.size:
                refused = refused[[not self._settle(values, int(starts[w]), int(lengths[w]), wide) for w in refused]]
            else:
                found = self.cache.find(_symbols(values), starts, lengths)
                refused = found.collided
                if not refused.size:
                    return starts, lengths, found
            readable |= set((np.searchsorted(begins, starts[refused], "right") - 1).tolist())

    def _settle(self, values: Array, start: int, length: int, wide: list[tuple[int, int]]) -> bool:
        """Replace a word that is over the limit by one unknown token; return whether it was."""
        symbols = values[start : start + length] & 0xFFFF
        if int(self.table.widths[symbols].sum()) <= self._limit:
            return False  # over the limit only by characters that are dropped
        kept = np.flatnonzero(symbols != DROPPED)
        first, last = start + int(kept[0]), start + int(kept[-1])
        values[start : start + length] = SEPARATOR
        values[first] = self._unknown_id
        wide.append((first, last + 1))
        return True


class _IdLayout:
    """Writes ids at the places of their characters; inserts places where there are more ids than characters."""

    def __init__(
        self,
        values: Array,
        starts: Array,
        lengths: Array,
        begins: Array,
        ends: Array,
        found: FoundWords,
        read: Mapping[int, Pieces],
        wide: Sequence[tuple[int, int]],
    ) -> None:
        self.values, self.found, self.read, self.wide = values, found, read, wide
        self.starts, self.begins, self.ends = starts, begins, ends
        self.word_starts = starts  # as places in the text, where `starts` are places in `values`
        self.text_begins = begins
        self.places: Array | None = None
        several = np.flatnonzero(found.piece_count > 1)
        self.several = several
        self._make_room(several, lengths)

    def _make_room(self, several: Array, lengths: Array) -> None:
        lack = self.found.piece_count[several] - lengths[several]
        crowded = lack > 0
        room = self.ends - self.begins - 1
        overfull = [(text, len(pieces) - room[text]) for text, pieces in self.read.items() if len(pieces) > room[text]]
        if not crowded.any() and not overfull:
            return
        words = several[crowded]
        steps = np.ones(len(self.values), np.int32)
        steps[0] = 0
        steps[self.starts[words] + lengths[words]] += lack[crowded].astype(np.int32)
        for text, more in overfull:
            steps[self.ends[text]] += more
        self.places = np.cumsum(steps, out=steps)
        spread = np.full(int(self.places[-1]) + 1, SEPARATOR, np.int32)
        spread[self.places] = self.values
        self.values = spread
        self.starts, self.begins, self.ends = self.places[self.starts], self.places[self.begins], self.places[self.ends]

    def collect(self, spans: bool) -> FlatIds:
        values, found = self.values, self.found
        values[self.starts] = found.first_id
        if self.several.size:
            count, at, start = found.piece_count[self.several], found.at[self.several], self.starts[self.several]
            piece = ranges(at, count)
            values[piece + np.repeat(start - at, count)] = found.pieces["id"][piece]
        values[self.begins] = values[self.ends] = MARK
        for text, pieces in self.read.items():
            at = int(self.begins[text]) + 1
            values[at : at + len(pieces)] = [piece[0] for piece in pieces]
        # Letters that got no id are above the mark, separators below zero: unsigned, both are above.
        kept = np.flatnonzero(values.view(np.uint32) < LETTER)
        ids = values.take(kept)
        marks = np.flatnonzero(ids == MARK)
        begin, end = marks[0::2], marks[1::2]
        return FlatIds(ids, begin, end, self._spans(kept, begin, end) if spans else None)

    def _spans(self, kept: Array, begin: Array, end: Array) -> Array:
        """Return for each id kept where in its own text it came from."""
        found, size = self.found, len(self.values)
        start = np.arange(size) if self.places is None else np.zeros(size, np.int64)
        if self.places is not None:
            start[self.places] = np.arange(len(self.places))
        stop = start + 1
        some = np.flatnonzero(found.piece_count > 0)
        count = found.piece_count[some]
        targets = ranges(self.starts[some], count)
        inner = found.pieces.take(ranges(found.at[some], count))
        word = np.repeat(self.word_starts[some], count)
        start[targets], stop[targets] = word + inner["start"], word + inner["end"]
        for place, stops_at in self.wide:
            stop[place if self.places is None else self.places[place]] = stops_at
        for text, pieces in self.read.items():
            at, origin = int(self.begins[text]) + 1, int(self.text_begins[text]) + 1
            start[at : at + len(pieces)] = [origin + piece[1] for piece in pieces]
            stop[at : at + len(pieces)] = [origin + piece[2] for piece in pieces]
        origin = np.repeat(self.text_begins + 1, end - begin + 1)
        pairs = np.stack([start[kept] - origin, stop[kept] - origin], 1).astype(np.int32)
        pairs[begin] = pairs[end] = 0
        return pairs


def code_points(text: str) -> Array:
    """Return the code points of a text in the narrowest type that Python's encoders give."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    data = text.encode("utf-16-le", "surrogatepass")
    if len(data) == 2 * len(text):
        return np.frombuffer(data, "<u2")
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _symbols(values: Array) -> Array:
    symbols = np.empty(len(values) + 4, "<u2")  # as the 64-bit chunks are read: the first symbol lowest
    symbols[:-4] = values  # the low 16 bits
    symbols[-4:] = 0
    return symbols


def _chunks(sizes: Array) -> Iterator[tuple[int, int]]:
    """Split texts of these sizes into runs of about `CHUNK` characters, or of one longer text."""
    ends = np.cumsum(sizes + 2)
    first = 0
    while first < len(sizes):
        limit = CHUNK + (int(ends[first - 1]) if first else 0)
        last = max(first + 1, int(np.searchsorted(ends, limit, "right")))
        yield first, last
        first = last


def _cuts(text: str) -> Iterator[tuple[int, int]]:
    """Cut a text into runs of about `CHUNK` characters at spaces, over which nothing looks; no space, no cut."""
    start = 0
    while len(text) - start > CHUNK:
        end = max(text.rfind(space, start + 1, start + CHUNK) for space in " \n")
        if end < 0:
            after = [at for at in (text.find(space, start + CHUNK) for space in " \n") if at >= 0]
            if not after:
                break
            end = min(after)
        yield start, end
        start = end
    yield start, len(text)
