"""What a file of labelled text is made of, told by its bytes: packed or not, a table of Parquet or Excel, or text."""

import dataclasses
import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

from linkboy._encodings import encoding_of_mark, escaped_encoding, looks_binary, unmarked_utf16
from linkboy._reading import (
    PIECE,
    BoundedText,
    Reader,
    SmallReads,
    codec_of,
    compression_of,
    damaged,
    foreign_kind,
    unpacked,
    unpacking_errors,
)
from linkboy._report import listed

HEAD = 1 << 16  # bytes that show what a file is
HEAD_LINES = 1000  # and lines
PACKED_ENDINGS = (".gz", ".bz2", ".xz", ".zst", ".zip")
_MOST_DIRECTORY = 1 << 22  # bytes of the directory of a zip archive
_MOST_ENTRIES = 10_000
_WORKBOOK = "xl/workbook.xml"
# An entry that the archives of a program have, what they are then, and what to do.
_DOCUMENTS = {
    "word/document.xml": ("a Word document", "save its table as .xlsx or .csv"),
    "ppt/presentation.xml": ("a presentation", "save its table as .xlsx or .csv"),
    "xl/workbook.bin": ("a binary Excel workbook (.xlsb)", "save it as .xlsx or .csv"),
    "content.xml": ("an OpenDocument file (.ods, .odt)", "save it as .xlsx or .csv"),
    "Index/Document.iwa": ("a file of Apple's Numbers or Pages", "export it as .xlsx or .csv"),
}


@dataclasses.dataclass
class Content:
    """The unpacked content of a file, to be read from its start.

    Args:
        path: the file.
        kind: what it is.
        file: where to read the bytes.
        head: the first of them.
        packed: whether they were unpacked, so that `path` itself cannot be read as a table.
        live: whether the bytes come over time, so that nothing behind the first line can be looked at before it is answered.
    """

    path: Path
    kind: Literal["text", "parquet", "xlsx"]
    file: Reader
    head: bytes
    packed: bool
    live: bool = False

    @property
    def ending(self) -> str:
        """The ending of the name, without that of what packs it, in small letters."""
        return unpacked_name(self.path).suffix.lower()

    @property
    def looked_at(self) -> int:
        """How many rows may be looked at before the first one is given."""
        return 1 if self.live else HEAD_LINES

    def encoding(self, asked: str | None) -> str:
        """Return the encoding to read with: a byte order mark decides, then what was asked for, then UTF-8.

        Raises:
            ValueError: the encoding is unknown, contradicts the mark, or the file is UTF-16 without a mark, or ISO-2022.
        """
        mark = encoding_of_mark(self.head)
        if asked is None:
            wide = unmarked_utf16(self.head)
            if mark is None and wide is not None:
                raise ValueError(f"{self.path} is UTF-16 without a byte order mark; read it with encoding={wide!r}")
            escaped = escaped_encoding(self.head)
            if escaped is not None:
                raise ValueError(
                    f"{self.path} is ASCII that stands for other characters; read it with encoding={escaped!r}"
                )
            if mark is None and looks_binary(self.head):
                raise ValueError(
                    f"{self.path} is not text (it begins with {self.head[:16]!r}), and nothing else that holds labelled text; "
                    "name another file, or pass its encoding if it is text"
                )
            return mark or "utf-8"
        codec = codec_of(asked)
        if mark is not None and not codec.startswith(mark):
            raise ValueError(
                f"{self.path} begins with the byte order mark of {mark.upper()}, got encoding={asked!r}; leave encoding out"
            )
        return asked

    def is_marked(self, asked: str | None) -> bool:
        """Return whether a program for tables wrote it that tells UTF-8 by a byte order mark alone: a workbook, or text with a
        mark or in another encoding than UTF-8."""
        if self.kind != "text":
            return self.kind == "xlsx"
        return encoding_of_mark(self.head) is not None or codec_of(self.encoding(asked)) not in ("utf-8", "ascii")

    def beginning(self, encoding: str) -> str:
        """Return the head as text, without a byte order mark and what cannot be decoded."""
        return self.head.decode(encoding, "ignore").lstrip("\ufeff")


def unpacked_name(path: Path) -> Path:
    """Return the name of a file without the ending of what packs it.

    Examples:
        >>> print(unpacked_name(Path("rows.csv.gz")), unpacked_name(Path("rows.csv")))
        rows.csv rows.csv
    """
    return path.with_suffix("") if path.suffix.lower() in PACKED_ENDINGS else path


class _Peeked:
    """A reader whose first bytes, or those up to the first line feed, have been looked at."""

    def __init__(self, file: Reader, *, first_line: bool = False) -> None:
        self._file = file
        pieces: list[bytes] = []
        while sum(map(len, pieces)) < HEAD and not (first_line and pieces and b"\n" in pieces[-1]):
            pieces.append(file.read(HEAD))
            if not pieces[-1]:
                break
        self.head = self._left = b"".join(pieces)

    def read(self, size: int, /) -> bytes:
        if not self._left:
            return self._file.read(size)
        piece, self._left = self._left[:size], self._left[size:]
        return piece


@contextmanager
def opened(path: Path) -> Iterator[Content]:
    """Open a file for reading; one that is packed is unpacked as it is read.

    Raises:
        ValueError: inside the block, if the archive is damaged, holds several files, unpacks to far more than text can, or
            is something else than labelled text.
        ModuleNotFoundError: the file is packed by zstd, and the package for that is not installed.
    """
    with path.open("rb") as file:
        compression = compression_of(file.peek(8)[:8])
        if compression == "none":
            yield _content(path, _Peeked(file), packed=False)
            return
        try:
            if compression == "zip":
                with _zip_content(path) as content:
                    yield content
            else:
                yield _content(path, _Peeked(BoundedText(path, file, unpacked(file, compression))), packed=True)
        except (*unpacking_errors(), OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the system, not of the archive
                raise
            raise damaged(path, compression, error) from error


def arriving(path: Path, file: Reader) -> Content:
    """Return the content of a stream of text, whose first line has come.

    Raises:
        ValueError: it is packed, or something else than text.
    """
    peeked = _Peeked(file, first_line=True)
    compression = compression_of(peeked.head[:8])
    if compression != "none":
        raise ValueError(f"{path} is packed by {compression}; unpack it in front of the pipe")
    if peeked.head.startswith(b"PAR1"):
        raise ValueError(f"{path} is a Parquet file, which cannot be read from a pipe; name it as a file")
    content = _content(path, peeked, packed=False)
    content.live = True
    return content


@contextmanager
def _zip_content(path: Path) -> Iterator[Content]:
    with SmallReads(path, _MOST_DIRECTORY, _MOST_ENTRIES) as file:
        try:
            archive = zipfile.ZipFile(file)
        except ValueError as error:
            raise ValueError(f"{path} cannot be read: {error}; unpack it by hand if you trust it") from None
        with archive:
            entries = [entry for entry in archive.infolist() if _counts(entry.filename)]
            if any(entry.filename == _WORKBOOK for entry in entries):
                _check_size(path, file, archive)
                yield Content(path, "xlsx", file, b"", packed=False)
                return
            known = next((_DOCUMENTS[entry.filename] for entry in entries if entry.filename in _DOCUMENTS), None)
            if known is not None and len(entries) > 1:
                raise ValueError(f"{path} is {known[0]}, which is not read as labelled text; {known[1]}")
            if len(entries) != 1:
                names = ": " * bool(entries) + listed(repr(entry.filename) for entry in entries)
                raise ValueError(
                    f"{path} must hold one file, got {len(entries)}{names}; unpack it and name the one to read"
                )
            with archive.open(entries[0]) as stream:
                yield _content(path, _Peeked(BoundedText(path, file, stream)), packed=True)


def _counts(name: str) -> bool:
    """Return whether an entry of an archive is a file that somebody put there, not one that a Mac adds."""
    return not name.endswith(("/", ".DS_Store")) and not name.startswith("__MACOSX/")


def _check_size(path: Path, file: IO[bytes], archive: zipfile.ZipFile) -> None:
    """Unpack every entry once and count, since the library that reads the workbook has no bound."""
    for entry in archive.infolist():
        with archive.open(entry) as stream:
            bounded = BoundedText(path, file, stream)
            while bounded.read(PIECE):
                pass


def _content(path: Path, file: _Peeked, *, packed: bool) -> Content:
    head = file.head
    kind = "parquet" if head.startswith(b"PAR1") else "text"
    name = unpacked_name(path).name
    if kind != "parquet" and name.lower().endswith(".parquet"):
        raise ValueError(f"{path} is not a complete Parquet file; write it again")
    again = compression_of(head)
    if again != "none":
        raise ValueError(f"{path} is packed twice, inside by {again}; unpack it once")
    foreign = foreign_kind(head)
    if foreign is not None:
        what, advice = foreign
        raise ValueError(f"{path} is {what} (it begins with {head[:16]!r}), which holds no labelled text; {advice}")
    return Content(path, kind, file, head, packed)


def whole(content: Content) -> io.BytesIO:
    """Return everything that is left of a content in memory, for a library that reads no stream."""
    return io.BytesIO(b"".join(iter(lambda: content.file.read(PIECE), b"")))
