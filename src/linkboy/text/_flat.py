"""The ids of many texts in one array: what an engine gives, and what everything above it is made from."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from linkboy.text._arrays import Array, ranges

MARK = (1 << 24) - 1  # stands before and after the ids of each text; above every id


class FlatIds(NamedTuple):
    """The ids of all texts in one array; text `i` has `ids[begin[i] + 1 : end[i]]`, with a mark before and after.

    `spans` holds, where asked for, the `(start, end)` in its own text of each id, and `(0, 0)` at the marks. The arrays were
    made for the caller, who may write into them.
    """

    ids: Array
    begin: Array
    end: Array
    spans: Array | None = None


class Tokens(NamedTuple):
    """Tokens that stand between the parts that a text was cut into: one at each place where two parts meet."""

    ids: Array
    spans: Array  # (tokens, 2), in the text


def join_parts(flat: FlatIds, owners: Array, origins: Array, between: Tokens | None = None) -> FlatIds:
    """Join the parts that have the same owner into one text again.

    Args:
        flat: the ids of the parts.
        owners: the number of the text that each part belongs to, ascending.
        origins: where in its text each part begins.
        between: the tokens that take the place where two parts meet; without them nothing stands there.

    Returns:
        The ids of the texts.
    """
    inner = owners[1:] == owners[:-1]
    meet = flat.end[:-1][inner]  # the mark after the part before; the next one is the mark before the part after
    kept = np.ones(len(flat.ids), bool)
    kept[meet + 1] = False
    ids, spans = flat.ids, flat.spans
    if between is None:
        kept[meet] = False
    else:
        ids[meet] = between.ids
    place = np.cumsum(kept) - 1
    begin = place[flat.begin[np.append(True, ~inner)]]
    end = place[flat.end[np.append(~inner, True)]]
    if spans is not None:
        spans = spans + np.repeat(origins, flat.end - flat.begin + 1)[:, None].astype(spans.dtype)
        if between is not None:
            spans[meet] = between.spans
        spans = spans[kept]
        spans[begin] = spans[end] = 0
    return FlatIds(ids[kept], begin, end, spans)


def join_words(flat: FlatIds, counts: Sequence[int]) -> tuple[FlatIds, Array]:
    """Join words that were cut one by one into their texts.

    Args:
        flat: the ids of the words; a text without words has one empty one.
        counts: the number of words of each text.

    Returns:
        The ids of the texts, whose spans count the characters of the words, and for each of these ids the number of its word.
    """
    sizes = np.maximum(np.array(counts, np.int64), 1)
    owners = np.repeat(np.arange(len(sizes)), sizes)
    number = ranges(np.zeros_like(sizes), sizes)  # of each word in its text
    pieces = flat.end - flat.begin - 1
    joined = join_parts(flat, owners, np.zeros(len(owners), np.int64))
    numbers = np.zeros(len(joined.ids), np.int64)
    numbers[joined.ids != MARK] = np.repeat(number, pieces)
    return joined, numbers


def word_numbers(flat: FlatIds, continues: Array) -> Array:
    """Return for each id the number of the word in its text that it belongs to; the marks have that of a neighbour.

    Args:
        flat: the ids of texts.
        continues: per id of the vocabulary whether it goes on with the word before.

    Returns:
        An array as long as `flat.ids`.
    """
    inside = flat.ids != MARK
    starts = inside & ~continues.take(np.where(inside, flat.ids, 0))
    number = np.cumsum(starts)
    before = np.repeat(number[flat.begin], flat.end - flat.begin + 1)
    return np.maximum(number - before - 1, 0)


def continuing_ids(vocabulary: Mapping[str, int], size: int) -> Array:
    """Return per id whether its token, `##ing`, goes on with a word."""
    continues = np.zeros(size, bool)
    continues[[number for token, number in vocabulary.items() if token.startswith("##") and len(token) > 2]] = True
    return continues
