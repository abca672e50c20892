"""Vectors as arrays: .npy, .npz and safetensors, read row by row; their words are with them or in the vocabulary."""

import tokenize
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from linkboy._report import format_count, listed
from linkboy._tensors import work_dtype
from linkboy.embeddings._collect import AllRows, VocabularyRows
from linkboy.embeddings._safetensors import read_header, skip_to, words_of
from linkboy.embeddings._source import Source, Stream, array_names, open_array
from linkboy.embeddings._text import MOST_NUMBERS
from linkboy.embeddings._vocabulary import Vocabulary, encode

_CHUNK = 4 << 20
_LONGEST_ITEM = 1 << 16
_NAMES = ("weight", "vectors", "embeddings", "embedding")
# What NumPy lets through, which reads a header as a Python literal.
_HEADER_ERRORS = (ValueError, OverflowError, MemoryError, RecursionError, SyntaxError, TypeError, tokenize.TokenError)


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
    matrices, metadata = read_header(source)
    matrix = matrices[_choose(source, sorted(matrices))]
    skip_to(source, matrix)
    if "words" in metadata:
        words = words_of(source, metadata, matrix.shape[0])
    else:
        words = _vocabulary_words(source, matrix.shape[0], collector)
    _read_rows(source, _Array(matrix.shape, matrix.dtype, source.stream), words, collector)


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
    collector.findings.row_count = rows


def _values(content: bytes, dtype: "np.dtype[Any] | torch.dtype", dim: int) -> NDArray[Any]:
    if isinstance(dtype, np.dtype):
        return np.frombuffer(content, dtype).reshape(-1, dim)
    values = torch.frombuffer(bytearray(content), dtype=dtype).view(-1, dim)
    return values.to(work_dtype(values)).numpy()


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
    """Return the name of the only matrix, or of the only one with a usual name."""
    usual = [name for name in names if name.rpartition(".")[2] in _NAMES]
    for fitting in (names, usual):
        if len(fitting) == 1:
            return fitting[0]
    found = listed(map(repr, names), 8) or "none"
    raise ValueError(
        f"{str(source.path)!r} must hold one matrix of floating-point numbers, or one named 'weight', got {found}; "
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
        # NumPy's own sentences are worth showing; what Python's parser says about a broken literal changes with its version.
        problem = " ".join(str(error).split())[:120] if isinstance(error, ValueError) else "its header is damaged"
        raise ValueError(f"{name!r} in {str(source.path)!r} is not an array of NumPy ({problem})") from None
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
        raise ValueError(
            f"{name!r} in {str(source.path)!r} has items of {dtype.itemsize:,} bytes; they cannot be numbers"
        )
    return _Array(shape, dtype, stream)


def _string_chunks(source: Source, array: _Array) -> Iterator[bytes | None]:
    size = array.dtype.itemsize
    for _ in range(array.shape[0]):
        content = array.stream.read(size)
        if len(content) < size:
            raise ValueError(f"{str(source.path)!r} is cut short within its words; get the file again")
        item = np.frombuffer(content, cast("np.dtype[Any]", array.dtype))[0]
        yield bytes(item) if isinstance(item, bytes) else encode(str(item))
