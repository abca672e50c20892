"""Many texts at once, with NumPy in place of a loop over characters: what cuts texts where the compiled core is not there."""

import itertools
import sys

import numpy as np

from linkboy.text._arrays import Array
from linkboy.text._character_table import DependsOnNeighboursError
from linkboy.text._flat import MARK, FlatIds
from linkboy.text._wordpiece import TextReader, WordTable

AT_ONCE = 1 << 16  # characters, about: what is made of them stays in the processor's cache

# What a character is; more than 0: one that is a token by itself, 1 above its id.
UNSEEN, SPACE, LETTER, REFERENCE = 0, -1, -2, -3
BORDER = MARK + 1


class ManyTexts:
    """Cuts many texts, each word of which is looked up, and each character that is a token by itself is read off a table.

    Args:
        reader: says how texts are cut.
    """

    def __init__(self, reader: TextReader) -> None:
        self._reader = reader
        self._kinds = np.zeros(sys.maxunicode + 1, np.int32)  # the system gives the memory of a page when it is used
        self._words = WordTable(self._cut)

    def encode(self, texts: list[str]) -> tuple[FlatIds, list[int]]:
        """Return the ids of all texts, and the numbers of those that are one for the reader, which have none."""
        sizes = np.fromiter(map(len, texts), np.int64, len(texts)) + 1
        groups = np.flatnonzero(np.diff(np.cumsum(sizes) // AT_ONCE)) + 1
        ids: list[Array] = []
        unread: list[int] = []
        for first, last in itertools.pairwise([0, *groups.tolist(), len(texts)]):
            found, left = self._encode(texts[first:last], sizes[first:last])
            ids.append(found)
            unread += [first + number for number in left]
        joined = np.concatenate(ids)
        marks = np.flatnonzero(joined == MARK)
        return FlatIds(joined, marks[0::2], marks[1::2]), unread

    def _encode(self, texts: list[str], sizes: Array) -> tuple[Array, list[int]]:
        """Return the ids of some texts with a mark before and after each."""
        joined = "\n".join(["", *texts, ""])
        borders = np.append(0, np.cumsum(sizes))
        codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), "<u4")
        kinds = self._kinds[codes]
        if not kinds.all():
            self._learn(np.unique(codes[kinds == UNSEEN]))
            kinds = self._kinds[codes]
        unread: list[int] = []
        if kinds.min() == REFERENCE:
            unread = np.unique(np.searchsorted(borders, np.flatnonzero(kinds == REFERENCE)) - 1).tolist()
            for number in unread:
                kinds[borders[number] : borders[number + 1]] = SPACE
        kinds[borders] = BORDER
        letters = kinds == LETTER
        words = np.where(letters, codes, ord(" ")).astype("<u4", copy=False).tobytes()
        letters[1:] &= ~letters[:-1]  # of a word only the first letter is left
        pieces = list(map(self._words.__getitem__, words.decode("utf-32-le", "surrogatepass").split()))
        return _put_in(kinds[letters | (kinds > 0)], pieces), unread

    def _cut(self, word: str) -> tuple[int, ...]:
        return self._reader.cut_ids(word.translate(self._reader.characters))

    def _learn(self, codes: Array) -> None:
        for code in codes.tolist():
            self._kinds[code] = self._kind(chr(code))

    def _kind(self, character: str) -> int:
        if character in self._reader.first_characters:
            return REFERENCE  # only the reader knows the tokens that stay whole between spaces
        try:
            made = self._reader.characters[ord(character)]
        except DependsOnNeighboursError:
            return REFERENCE
        if made.isspace():
            return SPACE
        if not made.startswith(" "):
            return REFERENCE if character.isspace() else LETTER  # dropped, though `split` would part words there
        pieces = self._reader.cut(made[1:-1])
        return pieces[0][0] + 1 if len(pieces) == 1 else REFERENCE


def _put_in(kinds: Array, pieces: list[tuple[int, ...]]) -> Array:
    """Return the ids of characters and words.

    Args:
        kinds: the marks, and the kinds of the characters that are tokens and of the first letters of words.
        pieces: the ids of the words.
    """
    is_word = kinds == LETTER
    widths = np.where(kinds == BORDER, 2, 1)
    widths[is_word] = np.fromiter(map(len, pieces), np.int64, len(pieces))
    ids = np.repeat(kinds - 1, widths)
    ids[np.repeat(is_word, widths)] = np.fromiter(itertools.chain.from_iterable(pieces), np.int32)
    return ids[1:-1]
