"""From a vectors file of any form to safetensors, which later runs read without parsing."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from linkboy._files import local_path
from linkboy._reading import read_lines
from linkboy.embeddings._safetensors import write_safetensors
from linkboy.embeddings.load import MOST_WORDS, load_embeddings
from linkboy.embeddings.report import EmbeddingReport


def convert_embeddings(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    vocab: Sequence[str] | Mapping[str, int] | str | os.PathLike[str] | None = None,
    **options: Any,
) -> EmbeddingReport:
    """Read a vectors file and write what was found as safetensors: a matrix `weight`, its words in the metadata.

    Rows whose words were not found are there, so that row i is word i, but `load_embeddings` does not count them as found.

    Args:
        path: as for `load_embeddings`.
        out: the file to write; it appears whole or not at all.
        vocab: as for `load_embeddings`, or a file with one word per line, where only a line feed ends a line.
        options: further arguments of `load_embeddings`.

    Returns:
        The report of `load_embeddings`.

    Raises:
        FileNotFoundError: a file is not there, or the folder of `out`.
        IsADirectoryError: `out` is a directory.
        ValueError: as for `load_embeddings`, `out` is the file that is read, or the file of words is not UTF-8 or holds a word
            twice.

    Examples:
        >>> import tempfile, pathlib, linkboy as lb
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "vectors.txt").write_text("paris 1 2\\nrome 3 4\\n", "utf-8")
        >>> report = lb.convert_embeddings(folder / "vectors.txt", folder / "emb.safetensors", ["rome"])
        >>> lb.load_embeddings(folder / "emb.safetensors")[0].tolist()
        [[3.0, 4.0]]
    """
    _check_out(path, local_path("out", out))
    words = read_lines(vocab, MOST_WORDS) if isinstance(vocab, (str, os.PathLike)) else vocab
    weight, report = load_embeddings(path, words, **options)
    matrix = (weight.view(torch.uint16) if weight.dtype == torch.bfloat16 else weight).numpy()
    missing = "[]" if words is None else str(np.flatnonzero(~report.known.numpy()).tolist())
    write_safetensors(out, matrix, report.words, {"missing": missing})
    return report


def _check_out(path: str | os.PathLike[str], out: Path) -> None:
    """Raise where nothing can be written, before a long file is read, and where it would replace what is read."""
    if out.is_dir():
        raise IsADirectoryError(f"out must be a file to write, got the directory {str(out)!r}; name a file in it")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(out.parent)!r} for out; make it first")
    read = local_path("path", path)
    if out.exists() and read.exists() and out.samefile(read):
        raise ValueError(f"out must be another file than the one that is read, got {str(out)!r} for both")
