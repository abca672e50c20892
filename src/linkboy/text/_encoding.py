"""What a tokenizer returns: rows padded or not, as lists, arrays or tensors."""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from linkboy.text._arrays import Array
from linkboy.text._call_options import CallOptions
from linkboy.text._rows import TokenRows


class CharSpan(NamedTuple):
    """The characters from `start` to before `end` of a text."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """The tokens from `start` to before `end` of a row."""

    start: int
    end: int


class RowDetails(NamedTuple):
    """One row, padding included: the text, word and characters that each token comes from; `None` for special tokens."""

    ids: list[int]
    sequences: list[int | None]
    words: list[int | None]
    spans: list[tuple[int, int]]


class Encoding(dict[str, Any]):
    """What a tokenizer returns: a dict for `model(**encoding)`, its keys also as attributes, and `to(device)`.

    The methods that say where a token comes from have the names and arguments of `transformers.BatchEncoding`: where the
    first argument is the number of a row, it can be left out for the first row. They are worked out when first asked for.

    Examples:
        >>> Encoding(input_ids=[[101, 102]]).input_ids
        [[101, 102]]
    """

    # Or what they are made from: a function with arguments, and the texts.
    _details: "Details | tuple[Any, ...] | None" = None

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no key {name!r} here, only {list(self)}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)  # not the texts and the vocabulary that the details are made from

    @property
    def data(self) -> dict[str, Any]:
        """The keys and values as a plain dict."""
        return dict(self)

    @property
    def is_fast(self) -> bool:
        """Whether tokens know their characters, always `True`."""
        return True

    @property
    def n_sequences(self) -> int:
        """The number of texts in a row: 2 for pairs."""
        return self._need().sequence_count

    def to(self, device: Any, *, non_blocking: bool = False) -> "Encoding":
        """Return a copy with every tensor on `device`."""
        options = {"non_blocking": True} if non_blocking else {}
        moved = {key: value.to(device, **options) if hasattr(value, "to") else value for key, value in self.items()}
        return self._with(moved)

    def convert_to_tensors(self, tensor_type: str | None = None, prepend_batch_axis: bool = False) -> "Encoding":
        """Return a copy whose lists are tensors (`"pt"`) or arrays (`"np"`)."""
        if tensor_type is None:
            return self
        return self._with(
            {key: as_tensor([value] if prepend_batch_axis else value, tensor_type, key) for key, value in self.items()}
        )

    def tokens(self, batch_index: int = 0) -> list[str]:
        """Return the tokens of a row, special ones and padding included."""
        details = self._need()
        return [details.names[number] for number in details.row(batch_index).ids]

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return for each token of a row the number of its word in its text; `None` for special tokens and padding."""
        return list(self._need().row(batch_index).words)

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return for each token of a row 0 for the first text, 1 for the second, `None` for special tokens and padding."""
        return list(self._need().row(batch_index).sequences)

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Return 0 where the token is of the first text of its row, 1 for the second, `None` for a special token."""
        row, token = self._at(batch_or_token_index, token_index)
        return row.sequences[token]

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Return the number of the word that a token belongs to, `None` for a special token."""
        row, token = self._at(batch_or_token_index, token_index)
        return row.words[token]

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """Return the characters of its text (of its word, where words were given) that a token stands for."""
        row, token = self._at(batch_or_token_index, token_index)
        return None if row.sequences[token] is None else CharSpan(*row.spans[token])

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """Return the token that a character of a text is in, `None` for a space or a character that was dropped."""
        row, char = self._row_and(batch_or_char_index, char_index)
        for token, (start, end) in enumerate(row.spans):
            if start <= char < end and row.sequences[token] == sequence_index:
                return token
        return None

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """Return the tokens of a word, `None` where the row has none."""
        row, word = self._row_and(batch_or_word_index, word_index)
        found = [t for t, w in enumerate(row.words) if w == word and row.sequences[t] == sequence_index]
        return TokenSpan(found[0], found[-1] + 1) if found else None

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """Return the characters of a word, `None` where the row does not have it."""
        span = self.word_to_tokens(batch_or_word_index, word_index, sequence_index)
        if span is None:
            return None
        row, _ = self._row_and(batch_or_word_index, word_index)
        return CharSpan(row.spans[span.start][0], row.spans[span.end - 1][1])

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """Return the number of the word that a character is in, `None` for a space or a character that was dropped."""
        token = self.char_to_token(batch_or_char_index, char_index, sequence_index)
        row, _ = self._row_and(batch_or_char_index, char_index)
        return None if token is None else row.words[token]

    def _with(self, values: Mapping[str, Any]) -> "Encoding":
        other = Encoding(values)
        other._details = self._details
        return other

    def _need(self) -> "Details":
        details = self._details
        if details is None:
            raise ValueError(
                "this Encoding does not know its texts: it was unpickled, padded or made by hand; "
                "ask the one that the tokenizer returned"
            )
        if isinstance(details, tuple):
            (make, *known), given = details
            details = self._details = make(*known, given)
        return details

    def _row_and(self, first: int, second: int | None) -> tuple[RowDetails, int]:
        row, inner = (0, first) if second is None else (first, second)
        return self._need().row(row), inner

    def _at(self, first: int, second: int | None) -> tuple[RowDetails, int]:
        row, token = self._row_and(first, second)
        size = len(row.ids)
        if not -size <= token < size:
            raise IndexError(f"token_index must be one of the {size} tokens of the row, got {token}")
        return row, token


class Details:
    """Where the tokens of all rows come from.

    Args:
        rows: rows with types, special mask, spans and words.
        options: what the call asked for.
        pad_id: the id that fills up rows.
        names: id to token.
    """

    def __init__(self, rows: TokenRows, options: CallOptions, pad_id: int, names: Mapping[int, str]) -> None:
        self._rows, self._options, self._pad_id, self.names = rows, options, pad_id, names
        self._width = row_width(np.diff(rows.splits), options)
        self.sequence_count = 1 if rows.types is None else 2

    def row(self, number: int) -> RowDetails:
        """Return one row."""
        splits = self._rows.splits
        count = len(splits) - 1
        if not -count <= number < count:
            raise IndexError(f"batch_index must be one of the {count} rows, got {number}")
        start, end = splits[number % count : number % count + 2].tolist()
        rows = self._rows
        special = [False] * (end - start) if rows.special is None else rows.special[start:end].astype(bool).tolist()
        types = [0] * (end - start) if rows.types is None else rows.types[start:end].tolist()
        words = [0] * (end - start) if rows.words is None else rows.words[start:end].tolist()
        spans = [] if rows.spans is None else [(a, b) for a, b in rows.spans[start:end].tolist()]
        row = RowDetails(
            rows.ids[start:end].tolist(),
            [None if mark else kind for kind, mark in zip(types, special, strict=True)],
            [None if mark else word for word, mark in zip(words, special, strict=True)],
            spans,
        )
        rest = max((self._width or 0) - (end - start), 0)
        filling = RowDetails([self._pad_id] * rest, [None] * rest, [None] * rest, [(0, 0)] * rest)
        a, b = (filling, row) if self._options.pads_left else (row, filling)
        return RowDetails(a.ids + b.ids, a.sequences + b.sequences, a.words + b.words, a.spans + b.spans)


def to_encoding(rows: TokenRows, options: CallOptions, pad_id: int, *, single: bool, numbers: Array) -> Encoding:
    """Return the rows in the form asked for.

    Args:
        rows: the rows.
        options: what the call asks for.
        pad_id: the id that fills up rows.
        single: whether one text was given, so that lists have no list around them.
        numbers: all ids as Python numbers.
    """
    lengths = np.diff(rows.splits)
    if options.tensors in ("flat", "flat_np"):
        return _flat_encoding(rows, options)
    width = row_width(lengths, options)
    if width is None:
        if options.tensors is None:
            return _as_lists(_ragged(rows, options, numbers), rows, single)
        if len(lengths) and (lengths != lengths[0]).any():
            raise ValueError(
                f"return_tensors={options.tensors!r} needs rows of one length, got {lengths.min()} to {lengths.max()}: "
                "pass padding=True, or return_tensors='flat'"
            )
        width = int(lengths[0]) if len(lengths) else 0
    arrays = _padded(rows, lengths, width, options, pad_id)
    if options.tensors == "np":
        return Encoding(arrays)
    if options.tensors is None:
        return _as_lists({key: value.tolist() for key, value in arrays.items()}, rows, single)
    import torch

    return Encoding({key: torch.from_numpy(value) for key, value in arrays.items()})


def as_tensor(values: Any, tensors: str, name: str) -> Any:
    """Return values as a torch tensor or a NumPy array; raise by the name of the key where they have no shape."""
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.asarray(None)
    if array.dtype == object:
        raise ValueError(
            f"{name} must have rows of one length to become a tensor: pad(), padding=True and truncation=True see to the "
            "keys of the tokenizer, a collator for your task to the others"
        )
    if tensors == "np":
        return array
    import torch

    return values if isinstance(values, torch.Tensor) else torch.as_tensor(array)


def row_width(lengths: Array, options: CallOptions) -> int | None:
    """Return the width that rows of these lengths are padded to, `None` where they are not."""
    if options.padding is None:
        return None
    width = int(lengths.max()) if len(lengths) else 0
    if options.padding == "max_length" and options.max_length is not None:
        width = max(width, options.max_length)  # a row longer than max_length is not cut unless truncation says so
    multiple = options.multiple or 1
    return -(-width // multiple) * multiple


def _padded(rows: TokenRows, lengths: Array, width: int, options: CallOptions, pad_id: int) -> dict[str, Array]:
    columns = np.arange(width)
    if options.pads_left:
        filled = columns >= (width - lengths)[:, None]  # (rows, width)
    else:
        filled = columns < lengths[:, None]

    def spread(values: Array, rest: int) -> Array:
        out = np.full((*filled.shape, *values.shape[1:]), rest, np.int64)
        out[filled] = values
        return out

    arrays = {"input_ids": spread(rows.ids, pad_id)}
    if options.types:
        arrays["token_type_ids"] = np.zeros(filled.shape, np.int64) if rows.types is None else spread(rows.types, 0)
    if options.mask:
        arrays["attention_mask"] = filled.astype(np.int64)
    if options.special_mask and rows.special is not None:
        arrays["special_tokens_mask"] = spread(rows.special, 1)
    if options.offsets and rows.spans is not None:
        arrays["offset_mapping"] = spread(rows.spans, 0)
    if options.length:
        arrays["length"] = np.full(len(lengths), width, np.int64)
    if rows.sample is not None:
        arrays["overflow_to_sample_mapping"] = rows.sample.astype(np.int64)
    return arrays


def _ragged(rows: TokenRows, options: CallOptions, numbers: Array) -> dict[str, list[Any]]:
    splits = rows.splits.tolist()
    bounds = list(itertools.pairwise(splits))

    def cut(values: list[Any]) -> list[list[Any]]:
        return [values[start:end] for start, end in bounds]

    lists: dict[str, list[Any]] = {"input_ids": cut(numbers.take(rows.ids).tolist())}
    if options.types:
        lists["token_type_ids"] = [[0] * (b - a) for a, b in bounds] if rows.types is None else cut(rows.types.tolist())
    if options.mask:
        lists["attention_mask"] = [[1] * (end - start) for start, end in bounds]
    if options.special_mask and rows.special is not None:
        lists["special_tokens_mask"] = cut(rows.special.tolist())
    if options.offsets and rows.spans is not None:
        lists["offset_mapping"] = cut(rows.spans.tolist())
    if options.length:
        lists["length"] = [end - start for start, end in bounds]
    return lists


def _as_lists(lists: dict[str, list[Any]], rows: TokenRows, single: bool) -> Encoding:
    if "offset_mapping" in lists:
        lists["offset_mapping"] = [[tuple(span) for span in row] for row in lists["offset_mapping"]]
    if rows.sample is not None:
        lists["overflow_to_sample_mapping"] = rows.sample.tolist()
        single = False  # one text may have become several rows
    return Encoding({key: rows_of[0] for key, rows_of in lists.items()} if single else lists)


def _flat_encoding(rows: TokenRows, options: CallOptions) -> Encoding:
    arrays = {
        "input_ids": rows.ids.astype(np.int64),
        "row_splits": rows.splits.astype(np.int32 if len(rows.ids) < 1 << 31 else np.int64),
    }
    if options.types and rows.types is not None:
        arrays["token_type_ids"] = rows.types.astype(np.int64)
    if options.special_mask and rows.special is not None:
        arrays["special_tokens_mask"] = rows.special
    if options.offsets and rows.spans is not None:
        arrays["offset_mapping"] = rows.spans.astype(np.int64)
    if options.length:
        arrays["length"] = np.diff(rows.splits).astype(np.int64)
    if rows.sample is not None:
        arrays["overflow_to_sample_mapping"] = rows.sample.astype(np.int64)
    if options.tensors == "flat_np":
        return Encoding(arrays)
    import torch

    return Encoding({key: torch.from_numpy(value) for key, value in arrays.items()})
