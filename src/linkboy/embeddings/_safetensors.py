"""The safetensors format by hand: read as a stream, also out of an archive, and written without a second copy."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linkboy._files import atomic_write
from linkboy._report import plural
from linkboy.embeddings._source import Source
from linkboy.embeddings._vocabulary import encode

_LONGEST_HEADER = 100_000_000  # bytes, the bound of the format
_CHUNK = 4 << 20
_READ = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_READ |= {"I8": torch.int8, "I32": torch.int32, "I64": torch.int64}
_WRITTEN = {"float64": "F64", "float32": "F32", "float16": "F16", "uint16": "BF16"}


class StoredTensor(NamedTuple):
    """A tensor of one or two dims, and which bytes behind the header are its numbers."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int
    stop: int


def read_header(source: Source) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    """Return the vectors and matrices of a file by name, and its metadata; the stream is then behind the header."""
    length = int.from_bytes(source.stream.read(8), "little")
    content = source.stream.read(length) if length <= _LONGEST_HEADER else b""
    try:
        header = json.loads(content)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise ValueError(f"{str(source.path)!r} has a damaged safetensors header; get the file again")
    metadata = header.pop("__metadata__", {})
    tensors = {
        name: StoredTensor(tuple(entry["shape"]), _READ[entry["dtype"]], *entry["data_offsets"])
        for name, entry in header.items()
        if _is_readable(entry)
    }
    return tensors, metadata if isinstance(metadata, dict) else {}


def _is_readable(entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.get("dtype") not in _READ:
        return False
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2 or len(shape) not in (1, 2):
        return False
    return all(type(number) is int and 0 <= number < 2**63 for number in [*shape, *offsets])


def read_beside(source: Source, tensor: StoredTensor) -> Tensor:
    """Return a whole tensor that stands beside the matrix, without moving the stream."""
    if source.compression != "none":
        raise ValueError(
            f"{str(source.path)!r} holds tensors that belong to the rows of its matrix; unpack it, so that they can be read first"
        )
    _check_size(source, tensor)
    with source.path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little") + tensor.start
        if start + tensor.stop - tensor.start > source.size:
            raise ValueError(f"{str(source.path)!r} is cut short; get the file again")
        file.seek(start)
        return torch.frombuffer(bytearray(file.read(tensor.stop - tensor.start)), dtype=tensor.dtype).view(tensor.shape)


def skip_to(source: Source, matrix: StoredTensor) -> None:
    """Leave the stream at the first number of a matrix."""
    _check_size(source, matrix)
    left = matrix.start
    while left:
        passed = len(source.stream.read(min(left, _CHUNK)))
        if not passed:
            raise ValueError(f"{str(source.path)!r} is cut short before its matrix; get the file again")
        left -= passed


def _check_size(source: Source, tensor: StoredTensor) -> None:
    if tensor.stop - tensor.start != math.prod(tensor.shape) * tensor.dtype.itemsize:
        raise ValueError(f"{str(source.path)!r} has a damaged header: the size of its matrix is not that of its data")


def words_of(source: Source, metadata: Mapping[str, Any], rows: int) -> Iterator[bytes | None]:
    """Return the word of each row from the metadata, `None` for a row that `missing` says was in no vectors file."""
    try:
        words: Any = json.loads(metadata["words"])
        missing: set[int] = set(json.loads(metadata.get("missing", "[]")))
    except (ValueError, TypeError, RecursionError):
        words, missing = None, set()
    if not isinstance(words, list) or len(words) != rows or not all(isinstance(w, str | None) for w in words):
        raise ValueError(
            f"{str(source.path)!r} must name a word for each of its {plural(rows, 'row')}, and its metadata does not"
        )
    return (None if word is None or row in missing else encode(word) for row, word in enumerate(words))


def write_safetensors(
    path: str | os.PathLike[str], matrix: NDArray[Any], words: Sequence[str | None], metadata: dict[str, str]
) -> None:
    """Write a matrix named `weight` and its words; `uint16` stands for the bits of bfloat16."""
    metadata = {"words": json.dumps(list(words), ensure_ascii=False), **metadata}
    entry = {"dtype": _WRITTEN[matrix.dtype.name], "shape": list(matrix.shape), "data_offsets": [0, matrix.nbytes]}
    header = json.dumps({"__metadata__": metadata, "weight": entry}, ensure_ascii=False).encode("utf-8", "replace")
    header += b" " * (-len(header) % 8)
    if len(header) > _LONGEST_HEADER:
        raise ValueError(
            f"the words take {plural(len(header), 'byte')} and a safetensors header holds at most {_LONGEST_HEADER:,}; "
            "pass a vocab with fewer words"
        )
    with atomic_write(path) as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        file.write(np.ascontiguousarray(matrix).data)
