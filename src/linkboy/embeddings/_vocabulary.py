"""The wanted words: which rows of the result a word of the file may fill, and how well it fits."""

import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property

from linkboy._checks import check_choice

_FORMS: dict[str, Callable[[str], str]] = {
    "exact": str,
    "lower": str.lower,
    "nfkc": lambda word: word if word.isascii() else unicodedata.normalize("NFKC", word),
}
FALLBACKS = tuple(_FORMS)


def encode(word: str) -> bytes:
    """Return the bytes by which a word is looked for; a lone surrogate, which no file can hold, is never found."""
    return word.encode("utf-8", "surrogatepass")


class Vocabulary:
    """Words with their rows, and all forms under which a file may hold them.

    A word is looked for as it is, then in the form of each fallback, applied to all forms before it: with
    `("exact", "lower", "nfkc")` the word `Ｐａ` may be found as `Ｐａ`, `ｐａ`, `Pa` or `pa`, in this order.

    Args:
        words: the words in the order of their rows, or a mapping from word to row.
        fallback: which forms to try; the first must be `"exact"`.

    Examples:
        >>> vocabulary = Vocabulary(["Paris", "new york"], ("exact", "lower"))
        >>> sorted(vocabulary.claims), vocabulary.first_parts
        ([b'Paris', b'new york', b'paris'], {b'new'})
    """

    def __init__(self, words: Sequence[str] | Mapping[str, int], fallback: Sequence[str]) -> None:
        self.fallback = _checked_fallback(fallback)
        self.rows = _checked_rows(words)
        self.size = max(self.rows.values(), default=-1) + 1
        self.steps = _steps(self.fallback)  # the fallback behind each rank

    @cached_property
    def claims(self) -> dict[bytes, int]:
        """Per form the word that takes it, as `rank * size + row`; made when first asked for: a cache does without."""
        claims: dict[bytes, int] = {}
        self.shared: dict[bytes, list[int]] = {}  # further words that take the same form
        for word, row in self.rows.items():
            if word.lower() == word and unicodedata.is_normalized("NFKC", word):  # most words have no other form
                forms = {word: 0}
            else:
                forms = _forms(word, self.fallback)
            for form, rank in forms.items():
                encoded, claim = encode(form), rank * self.size + row
                if claims.setdefault(encoded, claim) != claim:
                    self.shared.setdefault(encoded, []).append(claim)
        return claims

    @cached_property
    def first_parts(self) -> set[bytes]:
        """Where a form that holds a space may begin: text is cut at the first space."""
        return {form.partition(b" ")[0] for form in self.claims if b" " in form}

    def ordered(self) -> list[str | None]:
        """Return the word of each row, `None` for a row that has none."""
        words: list[str | None] = [None] * self.size
        for word, row in self.rows.items():
            words[row] = word
        return words


def _forms(word: str, fallback: Sequence[str]) -> dict[str, int]:
    """Return each different form of a word with its rank, which is the same for the same steps."""
    forms, width = {word: 0}, 1
    for step in fallback[1:]:
        for form, rank in tuple(forms.items()):
            forms.setdefault(_FORMS[step](form), rank + width)
        width *= 2
    return forms


def _steps(fallback: Sequence[str]) -> list[str]:
    steps = [fallback[0]]
    for step in fallback[1:]:
        steps += [step] * len(steps)
    return steps


def _checked_fallback(fallback: Sequence[str]) -> tuple[str, ...]:
    if isinstance(fallback, str):
        raise TypeError(f"fallback must be a sequence of names, got the str {fallback!r}; write ({fallback!r},)")
    for name in fallback:
        check_choice("fallback", name, FALLBACKS)
    if tuple(fallback[:1]) != ("exact",) or len(set(fallback)) < len(fallback):
        raise ValueError(f"fallback must begin with 'exact' and name each form once, got {tuple(fallback)}")
    return tuple(fallback)


def _checked_rows(words: Sequence[str] | Mapping[str, int]) -> dict[str, int]:
    if isinstance(words, (str, bytes)) or not isinstance(words, Collection):
        raise TypeError(
            f"vocab must be a list of words or a mapping from word to row, got {type(words).__name__}; "
            "read the words of a file into a list first"
        )
    if not len(words):  # also of an array of strings
        raise ValueError("vocab must hold at least one word, got none; pass vocab=None to load everything")
    rows: dict[str, int] = {}
    taken: dict[int, str] = {}
    for word, row in words.items() if isinstance(words, Mapping) else zip(words, range(len(words)), strict=True):
        if not isinstance(word, str):
            raise TypeError(f"vocab must hold words of type str, got {word!r} of type {type(word).__name__}")
        if isinstance(row, bool) or not isinstance(row, int) or row < 0:
            raise ValueError(f"vocab must give each word a row of 0 or more, got {row!r} for {word!r}")
        if word in rows:
            raise ValueError(f"vocab must hold each word once, got {word!r} at rows {rows[word]} and {row}")
        if row in taken:
            raise ValueError(f"vocab must give each word its own row, got {row} for both {taken[row]!r} and {word!r}")
        rows[word], taken[row] = row, word
    return rows
