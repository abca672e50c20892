"""What a tokenizer made of texts: pieces with their spans, unknown words, and characters that vanished."""

import dataclasses
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from linkboy._report import Block, Report, Table, format_count, format_percent
from linkboy.text._characters import Rules
from linkboy.text._vocabulary import UNK

if TYPE_CHECKING:
    from linkboy.text._wordpiece import TextReader

ROWS_SHOWN = 40


@dataclasses.dataclass(frozen=True)
class Piece:
    """One token: its text's number, the span in that text, the token, and the characters it stands for."""

    text: int
    start: int
    end: int
    token: str
    characters: str


@dataclasses.dataclass(frozen=True)
class DroppedCharacter:
    """A character that is in no token: its text's number, its index there, its code point and the reason."""

    text: int
    at: int
    code_point: str
    reason: str


@dataclasses.dataclass(frozen=True)
class TokenizationReport(Report):
    """What became of every character of some texts; made by `BertTokenizer.explain`.

    Args:
        texts: how many texts there were.
        characters: how many characters they have.
        pieces: every token with the span it covers.
        dropped: every character other than a space that is in no token.

    Examples:
        >>> from linkboy import BertTokenizer
        >>> report = BertTokenizer(["[UNK]", "你"]).explain(["你", "们\\ufeff"])
        >>> report.unknown_share, report.dropped[0].reason
        (0.5, 'ZERO WIDTH NO-BREAK SPACE, category Cf')
    """

    texts: int
    characters: int
    pieces: tuple[Piece, ...]
    dropped: tuple[DroppedCharacter, ...]

    @property
    def unknown(self) -> tuple[Piece, ...]:
        """The pieces that are `[UNK]`."""
        return tuple(piece for piece in self.pieces if piece.token == UNK)

    @property
    def unknown_share(self) -> float:
        """Share of `[UNK]` among all tokens; `nan` where there are none."""
        return len(self.unknown) / len(self.pieces) if self.pieces else math.nan

    def to_dict(self) -> dict[str, object]:
        """Return the fields and the share of `[UNK]` as plain values."""
        return {**super().to_dict(), "unknown_share": self.unknown_share}

    def _blocks(self) -> Iterable[Block]:
        yield (
            f"{_plural(self.texts, 'text')}, {_plural(self.characters, 'character')}: "
            f"{_plural(len(self.pieces), 'token')}, of which [UNK] {format_count(len(self.unknown))} "
            f"({format_percent(self.unknown_share)}); {_plural(len(self.dropped), 'character')} dropped"
        )
        if self.pieces:
            rows = [(p.text, f"{p.start}-{p.end}", p.token, p.characters) for p in self.pieces[:ROWS_SHOWN]]
            yield Table(("text", "span", "piece", "characters"), rows)
            yield _more(len(self.pieces))
        if self.dropped:
            rows = [(d.text, d.at, d.code_point, d.reason) for d in self.dropped[:ROWS_SHOWN]]
            yield Table(("text", "at", "character", "why"), rows, "dropped")
            yield _more(len(self.dropped))


def explain_texts(
    texts: Sequence[str], reader: "TextReader", tokens: Mapping[int, str], rules: Rules
) -> TokenizationReport:
    """Tokenize texts the readable way and account for every character."""
    pieces: list[Piece] = []
    dropped: list[DroppedCharacter] = []
    for number, text in enumerate(texts):
        covered: set[int] = set()
        for token, start, end in reader.read(text):
            pieces.append(Piece(number, start, end, tokens[token], text[start:end]))
            covered.update(range(start, end))
        for at, character in enumerate(text):
            gone = rules.is_dropped(character) or (rules.strip_accents and not rules.fold(character))
            if gone or (at not in covered and not character.isspace()):
                dropped.append(DroppedCharacter(number, at, f"U+{ord(character):04X}", _reason(character)))
    return TokenizationReport(len(texts), sum(map(len, texts)), tuple(pieces), tuple(dropped))


def _reason(character: str) -> str:
    name = unicodedata.name(character, "")
    return f"{name}, category {unicodedata.category(character)}".lstrip(", ")


def _plural(count: int, noun: str) -> str:
    return f"{format_count(count)} {noun}{'' if count == 1 else 's'}"


def _more(count: int) -> str:
    return f"... {format_count(count - ROWS_SHOWN)} more" if count > ROWS_SHOWN else ""
