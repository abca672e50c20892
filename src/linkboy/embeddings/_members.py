"""Which file of a zip archive holds the vectors."""

import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from linkboy._report import listed
from linkboy.embeddings._dialect import HEADER, member_dim
from linkboy.embeddings._foreign import is_fasttext, is_text

_HEAD = 1 << 16
_MOST_OPENED = 32

# What lies beside the vectors to be read by people.
_ABOUT = re.compile(r"(readme|licen[cs]e|notice|changelog|citation)|.*\.(md|pdf|json|html?)$", re.IGNORECASE)

Opened = Callable[[str], IO[bytes]]


def members(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of the files, without what macOS adds."""
    return [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]


def choose_member(path: Path, names: Sequence[str], dim: int | None, opened: Opened) -> str:
    """Return the one file of vectors, or of several the one with `dim` numbers per row, as its name or content says."""
    if len(names) == 1:
        return names[0]
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        raise ValueError(
            f"{str(path)!r} is a file of torch.save, that is a pickle, which is never opened; save the matrix as safetensors "
            "or .npy and pass words"
        )
    fitting = [name for name in names if f".{dim}d." in name]
    if len(fitting) == 1:
        return fitting[0]
    dims = _dims(names, opened)
    fitting = [name for name in dims if dims[name] == dim] if dim is not None else list(dims)
    if len(fitting) == 1:
        return fitting[0]
    found = listed(map(repr, names), 8) or "nothing"
    if dim is not None and dims and not fitting:
        raise ValueError(
            f"dim must be that of a file in {str(path)!r}, got {dim}: its files of vectors have "
            f"{' and '.join(map(str, sorted(set(dims.values()))))} numbers per word"
        )
    several = len(set(dims.values())) == len(dims) > 1
    raise ValueError(
        f"{str(path)!r} must hold one file of vectors, got {len(names)} files ({found}); "
        + (f"pass dim={' or '.join(map(str, dims.values()))}, or " if several else "")
        + "unpack it and name one"
    )


def _dims(names: Sequence[str], opened: Opened) -> dict[str, int]:
    """Return the files that begin like vectors, with their numbers per row; a model with its vectors beside it is left out."""
    found: dict[str, int] = {}
    models: list[str] = []
    for name in [name for name in names if not _ABOUT.match(PurePosixPath(name).name)][:_MOST_OPENED]:
        with opened(name) as file:
            head = file.read(_HEAD)
        if is_fasttext(head):
            models.append(name)
        elif (HEADER.match(head) or is_text(head)) and (dim := member_dim(head)):
            found[name] = dim
    with_text = {PurePosixPath(name).stem for name in found}
    return found | {name: 0 for name in models if PurePosixPath(name).stem not in with_text}
