"""What a reader notes while it goes through a vectors file."""

import dataclasses
from collections.abc import Iterable

from linkboy.embeddings.report import SkippedRow

_SHOWN = 3


@dataclasses.dataclass
class Findings:
    """What a reader notes while it goes through a file; it becomes part of the report and of a cache entry."""

    format: str
    compression: str
    dim: int = 0
    row_count: int = 0
    header: tuple[int, int] | None = None
    bad_row_count: int = 0
    bad_rows: list[SkippedRow] = dataclasses.field(default_factory=list)
    duplicate_count: int = 0
    duplicates: list[str] = dataclasses.field(default_factory=list)
    non_finite_count: int = 0
    undecodable: int = 0
    notes: list[str] = dataclasses.field(default_factory=list)
    first_words: list[str] = dataclasses.field(default_factory=list)  # of the file, for a message

    def see(self, words: Iterable[bytes | None], codec: str) -> None:
        """Record the first words of the file that are in the encoding."""
        shown = (word.decode(codec, "replace") for word in words if word is not None)
        self.first_words = [word for word in shown if "\ufffd" not in word][:_SHOWN]
