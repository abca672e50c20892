"""The two engines that cut plain text: the compiled core, and what takes its place where it is not there."""

import copy
import functools
import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np

from linkboy._compiled import core
from linkboy.text._added_tokens import AddedToken
from linkboy.text._arrays import Array
from linkboy.text._characters import is_punctuation
from linkboy.text._flat import MARK, FlatIds
from linkboy.text._many_texts import ManyTexts
from linkboy.text._pages import REFERENCE, SIZE, make_flags, make_page
from linkboy.text._wordpiece import TextReader

FLAGS = 1 << 16  # a page of flags, among the numbers of the pages that the core asks for


class Engine(Protocol):
    """Cuts plain text; knows nothing of rows, padding or options."""

    def encode(self, texts: list[str], *, spans: bool = False) -> FlatIds:
        """Return the ids of all texts, one after the other."""
        ...

    def lists(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text."""
        ...


def make_engine(reader: TextReader) -> "CoreEngine | ReaderEngine":
    """Return the engine that cuts as a reader does: the compiled one where there is one."""
    return ReaderEngine(reader) if core() is None else CoreEngine(reader)


class ReaderEngine:
    """All texts at once in NumPy; one after the other where spans are asked for, as the reference says.

    Args:
        reader: cuts a text.
    """

    def __init__(self, reader: TextReader) -> None:
        self.reader = reader
        self._many = ManyTexts(reader)

    def lists(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text."""
        return list(map(self.reader.ids, texts))

    def encode(self, texts: list[str], *, spans: bool = False) -> FlatIds:
        """Return the ids of all texts, and their spans."""
        if not spans:
            flat, unread = self._many.encode(texts)
            return _with_read(flat, texts, unread, self.reader) if unread else flat
        rows = [[(MARK, 0, 0), *self.reader.read(text), (MARK, 0, 0)] for text in texts]
        pieces = np.array(list(itertools.chain.from_iterable(rows)), np.int32).reshape(-1, 3)
        begin, end = _borders(rows)
        return FlatIds(pieces[:, 0].copy(), begin, end, pieces[:, 1:].copy())


class CoreEngine:
    """All texts at once, in the compiled core; what that cannot decide alone goes to the reader.

    Args:
        reader: says how texts are cut, and cuts those that the core leaves.
    """

    def __init__(self, reader: TextReader) -> None:
        self.reader = reader
        limit = min(reader.limit, sys.maxsize)
        # Longer tokens are in no word that is cut at all, and each of their characters would be a node.
        short = {token: number for token, number in reader.vocabulary.items() if len(token) <= limit + len("##")}
        self._core = core().Encoder(short, limit, reader.unknown_id)
        self.again = self._core.again  # what a plain call after another like it does, with the plan of that one

    def with_literals(self, added: Mapping[AddedToken, int]) -> Self | None:
        """Return an engine that finds these tokens, too; `None` where they ask for more than the core can."""
        if self.reader.first_characters or not all(map(_is_simple, added)):
            return None
        other = copy.copy(self)
        other._core = self._core.with_literals([token.content for token in added], list(added.values()))
        other.again = other._core.again
        return other

    def encode(self, texts: list[str], *, spans: bool = False) -> FlatIds:
        """Return the ids of all texts, and their spans."""
        ids, splits, unread, ranges = self._ask(self._core.flat, texts, MARK, MARK, -1, spans, False)
        splits = np.frombuffer(splits, np.int64)
        flat = FlatIds(
            np.frombuffer(ids, np.int32),
            splits[:-1].copy(),
            splits[1:] - 1,
            np.frombuffer(ranges, np.int32).reshape(-1, 2) if spans else None,
        )
        return _with_read(flat, texts, unread, self.reader) if unread else flat

    def lists(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text."""
        return self.rows(texts, -1, -1, -1)

    def rows(self, texts: list[str], first: int, last: int, room: int) -> list[list[int]]:
        """Return the ids of each text, at most `room`, with one id before and one after them; -1 for neither."""
        rows, unread = self._ask(self._core.lists, texts, first, last, room)
        for number in unread:
            at = int(first >= 0)
            rows[number][at:at] = self.reader.ids(texts[int(number)])[: None if room < 0 else room]
        return rows

    def arrays(self, texts: list[str], *rows: int) -> tuple[Array, Array, Array] | None:
        """Return ids, zeros and mask, `(N, L)` int64.

        Args:
            texts: the texts.
            *rows: the id before each text and the one after it, -1 for none; the most ids of a text, -1 for all; the id
                that fills up rows; the least width, -1 where rows may not be padded; a number of which the width becomes a
                multiple; whether to pad at the left.

        Returns:
            `None` where rows that may not be padded differ, or a text is one for the reader.
        """
        asked = self._ask(self._core.padded, texts, *rows, None)
        if asked is None:
            return None
        ids, width, mask = asked
        shape = len(texts), width
        return np.ndarray(shape, np.int64, ids), np.zeros(shape, np.int64), np.ndarray(shape, np.int64, mask)

    def tensors(self, texts: list[str], *rows: int) -> tuple[Any, Any, Any] | None:
        """Return the same as tensors of torch, which takes them over in a third of the time that arrays need."""
        return self._ask(self._core.padded, texts, *rows, take_capsule())

    def flat(self, texts: list[str], first: int, last: int, room: int) -> tuple[Array, Array] | None:
        """Return the ids of all texts end to end, and where each begins and ends; `None` where one is for the reader."""
        ids, splits, unread, _ = self._ask(self._core.flat, texts, first, last, room, False, True)
        return None if unread else (np.frombuffer(ids, np.int64), np.frombuffer(splits, np.int64))

    def _ask(self, method: Any, *arguments: Any) -> Any:
        """Call the core until it has all the pages that these texts need."""
        while type(result := method(*arguments)) is list:
            for number in result:
                self._fill(number)
        return result

    def _fill(self, number: int) -> None:
        if number >= FLAGS:
            self._core.fill_flags(number - FLAGS, make_flags(number - FLAGS))
            return
        kinds, lengths, folded, classes = make_page(self.reader.rules, number)
        # Only the reader knows the tokens that stay whole between spaces.
        here = [ord(first) % SIZE for first in self.reader.first_characters if ord(first) // SIZE == number]
        if here:
            changed = bytearray(kinds)
            for place in here:
                changed[place] = REFERENCE
            kinds = bytes(changed)
        self._core.fill(number, kinds, lengths, folded, classes)


@functools.cache
def take_capsule() -> Any:
    """Return the function of torch that makes a tensor of a capsule of DLPack."""
    import torch.utils.dlpack

    # What the public function calls with a capsule, after looks at it that take as long as the rest.
    return getattr(torch._C, "_from_dlpack", torch.utils.dlpack.from_dlpack)


def _is_simple(token: AddedToken) -> bool:
    """Return whether the core finds a token as it stands, without a look at what is beside it."""
    first = token.content[0]
    flags = token.normalized or token.lstrip or token.rstrip or token.single_word
    return not flags and first.isascii() and is_punctuation(first)


def _with_read(flat: FlatIds, texts: list[str], unread: Sequence[int], reader: TextReader) -> FlatIds:
    """Put in the texts that an engine left empty."""
    found = [
        reader.read(texts[number]) if flat.spans is not None else [(i, 0, 0) for i in reader.ids(texts[number])]
        for number in unread
    ]
    counts = np.zeros(len(texts), np.int64)
    counts[unread] = list(map(len, found))
    at = np.repeat(flat.end, counts)
    pieces = np.array(list(itertools.chain.from_iterable(found)), np.int32).reshape(-1, 3)
    more = np.cumsum(counts)
    return FlatIds(
        np.insert(flat.ids, at, pieces[:, 0]),
        flat.begin + more - counts,
        flat.end + more,
        None if flat.spans is None else np.insert(flat.spans, at, pieces[:, 1:], axis=0),
    )


def _borders(rows: Sequence[Sequence[object]]) -> tuple[Array, Array]:
    ends = np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)))
    return np.append(0, ends)[:-1], ends - 1
