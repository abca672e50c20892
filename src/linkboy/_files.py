"""Files that are either the old one or the new one, never half of each."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary neighbour of `path` for writing bytes, and move it onto `path` once the block ends well.

    The bytes are on the disk before the name changes. If the block raises, `path` is as it was and no litter stays.

    Examples:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "labels.txt"
        >>> with atomic_write(target) as file:
        ...     _ = file.write("体育\\n".encode())
        >>> target.read_text("utf-8")
        '体育\\n'
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
