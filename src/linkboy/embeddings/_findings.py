"""What a reader notes while it goes through a vectors file."""

import dataclasses

from linkboy.embeddings.report import SkippedRow


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
