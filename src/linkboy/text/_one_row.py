"""The row of one short text, made without arrays of rows: what a service asks for a thousand times a second."""

from typing import Any

import numpy as np

from linkboy.text._call_options import CallOptions
from linkboy.text._encoding import Encoding
from linkboy.text._rows import Around


def serves(options: CallOptions) -> bool:
    """Return whether a call with these options can be answered here."""
    return not (options.overflow or options.offsets or options.tensors in ("flat", "flat_np"))


def one_row(ids: list[int], options: CallOptions, around: Around, pad_id: int) -> Encoding:
    """Return the encoding of one text.

    Args:
        ids: the ids of the text.
        options: what the call asks for.
        around: the special tokens.
        pad_id: the id that fills up the row.
    """
    specials = options.specials
    if options.truncation is not None and options.max_length is not None:
        room = options.max_length - 2 * specials
        if len(ids) > room:
            ids = ids[len(ids) - room :] if options.cuts_left else ids[:room]
    if specials:
        ids = [around.cls_id, *ids, around.sep_id]
    size = len(ids)
    rest = _width(size, options) - size if options.padding is not None else 0
    if options.tensors is not None:
        return _tensors(ids, size, rest, options, pad_id)
    row = {"input_ids": _filled(ids, [pad_id] * rest, options)}
    if options.types:
        row["token_type_ids"] = [0] * (size + rest)
    if options.mask:
        row["attention_mask"] = _filled([1] * size, [0] * rest, options)
    if options.special_mask:
        row["special_tokens_mask"] = _filled(_special_mask(size, specials), [1] * rest, options)
    if options.length:
        row["length"] = size + rest  # type: ignore[assignment]
    return Encoding(row)


def _tensors(ids: list[int], size: int, rest: int, options: CallOptions, pad_id: int) -> Encoding:
    arrays: dict[str, Any] = {"input_ids": np.array([_filled(ids, [pad_id] * rest, options)], np.int64)}
    if options.types:
        arrays["token_type_ids"] = np.zeros((1, size + rest), np.int64)
    if options.mask:
        mask = np.zeros((1, size + rest), np.int64)
        mask[0, rest if options.pads_left else 0 : None if options.pads_left else size] = 1
        arrays["attention_mask"] = mask
    if options.special_mask:
        row = _filled(_special_mask(size, options.specials), [1] * rest, options)
        arrays["special_tokens_mask"] = np.array([row], np.int64)
    if options.length:
        arrays["length"] = np.array([size + rest], np.int64)
    if options.tensors == "np":
        return Encoding(arrays)
    import torch

    tensor = torch.from_numpy
    return Encoding({key: tensor(value) for key, value in arrays.items()})


def _width(size: int, options: CallOptions) -> int:
    if options.padding == "max_length" and options.max_length is not None:
        size = max(size, options.max_length)
    multiple = options.multiple
    return size if multiple is None else -(-size // multiple) * multiple


def _filled(row: list[int], rest: list[int], options: CallOptions) -> list[int]:
    if not rest:
        return row
    return rest + row if options.pads_left else row + rest


def _special_mask(size: int, specials: bool) -> list[int]:
    return [1, *[0] * (size - 2), 1] if specials else [0] * size
