"""Rows of one tokenizer made equally long: what `pad` does for the collators of transformers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from linkboy._checks import check_choice, check_flag, check_number, describe
from linkboy.text._call_options import PADDINGS, WIDEST
from linkboy.text._encoding import Encoding, as_tensor

FILLINGS = {"token_type_ids": 0, "attention_mask": 0, "special_tokens_mask": 1}


def pad_rows(
    encoded: Any,
    *,
    pad_id: int,
    padding: Any,
    max_length: int | None,
    multiple: int | None,
    left: bool,
    mask: bool,
    tensors: str | None,
) -> Encoding:
    """Return the rows padded.

    Args:
        encoded: an encoding, or a list of them.
        pad_id: the id that fills up rows.
        padding: as for the call of a tokenizer.
        max_length: the width for `"max_length"`.
        multiple: a number of which the width becomes a multiple.
        left: whether to pad at the left.
        mask: whether to make an attention mask where there is none.
        tensors: `"pt"`, `"np"`, or `None` for what came: tensors, arrays or lists.

    Raises:
        TypeError: these are not encodings.
        ValueError: an encoding has no `input_ids`, or the options contradict each other.
    """
    check_choice("padding", padding, PADDINGS)
    check_choice("return_tensors", tensors, (None, "pt", "np"))
    check_flag("return_attention_mask", mask)
    columns = _columns(encoded)
    kind = _kind(columns["input_ids"])
    values = {key: _plain(column) for key, column in columns.items()}
    single = not values["input_ids"] or not isinstance(values["input_ids"][0], list)
    if single and values["input_ids"]:
        values = {key: [value] for key, value in values.items()}
    ids = values["input_ids"]
    lengths = [len(row) for row in ids] if values["input_ids"] else []
    if mask and "attention_mask" not in values:
        values["attention_mask"] = [[1] * length for length in lengths]
    width = _width(lengths, PADDINGS[padding], max_length, multiple)
    if width is not None:
        for key, filling in {"input_ids": pad_id, **FILLINGS}.items():
            if key in values:
                values[key] = [_filled(row, width, filling, left) for row in values[key]]
    if single and lengths:
        values = {key: value[0] for key, value in values.items()}
    tensors = tensors or kind
    if tensors is not None:
        values = {key: as_tensor(value, tensors, key) for key, value in values.items()}
    return Encoding(values)


def _columns(encoded: Any) -> dict[str, Any]:
    if isinstance(encoded, (list, tuple)) and encoded and all(isinstance(item, Mapping) for item in encoded):
        keys = list(encoded[0])
        for number, item in enumerate(encoded):
            if set(item) != set(keys):
                raise ValueError(f"encoded_inputs[{number}] must have the keys of the first, {keys}, got {list(item)}")
        columns = {key: [item[key] for item in encoded] for key in keys}
    elif isinstance(encoded, Mapping):
        columns = dict(encoded)
    else:
        raise TypeError(f"encoded_inputs must be an encoding or a list of encodings, got {describe(encoded)}")
    if "input_ids" not in columns:
        raise ValueError(f"encoded_inputs must have input_ids, got the keys {list(columns)}")
    return columns


def _kind(column: Any) -> str | None:
    """Return what an array or a list of arrays is to become again, `None` for lists of numbers."""
    first = column[0] if isinstance(column, (list, tuple)) and column else column
    if isinstance(first, np.ndarray):
        return "np"
    return "pt" if hasattr(first, "detach") else None


def _plain(column: Any) -> list[Any]:
    if hasattr(column, "tolist"):
        return column.tolist()
    return [value.tolist() if hasattr(value, "tolist") else _as_list(value) for value in column]


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _width(lengths: list[int], padding: str | None, max_length: int | None, multiple: int | None) -> int | None:
    if padding is None:
        return None
    width = max(lengths, default=0)
    if padding == "max_length":
        if max_length is None:
            raise ValueError("padding='max_length' needs max_length, as this tokenizer has no model_max_length")
        check_number("max_length", max_length, minimum=1, maximum=WIDEST, integer=True)
        width = max(width, max_length)
    if multiple is not None:
        check_number("pad_to_multiple_of", multiple, minimum=1, maximum=WIDEST, integer=True)
        width = -(-width // multiple) * multiple
    return width


def _filled(row: list[Any], width: int, filling: int, left: bool) -> list[Any]:
    rest = [filling] * (width - len(row))
    return [*rest, *row] if left else [*row, *rest]
