"""From a vectors file and a vocabulary to a weight matrix and a report of what was found."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linkboy._checks import check_choice, check_number
from linkboy._random import check_generator
from linkboy.embeddings._arrays import read_npy, read_npz, read_safetensors
from linkboy.embeddings._binary import is_binary, read_binary
from linkboy.embeddings._cache import Cache, Entry
from linkboy.embeddings._collect import NOT_FOUND, AllRows, VocabularyRows
from linkboy.embeddings._findings import Findings
from linkboy.embeddings._source import Source, open_vectors
from linkboy.embeddings._text import check_layout, look_at, read_text
from linkboy.embeddings._unknown import UNK_INITS, fill_unknown
from linkboy.embeddings._vocabulary import Vocabulary
from linkboy.embeddings.report import EmbeddingReport

ARRAYS = {"npy": read_npy, "npz": read_npz, "safetensors": read_safetensors}
Format = Literal["auto", "glove", "word2vec-text", "word2vec-bin", "fasttext-vec", "npy", "npz", "safetensors"]
_FASTTEXT_MODEL = b"\xba\x16\x4f\x2f"


def load_embeddings(
    path: str | os.PathLike[str],
    vocab: Sequence[str] | Mapping[str, int] | None = None,
    *,
    dim: int | None = None,
    format: Format = "auto",
    fallback: Sequence[Literal["exact", "lower", "nfkc"]] = ("exact", "lower", "nfkc"),
    unk_init: Literal["match", "mean", "zeros"] | Callable[[Tensor], Any] = "match",
    padding_idx: int | None = None,
    dtype: torch.dtype = torch.float32,
    on_bad_row: Literal["raise", "skip"] = "raise",
    duplicates: Literal["first", "last", "raise"] = "first",
    cache: str | os.PathLike[str] | None = None,
    generator: torch.Generator | None = None,
    counts: Mapping[str, float] | None = None,
) -> tuple[Tensor, EmbeddingReport]:
    """Read the vectors of your words only from a file of any size.

    A text row is a word, one space and numbers; it is cut from the right, so a word may hold spaces or be one. Numbers equal
    `float(token)` rounded to float32, bit for bit. Memory is the matrix and some MiB more, whatever a header claims. Nothing
    is executed or unpickled, and nothing is downloaded.

    Args:
        path: GloVe, word2vec (text or binary), fastText `.vec`, `.npy`, `.npz` or safetensors; plain or in `.gz`, `.bz2`,
            `.xz` or `.zip`, whatever the name. An array without words must have the rows of `vocab`.
        vocab: the words in the order of their rows, or a mapping from word to row; `None` loads the whole file.
        dim: how many numbers each word of the file must have; also chooses the member of a zip by its name.
        format: `"auto"`, `"glove"` (no header), `"word2vec-text"`, `"word2vec-bin"`, `"fasttext-vec"`, `"npy"`, `"npz"` or
            `"safetensors"`.
        fallback: the forms in which a word is looked for; an earlier form wins, wherever in the file it is.
        unk_init: rows of words that were not found: `"match"` draws each column with the mean and standard deviation of the
            rows found, `"mean"` is that mean, `"zeros"`, or a function that fills a `(missing, dim)` tensor or returns one.
        padding_idx: a row of zeros, even if the file has its word.
        dtype: dtype of the result; any but float64 is rounded by way of float32.
        on_bad_row: `"raise"` stops at the first row that cannot be read, `"skip"` lists such rows in the report.
        duplicates: which row of a repeated word is used: `"first"`, `"last"`, or `"raise"`.
        cache: a directory that stores what was read; path, size, modification time and options identify an entry.
        generator: source of the random numbers; by default torch's own.
        counts: how often each word occurs, for the coverage of running text.

    Returns:
        `(rows, dim)` in `dtype` on the CPU, and an `EmbeddingReport`.

    Raises:
        FileNotFoundError: there is no such file.
        IsADirectoryError: `path` is a directory.
        TypeError: `vocab`, `fallback` or `dtype` has the wrong type.
        ValueError: the file is damaged or holds no vectors, an argument does not fit, or no word was found.

    Examples:
        >>> import tempfile, pathlib, linkboy as lb
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "vectors.txt"
        >>> _ = path.write_text("new york 1 2\\nparis 3 4\\n", "utf-8")
        >>> weight, report = lb.load_embeddings(path, ["<pad>", "Paris", "new york", "rome"], padding_idx=0, unk_init="zeros")
        >>> weight.tolist()
        [[0.0, 0.0], [3.0, 4.0], [1.0, 2.0], [0.0, 0.0]]
        >>> report.summary, report.missing
        ('found 2 of 3 words (66.67%): 1 exact, 1 lower', ('rome',))

    Source: the formats are those of https://nlp.stanford.edu/projects/glove/ and
    https://code.google.com/archive/p/word2vec/. Unlike gensim it reads words with spaces, and skips rows that are not
    wanted without parsing their numbers.
    """
    _check_options(dim, format, unk_init, dtype, on_bad_row, duplicates)
    check_generator(generator)
    path = Path(path)
    vocabulary = None if vocab is None else Vocabulary(vocab, fallback)
    padding = _checked_padding(padding_idx, vocabulary)
    precision = np.float64 if dtype == torch.float64 else np.float32
    options = {"dtype": precision, "duplicates": duplicates, "on_bad_row": on_bad_row}
    kept = None
    if cache is not None and path.is_file():
        kept = Cache(cache, path, _cache_key(vocabulary, dim, format, duplicates, on_bad_row, np.dtype(precision).name))
    entry = kept.read(None if vocabulary is None else vocabulary.ordered()) if kept else None
    happened = f"read from {kept.path}" if kept and entry else None
    if entry is None:
        entry = _read(path, vocabulary, dim, format, options)
        happened = kept.write(entry) if kept else None
    known = entry.rank != NOT_FOUND
    if not known.any() and unk_init in ("match", "mean"):
        raise ValueError(
            f"vocab must share a word with {str(path)!r}, got {len(known):,} words, none of which is in it; "
            "check the language and the tokens, or pass unk_init='zeros'"
        )
    weight = torch.from_numpy(entry.matrix)
    fill_unknown(weight, known, unk_init, generator)
    if padding is not None:
        weight[padding], known[padding] = 0, False
    return weight.to(dtype), _report(path, entry, vocabulary, known, padding, counts, happened)


def _read(path: Path, vocabulary: Vocabulary | None, dim: int | None, format: str, options: dict[str, Any]) -> Entry:
    with open_vectors(path, dim=dim) as source:
        findings = Findings(_array_format(source, format), source.compression)
        collector: VocabularyRows | AllRows
        if vocabulary is None:
            collector = AllRows(source, path, findings, **options)
        else:
            collector = VocabularyRows(vocabulary, path, findings, **options)
        if findings.format in ARRAYS:
            ARRAYS[findings.format](source, collector)
            if dim not in (None, findings.dim):
                raise ValueError(
                    f"dim must be that of the file, {findings.dim} in {str(path)!r}, got {dim}; leave dim out"
                )
        else:
            _read_rows(source, collector, dim, format)
        if isinstance(collector, VocabularyRows):
            rank = np.frombuffer(collector.rank, np.uint8)
            return Entry(collector.matrix, rank, collector.vocabulary.ordered(), findings)
        words = collector.finish()
        return Entry(collector.matrix, np.zeros(len(words), np.uint8), list(words), findings)


def _read_rows(source: Source, collector: VocabularyRows | AllRows, dim: int | None, format: str) -> None:
    layout = look_at(source, format=format, dim=dim)
    findings = collector.findings
    findings.header = layout.header
    binary = format == "word2vec-bin" or (format == "auto" and is_binary(source, layout))
    if binary:
        findings.format = "word2vec-bin"
        read_binary(source, layout, collector)
    else:
        check_layout(source, layout, dim)
        findings.format = format if format != "auto" else "word2vec-text" if layout.header else "glove"
        read_text(source, layout, collector)


def _array_format(source: Source, format: str) -> str:
    """Return the format that the content shows, or what was asked for where it shows none."""
    head = source.stream.peek(16)[:16] if source.archive is None else b""
    found = ""
    if source.archive is not None:
        found = "npz"
    elif head.startswith(b"\x93NUMPY"):
        found = "npy"
    elif head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        found = "safetensors"
    elif head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise ValueError(
            f"{str(source.path)!r} is a pickle, which could run any code and is never opened; export its words and numbers "
            "as text"
        )
    elif head.startswith(_FASTTEXT_MODEL):
        raise ValueError(f"{str(source.path)!r} is a model of fastText; name the .vec file beside it")
    if (found or format in ARRAYS) and format not in ("auto", found):
        raise ValueError(
            f"format must be that of the file, got {format!r} for {str(source.path)!r}, which is "
            f"{found or 'not an array file'}; leave format out"
        )
    return found or format


def _check_options(
    dim: int | None,
    format: str,
    unk_init: str | Callable[[Tensor], Any],
    dtype: torch.dtype,
    on_bad_row: str,
    duplicates: str,
) -> None:
    if dim is not None:
        check_number("dim", dim, minimum=1, integer=True)
    check_choice("format", format, get_args(Format))
    check_choice("on_bad_row", on_bad_row, ("raise", "skip"))
    check_choice("duplicates", duplicates, ("first", "last", "raise"))
    if not callable(unk_init):
        check_choice("unk_init", unk_init, UNK_INITS)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating-point torch.dtype, got {dtype!r}")


def _checked_padding(padding_idx: int | None, vocabulary: Vocabulary | None) -> int | None:
    if padding_idx is None:
        return None
    if vocabulary is None:
        raise ValueError("padding_idx needs a vocab: without one it would erase a word of the file")
    size = vocabulary.size
    check_number("padding_idx", padding_idx, minimum=-size, maximum=size - 1, integer=True)
    return padding_idx % size


def _cache_key(vocabulary: Vocabulary | None, *options: object) -> bytes:
    rows = None if vocabulary is None else [vocabulary.fallback, list(vocabulary.rows), list(vocabulary.rows.values())]
    return json.dumps([rows, *options]).encode()


def _report(
    path: Path,
    entry: Entry,
    vocabulary: Vocabulary | None,
    known: NDArray[np.bool_],
    padding: int | None,
    counts: Mapping[str, float] | None,
    happened: str | None,
) -> EmbeddingReport:
    findings = entry.findings
    steps = ["exact"] if vocabulary is None else vocabulary.steps
    by_fallback = dict.fromkeys(steps, 0)
    for rank, number in zip(*np.unique(entry.rank[known], return_counts=True), strict=True):
        by_fallback[steps[rank]] += int(number)
    named = [(row, word) for row, word in enumerate(entry.words) if word is not None and row != padding]
    found = int(known.sum())
    of_text = None
    if counts is not None:
        total = sum(counts.get(word, 0) for _, word in named)
        of_text = sum(counts.get(word, 0) for row, word in named if known[row]) / total if total else float("nan")
    return EmbeddingReport(
        path=str(path),
        format=findings.format,
        compression=findings.compression,
        dim=findings.dim,
        row_count=findings.row_count,
        words=entry.words,
        known=torch.from_numpy(known),
        found=found,
        missing=tuple(word for row, word in named if not known[row]),
        by_fallback=by_fallback,
        coverage=found / len(named) if named else float("nan"),
        text_coverage=of_text,
        header=findings.header,
        bad_row_count=findings.bad_row_count,
        bad_rows=tuple(findings.bad_rows),
        duplicate_count=findings.duplicate_count,
        duplicates=tuple(findings.duplicates),
        non_finite_count=findings.non_finite_count,
        undecodable=findings.undecodable,
        cache=happened,
    )
