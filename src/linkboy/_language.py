"""The language of the pages that people look at: English, or Chinese from one table of sentences.

The table, `_templates/zh.json`, has the English sentence as its key, with `%(name)s` where a value goes. Templates ask for a
sentence by its key; a sentence that arrives with its values already in it is matched against the keys. The paragraph about a
word of the doctor has the key `#word`; `_templates/en.json` holds the English ones.
"""

import json
import os
import re
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

from linkboy._checks import check_choice

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
_SLOT = re.compile(r"%\((\w+)\)s")
_COUNTED = re.compile(r"\A(\\? \w{2,}?)(es|s)\b")  # the noun behind a slot
_LIST = re.compile(r"(.*?)( and [\d,]+ more)?", re.DOTALL)
_ITEM = re.compile(
    r"""(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|(?!, ).)+""", re.DOTALL
)  # a comma between quotes is a part of it


def chosen_language(lang: str | None = None) -> Language:
    """Return the language of a page.

    Args:
        lang: `"en"` or `"zh"`; by default the environment's: the first that is set of `LC_ALL`, `LC_MESSAGES` and `LANG`.

    Raises:
        ValueError: if another language is asked for.
    """
    if lang is not None:
        check_choice("lang", lang, LANGUAGES)
        return "zh" if lang == "zh" else "en"
    found = next((value for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (value := os.environ.get(name))), "")
    return "zh" if found.lower().startswith("zh") else "en"


@cache
def sentences(lang: Language = "zh") -> dict[str, str]:
    """Return the table of a language: a sentence of English to one of Chinese, and a key such as `#lr-low` to its paragraph."""
    return json.loads(files("linkboy").joinpath(f"_templates/{lang}.json").read_text("utf-8"))


def translate(message: str, lang: Language) -> str:
    """Return the sentence with this key, its slots still open.

    Raises:
        KeyError: if the table does not hold it.
    """
    return sentences("en").get(message, message) if lang == "en" else sentences()[message]


def translate_filled(text: str, lang: Language) -> str:
    """Return a sentence that has its values in it, or the text itself where the table has no such sentence.

    The values stay as they are, since they are names, counts and data. The value of a slot `sub_...` is a sentence of the table;
    that of a slot `list_...` is a list of names, in which the count of those that are left out is translated, and an item that is
    no name but a phrase, whose key begins with the comma before it.

    Examples:
        >>> translate_filled("3 steps watched", "zh")
        '观察了 3 步'
        >>> translate_filled("reviews.csv", "zh")
        'reviews.csv'
    """
    if lang == "en":
        return text
    found = sentences().get(text)
    if found is not None:
        return found
    for pattern, chinese in _patterns():
        if match := pattern.fullmatch(text):
            return _filled(chinese, match, lang)
    return text


def _filled(chinese: str, match: re.Match[str], lang: Language) -> str:
    translators = {"sub": translate_filled, "list": _translate_names}
    values = {
        name: translators.get(name.partition("_")[0], _as_it_is)(value, lang)
        for name, value in match.groupdict().items()
    }
    return chinese % values


def _as_it_is(value: str, lang: Language) -> str:
    return value


def _translate_names(names: str, lang: Language) -> str:
    listed, more = _LIST.fullmatch(names).groups("")  # type: ignore[union-attr]  # matches every text
    items = [item.lstrip() for item in _ITEM.findall(listed)]
    said = [translate_filled(f", {item}", lang).removeprefix(", ") for item in items]
    return ", ".join(said) + translate_filled(more, lang)


@cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    """Return the sentences with slots as expressions, those with the most words of their own first."""
    keys = sorted((key for key in sentences() if _SLOT.search(key)), key=lambda key: -len(_SLOT.sub("", key)))
    return [(re.compile(_expression(key), re.DOTALL), sentences()[key]) for key in keys]


def _expression(key: str) -> str:
    """Return what a sentence with this key looks like; the noun of a count may be singular, which Chinese does not tell."""
    parts: list[Any] = _SLOT.split(key)
    return "".join(
        f"(?P<{part}>.*?)" if at % 2 else _COUNTED.sub(_either, re.escape(part.replace("%%", "%")))
        for at, part in enumerate(parts)
    )


def _either(noun: re.Match[str]) -> str:
    return f"{noun[1]}(?:es)?" if noun[1].endswith(("ss", "ch")) else f"{noun[1]}{noun[2][:-1]}s?"
