"""Interleaved timing, and the row that a benchmark reports."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison: what was measured, ours beside the peer's, and how it was shown that both give the same answer.

    `ours` and `peer` are in `unit` (lower is better unless the unit is a rate and `higher_is_better`).
    """

    what: str
    ours: float
    peer_name: str
    peer: float
    unit: str = "s"
    equality: str = "not comparable"
    target: str = ""
    higher_is_better: bool = False

    @property
    def ratio(self) -> float:
        """Ours over the peer's."""
        return self.ours / self.peer if self.peer else float("nan")


def median_seconds(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 9,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Time each candidate once a round, round after round, so that a busy moment hits all of them; return medians."""
    for _ in range(warmup):
        for run in candidates.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
