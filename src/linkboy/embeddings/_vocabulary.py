"""The wanted words: which rows of the result a word of the file may fill, and how well it fits."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from functools import cached_property

import numpy as np

from linkboy._checks import check_choice

Form = Callable[[str], str | None]
_FORMS: dict[str, Form] = {
    "exact": str,
    "lower": str.lower,
    "nfkc": lambda word: word if word.isascii() else unicodedata.normalize("NFKC", word),
    "casefold": str.casefold,
}
SUBWORD = "subword"  # the vector that a fastText model makes of a word's pieces
FALLBACKS = (*_FORMS, SUBWORD)
_MOST_FORMS = 7  # rows keep the rank of their form in a byte
_CHANGES_NOTHING = {"exact", "lower", "nfkc"}  # for a word in lower case and NFKC


def encode(word: str, codec: str = "utf-8") -> bytes:
    """Return the bytes by which a word is looked for; one that no file can hold is never found."""
    try:
        return word.encode(codec, "surrogatepass") if codec == "utf-8" else word.encode(codec)
    except UnicodeEncodeError:
        return b"\n" + word.encode("utf-8", "surrogatepass")  # no word holds the end of a line


class Vocabulary:
    """Words with their rows, and all forms under which a file may hold them.

    A word is looked for as it is, then in the form of each fallback, applied to all forms before it: with
    `("exact", "lower", "nfkc")` the word `Ｐａ` may be found as `Ｐａ`, `ｐａ`, `Pa` or `pa`, in this order. A form by
    `"casefold"` fits whatever word of the file has the same form.

    Args:
        words: the words in the order of their rows, or a mapping from word to row.
        fallback: which forms to try; the first must be `"exact"`.
        codec: the encoding of the file's words.

    Examples:
        >>> vocabulary = Vocabulary(["Paris", "new york"], ("exact", "lower"))
        >>> sorted(vocabulary.claims), vocabulary.first_parts
        ([b'Paris', b'new york', b'paris'], {b'new'})
    """

    def __init__(
        self, words: Sequence[str] | Mapping[str, int], fallback: Sequence[str | Form], codec: str = "utf-8"
    ) -> None:
        self.fallback = _checked_fallback(fallback)
        self.codec = codec
        self.rows = _checked_rows(words)
        self.size = max(self.rows.values(), default=-1) + 1
        self.forms = [step for step in self.fallback if step != SUBWORD]
        self.steps = _steps(self.forms)  # the fallback behind each rank
        self.folds = "casefold" in self.forms

    @cached_property
    def claims(self) -> dict[bytes, int]:
        """Per form the word that takes it, as `rank * size + row`; made when first asked for: a cache does without."""
        claims: dict[bytes, int] = {}
        self.shared: dict[bytes, list[int]] = {}  # further words that take the same form
        self.folded: dict[str, list[int]] = {}  # the same per form without case
        plain = _CHANGES_NOTHING.issuperset(step for step in self.forms if isinstance(step, str)) and not any(
            map(callable, self.forms)
        )
        size, codec = self.size, self.codec
        for word, row in self.rows.items():
            if (
                plain and word.lower() == word and unicodedata.is_normalized("NFKC", word)
            ):  # most words have no other form
                encoded = encode(word, codec)
                if claims.setdefault(encoded, row) != row:
                    self.shared.setdefault(encoded, []).append(row)
                continue
            for (form, folded), rank in _forms(word, self.forms).items():
                claim = rank * size + row
                if folded:
                    self.folded.setdefault(form, []).append(claim)
                    continue
                encoded = encode(form, codec)
                if claims.setdefault(encoded, claim) != claim:
                    self.shared.setdefault(encoded, []).append(claim)
        return claims

    def claims_of(self, word: bytes) -> tuple[int, ...]:
        """Return the claims on a word of the file."""
        claim = self.claims.get(word)
        found = () if claim is None else (claim, *self.shared[word]) if word in self.shared else (claim,)
        if self.folds:
            found += tuple(self.folded.get(word.decode(self.codec, "replace").casefold(), ()))
        return found

    def wanted(self) -> Container[bytes]:
        """Return what holds the words that are looked for, and the first parts of those that hold a space."""
        # A dict, whose table is a quarter of a set's: most look-ups are misses, and those are misses of the cache too.
        exactly = dict.fromkeys(self.looked_for())
        return _Folded(exactly, self.folded, self.codec) if self.folds else exactly

    def looked_for(self) -> list[bytes]:
        """Return the words that are looked for as they are, and the first parts of those that hold a space."""
        return [*self.claims, *(self.first_parts - self.claims.keys())]

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


class _Folded:
    """The words that are looked for, some of them whatever their case."""

    def __init__(self, exactly: Container[bytes], folded: Mapping[str, object], codec: str) -> None:
        self._exactly, self._codec = exactly, codec
        self._folded = {*folded, *(form.partition(" ")[0] for form in folded if " " in form)}

    def __contains__(self, word: bytes) -> bool:
        return word in self._exactly or word.decode(self._codec, "replace").casefold() in self._folded


def _forms(word: str, fallback: Sequence[str | Form]) -> dict[tuple[str, bool], int]:
    """Return each different form of a word, and whether the case of the file's words counts, with its rank.

    The rank is the same for the same steps.
    """
    forms, width = {(word, False): 0}, 1
    for step in fallback[1:]:
        change = _FORMS[step] if isinstance(step, str) else step
        for (form, folded), rank in tuple(forms.items()):
            changed = change(form)
            if changed is not None and not isinstance(changed, str):
                raise TypeError(f"fallback {name_of(step)} must return a str or None, got {changed!r} for {form!r}")
            if changed is not None:
                forms.setdefault((changed, folded or step == "casefold"), rank + width)
        width *= 2
    return forms


def name_of(step: str | Form) -> str:
    """Return the name under which a report counts a fallback."""
    return step if isinstance(step, str) else getattr(step, "__name__", type(step).__name__)


def _steps(fallback: Sequence[str | Form]) -> list[str]:
    steps = [name_of(fallback[0])]
    for step in fallback[1:]:
        steps += [name_of(step)] * len(steps)
    return steps


def _checked_fallback(fallback: Sequence[str | Form]) -> tuple[str | Form, ...]:
    if isinstance(fallback, str):
        raise TypeError(f"fallback must be a sequence of names, got the str {fallback!r}; write ({fallback!r},)")
    for step in fallback:
        if not callable(step):
            check_choice("fallback", step, FALLBACKS)
    if tuple(fallback[:1]) != ("exact",) or len(set(fallback)) < len(fallback):
        raise ValueError(f"fallback must begin with 'exact' and name each form once, got {tuple(fallback)}")
    if SUBWORD in fallback[:-1]:
        raise ValueError(f"fallback must have 'subword' last, got {tuple(fallback)}")
    if len(fallback) - (SUBWORD in fallback) > _MOST_FORMS:
        raise ValueError(f"fallback must name at most {_MOST_FORMS} forms, got {len(fallback)}")
    return tuple(fallback)


def words_of_rows(words: Sequence[str | None] | Mapping[str, int]) -> list[str | None]:
    """Return the word of each row of a matrix, as `words` gives them: in order, or by their rows; or raise."""
    if isinstance(words, Mapping):
        rows = _checked_rows(words, "words")
        by_row: list[str | None] = [None] * (max(rows.values()) + 1)
        for word, row in rows.items():
            by_row[row] = word
        return by_row
    listed = list(words)
    wrong = next((word for word in listed if word is not None and not isinstance(word, str)), None)
    if wrong is not None:
        raise TypeError(
            f"words must hold words of type str, got {wrong!r} of type {type(wrong).__name__}{_as_str(wrong)}"
        )
    return listed


def _as_str(word: object) -> str:
    return "; decode them with .decode()" if isinstance(word, bytes) else ""


def _checked_rows(words: Sequence[str] | Mapping[str, int], argument: str = "vocab") -> dict[str, int]:
    if isinstance(words, (str, bytes)) or not isinstance(words, Collection):
        raise TypeError(
            f"{argument} must be a list of words or a mapping from word to row, got {type(words).__name__}; "
            "read the words of a file into a list first"
        )
    if isinstance(words, (set, frozenset)):
        raise TypeError(
            f"{argument} must have an order, got a {type(words).__name__}, whose order is another in each run; "
            f"pass sorted({argument})"
        )
    if isinstance(words, Counter):
        raise TypeError(
            f"{argument} must give each word its row, got a Counter, whose numbers are counts; pass list({argument})"
            + f" and counts={argument}" * (argument == "vocab")
        )
    if not len(words):  # also of an array of strings
        raise ValueError(f"{argument} must hold at least one word, got none; pass {argument}=None to load everything")
    rows: dict[str, int] = {}
    taken: dict[int, str] = {}
    for word, given in words.items() if isinstance(words, Mapping) else zip(words, range(len(words)), strict=True):
        row = int(given) if isinstance(given, np.integer) else given  # as scikit-learn numbers a vocabulary
        if not isinstance(word, str):
            raise TypeError(
                f"{argument} must hold words of type str, got {word!r} of type {type(word).__name__}{_as_str(word)}"
            )
        if isinstance(row, bool) or not isinstance(row, int) or row < 0:
            raise ValueError(f"{argument} must give each word a row of 0 or more, got {row!r} for {word!r}")
        if word in rows:
            raise ValueError(f"{argument} must hold each word once, got {word!r} at rows {rows[word]} and {row}")
        if row in taken:
            raise ValueError(
                f"{argument} must give each word its own row, got {row} for both {taken[row]!r} and {word!r}"
            )
        word = word if type(word) is str else str(word)  # NumPy's show their type
        rows[word], taken[row] = row, word
    return rows
