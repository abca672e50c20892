"""Vectors written as safetensors with their words in the metadata, and a cache of what was once read."""

import dataclasses
import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linkboy._files import atomic_write
from linkboy.embeddings.report import BadRow, Findings

_VERSION = 1  # of what the cache means; another one is not found
_LONGEST_HEADER = 100_000_000
_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "uint16": "BF16"}


def write_safetensors(
    path: str | os.PathLike[str], matrix: NDArray[Any], words: Sequence[str | None], metadata: dict[str, str]
) -> None:
    """Write a matrix named `weight` without a second copy of it; `uint16` stands for the bits of bfloat16."""
    metadata = {"words": json.dumps(list(words), ensure_ascii=False), **metadata}
    entry = {"dtype": _NAMES[matrix.dtype.name], "shape": list(matrix.shape), "data_offsets": [0, matrix.nbytes]}
    header = json.dumps({"__metadata__": metadata, "weight": entry}, ensure_ascii=False).encode("utf-8", "replace")
    header += b" " * (-len(header) % 8)
    if len(header) > _LONGEST_HEADER:
        raise ValueError(
            f"the words take {len(header):,} bytes and a safetensors header holds at most {_LONGEST_HEADER:,}; "
            "pass a vocab with fewer words"
        )
    with atomic_write(path) as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        file.write(np.ascontiguousarray(matrix).data)


@dataclasses.dataclass(frozen=True)
class Entry:
    """What was read of a file: the matrix without the rows that were not found, and what was noted."""

    matrix: NDArray[Any]
    rank: NDArray[np.uint8]
    words: list[str | None]
    findings: Findings


class Cache:
    """One entry in a directory, under a name that follows from the file, its size and age, and from what was asked of it.

    Args:
        directory: where the entries are.
        path: the vectors file.
        key: whatever else the result depends on, as bytes.
    """

    def __init__(self, directory: str | os.PathLike[str], path: Path, key: bytes) -> None:
        state = path.stat()
        about = f"{_VERSION}\n{path.resolve()}\n{state.st_size}\n{state.st_mtime_ns}\n".encode(
            "utf-8", "surrogateescape"
        )
        self.path = Path(directory) / f"{path.name}-{hashlib.sha256(about + key).hexdigest()[:32]}.safetensors"

    def read(self, words: list[str | None] | None) -> Entry | None:
        """Return the entry; `None` where there is none or it is damaged. `words` saves reading them once more."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="numpy") as file:
                metadata, matrix = file.metadata(), file.get_tensor("weight")
            if zlib.crc32(matrix.data) != int(metadata["crc32"]):
                return None
            found = json.loads(metadata["words"]) if words is None else words
            rank = np.frombuffer(bytes.fromhex(metadata["rank"]), np.uint8).copy()
            findings = json.loads(metadata["findings"])
            findings["bad_rows"] = [BadRow(**row) for row in findings["bad_rows"]]
            findings["header"] = findings["header"] and tuple(findings["header"])
            return Entry(matrix, rank, found, Findings(**findings))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def write(self, entry: Entry) -> str:
        """Write the entry; return what to say about it."""
        metadata = {
            "crc32": str(zlib.crc32(np.ascontiguousarray(entry.matrix).data)),
            "rank": entry.rank.tobytes().hex(),
            "missing": json.dumps(np.flatnonzero(entry.rank == 255).tolist()),
            "findings": json.dumps(dataclasses.asdict(entry.findings)),
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_safetensors(self.path, entry.matrix, entry.words, metadata)
        except OSError as error:
            return f"not written ({error.strerror or error})"
        return f"written to {self.path}"
