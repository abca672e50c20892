"""Read files from anywhere: archives that cannot fill the memory, and lines in any encoding."""

import bz2
import codecs
import gzip
import io
import lzma
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any, Protocol

from linkboy._files import read_bounded

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PIECE = 1 << 20  # bytes read at a time
LONGEST_LINE = 1 << 24
UNPACKING_ERRORS = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError, RuntimeError)
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}
_XZ_MEMORY = 1 << 27  # `xz -9` needs half of it; a header can ask for 4 GiB
_ZSTD_WINDOW = 27  # 128 MiB, as `zstd -d` allows; a header can ask for 2 GiB
# How files begin that people pass by mistake: what each is, and what to do about it.
_FOREIGN = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch it with: git lfs pull"),
    (b"<!doctype html", "an HTML page", "download the file itself, not the page that shows it"),
    (b"<html", "an HTML page", "download the file itself, not the page that shows it"),
    (b"<?xml", "an XML file", "convert it first"),
    (b"%pdf", "a PDF file", "convert it first"),
    (b"{\\rtf", "an RTF document", "save it as plain text"),
    (b"\xd0\xcf\x11\xe0", "a file of an old Office program (.xls, .doc)", "save it as .xlsx or .csv"),
    (b"sqlite format 3", "a SQLite database", "export the table as CSV"),
    (b"<table", "an HTML page", "download the file itself, not the page that shows it"),
    (b"arrow1", "an Arrow file", "write it as Parquet"),
    (
        b"\xff\xff\xff\xff",
        "an Arrow stream, as datasets saves it",
        "write it as Parquet: to_parquet() of the loaded dataset",
    ),
    (b"fea1", "a Feather file", "write it as Parquet"),
    *(
        (bytes([0x80, version]), "a pickle, which could run any code", "export it as CSV or Parquet")
        for version in range(2, 6)
    ),
    (b"<stata_dta>", "a Stata file", "export it as CSV"),
    *((release + b"\x02\x01", "a Stata file", "export it as CSV") for release in (b"q", b"r", b"s")),
    (b"$fl2@(#)", "an SPSS file", "export it as CSV"),
    (b"$fl3@(#)", "an SPSS file", "export it as CSV"),
    (bytes(12) + b"\xc2\xea\x81\x60", "a SAS file", "export it as CSV"),
    (b"header record*******library", "a SAS file", "export it as CSV"),
    (b"x\n\x00\x00\x00", "a file of R (.rds, .RData)", "export it as CSV: write.csv(data, row.names = FALSE)"),
    *(
        (form + b"\n", "a file of R (.rds, .RData)", "export it as CSV: write.csv(data, row.names = FALSE)")
        for form in (b"rdx2", b"rdx3")
    ),
    (b"matlab 5.0 mat-file", "a MATLAB file", "export it as CSV"),
    (b"obj\x01", "an Avro file", "write it as Parquet"),
    (b"\x93numpy", "a NumPy array", "write what is needed from it as text"),
    (b"@relation ", "an ARFF file of Weka", "save it as CSV"),
    (b"\x89hdf", "an HDF5 file", "export what is needed from it"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (b"rar!", "a RAR archive", "unpack it"),
)
_SQL = re.compile(
    rb"(--[^\n]*\n\s*)*(((create|drop) table|insert into)( if( not)? exists)? [`\"\w.]+\s*([(;]|values\b)|pragma \w+ *=)",
    re.IGNORECASE,
)
_ENTRY = b"PK\x01\x02"  # how each entry in the directory of a zip archive begins
# Text packs to a tenth of its size, seldom to less than a hundredth; a file of one byte repeated packs to a thousandth.
_MOST_UNPACKED = 200
_UNPACKED_FREELY = 1 << 25

Line = tuple[int, str | None]  # number and text; None for a line that could not be decoded
BadLine = Callable[[int, UnicodeDecodeError, bytes], object]


def foreign_kind(head: bytes) -> tuple[str, str] | None:
    """Return what a file is that is neither text nor packed text, and what to do about it; told by its first 512 bytes.

    Examples:
        >>> foreign_kind(b"version https://git-lfs.github.com/spec/v1")
        ('a Git LFS pointer, not the file itself', 'fetch it with: git lfs pull')
        >>> foreign_kind(b"text,label")
    """
    if head[257:262] == b"ustar":
        return "a tar archive", "unpack it"
    begin = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if _SQL.match(begin[:2048]):
        return "a dump of a database in SQL", "load it there, and export the table as CSV"
    start = begin[:32].lower()
    return next(((what, advice) for magic, what, advice in _FOREIGN if start.startswith(magic)), None)


class Reader(Protocol):
    """What bytes are read from, such as an open file or what unpacks it."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, none at the end."""
        ...


def compression_of(head: bytes) -> str:
    """Return `"gzip"`, `"bz2"`, `"xz"`, `"zstd"`, `"zip"` or `"none"`, told by the first eight bytes of a file.

    Examples:
        >>> compression_of(gzip.compress(b"text")), compression_of(b"text")
        ('gzip', 'none')
    """
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "none")


def unpacked(file: IO[bytes], compression: str) -> Any:
    """Return a binary file with the unpacked content of one packed by gzip, bz2, xz or zstd, in bounded memory.

    Raises:
        ModuleNotFoundError: the file is packed by zstd, and this Python cannot unpack that.
    """
    if compression == "gzip":
        return gzip.GzipFile(fileobj=file, mode="rb")
    if compression == "zstd":
        zstd = _zstd()
        return zstd.ZstdFile(file, options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW})
    return bz2.BZ2File(file) if compression == "bz2" else _Xz(file)


def _zstd() -> Any:
    for name in ("compression.zstd", "backports.zstd"):  # the first is part of Python from 3.14 on
        try:
            return import_module(name)
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError(
        "a file packed by zstd needs the package backports.zstd, which is not installed; run: pip install 'linkboy[files]'"
    )


def unpacking_errors() -> tuple[type[Exception], ...]:
    """Return what unpacking a damaged file raises; zstd's own error has no base but `Exception`."""
    modules = (sys.modules.get("compression.zstd"), sys.modules.get("backports.zstd"))
    return (*UNPACKING_ERRORS, *(module.ZstdError for module in modules if module is not None))


def damaged(path: str | os.PathLike[str], compression: str, error: BaseException) -> ValueError:
    """Return the error to raise where one of `UNPACKING_ERRORS` says that an archive is damaged."""
    return ValueError(
        f"{os.fspath(path)!r} is damaged or incomplete: its {compression} data cannot be unpacked ({error}); "
        "get the file again"
    )


class SmallReads(io.FileIO):
    """A file for `zipfile`, which otherwise reads the whole directory that an archive claims to have.

    Args:
        path: the archive.
        most_bytes: the largest read that is allowed.
        most_entries: the largest number of directory entries in one read, of which `zipfile` makes an object each. The
            bytes themselves are counted: the number that the end of an archive claims is not what is read.
    """

    def __init__(self, path: str | os.PathLike[str], most_bytes: int, most_entries: int | None = None) -> None:
        super().__init__(path)
        self._most_bytes, self._most_entries = most_bytes, most_entries

    def read(self, size: int | None = -1, /) -> bytes:
        """Return at most `size` bytes.

        Raises:
            ValueError: more bytes are asked for than allowed, or there are more entries in them.
        """
        if size is not None and size > self._most_bytes:  # without a size it reads the short end of the file
            raise ValueError(f"its archive has a directory or entry of more than {self._most_bytes:,} bytes")
        data = super().read(size)
        if self._most_entries is not None and data.count(_ENTRY) > self._most_entries:
            raise ValueError(f"its archive has more than {self._most_entries:,} entries")
        return data


class BoundedText:
    """Unpacked text, read no further than its packed size can account for.

    Args:
        path: the packed file, for the message.
        packed: that file, open; its position says how much has been unpacked.
        stream: its content, unpacked.
    """

    def __init__(self, path: str | os.PathLike[str], packed: IO[bytes], stream: Reader) -> None:
        self._path, self._packed, self._stream, self._given = path, packed, stream, 0

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes.

        Raises:
            ValueError: far more came out than text can.
        """
        content = self._stream.read(size)
        self._given += len(content)
        check_unpacked(self._path, self._packed.tell(), self._given)
        return content


def check_unpacked(path: str | os.PathLike[str], packed: int, unpacked: int) -> None:
    """Raise a `ValueError` if so few bytes unpacked to so many that the file is not text, but made to fill the memory.

    Examples:
        >>> check_unpacked("a.gz", 1000, 100_000_000)
        Traceback (most recent call last):
        ValueError: 'a.gz' unpacks to more than 200 times its size, which no text does; unpack it by hand if you trust it
    """
    if unpacked > _UNPACKED_FREELY and unpacked > _MOST_UNPACKED * packed:
        raise ValueError(
            f"{os.fspath(path)!r} unpacks to more than {_MOST_UNPACKED} times its size, which no text does; "
            "unpack it by hand if you trust it"
        )


class _Xz(io.RawIOBase):
    """Unpack one .xz stream after the other, with a bound on the memory that `lzma.open` does not have."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file, self._held = file, b""
        self._decompressor: lzma.LZMADecompressor | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer)
        while True:
            if self._decompressor is None or self._decompressor.eof:
                left = self._decompressor.unused_data if self._decompressor else b""
                left = (left or self._file.read(PIECE)).lstrip(b"\0")  # padding may stand between streams
                if not left:
                    return 0
                self._decompressor, self._held = lzma.LZMADecompressor(memlimit=_XZ_MEMORY), left
            if self._decompressor.needs_input and not self._held:
                self._held = self._file.read(PIECE)
                if not self._held:
                    raise EOFError("the file ends before the data does")
            data = self._decompressor.decompress(self._held, len(view))
            self._held = b""
            if data:
                view[: len(data)] = data
                return len(data)


def codec_of(encoding: str) -> str:
    """Return Python's name of an encoding.

    Raises:
        TypeError: it is not a string.
        ValueError: Python knows no such encoding of text.

    Examples:
        >>> codec_of("UTF8"), codec_of("gbk")
        ('utf-8', 'gbk')
    """
    if not isinstance(encoding, str):
        raise TypeError(f"encoding must be the name of one, such as 'utf-8' or 'gb18030', got {encoding!r}")
    try:
        codec = codecs.lookup(encoding)
        "".encode(encoding)  # raises for codecs of bytes, such as "hex"
        return codec.name
    except LookupError:
        raise ValueError(
            f"encoding must be one that Python knows, such as 'utf-8' or 'gb18030', got {encoding!r}"
        ) from None


def read_lines(path: str | os.PathLike[str], most_bytes: int, most_lines: int | None = None) -> list[str]:
    r"""Return the lines of a UTF-8 file that holds one word or name per line.

    Only `\n` and `\r\n` end a line: U+2028 and the like are parts of a word. A byte order mark is left out, and nothing
    else is trimmed.

    Args:
        path: the file.
        most_bytes: the largest size allowed.
        most_lines: the largest number of lines allowed.

    Returns:
        The lines, blank ones too.

    Raises:
        ValueError: the file is larger, or is not UTF-8; the message names the line.

    Examples:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "words.txt"
        >>> _ = path.write_bytes("\ufeff体育\r\n\n two words \n".encode())
        >>> read_lines(path, 2**20)
        ['体育', '', ' two words ']
    """
    content = read_bounded(path, most_bytes).removeprefix(codecs.BOM_UTF8)
    if most_lines is not None and content.count(b"\n") > most_lines:
        raise ValueError(f"{os.fspath(path)!r} must be a file of at most {most_lines} lines, and has more")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{os.fspath(path)!r} line {number} is not UTF-8; save the file as UTF-8") from None
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines] if "\r" in text else lines


def decoded_lines(
    name: str,
    file: Reader,
    encoding: str,
    bad_line: BadLine,
    *,
    carriage_returns: bool = False,
    longest: int = LONGEST_LINE,
) -> Iterator[Line]:
    r"""Yield number and text of each line of a file, blank ones too, in the memory of its longest line.

    Only `\n` and `\r\n` end a line. A byte order mark is left out. Lines come as soon as they are complete, so that a pipe
    can be read line by line.

    Args:
        name: what to call the file in a message.
        file: where to read bytes.
        encoding: Python's name of the encoding.
        bad_line: called with number, error and bytes of a line that cannot be decoded; then the line yields `None`. Its
            own exception passes through.
        carriage_returns: let a lone `\r` end the lines of a file that has no `\n` (old Macs).
        longest: the largest line allowed, in bytes.

    Yields:
        Number, from 1, and text of each line.

    Raises:
        ValueError: the encoding is unknown, the file plainly has another one, or a line is longer than `longest`.
    """
    codec = codec_of(encoding)
    wide = "\n".encode(codec) != b"\n"
    read = getattr(file, "read1", file.read)
    pieces = _recoded(name, read, codec, encoding) if wide else iter(lambda: read(PIECE), b"")
    first = 1
    for piece in _whole_lines(name, pieces, carriage_returns, longest):
        if first == 1 and codec == "utf-8" and piece.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ValueError(f"{name} is UTF-16, not UTF-8; read it with encoding='utf-16', or save it as UTF-8")
        raws = piece.split(b"\n")
        if max(map(len, raws)) > longest:
            before = next(place for place, raw in enumerate(raws) if len(raw) > longest)
            yield from _decoded(raws[:before], first, "utf-8" if wide else codec, bad_line)
            raise _too_long(name, longest)
        yield from _decoded(raws, first, "utf-8" if wide else codec, bad_line)
        first += len(raws)


def _recoded(name: str, read: Callable[[int], bytes], codec: str, encoding: str) -> Iterator[bytes]:
    """Yield as UTF-8 what is in an encoding whose line feed is another byte than that of ASCII, or several."""
    decoder = codecs.getincrementaldecoder(codec)()
    try:
        while piece := read(PIECE):
            if text := decoder.decode(piece):
                yield text.encode("utf-8", "surrogatepass")
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError:
        raise ValueError(f"{name} is not {encoding}; name the encoding it was saved in") from None


def _whole_lines(name: str, pieces: Iterable[bytes], carriage_returns: bool, longest: int) -> Iterator[bytes]:
    """Yield one or more whole lines at a time, without the line feed of the last one."""
    kept: list[bytes] = []
    separator = b"" if carriage_returns else b"\n"
    length = 0
    for piece in pieces:
        separator = separator or (b"\r" if b"\r" in piece and b"\n" not in piece else b"\n")
        if separator == b"\r":
            piece = piece.replace(b"\r", b"\n")
        whole, feed, rest = piece.rpartition(b"\n")
        if feed:
            yield b"".join([*kept, whole])
            kept, length = [], 0
        kept.append(rest)
        length += len(rest)
        if length > longest:
            raise _too_long(name, longest)
    if length:
        yield b"".join(kept)


def _too_long(name: str, longest: int) -> ValueError:
    return ValueError(f"{name} has a line of more than {longest >> 20} MiB, so it is not a file of lines; check it")


def _decoded(raws: Sequence[bytes], first: int, codec: str, bad_line: BadLine) -> Iterator[Line]:
    for number, raw in enumerate(raws, first):
        try:
            line = raw.decode(codec)
        except UnicodeDecodeError as error:
            bad_line(number, error, raw)
            yield number, None
        else:
            yield number, (line.removeprefix("\ufeff") if number == 1 else line).removesuffix("\r")
