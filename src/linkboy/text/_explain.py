"""Account for every character of some texts."""

import unicodedata
from collections.abc import Mapping

from linkboy.text._characters import Rules
from linkboy.text._text_encoder import TextEncoder
from linkboy.text.report import DroppedCharacter, TokenizationReport, TokenRow


def explain_texts(
    texts: list[str], encoder: TextEncoder, tokens: Mapping[int, str], rules: Rules
) -> TokenizationReport:
    """Tokenize texts and account for every character."""
    rows: list[TokenRow] = []
    dropped: list[DroppedCharacter] = []
    flat = encoder.encode(texts, spans=True)
    for number, text in enumerate(texts):
        covered: set[int] = set()
        inside = slice(int(flat.begin[number]) + 1, int(flat.end[number]))
        spans = [] if flat.spans is None else flat.spans[inside].tolist()
        for token, (start, end) in zip(flat.ids[inside].tolist(), spans, strict=True):
            rows.append(TokenRow(number, start, end, tokens[token], text[start:end]))
            covered.update(range(start, end))
        for index, character in enumerate(text):
            vanishes = rules.is_dropped(character) or (rules.strip_accents and not rules.fold(character))
            if vanishes or (index not in covered and not character.isspace()):
                dropped.append(DroppedCharacter(number, index, f"U+{ord(character):04X}", _reason(character)))
    return TokenizationReport(len(texts), sum(map(len, texts)), tuple(rows), tuple(dropped))


def _reason(character: str) -> str:
    name = unicodedata.name(character, "")
    return f"{name}, category {unicodedata.category(character)}".lstrip(", ")
