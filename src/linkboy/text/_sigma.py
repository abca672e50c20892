"""Capital sigma, the one letter whose lower case depends on its neighbours: `σ` inside a word, `ς` at its end."""

import functools

from linkboy.text._characters import SIGMA, Rules, is_space


def is_final_sigma(text: str, at: int, rules: Rules) -> bool:
    """Return whether the capital sigma at `text[at]` becomes `ς`: its token has a cased character before it and none after."""
    return _meets_cased(text, at, -1, rules) and not _meets_cased(text, at, 1, rules)


def _meets_cased(text: str, at: int, step: int, rules: Rules) -> bool:
    """Return whether the nearest character of the token that is not ignored is a cased one."""
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
