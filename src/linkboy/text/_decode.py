"""From tokens back to text, written as people write it: no spaces between Han characters."""

import itertools
import unicodedata
from typing import Literal

from linkboy.text._characters import ALL_HAN, KANA

Spaces = Literal["auto", True, False]

CLOSING = frozenset(".,!?;:%)]}'’”…")
OPENING = frozenset("([{$#“‘@")
JOINING = frozenset("'’-/_")


def decode_tokens(tokens: list[str], spaces: Spaces) -> str:
    """Join tokens to text: `##` pieces to the word before, words as `spaces` says."""
    words: list[str] = []
    for token in tokens:
        if token.startswith("##") and len(token) > 2 and words:
            words[-1] += token[2:]
        elif token:
            words.append(token)
    if spaces != "auto":
        return (" " if spaces else "").join(words)
    text = words[:1]
    for before, after in itertools.pairwise(words):
        text.append(after if _written_together(before, after) else " " + after)
    return "".join(text)


def _written_together(before: str, after: str) -> bool:
    left, right = before[-1], after[0]
    if _is_east_asian(left) or _is_east_asian(right):
        # Between Chinese and a Latin word a space is usual, and beside full-width punctuation it never is.
        both = _is_east_asian(left) and _is_east_asian(right)
        return both or _is_sign(left) or _is_sign(right)
    return after in CLOSING or before in OPENING or before in JOINING or after in JOINING


def _is_east_asian(character: str) -> bool:
    code = ord(character)
    wide_sign = _is_sign(character) and unicodedata.east_asian_width(character) in "WF"
    return wide_sign or any(first <= code <= last for first, last in (*ALL_HAN, *KANA))


def _is_sign(character: str) -> bool:
    return unicodedata.category(character)[0] == "P"
