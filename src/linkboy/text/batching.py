"""From the flat ids of texts to the rows a model takes: special tokens, pairs, truncation, padding, tensors."""

import dataclasses
import itertools
from typing import Any, NamedTuple

import numpy as np

from linkboy._checks import check_choice, check_flag, check_number
from linkboy.text.encoder import Flat
from linkboy.text.hashtable import Array, ranges

PADDINGS = {False: None, "do_not_pad": None, True: "longest", "longest": "longest", "max_length": "max_length"}
TRUNCATIONS = {
    False: None,
    "do_not_truncate": None,
    True: "longest_first",
    "longest_first": "longest_first",
    "only_first": "only_first",
    "only_second": "only_second",
}

WIDEST = 1 << 24  # tokens that rows may be filled up to; a slip of the pen beyond it would take all memory


class Encoding(dict[str, Any]):
    """What a tokenizer returns: a dict for `model(**encoding)`, its keys also as attributes, and `to(device)`.

    Examples:
        >>> Encoding(input_ids=[[101, 102]]).input_ids
        [[101, 102]]
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no key {name!r} here, only {list(self)}") from None

    def to(self, device: Any) -> "Encoding":
        """Return a copy with every tensor on `device`."""
        return Encoding({key: value.to(device) if hasattr(value, "to") else value for key, value in self.items()})


@dataclasses.dataclass(frozen=True)
class Options:
    """The arguments of a tokenizer call, checked."""

    specials: bool
    padding: str | None
    truncation: str | None
    max_length: int | None
    stride: int
    multiple: int | None
    overflow: bool
    offsets: bool
    special_mask: bool
    tensors: str | None


def check_options(
    *,
    pair: bool,
    specials: bool,
    padding: bool | str,
    truncation: bool | str,
    max_length: int | None,
    model_max_length: int | None,
    stride: int,
    multiple: int | None,
    overflow: bool,
    offsets: bool,
    special_mask: bool,
    tensors: str | None,
) -> Options:
    """Refuse what cannot be meant, so that no argument is silently without effect."""
    check_flag("add_special_tokens", specials)
    check_flag("return_overflowing_tokens", overflow)
    check_flag("return_offsets_mapping", offsets)
    check_flag("return_special_tokens_mask", special_mask)
    check_choice("padding", padding, PADDINGS)
    check_choice("truncation", truncation, TRUNCATIONS)
    check_choice("return_tensors", tensors, (None, "pt", "np", "flat"))
    pad, cut = PADDINGS[padding], TRUNCATIONS[truncation]
    if max_length is None and (cut or pad == "max_length"):
        max_length = model_max_length
        if max_length is None:
            argument = f"truncation={truncation!r}" if cut else "padding='max_length'"
            raise ValueError(f"{argument} needs max_length, as this tokenizer has no model_max_length")
    elif max_length is not None and not cut and pad != "max_length":
        raise ValueError(f"max_length={max_length} has no effect without truncation=True or padding='max_length'")
    if max_length is not None:
        check_number("max_length", max_length, minimum=1, integer=True)
        if pad == "max_length" and max_length > WIDEST:
            raise ValueError(
                f"padding='max_length' needs max_length of at most {WIDEST}, got {max_length}: "
                "padding=True fills up to the longest row"
            )
        least = (3 if pair else 2) if specials else 0
        if cut and max_length < least:
            names = "[CLS], [SEP] and [SEP]" if pair else "[CLS] and [SEP]"
            raise ValueError(f"max_length must leave room for the {least} special tokens {names}, got {max_length}")
    if cut == "only_second" and not pair:
        raise ValueError("truncation='only_second' needs a text_pair")
    check_number("stride", stride, minimum=0, integer=True)
    if overflow and not cut:
        raise ValueError("return_overflowing_tokens=True needs truncation, or nothing flows over")
    if stride and not overflow:
        raise ValueError(f"stride={stride} has no effect without return_overflowing_tokens=True")
    if multiple is not None:
        check_number("pad_to_multiple_of", multiple, minimum=1, maximum=WIDEST, integer=True)
        if pad is None:
            raise ValueError(f"pad_to_multiple_of={multiple} has no effect without padding")
    if tensors == "flat" and pad is not None:
        raise ValueError("padding has no effect with return_tensors='flat', which needs none")
    return Options(specials, pad, cut, max_length, stride, multiple, overflow, offsets, special_mask, tensors)


class Rows(NamedTuple):
    """All rows in one array, row `i` from `splits[i]` to `splits[i + 1]`, special tokens included."""

    ids: Array
    splits: Array
    types: Array | None  # None: all of the first kind
    special: Array | None
    spans: Array | None
    sample: Array | None  # the text that a row comes from, where one text may have several


class _Windows(NamedTuple):
    """Which tokens of which text go into a row."""

    first: Array  # number of the text in the flat array
    first_from: Array
    first_count: Array
    second_from: Array
    second_count: Array


def make_rows(flat: Flat, count: int, pair: bool, options: Options, cls_id: int, sep_id: int) -> Rows:
    """Lay out `count` rows; with pairs the flat array holds all first texts, then all second ones."""
    sizes = flat.end - flat.begin - 1
    room = None if options.truncation is None or options.max_length is None else options.max_length
    if room is not None and options.specials:
        room -= 3 if pair else 2
    totals = sizes[:count] + sizes[count:] if pair else sizes
    fits = room is None or not count or int(totals.max()) <= room
    if fits and not pair and options.specials:
        return _whole_rows(flat, count, options, cls_id, sep_id)
    zeros = np.zeros(count, np.int64)
    second = sizes[count:] if pair else zeros
    windows = _Windows(np.arange(count), zeros, sizes[:count], zeros, second)
    if not fits and room is not None:
        windows = _truncate(windows, room, pair, options)
    return _gather(flat, windows, count, pair, options, cls_id, sep_id)


def _whole_rows(flat: Flat, count: int, options: Options, cls_id: int, sep_id: int) -> Rows:
    ids = flat.ids  # nobody else's
    ids[flat.begin], ids[flat.end] = cls_id, sep_id
    special = None
    if options.special_mask:
        special = np.zeros(len(ids), np.int64)
        special[flat.begin] = special[flat.end] = 1
    splits = np.append(flat.begin, len(ids))
    return Rows(ids, splits, None, special, flat.spans, np.arange(count) if options.overflow else None)


def _truncate(windows: _Windows, room: int, pair: bool, options: Options) -> _Windows:
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
        return windows._replace(first_count=keep_first, second_count=keep_second)
    return _overflow(windows, keep_first, keep_second, options)


def _share(first: Array, second: Array, room: int) -> tuple[Array, Array]:
    """Shorten the longer of two texts until both fit, then both alike, as `tokenizers` does; an odd one to the longer."""
    short, long = np.minimum(first, second), np.maximum(first, second)
    kept = np.where(short > room, short, np.minimum(long, np.maximum(short, room - short)))
    half = short + kept > room
    short, kept = np.where(half, room // 2, short), np.where(half, room - room // 2, kept)
    swapped = first > second
    return np.where(swapped, kept, short), np.where(swapped, short, kept)


def _overflow(windows: _Windows, keep_first: Array, keep_second: Array, options: Options) -> _Windows:
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
    zeros = np.zeros_like(row)
    if second_moves:
        return _Windows(row, zeros, keep_first[row], begin, length)
    return _Windows(row, begin, length, zeros, keep_second[row])


def _gather(flat: Flat, windows: _Windows, count: int, pair: bool, options: Options, cls_id: int, sep_id: int) -> Rows:
    # The marks round each text lie where special tokens go, so a range that is longer by one at an end makes the room.
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
        ids[splits[:-1]], ids[ends - 1] = cls_id, sep_id
        for values, mark in ((spans, 0), (special, 1)):
            if values is not None:
                values[splits[:-1]] = values[ends - 1] = mark
    types = np.repeat(np.tile(np.array([0, 1]), len(text)), size) if pair else None
    return Rows(ids, splits, types, special, spans, text if options.overflow else None)


def to_encoding(rows: Rows, options: Options, pad_id: int, *, single: bool) -> Encoding:
    """Return the rows in the form asked for."""
    lengths = np.diff(rows.splits)
    if options.tensors == "flat":
        return _flat_encoding(rows)
    width = _width(lengths, options)
    if width is None:
        if options.tensors is None:
            return _as_lists(_ragged(rows), rows, single)
        if len(lengths) and (lengths != lengths[0]).any():
            raise ValueError(
                f"return_tensors={options.tensors!r} needs rows of one length, got {lengths.min()} to {lengths.max()}: "
                "pass padding=True, or return_tensors='flat'"
            )
        width = int(lengths[0]) if len(lengths) else 0
    filled = np.arange(width) < np.minimum(lengths, width)[:, None]  # (rows, width)
    arrays = _padded(rows, filled, pad_id)
    if options.tensors == "np":
        return Encoding(arrays)
    if options.tensors is None:
        return _as_lists({key: value.tolist() for key, value in arrays.items()}, rows, single)
    import torch

    return Encoding({key: torch.from_numpy(value) for key, value in arrays.items()})


def _width(lengths: Array, options: Options) -> int | None:
    if options.padding is None:
        return None
    width = int(lengths.max()) if len(lengths) else 0
    if options.padding == "max_length" and options.max_length is not None:
        width = max(width, options.max_length)  # a row longer than max_length is not cut unless truncation says so
    multiple = options.multiple or 1
    return -(-width // multiple) * multiple


def _padded(rows: Rows, filled: Array, pad_id: int) -> dict[str, Array]:
    def spread(values: Array, rest: int) -> Array:
        out = np.full((*filled.shape, *values.shape[1:]), rest, np.int64)
        out[filled] = values
        return out

    zeros = np.zeros(filled.shape, np.int64)
    arrays = {
        "input_ids": spread(rows.ids, pad_id),
        "token_type_ids": zeros if rows.types is None else spread(rows.types, 0),
        "attention_mask": filled.astype(np.int64),
    }
    if rows.special is not None:
        arrays["special_tokens_mask"] = spread(rows.special, 1)
    if rows.spans is not None:
        arrays["offset_mapping"] = spread(rows.spans, 0)
    if rows.sample is not None:
        arrays["overflow_to_sample_mapping"] = rows.sample.astype(np.int64)
    return arrays


def _ragged(rows: Rows) -> dict[str, list[Any]]:
    splits = rows.splits.tolist()
    bounds = list(itertools.pairwise(splits))

    def cut(values: list[Any]) -> list[list[Any]]:
        return [values[start:end] for start, end in bounds]

    lists = {
        "input_ids": cut(rows.ids.tolist()),
        "token_type_ids": [[0] * (end - start) for start, end in bounds]
        if rows.types is None
        else cut(rows.types.tolist()),
        "attention_mask": [[1] * (end - start) for start, end in bounds],
    }
    if rows.special is not None:
        lists["special_tokens_mask"] = cut(rows.special.tolist())
    if rows.spans is not None:
        lists["offset_mapping"] = cut(rows.spans.tolist())
    return lists


def _as_lists(lists: dict[str, list[Any]], rows: Rows, single: bool) -> Encoding:
    if "offset_mapping" in lists:
        lists["offset_mapping"] = [[tuple(span) for span in row] for row in lists["offset_mapping"]]
    if rows.sample is not None:
        lists["overflow_to_sample_mapping"] = rows.sample.tolist()
        single = False  # one text may have become several rows
    return Encoding({key: rows_of[0] for key, rows_of in lists.items()} if single else lists)


def _flat_encoding(rows: Rows) -> Encoding:
    import torch

    arrays = {
        "input_ids": rows.ids.astype(np.int64),
        "row_splits": rows.splits.astype(np.int32 if len(rows.ids) < 1 << 31 else np.int64),
    }
    if rows.types is not None:
        arrays["token_type_ids"] = rows.types.astype(np.int64)
    if rows.special is not None:
        arrays["special_tokens_mask"] = rows.special
    if rows.spans is not None:
        arrays["offset_mapping"] = rows.spans.astype(np.int64)
    if rows.sample is not None:
        arrays["overflow_to_sample_mapping"] = rows.sample.astype(np.int64)
    return Encoding({key: torch.from_numpy(value) for key, value in arrays.items()})
