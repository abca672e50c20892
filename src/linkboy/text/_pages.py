"""What the compiled core is told of characters, 256 at a time: the answers of `Rules` and of `unicodedata`, and no others."""

import functools
import unicodedata
from typing import NamedTuple

from linkboy.text._characters import SIGMA, Rules, is_punctuation, is_space

SIZE = 256
# As in _core/pages.hpp.
LETTER, SEVERAL, SIGMA_KIND, DROPPED, STRIPPED, BREAK, SPACE, ALONE, PUNCTUATION, REFERENCE = range(10)
CASED, IGNORABLE = 1, 2
LONGEST = 8  # characters that one may be folded to


class Page(NamedTuple):
    """The kind of each character, how many characters it folds to, and all of these with their combining classes."""

    kinds: bytes
    lengths: bytes
    folded: bytes
    classes: bytes


@functools.lru_cache(maxsize=1 << 12)
def make_page(rules: Rules, number: int) -> Page:
    """Return what the characters from `256 * number` on become; shared by all tokenizers of the same rules."""
    text = "".join(map(chr, range(SIZE * number, SIZE * number + SIZE)))
    if set(map(unicodedata.category, text)) <= {"Lo", "Cn"} and rules.fold(text) == text:
        return _plain_page(rules, number, text)
    made = [_classify(rules, character) for character in text]
    folded = "".join(letters for _, letters in made)
    marks = map(unicodedata.combining, folded) if rules.strip_accents else [0] * len(folded)
    return Page(
        bytes(kind for kind, _ in made),
        bytes(len(letters) for _, letters in made),
        folded.encode("utf-32-le", "surrogatepass"),
        bytes(marks),
    )


def _plain_page(rules: Rules, number: int, text: str) -> Page:
    """Return a page of letters that fold to themselves, such as Han, without a look at each of them."""
    kinds = bytearray(SIZE)
    for first, last in rules.alone_ranges():
        low, high = max(first - SIZE * number, 0), min(last + 1 - SIZE * number, SIZE)
        if low < high:
            kinds[low:high] = bytes([ALONE]) * (high - low)
    return Page(bytes(kinds), b"\1" * SIZE, text.encode("utf-32-le"), bytes(SIZE))


def _classify(rules: Rules, character: str) -> tuple[int, str]:
    """Return the kind of a character and what it folds to, where that is asked for."""
    if rules.is_dropped(character):  # before all else: U+FFFD is a symbol, and tabs are control characters that stay
        return DROPPED, ""
    if is_space(character):
        return SPACE, ""
    if rules.lower and character == SIGMA:
        return SIGMA_KIND, ""
    folded = rules.fold(character)
    if rules.is_alone(character) or any(map(is_punctuation, folded)):
        if not folded:
            return SPACE, ""  # a token of nothing, which still parts its neighbours
        if len(folded) > 1 or (rules.strip_accents and unicodedata.combining(folded)):
            return REFERENCE, ""  # none in any Unicode version checked
        return (ALONE if rules.is_alone(character) else PUNCTUATION), folded
    # A starter ends a run of combining marks even where it is stripped.
    parts = unicodedata.normalize("NFD", character.lower() if rules.lower else character) if rules.strip_accents else ""
    has_starter = any(not unicodedata.combining(part) for part in parts if part not in folded)
    if not folded:
        return (BREAK if has_starter else STRIPPED), ""
    keeps_mark = rules.strip_accents and any(map(unicodedata.combining, folded))
    if len(folded) > LONGEST or (keeps_mark and has_starter):
        return REFERENCE, ""  # none in any Unicode version checked
    return LETTER, folded


@functools.lru_cache(maxsize=64)
def make_flags(number: int) -> bytes:
    """Return for each character of a page whether it is cased, and whether a capital sigma looks past it."""
    return bytes(_flags(chr(code)) for code in range(SIZE * number, SIZE * number + SIZE))


def _flags(character: str) -> int:
    # Python has the two properties but does not show them: they are read off the sigma before such a character.
    if f"A{SIGMA}{character}".lower()[1] == "σ":
        return CASED
    return IGNORABLE if f"A{SIGMA}{character}A".lower()[1] == "σ" else 0
