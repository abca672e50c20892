"""Files that are either the old one or the new one, never half of each; and files that cannot fill the memory."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary neighbour of `path` for writing bytes, and move it onto `path` once the block ends well.

    The bytes are on the disk before the name changes. If the block raises, `path` is as it was and no litter stays. The
    error of a system call names `path`, not the neighbour, of which a reader knows nothing.

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
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == os.fspath(temporary):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None
        raise


def read_bounded(path: str | os.PathLike[str], most_bytes: int) -> bytes:
    """Return the content of a file that has no good reason to be large.

    Nothing is read of a larger one, and not more than `most_bytes` of what has no size, such as a pipe.

    Raises:
        ValueError: there are more bytes than `most_bytes`, which should be whole MiB.

    Examples:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "config.json"
        >>> _ = target.write_bytes(b"{}")
        >>> read_bounded(target, 2**20)
        b'{}'
    """
    with Path(path).open("rb") as file:
        whole = os.fstat(file.fileno()).st_size <= most_bytes
        content = file.read(most_bytes + 1) if whole else b""
    if not whole or len(content) > most_bytes:
        raise ValueError(f"{os.fspath(path)!r} must be a file of at most {most_bytes >> 20} MiB, and is larger")
    return content
