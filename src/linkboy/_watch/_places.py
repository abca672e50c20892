"""The line of the user's program that is running, or that made a node of a graph."""

import linecache
import os
import re
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

_HERE = str(Path(__file__).resolve().parents[1])
_STDLIB = sysconfig.get_paths()["stdlib"]
_LIBRARIES = (os.path.join(_STDLIB, ""), os.path.join(_HERE, ""), "<frozen ")  # noqa: PTH118
_PACKAGES = ("site-packages", "dist-packages")
_TRACEBACK_LINE = re.compile(r'  File "(.+)", line (\d+), in ')
_known: dict[str, bool] = {}


def in_library(file: str) -> bool:
    """Return whether a file belongs to Python, an installed package or linkboy, and not to the user."""
    known = _known.get(file)
    if known is None:
        known = _known[file] = file.startswith(_LIBRARIES) or any(
            f"{os.sep}{name}{os.sep}" in file for name in _PACKAGES
        )
    return known


def line_text(file: str, line: int) -> str:
    """Return `file:line` with the source of the line, the file without its folder; a notebook's cell is called `In[4]`.

    Examples:
        >>> line_text("/nowhere/train.py", 3)
        'train.py:3'
    """
    source = " ".join(linecache.getline(file, line).split())
    where = f"{_cell(file) or os.path.basename(file)}:{line}"  # noqa: PTH119 - a notebook cell is not a path
    return f"{where}  {source}" if source else where


def _cell(file: str) -> str:
    """Return what IPython calls the cell that a file name stands for, as in its own tracebacks; empty for a real file."""
    if "ipykernel" not in file and not file.startswith("<ipython-input"):
        return ""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    named = getattr(getattr(shell, "compile", None), "format_code_name", None)  # since IPython 8
    label = named(file) if named is not None else None
    return label[1] if label else ""


def user_line() -> str:
    """Return the innermost line of the user that is running; an empty string where there is none."""
    frame = user_frame()
    return line_text(frame.f_code.co_filename, frame.f_lineno) if frame is not None else ""


def user_frame(frame: FrameType | None = None) -> FrameType | None:
    """Return the innermost frame of the user, from one on where it is given, `None` where there is none."""
    frame = sys._getframe(1) if frame is None else frame
    while frame is not None and in_library(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def node_line(node: Any) -> str:
    """Return the user's line that made a node of an autograd graph, where the node was told or torch recorded it."""
    known = node.metadata.get("linkboy")
    if known is not None:
        return known
    return _innermost(node.metadata.get("traceback_", ()))


def _innermost(entries: Iterable[str]) -> str:
    for entry in reversed(list(entries)):
        found = _TRACEBACK_LINE.match(entry)
        if found and not in_library(found[1]):
            return line_text(found[1], int(found[2]))
    return ""
