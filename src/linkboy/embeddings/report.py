"""What was found in a vectors file, and what was wrong with it."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from linkboy._report import Block, Report, and_more, format_count, format_percent, listed, plural

SHOWN = 8


@dataclasses.dataclass(frozen=True)
class SkippedRow:
    """A row that was skipped.

    Attributes:
        line: its line in the file, from 1; its number among the rows where the file has no lines.
        word: its word, or what stands in its place.
        reason: what is wrong with it.
    """

    line: int
    word: str
    reason: str


@dataclasses.dataclass(frozen=True)
class EmbeddingReport(Report):
    """What `load_embeddings` found.

    Attributes:
        path: the file.
        format: what it holds: `"glove"`, `"word2vec-text"`, `"word2vec-bin"`, `"fasttext-vec"`, `"fasttext-bin"`,
            `"npz"`, `"npy"` or `"safetensors"`.
        compression: what it is packed in, or `"none"`.
        dim: numbers per word.
        row_count: rows of the file, whether wanted or not.
        words: the word of each row of the matrix, `None` where the vocabulary has no word for it; not in `to_dict()`.
        known: `(len(words),)` bool, the rows that come from the file, for `PretrainedEmbedding(freeze=...)`; not in `to_dict()`.
        found: how many words were found.
        missing: the words that were not.
        by_fallback: how many words were found in which form.
        coverage: share of the words that were found.
        text_coverage: the same with each word counted as often as `counts` says; `None` without them.
        header: count and dimension that the first line claims, or `None`.
        bad_row_count: rows skipped. With a vocabulary only rows of wanted words are looked at.
        bad_rows: the first thousand of them.
        duplicate_count: rows whose word is in an earlier row too.
        duplicates: the words of the first thousand of them.
        non_finite_count: rows read that hold nan or an infinity.
        undecodable: words read that are not in the encoding of the file.
        cache: whether the result was read from the cache or written to it; `None` without a cache.
        notes: what was taken for granted of the file: separators, columns left out, weights applied, a likelier encoding.

    Examples:
        >>> import tempfile, pathlib, linkboy as lb
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "vectors.txt"
        >>> _ = path.write_text("paris 1 2\\nrome 3\\n", "utf-8")
        >>> report = lb.load_embeddings(path, ["paris", "rome"], on_bad_row="skip")[1]
        >>> report.bad_rows
        (SkippedRow(line=2, word='rome', reason='expected 2 numbers, got 1'),)
        >>> report.known.tolist()
        [True, False]
    """

    path: str
    format: str
    compression: str
    dim: int
    row_count: int
    words: Sequence[str | None] = dataclasses.field(repr=False)
    known: Tensor = dataclasses.field(repr=False)
    found: int
    missing: tuple[str, ...]
    by_fallback: Mapping[str, int]
    coverage: float
    text_coverage: float | None
    header: tuple[int, int] | None
    bad_row_count: int
    bad_rows: tuple[SkippedRow, ...]
    duplicate_count: int
    duplicates: tuple[str, ...]
    non_finite_count: int
    undecodable: int
    cache: str | None
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The coverage in one line."""
        forms = ", ".join(f"{format_count(number)} {form}" for form, number in self.by_fallback.items() if number)
        total = self.found + len(self.missing)
        line = f"found {format_count(self.found)} of {plural(total, 'word')} ({format_percent(self.coverage)})"
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
                f"{self.path}: {self.format}{packed}, {plural(self.row_count, 'row')} of {plural(self.dim, 'number')}{cached}",
                self.summary,
                *self._remarks(),
            ]
        )

    def _remarks(self) -> Iterator[str]:
        if self.missing:
            yield f"missing {format_count(len(self.missing))}: {listed(map(repr, self.missing), SHOWN)}"
        if self.header is not None and self.header != (self.row_count, self.dim):
            count, dim = self.header
            yield f"the header claims {plural(count, 'row')} of {plural(dim, 'number')}, which is not so"
        if self.bad_row_count:
            rows = (f"line {row.line} ({row.word!r}: {row.reason})" for row in self.bad_rows)
            yield f"skipped {plural(self.bad_row_count, 'bad row')}: {_some(rows, self.bad_row_count)}"
        if self.duplicate_count:
            words = map(repr, self.duplicates)
            yield f"{plural(self.duplicate_count, 'row')} of words met before: {_some(words, self.duplicate_count)}"
        if self.non_finite_count:
            yield f"{plural(self.non_finite_count, 'row')} with nan or infinity"
        if self.undecodable:
            yield f"{plural(self.undecodable, 'word')} not in UTF-8, decoded with U+FFFD"
        yield from self.notes


def _some(items: Iterable[str], count: int) -> str:
    # Of many there are more than the thousand that are kept.
    return ", ".join(itertools.islice(items, SHOWN)) + and_more(count, SHOWN)
