"""Capital sigma, the one letter whose lower case depends on its neighbours: `σ` inside a word, `ς` at its end."""

import functools

from linkboy.text.characters import SIGMA, Rules, is_space
from linkboy.text.hashtable import Array
from linkboy.text.symbols import SymbolTable


def resolve_sigma(text: str, at: int, values: Array, table: SymbolTable) -> None:
    """Put at `values[at]` what the capital sigma at `text[at]` becomes."""
    rules = table.rules
    final = _meets_cased(text, at, -1, rules) and not _meets_cased(text, at, 1, rules)
    values[at] = table.look_up_character("ς" if final else "σ")


def _meets_cased(text: str, at: int, step: int, rules: Rules) -> bool:
    """Say whether the next character of the token that counts is a cased one; this is the condition of Unicode."""
    while True:
        at += step
        kind = _kind(text[at], rules)
        if kind != "ignored":
            return kind == "cased"


@functools.lru_cache(maxsize=4096)
def _kind(character: str, rules: Rules) -> str:
    if rules.is_dropped(character):
        return "ignored"
    if is_space(character) or rules.is_alone(character):
        return "end"
    # Python has the two properties but does not show them: they are read off the sigma before such a character.
    if f"A{SIGMA}{character}".lower()[1] == "σ":
        return "cased"
    return "ignored" if f"A{SIGMA}{character}A".lower()[1] == "σ" else "end"
