"""What a tokenizer returns: rows padded or not, as lists, arrays or tensors."""

import itertools
from typing import Any

import numpy as np

from linkboy.text._arrays import Array
from linkboy.text._call_options import CallOptions
from linkboy.text._rows import TokenRows


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


def to_encoding(rows: TokenRows, options: CallOptions, pad_id: int, *, single: bool) -> Encoding:
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


def _width(lengths: Array, options: CallOptions) -> int | None:
    if options.padding is None:
        return None
    width = int(lengths.max()) if len(lengths) else 0
    if options.padding == "max_length" and options.max_length is not None:
        width = max(width, options.max_length)  # a row longer than max_length is not cut unless truncation says so
    multiple = options.multiple or 1
    return -(-width // multiple) * multiple


def _padded(rows: TokenRows, filled: Array, pad_id: int) -> dict[str, Array]:
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


def _ragged(rows: TokenRows) -> dict[str, list[Any]]:
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


def _as_lists(lists: dict[str, list[Any]], rows: TokenRows, single: bool) -> Encoding:
    if "offset_mapping" in lists:
        lists["offset_mapping"] = [[tuple(span) for span in row] for row in lists["offset_mapping"]]
    if rows.sample is not None:
        lists["overflow_to_sample_mapping"] = rows.sample.tolist()
        single = False  # one text may have become several rows
    return Encoding({key: rows_of[0] for key, rows_of in lists.items()} if single else lists)


def _flat_encoding(rows: TokenRows) -> Encoding:
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
