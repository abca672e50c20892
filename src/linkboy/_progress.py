"""Progress of long work: a live bar on a terminal, a plain line now and then where there is none."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self, TextIO

from linkboy._report import format_count, format_seconds

_shown: ContextVar[bool] = ContextVar("shown", default=True)


@contextmanager
def progress_shown(shown: bool) -> Iterator[None]:
    """In the block, show no progress at all unless `shown`: what is not asked to print stays silent in all that it calls.

    Examples:
        >>> with progress_shown(False), Progress("reading") as progress:
        ...     progress.write("not seen")
    """
    before = _shown.set(shown and _shown.get())
    try:
        yield
    finally:
        _shown.reset(before)


class Progress:
    """Show how far a piece of work has come; a context manager.

    Args:
        description: what is being done, in a word or two.
        total: how many units there are; `None` where that is not known.
        unit: the name of one unit, plural.
        enabled: `False` shows nothing at all.
        every_seconds: least time between two plain lines; short work then prints none.
        stream: where to write; standard error by default, so that results can be piped.

    Examples:
        >>> with Progress("reading", total=3, enabled=False) as progress:
        ...     for _ in range(3):
        ...         progress.advance(1, loss="0.25")
        >>> progress.done
        3
    """

    def __init__(
        self,
        description: str,
        *,
        total: int | None = None,
        unit: str = "items",
        enabled: bool = True,
        every_seconds: float = 10.0,
        stream: TextIO | None = None,
    ) -> None:
        self.description, self.total, self.unit, self.done = description, total, unit, 0
        self._enabled, self._every = enabled and _shown.get(), every_seconds
        self._stream = stream if stream is not None else sys.stderr
        self._live = self._enabled and self._stream.isatty()
        self._started = self._last_shown = time.monotonic()
        self._bar: Any = None
        self._task: Any = None
        self._note = ""

    def __enter__(self) -> Self:
        self._started = self._last_shown = time.monotonic()
        if self._live:
            self._bar = self._make_bar()
            self._bar.start()
            self._task = self._bar.add_task(self.description, total=self.total, note="", rate="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._show()
            self._bar.stop()

    def advance(self, count: int = 1, **note: object) -> None:
        """Count `count` more units done; keyword arguments become a note such as `loss 0.25` beside the bar."""
        self.done += count
        if note:
            self._note = "  ".join(f"{name.replace('_', ' ')} {value}" for name, value in note.items())
        now = time.monotonic()
        # A live bar redraws itself; feeding it more than ten times a second only costs time.
        if self._enabled and now - self._last_shown >= (0.1 if self._live else self._every):
            self._last_shown = now
            self._show()

    def write(self, line: str) -> None:
        """Print a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        elif self._enabled:
            print(line, file=self._stream, flush=True)

    def _show(self) -> None:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        speed = self.done / elapsed
        rate = f"{format_count(round(speed)) if speed >= 10 else f'{speed:.2g}'} {self.unit}/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=self._note, rate=rate)
            return
        of_total = f"/{format_count(self.total)}" if self.total else ""
        left = (
            f"  {format_seconds(elapsed / self.done * (self.total - self.done))} left"
            if self.total and self.done
            else ""
        )
        self.write(f"{self.description} {format_count(self.done)}{of_total} {self.unit}  {self._note}  {rate}{left}")

    def _make_bar(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        return RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}  {task.fields[rate]}", markup=False),
            TimeRemainingColumn(),
            console=Console(file=self._stream),
            transient=True,
        )
