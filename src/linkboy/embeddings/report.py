"""What was found in a vectors file, and what was wrong with it."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from linkboy._report import Block, Report, format_count, format_percent

SHOWN = 8


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that was skipped.

    Args:
        line: its line in the file, from 1; its number among the rows where the file has no lines.
        word: its word, or what stands in its place.
        reason: what is wrong with it.
    """

    line: int
    word: str
    reason: str


@dataclasses.dataclass
class Findings:
    """What a reader notes while it goes through a file; part of the report, and kept with a cache."""

    format: str
    compression: str
    dim: int = 0
    rows: int = 0
    header: tuple[int, int] | None = None
    bad_row_count: int = 0
    bad_rows: list[BadRow] = dataclasses.field(default_factory=list)
    duplicate_count: int = 0
    duplicates: list[str] = dataclasses.field(default_factory=list)
    non_finite: int = 0
    undecodable: int = 0


@dataclasses.dataclass(frozen=True)
class EmbeddingReport(Report):
    """What `load_embeddings` found.

    Args:
        path: the file.
        format: what it holds: `"glove"`, `"word2vec-text"`, `"word2vec-bin"`, `"fasttext-vec"`, `"npz"`, `"npy"` or
            `"safetensors"`.
        compression: what it is packed in, or `"none"`.
        dim: numbers per word.
        rows: rows of the file, whether wanted or not.
        words: the word of each row of the matrix, `None` where the vocabulary has no word for it; not in `to_dict()`.
        known: `(rows,)` bool, the rows that come from the file, for `PretrainedEmbedding(freeze=...)`; not in `to_dict()`.
        found: how many words were found.
        missing: the words that were not.
        by_fallback: how many words were found in which form.
        coverage: share of the words that were found.
        text_coverage: the same with each word counted as often as `counts` says; `None` without them.
        header: count and dimension that the first line claims, or `None`.
        bad_row_count: rows skipped. With a vocabulary only rows of wanted words are looked at.
        bad_rows: the first thousand of them.
        duplicate_count: rows whose word had been there before.
        duplicates: the words of the first thousand of them.
        non_finite: rows read that hold nan or an infinity.
        undecodable: words read that are not UTF-8.
        cache: what happened to the cache, or `None`.

    Examples:
        >>> import tempfile, pathlib, linkboy as lb
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "vectors.txt"
        >>> _ = path.write_text("paris 1 2\\nrome 3\\n", "utf-8")
        >>> report = lb.load_embeddings(path, ["paris", "rome"])[1]
        >>> report.bad_rows
        (BadRow(line=2, word='rome', reason='1 numbers where 2 are due'),)
        >>> report.known.tolist()
        [True, False]
    """

    path: str
    format: str
    compression: str
    dim: int
    rows: int
    words: Sequence[str | None] = dataclasses.field(repr=False)
    known: Tensor = dataclasses.field(repr=False)
    found: int
    missing: Sequence[str]
    by_fallback: Mapping[str, int]
    coverage: float
    text_coverage: float | None
    header: tuple[int, int] | None
    bad_row_count: int
    bad_rows: Sequence[BadRow]
    duplicate_count: int
    duplicates: Sequence[str]
    non_finite: int
    undecodable: int
    cache: str | None

    @property
    def summary(self) -> str:
        """The coverage in one line."""
        forms = ", ".join(f"{format_count(number)} {form}" for form, number in self.by_fallback.items() if number)
        total = self.found + len(self.missing)
        line = f"found {format_count(self.found)} of {format_count(total)} words ({format_percent(self.coverage)})"
        of_text = (
            f"; {format_percent(self.text_coverage)} of the running text" if self.text_coverage is not None else ""
        )
        return line + (f": {forms}" if forms else "") + of_text

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, without the two that are as long as the matrix."""
        short = dataclasses.replace(self, words=(), known=torch.zeros(0, dtype=torch.bool))
        return {name: value for name, value in Report.to_dict(short).items() if name not in ("words", "known")}

    def _blocks(self) -> Iterator[Block]:
        packed = "" if self.compression == "none" else f" in {self.compression}"
        cached = "" if self.cache is None else f"; cache {self.cache}"
        yield "\n".join(
            [
                f"{self.path}: {self.format}{packed}, {format_count(self.rows)} rows of {format_count(self.dim)} numbers{cached}",
                self.summary,
                *self._remarks(),
            ]
        )

    def _remarks(self) -> Iterator[str]:
        if self.missing:
            yield _list(
                f"missing {format_count(len(self.missing))}", len(self.missing), [repr(w) for w in self.missing]
            )
        if self.header is not None and self.header != (self.rows, self.dim):
            count, dim = self.header
            yield f"the header claims {format_count(count)} rows of {format_count(dim)} numbers, which is not so"
        if self.bad_row_count:
            rows = [f"line {row.line} ({row.word!r}: {row.reason})" for row in self.bad_rows]
            yield _list(f"skipped {format_count(self.bad_row_count)} bad rows", self.bad_row_count, rows)
        if self.duplicate_count:
            words = [repr(word) for word in self.duplicates]
            yield _list(f"{format_count(self.duplicate_count)} rows of words met before", self.duplicate_count, words)
        if self.non_finite:
            yield f"{format_count(self.non_finite)} rows hold nan or infinity"
        if self.undecodable:
            yield f"{format_count(self.undecodable)} words are not UTF-8 and were decoded with U+FFFD"


def _list(what: str, count: int, items: Sequence[str]) -> str:
    return f"{what}: {', '.join(items[:SHOWN])}{', ...' if count > SHOWN else ''}"
