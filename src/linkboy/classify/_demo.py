"""The embedded task: which of 32 languages is this name of a language, country, script or currency written in?

The names are Unicode's own (CLDR), as the package Babel carries them; nothing is downloaded and no copy is kept here.
"""

import hashlib
from collections import Counter

from linkboy.classify.reading.labelled import LabelledTexts

LANGUAGES = (
    "en", "de", "fr", "es", "pt", "it", "nl", "sv", "da", "nb", "fi", "pl", "cs", "hu", "ro", "tr",
    "vi", "id", "ru", "uk", "bg", "el", "he", "ar", "fa", "hi", "bn", "th", "zh", "ja", "ko", "sw",
)  # fmt: skip


def demo_data() -> dict[str, LabelledTexts]:
    """Return the parts `train`, `valid` and `test` of the demo task.

    A name that occurs in more than one language has no single answer and is left out. The part of a name follows from
    a hash of its text, so it is the same on every machine with the same version of Babel.

    Raises:
        ModuleNotFoundError: Babel is not installed; the message says how to install it.
    """
    try:
        from babel import Locale
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the demo task needs the package babel, which is not installed; run: pip install 'linkboy[demo]'"
        ) from error

    names: dict[str, set[str]] = {}
    for language in LANGUAGES:
        locale = Locale(language)
        tables = (locale.languages, locale.territories, locale.scripts, locale.currencies, locale.variants)
        folded = (" ".join(str(name).split()) for table in tables for name in table.values())
        names[language] = {name for name in folded if len(name) >= 2 and any(c.isalpha() for c in name)}
    languages_of = Counter(name for language in LANGUAGES for name in names[language])
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "valid": [], "test": []}
    for language in LANGUAGES:
        for name in sorted(names[language]):
            if languages_of[name] == 1:
                parts[_part_of(name)].append((name, language))
    return {
        part: LabelledTexts(
            source=f"names in 32 languages, {part} part",
            texts=[name for name, _ in rows],
            labels=[language for _, language in rows],
            lines=list(range(1, len(rows) + 1)),
        )
        for part, rows in parts.items()
    }


def _part_of(name: str) -> str:
    tenth = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % 10
    return {0: "test", 1: "valid"}.get(tenth, "train")
