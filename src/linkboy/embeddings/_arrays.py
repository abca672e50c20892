"""Vectors as arrays: .npy, .npz and safetensors, read row by row; their words are with them or in the vocabulary."""

import difflib
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linkboy._report import format_count, listed, plural
from linkboy._tensors import work_dtype
from linkboy.embeddings._collect import AllRows, VocabularyRows
from linkboy.embeddings._layout import MOST_NUMBERS
from linkboy.embeddings._safetensors import StoredTensor, read_beside, read_header, skip_to, words_of
from linkboy.embeddings._source import Source, Stream, array_names, open_array
from linkboy.embeddings._vocabulary import Vocabulary, encode

_CHUNK = 4 << 20
_LONGEST_ITEM = 1 << 16
_OF_WORDS = (".txt", ".vocab", ".words", ".tsv", "")
_MOST_WORDS = 1 << 28  # bytes of a file of words that is counted for advice
_MOST_BESIDE = 1000
_SEEN = 8  # words at the start, a few of which a message may show
_NAMES = ("weight", "vectors", "embeddings", "embedding")
# What NumPy lets through, which reads a header as a Python literal.
_HEADER_ERRORS = (ValueError, OverflowError, MemoryError, RecursionError, SyntaxError, TypeError, tokenize.TokenError)


class _Array(NamedTuple):
    """An array that is still to be read from a stream."""

    shape: tuple[int, ...]
    dtype: "np.dtype[Any] | torch.dtype"
    stream: Stream
    by_column: bool = False


def read_npy(source: Source, collector: VocabularyRows | AllRows) -> None:
    """Read a matrix whose rows are those of the vocabulary, or of the words given."""
    array = cast("_Array", _npy_header(source, source.stream, "the file"))
    if len(array.shape) != 2:
        raise ValueError(
            f"{str(source.path)!r} must hold a matrix, a row for each word, got an array of the shape {array.shape}; "
            "save it as (words, numbers)"
        )
    _read_rows(source, array, _given_words(source, array.shape[0], collector), collector)


def read_npz(source: Source, collector: VocabularyRows | AllRows) -> None:
    """Read the one matrix of an archive, with the words of its one array of strings where it has one."""
    # Words as Python objects are of no use, and do no harm where words were given.
    skips = source.words is not None
    headers = {name: _npy_header(source, open_array(source, name), name, skips=skips) for name in array_names(source)}
    arrays = {name: array for name, array in headers.items() if array is not None}
    matrices = {n.removesuffix(".npy"): a for n, a in arrays.items() if len(a.shape) == 2 and _is_of_kind(a, "f")}
    matrices = matrices or {
        n.removesuffix(".npy"): a for n, a in arrays.items() if len(a.shape) == 2 and _is_of_kind(a, "iu")
    }
    texts = [a for a in arrays.values() if len(a.shape) == 1 and isinstance(a.dtype, np.dtype) and a.dtype.kind in "US"]
    matrix = matrices[_choose(source, sorted(matrices))]
    if not texts or source.words is not None:
        _read_rows(source, matrix, _given_words(source, matrix.shape[0], collector), collector)
        return
    if len(texts) > 1 or texts[0].shape[0] != matrix.shape[0]:
        raise ValueError(
            f"{str(source.path)!r} must hold one word for each of the {plural(matrix.shape[0], 'row')} of its matrix, "
            f"got arrays of {', '.join(str(text.shape[0]) for text in texts)} words"
        )
    _read_rows(source, matrix, _string_chunks(source, texts[0]), collector)


def read_safetensors(source: Source, collector: VocabularyRows | AllRows) -> None:
    """Read a matrix of a file, with the words of its metadata where it has them, and what model2vec keeps beside it."""
    tensors, metadata = read_header(source)
    matrices = [name for name, tensor in tensors.items() if len(tensor.shape) == 2 and tensor.dtype.is_floating_point]
    matrices = matrices or [name for name, tensor in tensors.items() if len(tensor.shape) == 2]
    name = _choose(source, sorted(matrices))
    matrix = tensors[name]
    weights, mapping = _beside(source, name, tensors)
    rows = matrix.shape[0] if mapping is None else len(mapping)
    if weights is not None:
        collector.findings.notes.append("its rows are multiplied by its weights, one per token, as model2vec does")
    if "words" in metadata and source.words is None:
        words = words_of(source, metadata, rows)
    else:
        words = _given_words(source, rows, collector)
    if mapping is None:
        skip_to(source, matrix)
        _read_rows(source, _Array(matrix.shape, matrix.dtype, source.stream), words, collector, weights)
    else:
        _read_mapped(read_beside(source, matrix), mapping, words, collector, weights)


def _beside(
    source: Source, name: str, tensors: Mapping[str, StoredTensor]
) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Return the weight of each token and the row of each token, where a file of model2vec has them."""
    found: list[NDArray[Any] | None] = []
    prefix, _, last = name.rpartition("embeddings")
    for other in ("weights", "mapping"):
        tensor = tensors.get(prefix + other) if not last else None
        if tensor is None or len(tensor.shape) != 1:
            found.append(None)
            continue
        values = read_beside(source, tensor)
        found.append((values.double() if other == "weights" else values.long()).numpy())
    weights, mapping = found
    rows = tensors[name].shape[0]
    if mapping is not None and len(mapping) and not 0 <= mapping.min() <= mapping.max() < rows:
        raise ValueError(f"{str(source.path)!r} has a damaged mapping: it must name rows from 0 to {rows - 1}")
    expected = rows if mapping is None else len(mapping)
    if weights is not None and len(weights) != expected:
        raise ValueError(
            f"{str(source.path)!r} must hold one weight for each of its {plural(expected, 'token')}, got "
            f"{format_count(len(weights))}"
        )
    return weights, mapping


def _read_mapped(
    matrix: Tensor,
    mapping: NDArray[Any],
    words: Iterator[bytes | None],
    collector: VocabularyRows | AllRows,
    weights: NDArray[Any] | None,
) -> None:
    """Read the rows of tokens that share rows of a small matrix."""
    collector.start(matrix.shape[1])
    per_chunk = max(1, _CHUNK // (8 * matrix.shape[1]))
    for done in range(0, len(mapping), per_chunk):
        some = [next(words) for _ in range(min(per_chunk, len(mapping) - done))]
        chosen = {done + i: word for i, word in enumerate(some) if word is not None and word in collector.wanted}
        tokens = list(chosen)
        values = matrix[mapping[tokens]].double().numpy()
        if weights is not None:
            values = values * weights[tokens][:, None]
        collector.add(list(chosen.values()), values, [token + 1 for token in tokens])
    collector.findings.row_count = len(mapping)


def _read_rows(
    source: Source,
    array: _Array,
    words: Iterator[bytes | None],
    collector: VocabularyRows | AllRows,
    weights: NDArray[Any] | None = None,
) -> None:
    rows, dim = array.shape
    if isinstance(array.dtype, np.dtype) and array.dtype.kind not in "biufc":
        raise ValueError(
            f"{str(source.path)!r} must hold numbers, got {array.dtype}; save the numbers alone, as .astype(np.float32) gives "
            "them, and pass words"
        )
    if isinstance(array.dtype, np.dtype) and array.dtype.kind == "c":
        raise ValueError(
            f"{str(source.path)!r} must hold real numbers, got {array.dtype.name}; save its real and imaginary parts side "
            "by side"
        )
    if not 0 < dim <= MOST_NUMBERS:
        raise ValueError(
            f"{str(source.path)!r} must hold 1 to {MOST_NUMBERS:,} numbers per row, got {format_count(dim)}"
        )
    collector.findings.row_count = rows
    if array.by_column and rows > 1:
        _read_columns(source, array, words, collector)
        return
    size = dim * array.dtype.itemsize
    per_chunk = max(1, _CHUNK // size)
    collector.start(dim)
    for done in range(0, rows, per_chunk):
        count = min(per_chunk, rows - done)
        content = array.stream.read(count * size)
        if len(content) < count * size:
            raise _cut_short(source, rows, done + len(content) // size)
        some = [next(words) for _ in range(count)]
        chosen = {i: word for i, word in enumerate(some) if word is not None and word in collector.wanted}
        if chosen:
            values = _values(content, array.dtype, dim)[list(chosen)]
            if weights is not None:
                values = values * weights[done : done + count][list(chosen), None]
            collector.add(list(chosen.values()), values, [done + i + 1 for i in chosen])


def _read_columns(
    source: Source, array: _Array, words: Iterator[bytes | None], collector: VocabularyRows | AllRows
) -> None:
    """Read a matrix that is stored one column after the other; the rows that are wanted are held beside the result."""
    rows, dim = array.shape
    dtype = cast("np.dtype[Any]", array.dtype)
    chosen: dict[int, bytes] = {}
    for number in range(rows):
        word = next(words)
        if word is not None and word in collector.wanted:
            chosen[number] = word
    at = np.fromiter(chosen, np.int64, len(chosen))
    values = np.zeros((len(at), dim), dtype.newbyteorder("="))
    collector.start(dim)
    per_chunk = max(1, _CHUNK // dtype.itemsize)
    for column in range(dim):
        for done in range(0, rows, per_chunk):
            count = min(per_chunk, rows - done)
            content = array.stream.read(count * dtype.itemsize)
            if len(content) < count * dtype.itemsize:
                raise _cut_short(source, rows, 0)
            low, high = np.searchsorted(at, (done, done + count))
            values[low:high, column] = np.frombuffer(content, dtype)[at[low:high] - done]
    collector.add(list(chosen.values()), values, [number + 1 for number in chosen])


def _cut_short(source: Source, rows: int, there: int) -> ValueError:
    return ValueError(
        f"{str(source.path)!r} is cut short: its header claims {plural(rows, 'row')}, {format_count(there)} "
        "are there; get the file again"
    )


def _values(content: bytes, dtype: "np.dtype[Any] | torch.dtype", dim: int) -> NDArray[Any]:
    if isinstance(dtype, np.dtype):
        return np.frombuffer(content, dtype).reshape(-1, dim)
    values = torch.frombuffer(bytearray(content), dtype=dtype).view(-1, dim)
    if not dtype.is_floating_point:
        return values.float().numpy()  # int8 of a quantised model2vec
    return values.to(work_dtype(values)).numpy()


def _given_words(source: Source, rows: int, collector: VocabularyRows | AllRows) -> Iterator[bytes | None]:
    """Return the words of the rows as `words` gives them, or else the vocabulary."""
    vocabulary: Vocabulary | None = getattr(collector, "vocabulary", None)
    given = source.words
    if given is None and vocabulary is None:
        raise ValueError(
            f"{str(source.path)!r} holds no words; pass vocab, in the order of its {plural(rows, 'row')}"
            + _words_beside(source.path, rows)
        )
    if given is None:
        given = cast("Vocabulary", vocabulary).ordered()
        what = "so vocab must have one for each of its"
    else:
        what = "so words must have one for each of its"
    if source.from_folder and len(given) < rows:
        given = [*given, *[None] * (rows - len(given))]  # tables are often padded to a multiple of 64
    if len(given) != rows:
        raise ValueError(
            f"{str(source.path)!r} holds no words, {what} {plural(rows, 'row')}, got {format_count(len(given))}"
            + _words_beside(source.path, rows)
        )
    if source.words is not None:
        collector.findings.see((encode(word) for word in given[:_SEEN] if word is not None), "utf-8")
    return (None if word is None else encode(word) for word in given)


def _words_beside(path: Path, rows: int) -> str:
    """Return the advice to pass a file that lies beside a matrix and has a line for each of its rows."""
    for other in sorted(path.parent.glob("*"))[:_MOST_BESIDE]:
        alike = other.stem == path.stem or other.stem in ("vocab", "words", "vocabulary")
        if other == path or not alike or other.suffix not in _OF_WORDS or not other.is_file():
            continue
        if other.stat().st_size <= _MOST_WORDS and other.read_bytes().rstrip(b"\n").count(b"\n") + 1 == rows:
            return f"; {other.name!r} beside it has that many lines: pass words={str(other)!r} if these are the words"
    return ""


def _choose(source: Source, names: Sequence[str]) -> str:
    """Return the name of the matrix that was asked for, the only one, or the only one with a usual name."""
    found = listed(map(repr, names), 8) or "none"
    if source.tensor is not None:
        if source.tensor not in names:
            near = difflib.get_close_matches(source.tensor, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f", which has {found}"
            raise ValueError(f"tensor must name a matrix of {str(source.path)!r}, got {source.tensor!r}{hint}")
        return source.tensor
    usual = [name for name in names if name.rpartition(".")[2] in _NAMES]
    for fitting in (names, usual):
        if len(fitting) == 1:
            return fitting[0]
    raise ValueError(
        f"{str(source.path)!r} must hold one matrix of floating-point numbers, or one named 'weight', got {found}; "
        + (f"pass tensor={_likeliest(names)!r} or another name" if names else "get the file of vectors")
    )


def _likeliest(names: Sequence[str]) -> str:
    return next((name for name in names if "embed" in name.lower()), names[0])


def _is_of_kind(array: _Array, kinds: str) -> bool:
    return isinstance(array.dtype, np.dtype) and array.dtype.kind in kinds


def _npy_header(source: Source, stream: Stream, name: str, *, skips: bool = False) -> _Array | None:
    """Return an array to be read; `None` where it holds Python objects and such are to be skipped."""
    formats: Any = np.lib.format
    try:
        version = formats.read_magic(stream)
        read = formats.read_array_header_1_0 if version == (1, 0) else formats.read_array_header_2_0
        shape, by_column, dtype = read(stream)
    except _HEADER_ERRORS as error:
        # NumPy's own sentences are worth showing; what Python's parser says about a broken literal changes with its version.
        problem = " ".join(str(error).split())[:120] if isinstance(error, ValueError) else "its header is damaged"
        raise ValueError(f"{name!r} in {str(source.path)!r} is not an array of NumPy ({problem})") from None
    if dtype.hasobject and skips:
        return None
    if dtype.hasobject:
        raise ValueError(
            f"{name!r} in {str(source.path)!r} holds Python objects, that is a pickle, which is never opened; save it as "
            "numbers or as strings of a fixed width" + ", or pass words" * name.endswith(".npy")
        )
    if dtype.itemsize > _LONGEST_ITEM:
        raise ValueError(
            f"{name!r} in {str(source.path)!r} has items of {dtype.itemsize:,} bytes; they cannot be numbers"
        )
    return _Array(shape, dtype, stream, by_column)


def _string_chunks(source: Source, array: _Array) -> Iterator[bytes | None]:
    size = array.dtype.itemsize
    for _ in range(array.shape[0]):
        content = array.stream.read(size)
        if len(content) < size:
            raise ValueError(f"{str(source.path)!r} is cut short within its words; get the file again")
        item = np.frombuffer(content, cast("np.dtype[Any]", array.dtype))[0]
        yield bytes(item) if isinstance(item, bytes) else encode(str(item))
