"""A cache of what was once read of a vectors file."""

import dataclasses
import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linkboy.embeddings._collect import NOT_FOUND
from linkboy.embeddings._findings import Findings
from linkboy.embeddings._safetensors import write_safetensors
from linkboy.embeddings.report import SkippedRow

_VERSION = 3  # of what an entry means; entries of another version are not found


@dataclasses.dataclass(frozen=True)
class Entry:
    """What was read of a file: the matrix without the rows that were not found, and what was noted."""

    matrix: NDArray[Any]
    rank: NDArray[np.uint8]
    words: list[str | None]
    findings: Findings


class Cache:
    """One entry in a directory, under a name made of the file, its size and time of change, and the options.

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
        """Return the entry; `None` where there is none or it is damaged. Where `words` are given, they are not read again."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="numpy") as file:
                metadata, matrix = file.metadata(), file.get_tensor("weight")
            if zlib.crc32(matrix.data) != int(metadata["crc32"]):
                return None
            found = json.loads(metadata["words"]) if words is None else words
            rank = np.frombuffer(bytes.fromhex(metadata["rank"]), np.uint8).copy()
            findings = json.loads(metadata["findings"])
            findings["bad_rows"] = [SkippedRow(**row) for row in findings["bad_rows"]]
            findings["header"] = findings["header"] and tuple(findings["header"])
            return Entry(matrix, rank, found, Findings(**findings))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def write(self, entry: Entry) -> str:
        """Write the entry; return what the report says about it."""
        metadata = {
            "crc32": str(zlib.crc32(np.ascontiguousarray(entry.matrix).data)),
            "rank": entry.rank.tobytes().hex(),
            "missing": json.dumps(np.flatnonzero(entry.rank == NOT_FOUND).tolist()),
            "findings": json.dumps(dataclasses.asdict(entry.findings)),
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_safetensors(self.path, entry.matrix, entry.words, metadata)
        except OSError as error:
            return f"not written ({error.strerror or error})"
        return f"written to {self.path}"
