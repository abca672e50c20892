"""The rows of plain calls, straight from the compiled core: no pairs, no spans, no continued rows."""

from typing import Any

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
    quick = options.quick
    if quick is None:
        return None
    first, last = around if options.specials else (-1, -1)
    if quick.lists:
        return _lists(core.rows(texts, first, last, quick.rows[0]), options, single)
    read = core.tensors if options.tensors == "pt" else core.arrays
    made = read(texts, first, last, pad_id, *quick.rows)
    if made is None:
        return None
    ids, mask, zeros = made
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
