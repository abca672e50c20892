"""From tokens back to text: as transformers writes it, or without its spaces between Han characters."""

import itertools
import unicodedata
from typing import Literal

from linkboy.text._characters import ALL_HAN, KANA

Spaces = Literal["auto", True, False]

# What `tokenizers` closes up within one token, and transformers, where asked to clean up, in the whole text.
CLOSED_UP = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
    (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip
IN_ONE_TOKEN = (*CLOSED_UP[:7], (" do not", " don't"), *CLOSED_UP[7:])


def decode_tokens(tokens: list[str], spaces: Spaces, clean_up: bool) -> str:
    """Join tokens to text: `##` pieces to the word before, words as `spaces` says.

    Args:
        tokens: the tokens.
        spaces: `True` as transformers, `"auto"` without a space between Han or kana, `False` without any.
        clean_up: whether to close up punctuation and English contractions in the whole text, too.
    """
    if spaces is True:
        text = "".join([_after_space(token) if number else _closed_up(token) for number, token in enumerate(tokens)])
        return clean_up_text(text) if clean_up else text
    words: list[str] = []
    for token in tokens:
        if token.startswith("##") and len(token) > 2 and words:
            words[-1] += token[2:]
        elif token:
            words.append(token)
    if not spaces:
        return "".join(words)
    text = words[:1]
    for before, after in itertools.pairwise(words):
        text.append(after if _written_together(before[-1], after[0]) else _closed_up(" " + after))
    joined = "".join(text)
    return clean_up_text(joined) if clean_up else joined


def clean_up_text(text: str) -> str:
    """Return the text with punctuation and English contractions closed up, as transformers does."""
    for apart, together in CLOSED_UP:
        text = text.replace(apart, together)
    return text


def _after_space(token: str) -> str:
    return _closed_up(token[2:] if token.startswith("##") else " " + token)


def _closed_up(token: str) -> str:
    for apart, together in IN_ONE_TOKEN:
        token = token.replace(apart, together)
    return token


def _written_together(left: str, right: str) -> bool:
    """Return whether two characters, of which one is Han, kana or a full-width sign, stand without a space between them."""
    both = _is_east_asian(left), _is_east_asian(right)
    # Between Chinese and a Latin word a space is usual, and beside full-width punctuation it never is.
    return all(both) or (any(both) and (_is_sign(left) or _is_sign(right)))


def _is_east_asian(character: str) -> bool:
    code = ord(character)
    wide_sign = _is_sign(character) and unicodedata.east_asian_width(character) in "WF"
    return wide_sign or any(first <= code <= last for first, last in (*ALL_HAN, *KANA))


def _is_sign(character: str) -> bool:
    return unicodedata.category(character)[0] == "P"
