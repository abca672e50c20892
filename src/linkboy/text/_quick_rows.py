"""The rows of plain calls, straight from the compiled core: no pairs, no spans, no continued rows."""

from typing import Any

import numpy as np

from linkboy.text._call_options import CallOptions
from linkboy.text._encoding import Encoding
from linkboy.text._engines import CoreEngine
from linkboy.text._rows import Around


def quick_rows(
    core: CoreEngine, texts: list[str], options: CallOptions, around: Around, pad_id: int, *, single: bool
) -> Encoding | None:
    """Return the encoding of texts, or `None` where the call asks for more than this.

    Args:
        core: the compiled engine.
        texts: the texts.
        options: what the call asks for.
        around: the special tokens.
        pad_id: the id that fills up rows.
        single: whether one text was given, so that lists have no list around them.
    """
    if options.quick is None:
        return None
    lists, room, width, multiple = options.quick
    first, last = around if options.specials else (-1, -1)
    if lists:
        return _lists(core.rows(texts, first, last, room), options, single)
    arrays = core.padded(texts, first, last, pad_id, room, width, multiple, options.pads_left)
    return None if arrays is None else _arrays(*arrays, options, single)


def _lists(rows: list[list[int]], options: CallOptions, single: bool) -> Encoding:
    lists: dict[str, list[Any]] = {"input_ids": rows}
    if options.types:
        lists["token_type_ids"] = [[0] * len(row) for row in rows]
    if options.mask:
        lists["attention_mask"] = [[1] * len(row) for row in rows]
    if options.length:
        lists["length"] = list(map(len, rows))
    return Encoding({key: values[0] for key, values in lists.items()} if single else lists)


def _arrays(ids: Any, mask: Any, options: CallOptions, single: bool) -> Encoding:
    arrays = {"input_ids": ids}
    if options.types:
        arrays["token_type_ids"] = np.zeros(ids.shape, np.int64)
    if options.mask:
        arrays["attention_mask"] = mask
    if options.length:
        arrays["length"] = np.full(len(ids), ids.shape[1], np.int64)
    if options.tensors == "np":
        return Encoding(arrays)
    if options.tensors is None:
        return Encoding({key: value.tolist()[0] if single else value.tolist() for key, value in arrays.items()})
    import torch

    return Encoding({key: torch.from_numpy(value) for key, value in arrays.items()})
