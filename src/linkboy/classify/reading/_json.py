"""JSON as a stream of records: one object per line, an array of objects, or objects one behind the other."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from linkboy._encodings import EncodingAdvice
from linkboy._reading import LONGEST_LINE, PIECE, Reader, codec_of

MISSING = object()
_DEPTH = 5
# A byte order mark stands where files were put together.
_SPACE, _SPACE_OR_COMMA = re.compile("[ \t\r\n\ufeff]*"), re.compile("[ \t\r\n\ufeff]*,?[ \t\r\n\ufeff]*")


def values_of(path: Path, file: Reader, encoding: str) -> Iterator[tuple[int, Any]]:
    """Yield line and value of each element of an array, or of values one behind the other, in the memory of the largest.

    Numbers with a fraction are given as they are written.

    Raises:
        ValueError: the file is not JSON, or not in that encoding; the message names the line.
    """
    decoder = json.JSONDecoder(parse_float=str)
    text = _Text(path, file, encoding)
    in_array = text.skip() == "["
    if in_array:
        text.take(1)
    while True:
        # Between the elements of an array stands one comma; a file of objects has none.
        following = text.skip("," if in_array else "")
        if following == "]" and in_array:
            text.take(1)
            if text.skip():
                raise text.refusal("there is something behind the end of the array")
            return
        if not following:
            if in_array:
                raise text.refusal("the array is not closed; the file may be cut off")
            return
        line = text.line
        value = text.value(decoder)
        yield line, value


class _Text:
    """The decoded text of a file, of which a part is in memory.

    Args:
        path: the file.
        file: where to read bytes.
        encoding: their encoding.
    """

    def __init__(self, path: Path, file: Reader, encoding: str) -> None:
        self._path, self._file, self._encoding = path, file, encoding
        codec = codec_of(encoding)
        self._decoder = codecs.getincrementaldecoder("utf-8-sig" if codec == "utf-8" else codec)()
        self._text, self._place, self.line, self._ended = "", 0, 1, False

    def _more(self) -> bool:
        """Read another piece; return whether there was one."""
        if self._ended:
            return False
        piece = self._file.read(PIECE)
        self._ended = not piece
        try:
            decoded = self._decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            line = self.line + self._text.count("\n", self._place) + piece.count(b"\n", 0, error.start)
            start = piece.rfind(b"\n", 0, error.start) + 1
            raw = piece[max(start, error.start - 100) : error.start + 100].split(b"\n")[0]
            reason = EncodingAdvice(self._encoding).of(raw, error.start - max(start, error.start - 100))
            raise ValueError(f"{self._path} line {line}: {reason}; correct it") from None
        self._text, self._place = self._text[self._place :] + decoded, 0
        return bool(piece) or bool(decoded)

    def skip(self, comma: str = "") -> str:
        """Go on over white space, and a comma where one may stand, to the next character; return it, or nothing at the end."""
        pattern = _SPACE_OR_COMMA if comma else _SPACE
        while True:
            match = pattern.match(self._text, self._place)
            place = match.end() if match else self._place
            self.line += self._text.count("\n", self._place, place)
            self._place = place
            if place < len(self._text):
                return self._text[place]
            if not self._more():
                return ""

    def take(self, count: int) -> None:
        """Go on by so many characters."""
        self._place += count

    def value(self, decoder: json.JSONDecoder) -> Any:
        """Return the value that begins here, and go on behind it."""
        while True:
            try:
                value, end = decoder.raw_decode(self._text, self._place)
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self._text) - 16 or error.msg.startswith("Unterminated string")
                if len(self._text) - self._place > LONGEST_LINE:
                    raise self.refusal(f"a value has more than {LONGEST_LINE >> 20} MiB") from None
                if cut and self._more():
                    continue
                self.line += self._text.count("\n", self._place, error.pos)
                raise self.refusal(f"it is not JSON ({error.msg} at column {error.colno})") from None
            except (ValueError, RecursionError):
                raise self.refusal("it is JSON that cannot be read (nested too deeply, or a number too long)") from None
            if end < len(self._text) or not self._more():
                self.line += self._text.count("\n", self._place, end)
                self._place = end
                return value

    def refusal(self, problem: str) -> ValueError:
        return ValueError(f"{self._path} line {self.line}: {problem}; correct it")


def names_in(record: dict[str, Any], before: str = "", depth: int = _DEPTH) -> Iterator[str]:
    """Yield the names of the values of a record; those inside objects by dotted names.

    Examples:
        >>> list(names_in({"text": "a", "rating": {"stars": 5}}))
        ['text', 'rating.stars']
    """
    for name, value in record.items():
        if isinstance(value, dict) and value and depth:
            yield from names_in(value, f"{before}{name}.", depth - 1)
        else:
            yield before + name


def value_at(record: Any, name: str) -> Any:
    """Return the value of a name, dotted or not; `MISSING` where there is none.

    Examples:
        >>> value_at({"rating": {"stars": 5}}, "rating.stars"), value_at({"a.b": 1}, "a.b")
        (5, 1)
    """
    if not isinstance(record, dict):
        return MISSING
    if name in record:
        return record[name]
    first, dot, rest = name.partition(".")
    while dot:
        if first in record and (found := value_at(record[first], rest)) is not MISSING:
            return found
        more, dot, rest = rest.partition(".")
        first = f"{first}.{more}"
    return MISSING


def cell_text(value: object) -> str:
    """Return a value of JSON as a cell; what Parquet has beside JSON, such as dates inside a list, is written as text."""
    if value is None or value is MISSING:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
