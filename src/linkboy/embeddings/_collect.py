"""Where the rows of a file go: into the rows of a vocabulary, or into a matrix of their own."""

import sys
from collections.abc import Container, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linkboy._compiled import core
from linkboy.embeddings._findings import Findings
from linkboy.embeddings._source import Source
from linkboy.embeddings._vocabulary import Vocabulary
from linkboy.embeddings.report import SkippedRow

_LISTED = 1000  # bad rows and duplicates kept for the report: a hostile file may have any number
_BLOCK = 4096  # rows looked at together
NOT_FOUND = 255
SUBWORD_RANK = 254  # the row is made of the pieces of a word that a fastText model does not know


class Everything:
    """A set that holds every word."""

    def __contains__(self, word: object) -> bool:
        return True


class Collector:
    """Where readers hand over rows and report bad ones.

    Args:
        path: the file, for messages.
        findings: what the report will say.
        dtype: of the matrix, float32 or float64.
        duplicates: which row of a repeated word is used: `"first"`, `"last"`, or `"raise"`.
        on_bad_row: `"skip"` or `"raise"`.
    """

    codec = "utf-8"  # of the words in the file

    def __init__(self, path: Path, findings: Findings, *, dtype: Any, duplicates: str, on_bad_row: str) -> None:
        self.path, self.findings, self.dtype = path, findings, dtype
        self.duplicates, self.on_bad_row = duplicates, on_bad_row
        self.matrix: NDArray[Any] = np.zeros((0, 0), dtype)

    def bad(self, line: int, word: bytes, reason: str) -> None:
        """Record a row that cannot be read, or raise."""
        shown = word[:40].decode(self.codec, "replace")
        if self.on_bad_row == "raise":
            raise ValueError(
                f"{str(self.path)!r} line {line} (word {shown!r}): {reason}; fix the line or pass on_bad_row='skip'"
            )
        self.findings.bad_row_count += 1
        if len(self.findings.bad_rows) < _LISTED:
            self.findings.bad_rows.append(SkippedRow(line, shown, reason))

    def _duplicate(self, line: int, word: bytes) -> None:
        shown = word.decode(self.codec, "replace")
        if self.duplicates == "raise":
            raise ValueError(
                f"{str(self.path)!r} line {line}: the word {shown!r} is in an earlier line too; "
                "pass duplicates='first' or 'last' to choose one"
            )
        self.findings.duplicate_count += 1
        if len(self.findings.duplicates) < _LISTED:
            self.findings.duplicates.append(shown)

    def count_non_finite(self) -> None:
        """Record how many rows of the matrix, once it is whole, hold `nan` or an infinity."""
        with np.errstate(invalid="ignore", over="ignore"):
            if not np.isfinite(self.matrix.sum()):
                blocks = (self.matrix[first : first + _BLOCK] for first in range(0, len(self.matrix), _BLOCK))
                self.findings.non_finite_count = sum(int((~np.isfinite(block).all(1)).sum()) for block in blocks)


class VocabularyRows(Collector):
    """Keeps the rows of a vocabulary's words, the best form of each."""

    numbers_at_once = 50_000  # parsed together: few, since little else is held

    def __init__(self, vocabulary: Vocabulary, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.vocabulary, self._claims = vocabulary, vocabulary.claims
        self.rank = bytearray([NOT_FOUND]) * vocabulary.size
        self._seen: set[bytes] = set()

    @cached_property
    def wanted(self) -> Container[bytes]:
        """What holds the first parts of the words that are looked for; made for readers other than the core."""
        return self.vocabulary.wanted()

    def start(self, dim: int) -> None:
        """Make room, once the dimension is known."""
        self.findings.dim = dim
        self.matrix = np.zeros((self.vocabulary.size, dim), self.dtype)

    def wants(self, word: bytes) -> bool:
        """Return whether the whole word, and not only its first part, is looked for."""
        return word in self._claims or (self.vocabulary.folds and bool(self.vocabulary.claims_of(word)))

    def names(self, word: bytes) -> bool:
        """Return whether exactly this word was given, which settles where it ends."""
        return self.wants(word)

    def add(self, words: Sequence[bytes], values: NDArray[Any], lines: Sequence[int]) -> None:
        """Take rows in the order of the file; words that nobody asked for are skipped."""
        chosen: dict[int, int] = {}  # row of the matrix: row of `values`
        seen, ranks, size = self._seen, self.rank, self.vocabulary.size
        claim_of, claims_of, shared = self._claims.get, self.vocabulary.claims_of, self.vocabulary.shared
        takes_last, folds = self.duplicates == "last", self.vocabulary.folds
        for position, word in enumerate(words):
            if folds or word in shared:
                claims = claims_of(word)
            else:
                claim = claim_of(word)
                claims = () if claim is None else (claim,)
            if not claims:
                continue
            if word in seen:
                self._duplicate(lines[position], word)
                if self.duplicates == "first":
                    continue
            seen.add(word)
            for claimed in claims:
                rank, row = divmod(claimed, size)
                if rank < ranks[row] or (takes_last and rank == ranks[row]):
                    ranks[row] = rank
                    chosen[row] = position
        if chosen:
            taken = values[list(chosen.values())]
            with np.errstate(over="ignore"):  # beyond float32 is inf, as float32(float(token)) is
                self.matrix[list(chosen)] = taken


class AllRows(Collector):
    """Keeps every row, in the order of the file."""

    numbers_at_once = 400_000  # a call of polars costs time, and beside the matrix these are little
    wanted = Everything()

    def __init__(self, source: Source, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._source = source
        self.row_of: dict[bytes, int] = {}

    def start(self, dim: int) -> None:
        """Record the dimension; the room grows with the rows, whatever a header claims."""
        self.findings.dim = dim
        self.matrix = np.zeros((0, dim), self.dtype)

    def wants(self, word: bytes) -> bool:
        """Return `True`: any word is looked for."""
        return True

    def names(self, word: bytes) -> bool:
        """Return `False`: no word was given."""
        return False

    def add(self, words: Sequence[bytes], values: NDArray[Any], lines: Sequence[int]) -> None:
        """Take rows in the order of the file."""
        rows, kept = [], []
        for position, word in enumerate(words):
            row = self.row_of.get(word)
            if row is None:
                row = self.row_of[word] = len(self.row_of)
            else:
                self._duplicate(lines[position], word)
                if self.duplicates == "first":
                    continue
            rows.append(row)
            kept.append(position)
        self._make_room(len(self.row_of))
        taken = values if len(kept) == len(words) else values[kept]
        with np.errstate(over="ignore"):
            self.matrix[rows] = taken

    def finish(self) -> list[str]:
        """Give back the room that was not needed, and return the words."""
        self.matrix.resize((len(self.row_of), self.matrix.shape[1]), refcheck=False)
        words = []
        for word in self.row_of:
            try:
                words.append(word.decode(self.codec))
            except UnicodeDecodeError:
                self.findings.undecodable += 1
                words.append(word.decode(self.codec, "replace"))
        return words

    def _make_room(self, rows: int) -> None:
        room = len(self.matrix)
        if rows > room:
            # The share of the file read so far tells how many rows there will be, so that hardly any room is wasted.
            expected = int(rows / max(self._source.fraction(), 1e-3) * 1.01) + 1
            self.matrix.resize((max(rows, min(expected, 2 * rows)), self.matrix.shape[1]), refcheck=False)


def rows_of_core(collector: VocabularyRows | AllRows, dim: int, separator: bytes, line: int) -> Any:
    """Return the core's reader of rows from a line on.

    `None` where there is no core, or case does not count, of which the core knows nothing.
    """
    module = core()
    vocabulary = collector.vocabulary if isinstance(collector, VocabularyRows) else None
    if module is None or (vocabulary and vocabulary.folds) or sys.byteorder != "little":  # as binary files are
        return None
    words = vocabulary.looked_for() if vocabulary else None
    return module.Rows(words, dim, separator, collector.dtype == np.float64, line)
