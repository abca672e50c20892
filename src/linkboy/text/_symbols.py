"""The table from code points to what the array path needs, and the dense alphabet of symbols that words are keyed by."""

import functools
import threading
from collections.abc import Mapping

import numpy as np

from linkboy.text._arrays import Array
from linkboy.text._characters import SIGMA, Rules, is_punctuation, is_space

# What a code point is, in one int32: a separator, the final id of a one-character token, a letter with its symbol in
# the low 16 bits, or something that needs a closer look. One maximum over a text shows whether the last kind occurs.
SEPARATOR = -1
LETTER = 1 << 24
NEEDS_TEXT = 1 << 25
NEEDS_SIGMA = NEEDS_TEXT + 1
UNFILLED = 1 << 26

UNKNOWN, DROPPED, FIRST = 1, 2, 3  # symbols; 0 fills up keys
SYMBOLS = 1 << 16
WIDEST = 4  # characters that one may be folded to


class SymbolTable:
    """Code point to class, id or symbol, filled in when a code point is first seen.

    A symbol stands for what characters fold to, so `A`, `a` and `á` share one in lower-casing mode; a character that folds
    to several (a Hangul syllable) has a symbol of its own, unfolded only when a new word is seen.
    """

    def __init__(self, rules: Rules, vocabulary: Mapping[str, int], unknown_id: int, alphabet: Array) -> None:
        self.rules, self._vocabulary, self._unknown_id = rules, vocabulary, unknown_id
        self.alphabet = alphabet[: SYMBOLS - FIRST]  # sorted code points; texts with others are read one by one
        self._symbol_of = {chr(code): FIRST + index for index, code in enumerate(self.alphabet.tolist())}
        self._beyond = frozenset(map(chr, alphabet[SYMBOLS - FIRST :].tolist()))
        self._next = FIRST + len(self.alphabet)
        self.parts = np.zeros((SYMBOLS, WIDEST), np.uint16)
        self.parts[:, 0] = np.arange(SYMBOLS)
        self.widths = np.ones(SYMBOLS, np.uint8)
        self.widths[DROPPED] = 0
        self.table = np.full(0x110000, UNFILLED, np.int32)
        self._lock = threading.Lock()
        self._fill_unified_han()

    def look_up(self, codes: Array) -> Array:
        """Return the class of each code point, filling in those not seen before."""
        values = self.table.take(codes, mode="clip")
        if values.max() < UNFILLED:
            return values
        missing = values == UNFILLED
        with self._lock:
            for code in np.unique(codes[missing]).tolist():
                self.table[code] = self._classify(chr(code))
        return self.table.take(codes, mode="clip")

    @functools.cached_property
    def sigmas(self) -> tuple[int, int]:
        """The classes of the small sigma inside a word and at its end."""
        inner, final = self.look_up(np.array([ord("σ"), ord("ς")])).tolist()
        return inner, final

    def symbols_of(self, codes: Array) -> Array:
        """Return the symbol of each code point of the vocabulary, 0 for those beyond the alphabet."""
        at = np.searchsorted(self.alphabet, codes)
        at[at == len(self.alphabet)] = 0
        return np.where(self.alphabet[at] == codes, at + FIRST, 0).astype(np.uint16)

    def recover(self) -> None:
        """Free the lock in a process that was just forked."""
        self._lock = threading.Lock()

    def _fill_unified_han(self) -> None:
        # Unified ideographs fold to themselves, so the 90 000 of them need not be looked at one by one.
        for first, last in self.rules.alone_ranges():
            if 0x3400 <= first <= 0x9FFF or 0x20000 <= first <= 0x2F7FF:
                self.table[first : min(last, 0x2F7FF) + 1] = self._unknown_id
        singles = [(ord(token), number) for token, number in self._vocabulary.items() if len(token) == 1]
        codes, numbers = np.array(singles, np.int64).reshape(-1, 2).T
        known = self.table[codes] == self._unknown_id
        self.table[codes[known]] = numbers[known]

    def _classify(self, character: str) -> int:
        rules = self.rules
        if rules.is_dropped(character):
            return LETTER + DROPPED
        if is_space(character):
            return SEPARATOR
        if rules.lower and character == SIGMA:
            return NEEDS_SIGMA
        folded = rules.fold(character)
        if rules.is_alone(character) or any(is_punctuation(c) for c in folded):
            if len(folded) > 1:
                return NEEDS_TEXT
            return self._vocabulary.get(folded, self._unknown_id) if folded else SEPARATOR
        if not self._beyond.isdisjoint(folded):
            return NEEDS_TEXT
        if any(c not in self._symbol_of for c in folded):
            return LETTER + UNKNOWN  # its word has no cut, whatever its other letters are
        return NEEDS_TEXT if rules.depends_on_neighbours(character) else self._letter(folded)

    def _letter(self, folded: str) -> int:
        if not folded:
            return LETTER + DROPPED
        if len(folded) == 1:
            return LETTER + self._symbol_of[folded]
        if folded not in self._symbol_of:
            if len(folded) > WIDEST or self._next == SYMBOLS:
                return NEEDS_TEXT
            # The number is taken first: a fork in the middle of this must not hand it out twice.
            symbol, self._next = self._next, self._next + 1
            self.parts[symbol, : len(folded)] = [self._symbol_of[c] for c in folded]
            self.widths[symbol] = len(folded)
            self._symbol_of[folded] = symbol
        return LETTER + self._symbol_of[folded]
