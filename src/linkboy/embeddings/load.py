"""From a vectors file and a vocabulary to a weight matrix and a report of what was found."""

import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linkboy._checks import check_choice, check_number
from linkboy._files import local_path
from linkboy._random import check_generator
from linkboy._reading import codec_of, read_lines
from linkboy._report import format_count, plural
from linkboy.embeddings._arrays import read_npy, read_npz, read_safetensors
from linkboy.embeddings._binary import read_binary
from linkboy.embeddings._cache import Cache, Entry
from linkboy.embeddings._collect import NOT_FOUND, SUBWORD_RANK, AllRows, VocabularyRows
from linkboy.embeddings._encodings import ascii_digits, encoding_note, wide_encoding
from linkboy.embeddings._fasttext import read_fasttext
from linkboy.embeddings._findings import Findings
from linkboy.embeddings._folder import open_folder
from linkboy.embeddings._foreign import check_is_vectors, is_fasttext
from linkboy.embeddings._layout import check_layout, look_at
from linkboy.embeddings._source import Source, open_vectors
from linkboy.embeddings._text import read_text
from linkboy.embeddings._unknown import UNK_INITS, fill_unknown
from linkboy.embeddings._vocabulary import SUBWORD, Form, Vocabulary, words_of_rows
from linkboy.embeddings.report import EmbeddingReport

ARRAYS = {"npy": read_npy, "npz": read_npz, "safetensors": read_safetensors}
Format = Literal[
    "auto", "glove", "word2vec-text", "word2vec-bin", "fasttext-vec", "fasttext-bin", "npy", "npz", "safetensors"
]
Fallback = Literal["exact", "lower", "nfkc", "casefold", "subword"] | Form
_SHOWN = 40  # characters of a word in a message
MOST_WORDS = 1 << 30  # bytes of a file with one word per line


def load_embeddings(
    path: str | os.PathLike[str],
    vocab: Sequence[str] | Mapping[str, int] | None = None,
    *,
    dim: int | None = None,
    format: Format = "auto",
    encoding: str | None = None,
    tensor: str | None = None,
    words: Sequence[str | None] | Mapping[str, int] | str | os.PathLike[str] | None = None,
    fallback: Sequence[Fallback] = ("exact", "lower", "nfkc", "subword"),
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

    A text row is a word and numbers; what separates them is told by the first rows, and the report says it where it is not a
    single space. A row is cut from the right, so a word may hold spaces or be one. Numbers equal `float(token)` rounded to
    float32, bit for bit. Memory is the matrix and some MiB more, whatever a header claims. Nothing is executed or
    unpickled, and nothing is downloaded.

    Args:
        path: GloVe, word2vec (text or binary), fastText (`.vec` or `.bin`), `.npy`, `.npz` or safetensors; plain or in
            `.gz`, `.bz2`, `.xz` or `.zip`, whatever the name. Or a folder of model2vec, sentence-transformers or
            transformers, whose words are the tokens of its `tokenizer.json`.
        vocab: the words in the order of their rows, or a mapping from word to row; `None` loads the whole file.
        dim: how many numbers each word of the file must have; also chooses the member of a zip.
        format: `"auto"`, `"glove"` (no header), `"word2vec-text"`, `"word2vec-bin"`, `"fasttext-vec"`, `"fasttext-bin"`,
            `"npy"`, `"npz"` or `"safetensors"`.
        encoding: of the words, such as `"latin-1"` or `"gb18030"`; `None` is UTF-8, or UTF-16 where the file begins with
            its byte order mark.
        tensor: the name of the matrix in an `.npz` or safetensors file that holds several.
        words: the words of the rows of a matrix that comes without them, a mapping from word to row, or a file with one
            word per line; without it they are those of `vocab`.
        fallback: the forms in which a word is looked for; an earlier form wins, wherever in the file it is. `"casefold"`
            ignores the case of the file's words too. A function from word to another form, or `None`, is a form as well.
            `"subword"` is what a fastText `.bin` makes of the pieces of a word that it does not know.
        unk_init: rows of words that were not found: `"match"` draws each column with the mean and standard deviation of the
            rows found, `"mean"` is that mean, `"zeros"`, or a function that fills a `(missing, dim)` tensor or returns one.
        padding_idx: a row of zeros, even if the file has its word.
        dtype: dtype of the result; any but float64 is rounded by way of float32.
        on_bad_row: `"raise"` stops at the first row that cannot be read, `"skip"` lists such rows in the report. A file
            most of whose rows cannot be read is refused either way.
        duplicates: which row of a repeated word is used: `"first"`, `"last"`, or `"raise"`.
        cache: a directory that stores what was read; path, size, modification time and options identify an entry.
        generator: source of the random numbers; by default torch's own.
        counts: how often each word occurs, for the coverage of running text.

    Returns:
        `(rows, dim)` in `dtype` on the CPU, and an `EmbeddingReport`.

    Raises:
        FileNotFoundError: there is no such file.
        IsADirectoryError: `path` is a directory without a tokenizer.
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

    Source: the formats are those of https://nlp.stanford.edu/projects/glove/,
    https://code.google.com/archive/p/word2vec/ and https://github.com/facebookresearch/fastText. Unlike gensim it reads
    words with spaces, skips rows that are not wanted without parsing their numbers, and gives the `</s>` of a fastText model
    no pieces, as fastText does not.
    """
    _check_options(dim, format, unk_init, dtype, on_bad_row, duplicates)
    check_generator(generator)
    asked = _Asked(dim, format, encoding and codec_of(encoding), tensor, None)
    path, asked = _located(path, words, asked)
    vocabulary = None if vocab is None else Vocabulary(vocab, fallback)
    padding = _checked_padding(padding_idx, vocabulary)
    precision = np.float64 if dtype == torch.float64 else np.float32
    options = {"dtype": precision, "duplicates": duplicates, "on_bad_row": on_bad_row}
    kept = None
    if cache is not None and path.is_file():
        kept = Cache(cache, path, _cache_key(vocabulary, asked, duplicates, on_bad_row, np.dtype(precision).name))
    entry = kept.read(None if vocabulary is None else vocabulary.ordered()) if kept else None
    happened = f"read from {kept.path}" if kept and entry else None
    if entry is None:
        entry = _read(path, vocabulary, asked, options)
        happened = kept.write(entry) if kept else None
    known = entry.rank != NOT_FOUND
    if not known.any() and unk_init in ("match", "mean"):
        raise ValueError(
            f"vocab must share a word with {str(path)!r}, got {plural(len(known), 'word')} ({_first(entry.words)}), none of "
            "which is in it; "
            + "".join(f"{note}; " for note in entry.findings.notes)
            + _first_words(entry.findings)
            + "check the language and the tokens, or pass unk_init='zeros'"
        )
    weight = torch.from_numpy(entry.matrix)
    fill_unknown(weight, known, unk_init, generator)
    if padding is not None:
        weight[padding], known[padding] = 0, False
    result = weight.to(dtype)
    if dtype == torch.float16 and (lost := int((result.isinf() & weight.isfinite()).any(1).sum())):
        entry.findings.notes.append(
            f"{plural(lost, 'row holds', 'rows hold')} numbers beyond 65,504, which are infinite in float16; "
            "dtype=torch.bfloat16 holds them"
        )
    return result, _report(path, entry, vocabulary, known, padding, counts, happened)


def _first_words(findings: Findings) -> str:
    return f"its first words are {', '.join(map(repr, findings.first_words))}; " if findings.first_words else ""


def _first(words: Sequence[str | None]) -> str:
    shown = [repr(word[:_SHOWN]) for word in itertools.islice((word for word in words if word is not None), 4)]
    return ", ".join([*shown[:3], "..."] if len(shown) > 3 else shown)


class _Asked(NamedTuple):
    """What of the arguments says how the file is to be read."""

    dim: int | None
    format: str
    codec: str | None
    tensor: str | None
    words: list[str | None] | None
    from_folder: bool = False


def _located(
    path: str | os.PathLike[str],
    words: Sequence[str | None] | Mapping[str, int] | str | os.PathLike[str] | None,
    asked: _Asked,
) -> tuple[Path, _Asked]:
    """Return the file to read, and the words of its rows where they stand somewhere else."""
    path = local_path("path", path)
    if isinstance(words, str | os.PathLike):
        words = read_lines(local_path("words", words), MOST_WORDS)
    if words is not None:
        words = words_of_rows(words)
    if not path.is_dir():
        return path, asked._replace(words=words)
    file, tokens = open_folder(path, with_words=words is None)
    return file, asked._replace(words=tokens if words is None else words, from_folder=words is None)


def _read(path: Path, vocabulary: Vocabulary | None, asked: _Asked, options: dict[str, Any]) -> Entry:
    with open_vectors(path, dim=asked.dim) as source:
        source.tensor, source.words, source.from_folder = asked.tensor, asked.words, asked.from_folder
        findings = Findings(_format_of(source, asked.format), source.compression)
        if source.member is not None:
            findings.notes.append(f"read from {source.member!r}, the one file of vectors in the archive that fits")
        codec = _prepare_text(source, findings.format, asked)
        collector: VocabularyRows | AllRows
        if vocabulary is None:
            collector = AllRows(source, path, findings, **options)
        else:
            vocabulary.codec = codec
            collector = VocabularyRows(vocabulary, path, findings, **options)
        collector.codec = codec
        if findings.format in ARRAYS or findings.format == "fasttext-bin":
            ARRAYS.get(findings.format, read_fasttext)(source, collector)
            if asked.dim not in (None, findings.dim):
                raise ValueError(
                    f"dim must be that of the file, {findings.dim} in {str(path)!r}, got {asked.dim}; leave dim out"
                )
        else:
            _read_rows(source, collector, asked)
        collector.count_non_finite()
        if isinstance(collector, VocabularyRows):
            rank = np.frombuffer(collector.rank, np.uint8)
            return Entry(collector.matrix, rank, collector.vocabulary.ordered(), findings)
        words = collector.finish()
        return Entry(collector.matrix, np.zeros(len(words), np.uint8), list(words), findings)


def _prepare_text(source: Source, format: str, asked: _Asked) -> str:
    """Return the encoding in which words are compared, once the arguments fit what the file is."""
    is_array = format in ARRAYS
    for name, value, fits in (
        ("encoding", asked.codec, not is_array),
        ("tensor", asked.tensor, format in ("npz", "safetensors")),
        ("words", asked.words, is_array),
    ):
        if value is not None and not fits:
            raise ValueError(
                f"{name} is nothing that {str(source.path)!r} has, which is read as {format}; leave {name} out"
            )
    if is_array or format in ("fasttext-bin", "word2vec-bin"):
        return asked.codec or "utf-8"
    codec = asked.codec or wide_encoding(source) or "utf-8"
    if ascii_digits(codec):
        return "utf-8" if codec == "utf-8-sig" else codec
    source.recode(codec)
    return "utf-8"


def _read_rows(source: Source, collector: VocabularyRows | AllRows, asked: _Asked) -> None:
    note = encoding_note(source, collector.codec) if asked.codec is None else None
    layout = look_at(source, format=asked.format, dim=asked.dim)
    findings = collector.findings
    findings.header = layout.header
    if layout.binary or asked.format == "word2vec-bin":
        findings.format = "word2vec-bin"
        read_binary(source, layout, collector)
        return
    findings.notes += layout.notes
    findings.see(layout.words, collector.codec)
    if note:
        findings.notes.append(note)
    check_layout(source, layout, asked.dim)
    findings.format = asked.format if asked.format != "auto" else "word2vec-text" if layout.header else "glove"
    read_text(source, layout, collector)
    if isinstance(collector, AllRows) and 2 * findings.bad_row_count > findings.row_count:
        first = min(findings.bad_rows, key=lambda row: row.line)
        raise ValueError(
            f"{str(source.path)!r} holds no vectors that can be read: {format_count(findings.bad_row_count)} of its "
            f"{plural(findings.row_count, 'row is', 'rows are')} bad, the first in line {first.line} (word {first.word!r}: "
            f"{first.reason})"
        )


def _format_of(source: Source, format: str) -> str:
    """Return the format that the content shows, or what was asked for where it shows none."""
    head = source.stream.peek(512)[:512] if source.archive is None else b""
    found = ""
    if source.archive is not None:
        found = "npz"
    elif head.startswith(b"\x93NUMPY"):
        found = "npy"
    elif head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        found = "safetensors"
    elif is_fasttext(head):
        found = "fasttext-bin"
    else:
        check_is_vectors(source.path, head)
    if (found or format in ARRAYS or format == "fasttext-bin") and format not in ("auto", found):
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


def _cache_key(vocabulary: Vocabulary | None, asked: _Asked, *options: object) -> bytes:
    rows: object = None
    if vocabulary is not None:
        steps = [step if isinstance(step, str) else None for step in vocabulary.fallback]
        rows = [steps, list(vocabulary.rows), list(vocabulary.rows.values())]
        if None in steps:  # what a function makes of the words, as it cannot be told by its name
            rows += [sorted(map(repr, vocabulary.claims.items())), sorted(map(repr, vocabulary.folded.items()))]
    return json.dumps([rows, asked, *options]).encode()


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
    if findings.format == "fasttext-bin" and vocabulary is not None and SUBWORD in vocabulary.fallback:
        by_fallback[SUBWORD] = 0
    for rank, number in zip(*np.unique(entry.rank[known], return_counts=True), strict=True):
        by_fallback[SUBWORD if rank == SUBWORD_RANK else steps[rank]] += int(number)
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
        notes=tuple(findings.notes),
    )
