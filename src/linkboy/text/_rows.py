"""From the flat ids of texts to rows: special tokens, pairs, truncation, continued rows."""

from typing import NamedTuple

import numpy as np

from linkboy.text._arrays import Array, ranges
from linkboy.text._call_options import CallOptions
from linkboy.text._flat import FlatIds


class TokenRows(NamedTuple):
    """All rows in one array, row `i` from `splits[i]` to `splits[i + 1]`, special tokens included."""

    ids: Array
    splits: Array
    types: Array | None  # None: all of the first kind
    special: Array | None
    spans: Array | None
    sample: Array | None  # the text that a row comes from, where one text may have several
    words: Array | None = None  # the number of each token's word in its text


class _Windows(NamedTuple):
    """Which tokens of which text go into a row."""

    first: Array  # number of the text in the flat array
    first_from: Array
    first_count: Array
    second_from: Array
    second_count: Array


class Around(NamedTuple):
    """The ids that stand before and after each text."""

    cls_id: int
    sep_id: int


def make_rows(
    flat: FlatIds, count: int, pair: bool, options: CallOptions, around: Around, words: Array | None = None
) -> TokenRows:
    """Lay out `count` rows; with pairs the flat array holds all first texts, then all second ones.

    Args:
        flat: the ids of all texts; its arrays may be written into.
        count: number of texts, or of pairs of texts.
        pair: whether there are second texts.
        options: what the call asks for.
        around: the special tokens.
        words: for each of the flat ids the number of its word.
    """
    sizes = flat.end - flat.begin - 1
    room = None if options.truncation is None or options.max_length is None else options.max_length
    if room is not None and options.specials:
        room -= 3 if pair else 2
    totals = sizes[:count] + sizes[count:] if pair else sizes
    fits = room is None or not count or int(totals.max()) <= room
    if fits and not pair and options.specials:
        return _whole_rows(flat, count, options, around, words)
    zeros = np.zeros(count, np.int64)
    second = sizes[count:] if pair else zeros
    windows = _Windows(np.arange(count), zeros, sizes[:count], zeros, second)
    if not fits and room is not None:
        windows = _truncate(windows, room, pair, options)
    return _gather(flat, windows, count, pair, options, around, words)


def _whole_rows(flat: FlatIds, count: int, options: CallOptions, around: Around, words: Array | None) -> TokenRows:
    ids = flat.ids
    ids[flat.begin], ids[flat.end] = around
    special = None
    if options.special_mask:
        special = np.zeros(len(ids), np.int64)
        special[flat.begin] = special[flat.end] = 1
    splits = np.append(flat.begin, len(ids))
    return TokenRows(ids, splits, None, special, flat.spans, np.arange(count) if options.overflow else None, words)


def _truncate(windows: _Windows, room: int, pair: bool, options: CallOptions) -> _Windows:
    first, second = windows.first_count, windows.second_count
    excess = np.maximum(first + second - room, 0)
    keep_first, keep_second = first, second
    if options.truncation == "longest_first" and pair:
        if options.overflow:
            raise ValueError(
                "return_overflowing_tokens=True with pairs needs truncation='only_first' or 'only_second', "
                "got 'longest_first': which text flows over would differ from row to row"
            )
        keep_first, keep_second = _share(first, second, room)
    elif options.truncation == "only_second":
        keep_second = second - excess
    else:
        keep_first = first - excess
    one_sided = pair and options.truncation != "longest_first"
    cut = keep_second if options.truncation == "only_second" else keep_first
    if one_sided and (cut[excess > 0] <= 0).any():
        row = int(np.flatnonzero((cut <= 0) & (excess > 0))[0])
        raise ValueError(
            f"truncation={options.truncation!r} cannot bring pair {row} to max_length={options.max_length}: "
            "the other text alone is too long"
        )
    if not options.overflow:
        kept = windows._replace(first_count=keep_first, second_count=keep_second)
        if options.cuts_left:
            kept = kept._replace(first_from=first - keep_first, second_from=second - keep_second)
        return kept
    return _overflow(windows, keep_first, keep_second, options)


def _share(first: Array, second: Array, room: int) -> tuple[Array, Array]:
    """Shorten the longer of two texts until both fit, then both alike, as `tokenizers` does; an odd one to the longer."""
    short, long = np.minimum(first, second), np.maximum(first, second)
    kept = np.where(short > room, short, np.minimum(long, np.maximum(short, room - short)))
    half = short + kept > room
    short, kept = np.where(half, room // 2, short), np.where(half, room - room // 2, kept)
    swapped = first > second
    return np.where(swapped, kept, short), np.where(swapped, short, kept)


def _overflow(windows: _Windows, keep_first: Array, keep_second: Array, options: CallOptions) -> _Windows:
    second_moves = options.truncation == "only_second"
    size, keep = (windows.second_count, keep_second) if second_moves else (windows.first_count, keep_first)
    cut = keep < size
    narrow = int(keep[cut].min())
    if options.stride >= narrow:
        raise ValueError(
            f"stride must be below the {narrow} tokens of the text that fit into max_length={options.max_length}, "
            f"got {options.stride}"
        )
    step = np.where(cut, keep - options.stride, 1)
    count = np.where(cut, 1 + -(-(size - keep) // step), 1)
    row = np.repeat(windows.first, count)
    begin = ranges(np.zeros_like(count), count) * step[row]
    length = np.minimum(keep[row], size[row] - begin)
    if options.cuts_left:  # the first row ends where the text does
        begin = size[row] - begin - length
    zeros = np.zeros_like(row)
    if second_moves:
        return _Windows(row, zeros, keep_first[row], begin, length)
    return _Windows(row, begin, length, zeros, keep_second[row])


def _gather(
    flat: FlatIds, windows: _Windows, count: int, pair: bool, options: CallOptions, around: Around, words: Array | None
) -> TokenRows:
    # The marks around each text lie where special tokens go: a range that is one longer at an end makes room for one.
    text = windows.first
    specials = int(options.specials)
    starts = [flat.begin[text] + 1 - specials + windows.first_from]
    counts = [windows.first_count + 2 * specials]
    if pair:
        starts.append(flat.begin[count + text] + 1 + windows.second_from)
        counts.append(windows.second_count + specials)
    start, size = np.stack(starts, 1).ravel(), np.stack(counts, 1).ravel()
    at = ranges(start, size)
    ids = flat.ids[at]
    ends = np.cumsum(size)
    splits = np.append(0, ends[len(starts) - 1 :: len(starts)])
    spans = flat.spans[at] if flat.spans is not None else None
    special = np.zeros(len(ids), np.int64) if options.special_mask else None
    if specials:
        ids[splits[:-1]], ids[ends - 1] = around
        for values, mark in ((spans, 0), (special, 1)):
            if values is not None:
                values[splits[:-1]] = values[ends - 1] = mark
    types = np.repeat(np.tile(np.array([0, 1]), len(text)), size) if pair else None
    words = None if words is None else words[at]
    return TokenRows(ids, splits, types, special, spans, text if options.overflow else None, words)
