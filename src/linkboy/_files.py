"""Files that appear whole or not at all, directories that only one run holds, content that cannot fill the memory.

All code that depends on the operating system is here.
"""

import contextlib
import functools
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

LOCK = ".lock"  # the file in a directory that a run holds


def local_path(argument: str, path: str | os.PathLike[str]) -> Path:
    """Return a path on this machine, with `~` as the home directory, as a shell reads it.

    Raises:
        ValueError: it is an address of the web; the message keeps it as it is written.

    Examples:
        >>> local_path("path", "rows.csv").name, str(local_path("path", "~")) == os.path.expanduser("~")
        ('rows.csv', True)
    """
    name = os.fspath(path)
    if isinstance(path, Path):
        name = re.sub(r"^(https?|ftp|s3|gs|hf):/(?!/)", r"\1://", name)  # of an address it has dropped a slash
    if re.match(r"[a-z][a-z0-9+.-]+://", name, re.IGNORECASE):
        raise ValueError(
            f"{argument} must be a path on this machine, got {name!r}; download it first, linkboy downloads nothing"
        )
    return Path(name).expanduser()


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` for writing bytes, and move it onto `path` when the block ends without an error.

    The bytes are on the disk before the name changes. If the block raises, `path` is unchanged and nothing is left
    behind. The error of a system call names `path`, not the temporary file, which the reader does not know.

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

    A larger file is not read at all; of a file without a size, such as a pipe, at most `most_bytes` are read.

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


def sync_file(path: str | os.PathLike[str]) -> None:
    """Wait until the content of a file is on the disk."""
    with Path(path).open("r+b") as file:  # Windows flushes only what is open for writing
        os.fsync(file.fileno())


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Wait until the names in a directory are on the disk, so that a rename survives a power cut."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows opens no directory, and has no other call to wait by
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked_directory(directory: str | os.PathLike[str], refusal: str) -> Iterator[None]:
    """Lock a directory, which is made if needed, for one process until the block or the process ends.

    A process that is forked meanwhile, such as a worker of a `DataLoader`, does not hold the lock: when this process is
    killed, the directory is free at once.

    Args:
        directory: the directory; while it is held, it has a file `.lock` in it.
        refusal: the message for a second process, which does not wait.

    Raises:
        BlockingIOError: another process holds the directory.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with locked_directory(folder, "another run writes here"):
        ...     with locked_directory(folder, "another run writes here"):
        ...         pass
        Traceback (most recent call last):
        BlockingIOError: another run writes here
    """
    from filelock import FileLock, Timeout

    path = Path(directory) / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        # Not 0: a lock on a file that its holder removed just before is none, and filelock then opens the file again.
        lock.acquire(timeout=0.2, poll_interval=0.02)
    except Timeout:
        raise BlockingIOError(refusal) from None
    handle = getattr(lock._context, "lock_file_fd", None)  # no public name
    if handle is not None:
        _held[handle] = _identity(handle)
        _forget_in_forks()
    try:
        yield
    finally:
        if handle is not None:
            _held.pop(handle, None)
        with contextlib.suppress(PermissionError):  # Windows removes no open file; there filelock does when it lets go
            path.unlink(missing_ok=True)
        lock.release()


_held: dict[int, tuple[int, int] | None] = {}  # the locks' file descriptors, with what they are open on


@functools.cache
def _forget_in_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_close_held)


def _close_held() -> None:
    """Close the descriptors that a forked process inherited: the lock lasts until the last of them is closed."""
    for handle, identity in _held.items():
        if identity is not None and _identity(handle) == identity:
            os.close(handle)
    _held.clear()


def _identity(handle: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(handle)
    except OSError:  # closed already
        return None
    return status.st_dev, status.st_ino
