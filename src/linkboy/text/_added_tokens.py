"""Tokens beside the vocabulary, such as `[MASK]` or `<e1>`, which are found in a text before it is cut into words."""

import dataclasses
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from linkboy._checks import check_flag
from linkboy.text._arrays import Array
from linkboy.text._characters import Rules
from linkboy.text._flat import Tokens

# What `tokenizers` passes over beside a token with lstrip or rstrip: the characters with the property White_Space.
SPACES = frozenset(
    "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
)
# Control characters keep an ASCII text one byte wide; the last code points of all are no characters.
SEPARATORS = tuple(map(chr, (*range(9), *range(0x10FFFF, 0x10FFEF, -1))))
CHARACTERS_KEPT = 1 << 16
FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
DEEPEST = 50  # branches inside each other, in a pattern


@dataclasses.dataclass(frozen=True)
class AddedToken:
    """A token that is found in the text before it is cut into words; the fields are those of `tokenizers`.

    Attributes:
        content: the token as it stands in texts.
        lstrip: whether it takes the spaces before it along.
        rstrip: whether it takes the spaces after it along.
        single_word: whether it counts only where no letter or digit stands beside it.
        normalized: whether it is searched for in the text after lower-casing and cleaning; `None`: unless it is `special`.
        special: whether it is one of the tokens that decoding leaves out.

    Raises:
        TypeError: a field has the wrong type.
        ValueError: `content` is empty.

    Examples:
        >>> AddedToken("<e1>", special=True).normalized
        False
    """

    content: str
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool | None = None
    special: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.content, str):
            raise TypeError(f"content must be a string, got {type(self.content).__name__}")
        if not self.content:
            raise ValueError("content must not be empty: an empty token would be everywhere")
        if self.normalized is None:
            object.__setattr__(self, "normalized", not self.special)
        for name in FLAGS:
            check_flag(name, getattr(self, name))

    def __str__(self) -> str:
        return self.content


def as_added_token(token: Any, *, argument: str, special: bool = False) -> AddedToken:
    """Return a token of any of the kinds that people have: a string, ours, or that of `tokenizers`."""
    if isinstance(token, AddedToken):
        return dataclasses.replace(token, special=True) if special else token
    if isinstance(token, str):
        if not token:
            raise ValueError(f"{argument} must not hold an empty token")
        return AddedToken(token, special=special)
    if isinstance(getattr(token, "content", None), str):
        flags = {name: bool(getattr(token, name)) for name in FLAGS if hasattr(token, name)}
        return AddedToken(token.content, **{**flags, "special": special or flags.get("special", False)})
    raise TypeError(f"{argument} must be a string or an AddedToken, got {token!r}")


class Cut(NamedTuple):
    """Texts cut at the added tokens in them: a text with `k` of these has `k + 1` parts.

    Attributes:
        parts: the stretches between the tokens.
        owners: the number of the text that each part belongs to.
        origins: where in its text each part begins.
        between: the tokens.
        sources: `None` where the texts that were cut are those that were given; otherwise, for each character of all these
            texts, the index of what it comes from in its given text.
        begins: where each text begins in `sources`.
    """

    parts: list[str]
    owners: Array
    origins: Array
    between: Tokens
    sources: Array | None
    begins: Array

    def to_given(self, spans: Array, owners: Array) -> Array:
        """Return spans in the texts that were given, for spans in the texts that were cut."""
        if self.sources is None:
            return spans
        last = np.maximum(spans[:, 1] - 1, spans[:, 0])
        found = self.sources.take(self.begins[owners][:, None] + np.stack([spans[:, 0], last], 1), mode="clip")
        found[:, 1] += spans[:, 1] > spans[:, 0]
        return found.astype(spans.dtype)


class _Match(NamedTuple):
    start: int
    end: int
    id: int


class AddedTokens:
    """Finds added tokens in texts as `tokenizers` does: the longest of those that begin first, raw text before normalised.

    Args:
        tokens: the tokens and their ids.
        rules: what normalising does.
    """

    def __init__(self, tokens: Mapping[AddedToken, int], rules: Rules) -> None:
        self._rules = rules
        self._tables: dict[str, NormalTable] = {}  # by the character that they keep
        table = self._table("")
        raw = {token.content: (token, number) for token, number in tokens.items() if not token.normalized}
        normal = {t.content.translate(table): (t, number) for t, number in tokens.items() if t.normalized}
        self._raw, self._normal = _Pattern(raw), _Pattern(normal)
        self._characters = frozenset("".join([*self._raw.tokens, *self._normal.tokens]))

    def occur_in(self, text: str) -> bool:
        """Return whether some of the tokens may be in a text."""
        if self._raw.search(text):
            return True
        return bool(self._normal.tokens and self._normal.search(text.translate(self._table(""))))

    def cut(self, texts: Sequence[str]) -> Cut | None:
        """Return the texts cut at the tokens in them; `None` where there are none."""
        joined, separator = self._join(texts)
        if not self._normal.tokens and not self._raw.is_flagged:
            return self._raw.cut(joined, separator) if self._raw.search(joined) else None
        matches, widths = self._raw.find(joined), None
        if self._normal.tokens:
            joined, matches, widths = self._with_normal(joined, separator, matches)
        if not matches:
            return None
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        firsts = np.cumsum(sizes + 1) - sizes - 1  # where each text begins
        sources = None
        if widths is not None:
            inner = np.arange(len(widths)) - np.repeat(firsts, sizes + 1)[: len(widths)]
            sources = np.repeat(inner, widths)
            ends = np.append(0, np.cumsum(widths))
            firsts, sizes = ends[firsts], ends[firsts + sizes] - ends[firsts]
        starts, ends, ids = np.array(matches, np.int64).T
        part_starts = np.sort(np.concatenate([firsts, ends]))
        part_ends = np.sort(np.concatenate([firsts + sizes, starts]))
        owners = np.searchsorted(firsts, part_starts, "right") - 1
        parts = [joined[a:b] for a, b in zip(part_starts.tolist(), part_ends.tolist(), strict=True)]
        at = firsts[np.searchsorted(firsts, starts, "right") - 1]
        between = Tokens(ids.astype(np.int32), np.stack([starts - at, ends - at], 1).astype(np.int32))
        return Cut(parts, owners, part_starts - firsts[owners], between, sources, firsts)

    def _table(self, kept: str) -> "NormalTable":
        table = self._tables.get(kept)
        if table is None:
            table = self._tables[kept] = NormalTable(self._rules, kept)
        return table

    def _join(self, texts: Sequence[str]) -> tuple[str, str]:
        """Join the texts with a character that is in none of them and in no token, so that nothing is found across."""
        whole = "".join(texts)
        for separator in SEPARATORS:
            if separator not in whole and separator not in self._characters:
                return separator.join(texts), separator
        raise ValueError(
            f"text must leave one of {len(SEPARATORS)} control characters and non-characters unused, all of them occur"
        )

    def _with_normal(self, joined: str, separator: str, raw: list[_Match]) -> tuple[str, list[_Match], Array | None]:
        """Find tokens in the normalised text between those found in the raw one.

        Returns:
            The joined text, as wide as the normalised one where tokens were found in that; all matches in it; and the width
            of each character of `joined` in it, `None` where it is `joined`.
        """
        rest = joined
        if raw:  # what is taken already ends the text on both sides of it
            borders = [0, *(place for match in raw for place in match[:2]), len(joined)]
            stretches = [joined[a:b] for a, b in zip(borders[0::2], borders[1::2], strict=True)]
            gaps = [separator * (match.end - match.start) for match in raw]
            rest = "".join([piece for pair in zip(stretches, [*gaps, ""], strict=True) for piece in pair])
        table = self._table(separator)
        normal = rest.translate(table)
        found = self._normal.find(normal)
        if not found:
            return joined, raw, None
        if len(normal) == len(rest) and rest.isascii():
            return joined, sorted([*raw, *found]), None
        codes = np.frombuffer(rest.encode("utf-32-le", "surrogatepass"), "<u4")
        kinds, which = np.unique(codes, return_inverse=True)
        # A match may begin or end inside of what a character is normalised to. Those of one character are left as
        # they are, so that the engine sees upper case and marks where its rules ask for them.
        forms = {code: table[code] or "" for code in kinds.tolist()}
        wide = rest.translate({code: form for code, form in forms.items() if len(form) != 1})
        widths = np.array([len(forms[code]) for code in kinds.tolist()])[which.ravel()]
        starts = np.cumsum(widths) - widths
        moved = [_Match(int(starts[m.start]), int(starts[m.start]) + m.end - m.start, m.id) for m in raw]
        return wide, sorted([*moved, *found]), widths


class NormalTable(dict[int, str | None]):
    """What normalising puts in a character's place, for `str.translate`: clean, set Han apart, strip accents, lower.

    Args:
        rules: what a character becomes.
        kept: a character that stays as it is, or `""`.
    """

    def __init__(self, rules: Rules, kept: str) -> None:
        super().__init__({ord(kept): kept} if kept else {})
        self._rules = rules

    def __missing__(self, code: int) -> str | None:
        character, rules = chr(code), self._rules
        if rules.is_dropped(character):
            value = None  # with which, unlike with "", `translate` keeps to its quick way through ASCII
        elif character.isspace():
            value = " "
        else:
            value = rules.fold(character)
            if rules.is_alone(character):
                value = f" {value} "
        if len(self) >= CHARACTERS_KEPT:
            self.clear()
        self[code] = value
        return value


class _Pattern:
    """Tokens by their text, and the search for the longest of those that begin first."""

    def __init__(self, tokens: dict[str, tuple[AddedToken, int]]) -> None:
        self.tokens = {text: token for text, token in tokens.items() if text}
        self.is_flagged = any(t.lstrip or t.rstrip or t.single_word for t, _ in self.tokens.values())
        self._ids = {text: number for text, (_, number) in self.tokens.items()}
        self._tree = _tree(sorted(self.tokens), 0) if self.tokens else ""
        self._pattern = re.compile(self._tree) if self.tokens else None

    def search(self, text: str) -> bool:
        """Return whether one of the tokens is in a text, whatever stands beside it."""
        return self._pattern is not None and self._pattern.search(text) is not None

    def find(self, text: str) -> list[_Match]:
        """Return what is found, in order."""
        if self._pattern is None:
            return []
        ids = self._ids
        matches = [_Match(*match.span(), ids[match[0]]) for match in self._pattern.finditer(text)]
        return self._with_flags(matches, text) if self.is_flagged and matches else matches

    def cut(self, joined: str, separator: str) -> Cut:
        """Return joined texts cut at the tokens in them, in one pass of the pattern; for tokens without flags."""
        pieces = re.split(f"({re.escape(separator)}|{self._tree})", joined)
        parts, found = pieces[0::2], pieces[1::2]
        ids = np.fromiter(map({**self._ids, separator: -1}.__getitem__, found), np.int32, len(found))
        is_token = ids >= 0
        owners = np.append(0, np.cumsum(~is_token))
        sizes = np.fromiter(map(len, parts), np.int64, len(parts))
        widths = np.fromiter(map(len, found), np.int64, len(found))
        ends = np.cumsum(sizes) + np.append(0, np.cumsum(widths))  # of each part, among the joined texts
        starts = ends - sizes
        begins = starts[np.append(True, ~is_token)]
        at = ends[:-1][is_token] - begins[owners[1:][is_token]]
        spans = np.stack([at, at + widths[is_token]], 1).astype(np.int32)
        return Cut(parts, owners, starts - begins[owners], Tokens(ids[is_token], spans), None, begins)

    def _with_flags(self, matches: list[_Match], text: str) -> list[_Match]:
        kept: list[_Match] = []
        last = 0
        for start, end, number in matches:
            token, _ = self.tokens[text[start:end]]
            if token.single_word and (_is_word(text[start - 1 : start]) or _is_word(text[end : end + 1])):
                continue
            start = max(start, last)  # the spaces with which it begins may have been taken along
            while token.lstrip and start > last and text[start - 1] in SPACES:
                start -= 1
            while token.rstrip and end < len(text) and text[end] in SPACES:
                end += 1
            kept.append(_Match(start, end, number))
            last = end
        return kept


def _tree(texts: list[str], depth: int) -> str:
    """Return a pattern of sorted texts that shares their common beginnings: the longest one that fits is matched.

    A plain `a|b|c` of a thousand tokens would be tried one by one at every letter.
    """
    if depth > DEEPEST:
        return "(?:" + "|".join(map(re.escape, sorted(texts, key=len, reverse=True))) + ")"
    shared = _common(texts)
    rest = [text[len(shared) :] for text in texts]
    ends_here, rest = not rest[0], [text for text in rest if text]
    if not rest:
        return re.escape(shared)
    groups: list[list[str]] = []
    for text in rest:
        if groups and groups[-1][0][0] == text[0]:
            groups[-1].append(text)
        else:
            groups.append([text])
    branches = "|".join(_tree(group, depth + 1) for group in groups)
    return f"{re.escape(shared)}(?:{branches}){'?' if ends_here else ''}"


def _common(texts: list[str]) -> str:
    """Return the common beginning of sorted texts."""
    first, last = texts[0], texts[-1]
    size = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:size]


def _is_word(character: str) -> bool:
    r"""Return whether a character is one that `\w` of Rust's regular expressions, with which `tokenizers` looks, matches."""
    if not character:
        return False
    code, category = ord(character), unicodedata.category(character)
    letters_in_circles = 0x24B6 <= code <= 0x24E9 or any(
        first <= code <= last for first, last in ((0x1F130, 0x1F149), (0x1F150, 0x1F169), (0x1F170, 0x1F189))
    )
    return category[0] in "LM" or category in ("Nd", "Nl", "Pc") or letters_in_circles or character in "\u200c\u200d"
