"""What one character becomes: dropped, a space, a token of its own, or a letter, and how letters are folded.

These few functions are the specification of the whole room. They follow `BasicTokenizer` of google-research/bert
(`tokenization.py`) and ask the running Python's `unicodedata`, so their answer is that of the reference on this Python.
"""

import dataclasses
import itertools
import unicodedata
from typing import Literal, NamedTuple

GOOGLE_HAN = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
# Planes 2 and 3 are set aside for ideographs as a whole, so extensions still to come are covered too.
ALL_HAN = (*GOOGLE_HAN, (0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3021, 0x3029), (0x3038, 0x303B), (0x20000, 0x3FFFF))
KANA = (
    (0x3041, 0x3096),
    (0x309D, 0x309F),
    (0x30A1, 0x30FA),
    (0x30FC, 0x30FF),
    (0x31F0, 0x31FF),
    (0xFF66, 0xFF9D),
    (0x1AFF0, 0x1B16F),
)
EMOJI = ((0x2190, 0x21FF), (0x2300, 0x23FF), (0x25A0, 0x27BF), (0x2900, 0x297F), (0x2B00, 0x2BFF), (0x1F000, 0x1FAFF))

Han = Literal["google", "all"]

SIGMA = "\N{GREEK CAPITAL LETTER SIGMA}"


class Word(NamedTuple):
    """A token before WordPiece: its characters, the index in the text each came from, and whether it stays whole."""

    text: str
    sources: list[int]
    verbatim: bool = False


@dataclasses.dataclass(frozen=True)
class Rules:
    """The choices that decide what a character becomes; the defaults are those of the uncased and Chinese models."""

    lower: bool = True
    strip_accents: bool = True
    split_han: bool = True
    han: Han = "google"
    kana: bool = False
    emoji: bool = False
    drop_private: bool = False

    def alone_ranges(self) -> list[tuple[int, int]]:
        """Code points, first and last, that make a token by themselves whatever stands beside them."""
        han = (ALL_HAN if self.han == "all" else GOOGLE_HAN) if self.split_han else ()
        return [*han, *(KANA if self.kana else ()), *(EMOJI if self.emoji else ())]

    def is_alone(self, character: str) -> bool:
        """Return whether a character is a token by itself; asked of the raw character, before folding."""
        return any(first <= ord(character) <= last for first, last in self.alone_ranges())

    def is_dropped(self, character: str) -> bool:
        """Return whether a character vanishes, so that its neighbours join: `a<zero width space>b` is one word."""
        if character in "\t\n\r":
            return False
        category = unicodedata.category(character)
        return character in "\0\ufffd" or category in ("Cc", "Cf") or (self.drop_private and category == "Co")

    def fold(self, token: str) -> str:
        """Lower, decompose and strip a token as chosen; the whole token, since two things depend on the neighbours."""
        if self.lower:
            token = token.lower()  # final sigma
        if self.strip_accents:
            token = unicodedata.normalize("NFD", token)  # canonical order
            token = "".join(character for character in token if unicodedata.category(character) != "Mn")
        return token

    def trace(self, token: str) -> tuple[str, list[int]]:
        """Return `fold(token)` and, for each of its characters, the index in `token` that it came from."""
        pairs = list(zip(token, range(len(token)), strict=True))
        if self.lower:
            lowered, pairs = token.lower(), []
            for index, character in enumerate(token):
                width = len(character.lower())
                pairs += [(c, index) for c in lowered[len(pairs) : len(pairs) + width]]
        if self.strip_accents:
            parts = [(part, index) for c, index in pairs for part in unicodedata.normalize("NFD", c)]
            runs = itertools.groupby(parts, key=lambda pair: unicodedata.combining(pair[0]) != 0)
            pairs = [p for _, run in runs for p in sorted(run, key=lambda pair: unicodedata.combining(pair[0]))]
            pairs = [pair for pair in pairs if unicodedata.category(pair[0]) != "Mn"]
        return "".join(c for c, _ in pairs), [index for _, index in pairs]

    def depends_on_neighbours(self, character: str) -> bool:
        """Return whether folding this character by itself may differ from folding it inside a token."""
        if self.lower and character == SIGMA:
            return True
        folded = self.fold(character)
        if len(folded) > 1 and any(is_punctuation(c) for c in folded):
            return True  # none in any Unicode version checked
        return self.strip_accents and any(unicodedata.combining(c) for c in folded)


def is_space(character: str) -> bool:
    """Return whether `str.split` separates here; the control characters it also splits at have been dropped before."""
    return character.isspace()


def is_punctuation(character: str) -> bool:
    """Return whether a character splits its token: every ASCII sign, `$` and `^` included, and category P beyond ASCII."""
    code = ord(character)
    if code < 128:
        return 33 <= code <= 126 and not character.isalnum()
    return unicodedata.category(character).startswith("P")


def scan(text: str, rules: Rules, never_split: frozenset[str] = frozenset()) -> list[Word]:
    """Cut a text into words, character by character: the specification, and the path for what depends on neighbours."""
    words: list[Word] = []
    for token, sources in _tokens(text, rules):
        if token in never_split:
            words.append(Word(token, sources, verbatim=True))
            continue
        folded, inner = rules.trace(token)
        start = 0
        for index, character in enumerate(folded + " "):
            alone = is_punctuation(character)
            if not alone and index < len(folded):
                continue
            if start < index:
                words.append(Word(folded[start:index], [sources[i] for i in inner[start:index]]))
            if alone:
                words.append(Word(character, [sources[inner[index]]]))
            start = index + 1
    return words


def _tokens(text: str, rules: Rules) -> list[tuple[str, list[int]]]:
    tokens: list[tuple[str, list[int]]] = []
    current: list[int] = []

    def finish() -> None:
        if current:
            tokens.append(("".join(text[i] for i in current), current.copy()))
            current.clear()

    for index, character in enumerate(text):
        if rules.is_dropped(character):
            continue
        if is_space(character):
            finish()
        elif rules.is_alone(character):
            finish()
            tokens.append((character, [index]))
        else:
            current.append(index)
    finish()
    return tokens
