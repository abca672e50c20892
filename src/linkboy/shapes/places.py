"""Where in the user's source a call stands: file, line, function and the exact sub-expression."""

import ast
import itertools
import linecache
import sys
from pathlib import Path
from types import CodeType, FrameType

import torch

# What a library does for the caller counts as done on the caller's line.
_LIBRARIES = tuple(f"{folder}/" for folder in (Path(torch.__file__).parent, Path(__file__).parents[1]))
_NOT_THE_USERS = (*_LIBRARIES, "<frozen ", "<eval_with_key>")  # the last is what torch.fx generates
_is_library: dict[str, bool] = {}  # by file: a lookup for each frame in place of eight comparisons


class Place:
    """One call in the source; the text is read when it is first asked for.

    Attributes:
        file: name of the file as Python knows it; of a notebook cell or of stdin a made-up name.
        line: line number of the sub-expression.
        function: name of the function around it, `<module>` outside of one.
    """

    __slots__ = ("_code", "_columns", "_text", "end_line", "file", "function", "line")

    def __init__(self, code: CodeType, instruction: int, line: int) -> None:
        self._code = code  # kept, so that its id is not given to another
        self.file, self.function = code.co_filename, code.co_qualname
        first, last, start, end = next(itertools.islice(code.co_positions(), instruction // 2, None))
        self.line, self.end_line = first or line, last or line
        self._columns = None if start is None or end is None else (start, end)  # absent under -X no_debug_ranges
        self._text: str | None = None

    @property
    def text(self) -> str:
        """The sub-expression on one line, the whole line where columns are not known, empty where there is no source."""
        if self._text is None:
            linecache.checkcache(self.file)
            self._text = self._cut([linecache.getline(self.file, n) for n in range(self.line, self.end_line + 1)])
        return self._text

    @property
    def column(self) -> int:
        """Characters before the sub-expression on its line; bytes where there is no source."""
        if self._columns is None:
            return 0
        line = linecache.getline(self.file, self.line).encode()
        return len(line[: self._columns[0]].decode(errors="replace")) if line else self._columns[0]

    @property
    def where(self) -> str:
        """`file:line`."""
        return f"{self.file}:{self.line}"

    def _cut(self, lines: list[str]) -> str:
        if self._columns is None or not all(lines):
            return " ".join(lines[0].split()) if lines else ""
        raw = [line.encode() for line in lines]  # columns count bytes of UTF-8
        raw[-1] = raw[-1][: self._columns[1]]
        raw[0] = raw[0][self._columns[0] :]
        text = b"".join(raw).decode(errors="replace")
        return " ".join(_without_comments(text).split()) if len(raw) > 1 else text


def _without_comments(text: str) -> str:
    try:
        return ast.unparse(ast.parse(f"({text})", mode="eval"))
    except SyntaxError:
        return text


class Places:
    """Finds the place of the running call; one cache for each trace."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], Place] = {}

    def current(self) -> Place | None:
        """Return the place in the nearest frame outside of torch and linkboy, `None` where there is no such frame."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            if not _in_library(code):
                key = (id(code), frame.f_lasti)  # hashing a code object hashes all its constants
                place = self._known.get(key)
                if place is None:
                    place = self._known[key] = Place(code, frame.f_lasti, frame.f_lineno)
                return place
            frame = frame.f_back
        return None


def user_place(error: BaseException) -> Place | None:
    """Return the innermost place outside of torch and linkboy that an exception passed through."""
    place, step = None, error.__traceback__
    while step is not None:
        if not _in_library(step.tb_frame.f_code):
            place = Place(step.tb_frame.f_code, step.tb_lasti, step.tb_lineno)
        step = step.tb_next
    return place


def _in_library(code: CodeType) -> bool:
    library = _is_library.get(code.co_filename)
    if library is None:
        library = _is_library[code.co_filename] = code.co_filename.startswith(_NOT_THE_USERS)
    return library
