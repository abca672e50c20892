"""Vectors as arrays: .npy, .npz and safetensors, read row by row; words come with them or are those of the vocabulary."""

import json
import math
import tokenize
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from linkboy._report import format_count
from linkboy.embeddings.collect import AllRows, VocabularyRows
from linkboy.embeddings.source import Source, Stream, array_names, open_array
from linkboy.embeddings.text import MOST_NUMBERS
from linkboy.embeddings.vocabulary import Vocabulary, encode

_CHUNK = 4 << 20
_LONGEST_HEADER = 100_000_000  # bytes of a safetensors header, the bound of the format
_LONGEST_ITEM = 1 << 16
_NAMES = ("weight", "vectors", "embeddings", "embedding")
# What NumPy lets through, which reads a header as a Python literal.
_HEADER_ERRORS = (ValueError, OverflowError, MemoryError, RecursionError, SyntaxError, TypeError, tokenize.TokenError)
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class _Array(NamedTuple):
    """An array that is still to be read from a stream."""

    shape: tuple[int, ...]
    dtype: "np.dtype[Any] | torch.dtype"
    stream: Stream


def read_npy(source: Source, collector: VocabularyRows | AllRows) -> None:
    """Read a matrix whose rows are those of the vocabulary."""
    array = _npy_header(source, source.stream, "the file")
    _read_rows(source, array, _vocabulary_words(source, array.shape[0], collector), collector)


def read_npz(source: Source, collector: VocabularyRows | AllRows) -> None:
    """Read the one matrix of an archive, with the words of its one array of strings where it has one."""
    arrays = {name: _npy_header(source, open_array(source, name), name) for name in array_names(source)}
    matrices = {n.removesuffix(".npy"): a for n, a in arrays.items() if len(a.shape) == 2 and _is_float(a)}
    texts = [a for a in arrays.values() if len(a.shape) == 1 and isinstance(a.dtype, np.dtype) and a.dtype.kind in "US"]
    matrix = matrices[_choose(source, sorted(matrices))]
    if not texts:
        _read_rows(source, matrix, _vocabulary_words(source, matrix.shape[0], collector), collector)
        return
    if len(texts) > 1 or texts[0].shape[0] != matrix.shape[0]:
        raise ValueError(
            f"{str(source.path)!r} must hold one word for each of the {matrix.shape[0]} rows of its matrix, got arrays of "
            f"{', '.join(str(text.shape[0]) for text in texts)} words"
        )
    _read_rows(source, matrix, _string_chunks(source, texts[0]), collector)


def read_safetensors(source: Source, collector: VocabularyRows | AllRows) -> None:
    """Read the one matrix of a file, with the words of its metadata where it has them."""
    header = _safetensors_header(source)
    metadata = header.pop("__metadata__", {})
    matrices = {name: entry for name, entry in header.items() if _is_matrix(entry)}
    entry = matrices[_choose(source, sorted(matrices))]
    shape, dtype = tuple(entry["shape"]), _DTYPES[entry["dtype"]]
    start, stop = entry["data_offsets"]
    if stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{str(source.path)!r} has a damaged header: the size of its matrix is not that of its data")
    _skip(source, start)
    has_words = isinstance(metadata, dict) and "words" in metadata
    words = _words_of(source, metadata, shape[0]) if has_words else _vocabulary_words(source, shape[0], collector)
    _read_rows(source, _Array(shape, dtype, source.stream), words, collector)


def _read_rows(
    source: Source, array: _Array, words: Iterator[bytes | None], collector: VocabularyRows | AllRows
) -> None:
    rows, dim = array.shape
    if not 0 < dim <= MOST_NUMBERS:
        raise ValueError(
            f"{str(source.path)!r} must hold 1 to {MOST_NUMBERS:,} numbers per row, got {format_count(dim)}"
        )
    size = dim * array.dtype.itemsize
    per_chunk = max(1, _CHUNK // size)
    collector.start(dim)
    for done in range(0, rows, per_chunk):
        count = min(per_chunk, rows - done)
        content = array.stream.read(count * size)
        if len(content) < count * size:
            there = done + len(content) // size
            raise ValueError(
                f"{str(source.path)!r} is cut short: its header claims {format_count(rows)} rows, {format_count(there)} "
                "are there; get the file again"
            )
        some = [next(words) for _ in range(count)]
        chosen = {i: word for i, word in enumerate(some) if word is not None and word in collector.wanted}
        if chosen:
            values = _values(content, array.dtype, dim)[list(chosen)]
            collector.add(list(chosen.values()), values, [done + i + 1 for i in chosen])
    collector.findings.rows = rows


def _values(content: bytes, dtype: "np.dtype[Any] | torch.dtype", dim: int) -> NDArray[Any]:
    if isinstance(dtype, np.dtype):
        return np.frombuffer(content, dtype).reshape(-1, dim)
    values = torch.frombuffer(bytearray(content), dtype=dtype).view(-1, dim)
    return (values.float() if dtype.itemsize < 4 else values).numpy()


def _vocabulary_words(source: Source, rows: int, collector: VocabularyRows | AllRows) -> Iterator[bytes | None]:
    vocabulary: Vocabulary | None = getattr(collector, "vocabulary", None)
    if vocabulary is None:
        raise ValueError(
            f"{str(source.path)!r} holds no words; pass vocab, in the order of its {format_count(rows)} rows"
        )
    if vocabulary.size != rows:
        raise ValueError(
            f"{str(source.path)!r} holds no words, so vocab must have one for each of its {format_count(rows)} rows, "
            f"got {format_count(vocabulary.size)}"
        )
    return (None if word is None else encode(word) for word in vocabulary.ordered())


def _choose(source: Source, names: Sequence[str]) -> str:
    """Return the name of the only matrix, or of several that which bears a usual name."""
    usual = [name for name in names if name.rpartition(".")[2] in _NAMES]
    for fitting in (names, usual):
        if len(fitting) == 1:
            return fitting[0]
    listed = ", ".join(repr(name) for name in names[:8]) or "none"
    raise ValueError(
        f"{str(source.path)!r} must hold one matrix of floating-point numbers, or one named 'weight', got {listed}; "
        "save that one alone"
    )


def _is_float(array: _Array) -> bool:
    return isinstance(array.dtype, np.dtype) and array.dtype.kind == "f"


def _npy_header(source: Source, stream: Stream, name: str) -> _Array:
    formats: Any = np.lib.format
    try:
        version = formats.read_magic(stream)
        read = formats.read_array_header_1_0 if version == (1, 0) else formats.read_array_header_2_0
        shape, by_column, dtype = read(stream)
    except _HEADER_ERRORS as error:
        # NumPy's own sentences are worth showing; what Python's parser says of a broken literal changes with its version.
        problem = " ".join(str(error).split())[:120] if isinstance(error, ValueError) else "its header is damaged"
        raise ValueError(f"{name!r} in {str(source.path)!r} is no array of NumPy ({problem})") from None
    if dtype.hasobject:
        raise ValueError(
            f"{name!r} in {str(source.path)!r} holds Python objects, that is a pickle, which is never opened; save it as "
            "numbers or as strings of a fixed width"
        )
    if by_column and len(shape) == 2:
        raise ValueError(
            f"{name!r} in {str(source.path)!r} is stored by columns; save numpy.ascontiguousarray(...) of it"
        )
    if dtype.itemsize > _LONGEST_ITEM:
        raise ValueError(f"{name!r} in {str(source.path)!r} has items of {dtype.itemsize:,} bytes; it holds no vectors")
    return _Array(shape, dtype, stream)


def _string_chunks(source: Source, array: _Array) -> Iterator[bytes | None]:
    size = array.dtype.itemsize
    for _ in range(array.shape[0]):
        content = array.stream.read(size)
        if len(content) < size:
            raise ValueError(f"{str(source.path)!r} is cut short within its words; get the file again")
        item = np.frombuffer(content, cast("np.dtype[Any]", array.dtype))[0]
        yield bytes(item) if isinstance(item, bytes) else encode(str(item))


def _safetensors_header(source: Source) -> dict[str, Any]:
    length = int.from_bytes(source.stream.read(8), "little")
    content = source.stream.read(length) if length <= _LONGEST_HEADER else b""
    try:
        header = json.loads(content)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise ValueError(f"{str(source.path)!r} has a damaged safetensors header; get the file again")
    return header


def _is_matrix(entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.get("dtype") not in _DTYPES:
        return False
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not isinstance(shape, list) or not isinstance(offsets, list) or not len(shape) == len(offsets) == 2:
        return False
    return all(type(number) is int and 0 <= number < 2**63 for number in [*shape, *offsets])


def _skip(source: Source, count: int) -> None:
    while count:
        passed = len(source.stream.read(min(count, _CHUNK)))
        if not passed:
            raise ValueError(f"{str(source.path)!r} is cut short before its matrix; get the file again")
        count -= passed


def _words_of(source: Source, metadata: dict[str, Any], rows: int) -> Iterator[bytes | None]:
    """Yield the words of the metadata, and nothing for a row that `missing` says was not read from anywhere."""
    try:
        words: Any = json.loads(metadata["words"])
        missing: set[int] = set(json.loads(metadata.get("missing", "[]")))
    except (ValueError, TypeError, RecursionError):
        words, missing = None, set()
    if not isinstance(words, list) or len(words) != rows or not all(isinstance(w, str | None) for w in words):
        raise ValueError(
            f"{str(source.path)!r} must name a word for each of its {rows} rows, and its metadata does not"
        )
    return (None if word is None or row in missing else encode(word) for row, word in enumerate(words))
