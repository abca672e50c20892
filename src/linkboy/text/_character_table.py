"""One character at a time: what `str.translate` puts in a character's place."""

from linkboy.text._characters import Rules, is_punctuation, is_space

CHARACTERS_KEPT = 1 << 16


class DependsOnNeighboursError(Exception):
    """A character cannot be translated by itself; caught inside `linkboy.text`."""


class CharacterTable(dict[int, str]):
    """What `str.translate` puts in a character's place, computed when first seen; emptied when it grows large."""

    def __init__(self, rules: Rules) -> None:
        super().__init__()
        self.rules = rules

    def __missing__(self, code: int) -> str:
        if len(self) >= CHARACTERS_KEPT:
            self.clear()
        character, rules = chr(code), self.rules
        if rules.is_dropped(character):
            value = ""
        elif is_space(character):
            value = " "
        elif rules.depends_on_neighbours(character):
            raise DependsOnNeighboursError
        else:
            value = rules.fold(character)
            if rules.is_alone(character) or (value and is_punctuation(value[0])):
                value = f" {value} "
        self[code] = value
        return value

    def __reduce__(self) -> tuple[type["CharacterTable"], tuple[Rules]]:
        return CharacterTable, (self.rules,)
