"""The rows of plain calls, straight from the compiled core: no pairs, no spans, no continued rows."""

from typing import Any

import numpy as np

from linkboy.text._call_options import CallOptions, QuickOptions
from linkboy.text._encoding import Encoding
from linkboy.text._engines import CoreEngine, take_capsule
from linkboy.text._rows import Around


def quick_rows(core: CoreEngine, text: Any, options: CallOptions, around: Around, pad_id: int) -> Encoding | None:
    """Return the encoding of one text or a list of texts, or `None` where a call asks for more, or gives something else.

    Args:
        core: the compiled engine.
        text: what was given.
        options: what the call asks for.
        around: the special tokens.
        pad_id: the id that fills up rows.
    """
    quick, single = options.quick, isinstance(text, str)
    if quick is None or not (single or type(text) is list):
        return None
    texts: Any = [text] if single else text
    row = _row(options, quick, around)
    try:
        if quick.kind == "lists":
            return _lists(core.rows(texts, *row), options, single)
        if quick.kind == "flat":
            return _flat(core.flat(texts, *row), options)
        read = core.tensors if options.tensors == "pt" else core.arrays
        return _rows(read(texts, *row, pad_id, *quick.shape), options, single)
    except TypeError:  # something in the list is not a string, which the reader of all inputs can tell more about
        return None


def make_plan(
    core: CoreEngine, asked: tuple[Any, ...], options: CallOptions, around: Around, pad_id: int, details: Any
) -> tuple[Any, Any] | None:
    """Return what does such a call again in the core alone, and what that needs for it; `None` where it cannot.

    Args:
        core: the compiled engine.
        asked: what the call asked for, in which one like it is the same, object by object.
        options: what this means.
        around: the special tokens.
        pad_id: the id that fills up rows.
        details: what an encoding keeps for its details, beside the texts.
    """
    quick = options.quick
    if quick is None or quick.kind != "rows" or options.tensors != "pt" or options.length:
        return None
    names = (
        "input_ids",
        "token_type_ids" if options.types else None,
        "attention_mask" if options.mask else None,
        "_details",
    )
    row = (*_row(options, quick, around), pad_id, *quick.shape)
    return core.again, (asked, row, take_capsule(), names, Encoding, details)


def _row(options: CallOptions, quick: QuickOptions, around: Around) -> tuple[int, int, int]:
    first, last = around if options.specials else (-1, -1)
    return first, last, quick.room


def _rows(made: tuple[Any, Any, Any] | None, options: CallOptions, single: bool) -> Encoding | None:
    if made is None:
        return None
    ids, zeros, mask = made
    rows = Encoding(input_ids=ids)
    if options.types:
        rows["token_type_ids"] = zeros
    if options.mask:
        rows["attention_mask"] = mask
    if options.length:
        rows["length"] = zeros.sum(1) + ids.shape[1]
    if options.tensors is None:
        return Encoding({key: value.tolist()[0] if single else value.tolist() for key, value in rows.items()})
    return rows


def _lists(rows: list[list[int]], options: CallOptions, single: bool) -> Encoding:
    lists: dict[str, list[Any]] = {"input_ids": rows}
    if options.types:
        lists["token_type_ids"] = [[0] * len(row) for row in rows]
    if options.mask:
        lists["attention_mask"] = [[1] * len(row) for row in rows]
    if options.length:
        lists["length"] = list(map(len, rows))
    return Encoding({key: values[0] for key, values in lists.items()} if single else lists)


def _flat(made: tuple[Any, Any] | None, options: CallOptions) -> Encoding | None:
    if made is None:
        return None
    ids, splits = made
    rows = {"input_ids": ids, "row_splits": splits if len(ids) >= 1 << 31 else splits.astype(np.int32)}
    if options.length:
        rows["length"] = np.diff(splits)
    if options.tensors == "flat_np":
        return Encoding(rows)
    import torch

    return Encoding({key: torch.from_numpy(value) for key, value in rows.items()})
