"""What a tokenizer made of texts: tokens with their spans, unknown words, and characters that vanished."""

import dataclasses
import math
from collections.abc import Iterable

from linkboy._report import Block, Report, Table, format_count, format_percent, plural
from linkboy.text._vocabulary import UNK

ROWS_SHOWN = 40


@dataclasses.dataclass(frozen=True)
class TokenRow:
    """One token of a text.

    Attributes:
        text_index: number of the text among those given.
        start: index of the first character that the token covers.
        end: index after the last one.
        token: the token, for instance `##ing` or `[UNK]`.
        characters: the characters it stands for, as they are in the text.
    """

    text_index: int
    start: int
    end: int
    token: str
    characters: str


@dataclasses.dataclass(frozen=True)
class DroppedCharacter:
    """A character that is in no token.

    Attributes:
        text_index: number of the text among those given.
        index: index of the character in its text.
        code_point: for instance `U+200B`.
        reason: its name and Unicode category.
    """

    text_index: int
    index: int
    code_point: str
    reason: str


@dataclasses.dataclass(frozen=True)
class TokenizationReport(Report):
    """What became of every character of some texts; `BertTokenizer.explain` makes it.

    Attributes:
        text_count: number of texts.
        character_count: number of characters in them.
        rows: every token with the span it covers.
        dropped: every character other than a space that is in no token.

    Examples:
        >>> from linkboy import BertTokenizer
        >>> report = BertTokenizer(["[UNK]", "你"]).explain(["你", "们\\ufeff"])
        >>> report.unknown_share, report.dropped[0].reason
        (0.5, 'ZERO WIDTH NO-BREAK SPACE, category Cf')
    """

    text_count: int
    character_count: int
    rows: tuple[TokenRow, ...]
    dropped: tuple[DroppedCharacter, ...]

    @property
    def unknown(self) -> tuple[TokenRow, ...]:
        """The tokens that are `[UNK]`."""
        return tuple(row for row in self.rows if row.token == UNK)

    @property
    def unknown_share(self) -> float:
        """Share of `[UNK]` among all tokens; `nan` where there are none."""
        return len(self.unknown) / len(self.rows) if self.rows else math.nan

    def to_dict(self) -> dict[str, object]:
        """Return the fields and the share of `[UNK]` as plain values."""
        return {**super().to_dict(), "unknown_share": self.unknown_share}

    def _blocks(self) -> Iterable[Block]:
        yield (
            f"{plural(self.text_count, 'text')}, {plural(self.character_count, 'character')}: "
            f"{_tokens(len(self.rows), len(self.unknown))}; {plural(len(self.dropped), 'character')} dropped"
        )
        if self.rows:
            cells = [(r.text_index, f"{r.start}-{r.end}", r.token, r.characters) for r in self.rows]
            yield Table(("text", "span", "token", "characters"), cells).first(ROWS_SHOWN)
        if self.dropped:
            cells = [(d.text_index, d.index, d.code_point, d.reason) for d in self.dropped]
            yield Table(("text", "index", "character", "reason"), cells, "dropped").first(ROWS_SHOWN)


@dataclasses.dataclass(frozen=True)
class TokenizedFile(Report):
    """How much a file held; `tokenize_file` makes it.

    Attributes:
        line_count: number of lines read, and of lines written.
        character_count: number of characters in them.
        token_count: number of tokens they became.
        unknown_count: number of these that are `[UNK]`.

    Examples:
        >>> TokenizedFile(line_count=2, character_count=10, token_count=8, unknown_count=1).summary
        '2 lines, 10 characters: 8 tokens, of which [UNK] 1 (12.50%)'
    """

    line_count: int
    character_count: int
    token_count: int
    unknown_count: int

    def _blocks(self) -> Iterable[Block]:
        yield (
            f"{plural(self.line_count, 'line')}, {plural(self.character_count, 'character')}: "
            f"{_tokens(self.token_count, self.unknown_count)}"
        )


def _tokens(count: int, unknown_count: int) -> str:
    share = unknown_count / count if count else math.nan
    return f"{plural(count, 'token')}, of which [UNK] {format_count(unknown_count)} ({format_percent(share)})"
