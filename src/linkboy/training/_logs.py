"""The epochs' rows and the log lines on disk: a CSV file, and TensorBoard events where it is installed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from linkboy._files import atomic_write
from linkboy.training.report import rows_as_csv

LogKind = Literal["csv", "tensorboard"]
MISSING = "no TensorBoard log was written: tensorboard is not installed; pip install 'linkboy[tensorboard]'"


class Logs:
    """Writes next to the checkpoints: `history.csv`, whole after each epoch, and `tensorboard/`.

    Args:
        kinds: which of `"csv"` and `"tensorboard"` to write.
        directory: where to write; made where it is missing.
        step: steps done so far. TensorBoard drops what an earlier start, which was killed, logged after it.
    """

    def __init__(self, kinds: Sequence[str], directory: Path, *, step: int) -> None:
        self.notes: list[str] = []
        directory.mkdir(parents=True, exist_ok=True)
        self._csv = directory / "history.csv" if "csv" in kinds else None
        self._board: Any = None
        if "tensorboard" in kinds:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self.notes.append(MISSING)
            else:
                self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)

    def line(self, line: Mapping[str, Any]) -> None:
        """Take a log line."""
        if self._board is not None:
            for name, value in line.items():
                if name not in ("epoch", "step") and value is not None:
                    self._board.add_scalar(name, value, line["step"])

    def epoch(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take the rows up to the epoch that just ended."""
        if self._csv is not None:
            with atomic_write(self._csv) as file:
                file.write(rows_as_csv(rows).encode())
        if self._board is not None:
            for name, value in rows[-1].items():
                if name not in ("epoch", "step", "lr") and value is not None:
                    self._board.add_scalar(f"epoch/{name}", value, rows[-1]["step"])

    def close(self) -> None:
        """Finish what is being written."""
        if self._board is not None:
            self._board.close()
