"""The texts of a call: one or many, alone or in pairs, whole or split into words."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from linkboy._checks import check_flag
from linkboy.text._arguments import as_text, check_texts

Text = str | bytes
Texts = Text | Sequence[Text] | Sequence[Sequence[Text]] | Sequence[Sequence[Sequence[Text]]]


@dataclasses.dataclass(slots=True)
class Inputs:
    """What a call was given, in one form.

    Attributes:
        texts: all first texts, then all second ones; with `word_counts`, the words of these, one after the other.
        count: number of rows.
        pair: whether there are second texts.
        single: whether it was one text, so that the result has no list around it.
        word_counts: the number of words of each text; `None` where texts came whole.
    """

    texts: list[str]
    count: int
    pair: bool
    single: bool
    word_counts: list[int] | None = None


def read_inputs(text: Any, text_pair: Any, split: bool) -> Inputs:
    """Return the texts of a call.

    Args:
        text: one text, texts, or pairs of texts.
        text_pair: the second texts, where `text` does not hold pairs.
        split: whether each text is a list of words.

    Raises:
        TypeError: something is not a text.
        ValueError: there are not as many second texts as first ones.
    """
    if split is False and text_pair is None:  # the usual calls, which are to be quick
        if isinstance(text, str):
            return Inputs([text], 1, False, True)
        if type(text) is list and set(map(type, text)) == {str}:
            return Inputs(text.copy(), len(text), False, False)
    check_flag("is_split_into_words", split)
    if split:
        return _read_words(text, text_pair)
    if isinstance(text, Text):
        if text_pair is None:
            return Inputs([as_text(text)], 1, False, True)
        if not isinstance(text_pair, Text):
            raise TypeError("text and text_pair must both be one text or both be lists of texts")
        return Inputs([as_text(text), as_text(text_pair, "text_pair")], 1, True, True)
    items = _items("text", text)
    if set(map(type, items)) <= {str}:  # one pass in C for the usual case
        first = items
    elif items and all(isinstance(item, (tuple, list)) for item in items):
        if text_pair is not None:
            raise TypeError("text holds pairs already, so text_pair must be None")
        first, second = _pairs(items)
        return Inputs(first + second, len(first), True, False)
    else:
        first = check_texts("text", items)
    if text_pair is None:
        return Inputs(first, len(first), False, False)
    if isinstance(text_pair, Text):
        raise TypeError("text and text_pair must both be one text or both be lists of texts")
    second = check_texts("text_pair", text_pair)
    _check_counts(len(first), len(second))
    return Inputs(first + second, len(first), True, False)


def _items(argument: str, texts: Any) -> list[Any]:
    # A set has no order, and the keys of a dict are not its texts.
    if not isinstance(texts, Iterable) or isinstance(texts, (Set, Mapping)):
        raise TypeError(f"{argument} must be a text or a list of texts, got {type(texts).__name__}")
    return list(texts)


def _pairs(items: list[Any]) -> tuple[list[str], list[str]]:
    for index, item in enumerate(items):
        if len(item) != 2:
            raise TypeError(
                f"text[{index}] must be a text or a pair of texts, got a {type(item).__name__} of {len(item)}; "
                "for texts that are split into words pass is_split_into_words=True"
            )
    first = [as_text(item[0], f"text[{index}][0]") for index, item in enumerate(items)]
    return first, [as_text(item[1], f"text[{index}][1]") for index, item in enumerate(items)]


def _read_words(text: Any, text_pair: Any) -> Inputs:
    if isinstance(text, Text):
        raise TypeError(
            f"text must be a list of words with is_split_into_words=True, got a {type(text).__name__}; "
            f"pass [{text!r:.40}.split()] or leave is_split_into_words out"
        )
    items = _items("text", text)
    single = not any(isinstance(item, (list, tuple)) for item in items)
    if single:
        first, second = [items], None if text_pair is None else [_items("text_pair", text_pair)]
    elif text_pair is None and all(_is_pair_of_lists(item) for item in items):
        first, second = [item[0] for item in items], [item[1] for item in items]
    else:
        first, second = items, None if text_pair is None else _items("text_pair", text_pair)
    if second is not None:
        _check_counts(len(first), len(second))
    named = [("text", item) for item in first] + [("text_pair", item) for item in second or ()]
    words: list[str] = []
    counts: list[int] = []
    for number, (argument, item) in enumerate(named):
        place = f"{argument}[{number % len(first)}]"
        if isinstance(item, Text):
            raise TypeError(f"{place} must be a list of words with is_split_into_words=True, got {item!r:.40}")
        found = check_texts(place, item)
        words += found
        counts.append(len(found))
    return Inputs(words, len(first), second is not None, single, counts)


def _is_pair_of_lists(item: Any) -> bool:
    return isinstance(item, (list, tuple)) and len(item) == 2 and all(isinstance(part, (list, tuple)) for part in item)


def _check_counts(first: int, second: int) -> None:
    if first != second:
        raise ValueError(f"text_pair must have as many texts as text, {first}, got {second}")


def words_of(inputs: Inputs) -> list[str]:
    """Return the words of all texts, an empty one for a text that has none."""
    counts = inputs.word_counts or []
    if all(counts):
        return inputs.texts
    words, at = [], 0
    for count in counts:
        words += inputs.texts[at : at + count] or [""]
        at += count
    return words
