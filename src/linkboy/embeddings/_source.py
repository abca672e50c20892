"""A vectors file as one stream of bytes, whatever it is packed in, which its content tells and not its name."""

import codecs
import contextlib
import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from linkboy._progress import Progress
from linkboy._reading import LONGEST_LINE, SmallReads, compression_of, damaged, unpacked, unpacking_errors
from linkboy.embeddings._members import choose_member, members

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    Stream = io.BufferedReader[Any]
else:
    Stream = io.BufferedReader

BUFFER = 1 << 20
LONG_FILE = 64 << 20  # bytes on the disk; reading a larger file shows a bar
MEBIBYTE = 1 << 20
_PIECE = 1 << 16  # decoded at a time
_ZIP_DIRECTORY = 2 << 20


class Source:
    """An open vectors file.

    Args:
        path: the file.
        compression: `"none"`, `"gzip"`, `"bz2"`, `"xz"`, `"zstd"` or `"zip"`.
        stream: its content, unpacked.
        raw: the file on the disk, whose position says how much has been read.
        archive: the archive behind an `.npz`, whose members are opened one by one.
        member: the file that was chosen among several of a zip archive.
    """

    def __init__(
        self,
        path: Path,
        compression: str,
        stream: "_Watched",
        raw: BinaryIO,
        archive: zipfile.ZipFile | None = None,
        member: str | None = None,
    ) -> None:
        self.path, self.compression, self.archive, self.member = path, compression, archive, member
        self.tensor: str | None = None  # the name of the matrix that was asked for
        self.words: Sequence[str | None] | None = None  # of the rows of a matrix that comes without them
        self.from_folder = False  # the words are those of a tokenizer, which may have fewer than the matrix has rows
        self._watched, self._raw = stream, raw
        self.size = os.fstat(raw.fileno()).st_size
        self.stream: Stream = io.BufferedReader(stream, BUFFER)

    def fraction(self) -> float:
        """Return how much of the file on the disk has been read, from 0 to 1."""
        return self._raw.tell() / max(self.size, 1)

    def recode(self, codec: str) -> None:
        """Let the stream give as UTF-8 what is in an encoding whose digits are not those of ASCII, such as UTF-16."""
        self.stream = io.BufferedReader(_Recoded(self.path, self.stream, codec), BUFFER)

    def limit_lines(self) -> None:
        """Let the stream raise a `ValueError` at a line that does not end, before it fills the memory."""
        self._watched.limit_lines = True


@contextlib.contextmanager
def open_vectors(path: str | os.PathLike[str], *, dim: int | None = None) -> Iterator[Source]:
    """Open a file, unpack it on the way, and show the progress of a long one; `dim` chooses between members of a zip."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"path must be a vectors file, got the directory {str(path)!r}; name a file in it")
    if not path.exists():
        raise FileNotFoundError(f"there is no vectors file {str(path)!r}; check the path")
    if not path.is_file():
        raise ValueError(f"path must be a regular file, got {str(path)!r}; write its content to a file")
    size = path.stat().st_size
    if not size:
        raise ValueError(f"{str(path)!r} is empty; a vectors file holds a word and its numbers in each line")
    bar = Progress("reading vectors", total=size // MEBIBYTE, unit="MiB", enabled=size >= LONG_FILE)
    with SmallReads(path, _ZIP_DIRECTORY) as raw, bar as progress, contextlib.ExitStack() as stack:
        head = raw.read(8)
        raw.seek(0)
        compression = compression_of(head)
        archive, member, packed = None, None, cast("IO[bytes]", raw)
        if compression == "zip":
            archive = stack.enter_context(_open_archive(path, raw))
            names = members(archive)
            if not (names and all(name.endswith(".npy") for name in names)):
                name = choose_member(path, names, dim, partial(_open_member, path, archive))
                packed = stack.enter_context(_open_member(path, archive, name))
                member = name if len(names) > 1 else None
                archive = None
        elif compression != "none":
            packed = stack.enter_context(unpacked(raw, compression))
        watched = _Watched(path, packed, raw, compression, progress)
        yield Source(path, compression, watched, cast("BinaryIO", raw), archive, member)


class _Recoded(io.RawIOBase):
    """A stream in UTF-8 of one in another encoding."""

    def __init__(self, path: Path, stream: Stream, codec: str) -> None:
        super().__init__()
        self._path, self._stream, self._codec = path, stream, codec
        self._decoder, self._held, self._ended = codecs.getincrementaldecoder(codec)(), b"", False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer)
        while not self._held and not self._ended:
            piece = self._stream.read(_PIECE)
            self._ended = not piece
            try:
                text = self._decoder.decode(piece, final=self._ended)
            except UnicodeError as error:
                raise ValueError(
                    f"{str(self._path)!r} is not {self._codec} ({error}); pass the encoding it was written in"
                ) from None
            self._held = text.encode("utf-8", "replace")
        count = min(len(view), len(self._held))
        view[:count], self._held = self._held[:count], self._held[count:]
        return count


class _Watched(io.RawIOBase):
    """Unpacked bytes on their way to a reader: fills whole buffers, shows the progress, names the file in errors."""

    def __init__(self, path: Path, packed: IO[bytes], raw: io.FileIO, compression: str, progress: Progress) -> None:
        super().__init__()
        self.limit_lines = False
        self._path, self._packed, self._raw = path, packed, raw
        self._compression, self._progress = compression, progress
        self._without_end = 0
        self._given = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._given  # from which the buffer in front of it counts where its reader is

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view, filled = memoryview(buffer), 0
        try:
            while filled < len(view) and (count := cast("Any", self._packed).readinto(view[filled:])):
                filled += count
        except (*unpacking_errors(), OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise damaged(self._path, self._compression, error) from None
        self._progress.advance(self._raw.tell() // MEBIBYTE - self._progress.done)
        if self.limit_lines:
            self._check_line(view[:filled])
        self._given += filled
        return filled

    def _check_line(self, view: memoryview) -> None:
        end = bytes(view[:4096]).find(b"\n")  # nearly always there; the search of the whole is for the rest
        if end < 0 and b"\n" not in bytes(view):
            self._without_end += len(view)
        else:
            self._without_end = 0
        if self._without_end > LONGEST_LINE:
            raise ValueError(
                f"{str(self._path)!r} has a line of more than {LONGEST_LINE:,} bytes; it is not a text file of vectors"
            )


def _open_archive(path: Path, file: io.FileIO) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except unpacking_errors() as error:
        raise damaged(path, "zip", error) from None
    except ValueError as error:
        raise ValueError(f"{str(path)!r} cannot be opened: {error}; unpack the one file of vectors") from None


def _open_member(path: Path, archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    try:
        return archive.open(name)
    except unpacking_errors() as error:  # RuntimeError: it is encrypted
        raise damaged(path, "zip", error) from None


def open_array(source: Source, name: str) -> Stream:
    """Open a member of an `.npz`."""
    archive = cast("zipfile.ZipFile", source.archive)
    quiet = Progress("reading vectors", enabled=False)
    packed = _open_member(source.path, archive, name)
    return io.BufferedReader(_Watched(source.path, packed, cast("io.FileIO", source._raw), "zip", quiet), BUFFER)


def array_names(source: Source) -> list[str]:
    """Return the names of the members of an `.npz`."""
    return members(cast("zipfile.ZipFile", source.archive))
