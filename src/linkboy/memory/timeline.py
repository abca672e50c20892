"""Memory over time, with a picture."""

import dataclasses
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from linkboy._checks import check_number, describe
from linkboy._files import atomic_write
from linkboy._report import Block, Report, Table, format_bytes, format_seconds
from linkboy.memory.process import read_devices, read_process_memory


@dataclasses.dataclass(frozen=True)
class MemoryTimeline(Report):
    """Memory at each moment that was sampled.

    Args:
        seconds: time since the start of each sample.
        resident: resident bytes of the process at each; `None` where the system does not say.
        allocated: bytes that tensors held on each device in use at each.
        marks: moments named with `mark`.
    """

    seconds: tuple[float, ...]
    resident: tuple[int | None, ...]
    allocated: dict[str, tuple[int, ...]]
    marks: tuple[tuple[float, str], ...]

    @property
    def peak_bytes(self) -> int | None:
        """Largest resident memory of the process among the samples."""
        return max((value for value in self.resident if value is not None), default=None)

    def save_picture(self, path: str | os.PathLike[str]) -> None:
        """Draw the timeline into a PNG file: process and devices in MiB over seconds, with the marks."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 4), layout="constrained")
        axes = figure.add_subplot()
        lines: dict[str, Iterable[int | None]] = {"process, resident": self.resident, **self.allocated}
        for name, values in lines.items():
            axes.plot(self.seconds, [float("nan") if v is None else v / 2**20 for v in values], label=name)
        for moment, name in self.marks:
            axes.axvline(moment, color="gray", linewidth=0.8, linestyle=":")
            axes.annotate(name, (moment, 1), xycoords=("data", "axes fraction"), rotation=90, va="top", fontsize=8)
        axes.set(xlabel="seconds", ylabel="MiB")
        axes.set_ylim(bottom=0)
        axes.legend()
        with atomic_write(Path(path)) as file:
            figure.savefig(file, format="png", dpi=120)

    def _blocks(self) -> Iterable[Block]:
        peak = self.peak_bytes
        yield (
            f"{len(self.seconds)} samples in {format_seconds(self.seconds[-1])}, "
            f"peak {'unknown' if peak is None else format_bytes(peak)} resident"
        )
        rows: list[tuple[Any, ...]] = []
        for moment, name in [(0.0, "start"), *self.marks, (self.seconds[-1], "end")]:
            index = min(range(len(self.seconds)), key=lambda i: abs(self.seconds[i] - moment))
            now = self.resident[index]
            devices = [format_bytes(values[index]) for values in self.allocated.values()]
            rows.append((format_seconds(moment), name, "unknown" if now is None else format_bytes(now), *devices))
        yield Table(("at", "", "resident", *self.allocated), rows)


class track_memory:  # noqa: N801  # used like a function: `with track_memory() as memory:`
    """Record the memory of the process and the devices while a block runs.

    A thread of its own takes the samples, so that peaks inside a call are seen; `mark` names moments. No device is
    initialised; one that the block begins to use joins the record with zeros before.

    Args:
        every_seconds: time between two samples.

    Raises:
        TypeError: `every_seconds` is no number.
        ValueError: `every_seconds` is not above 0.

    Examples:
        >>> import torch
        >>> with track_memory(every_seconds=0.005) as memory:
        ...     big = torch.ones(4_000_000)
        ...     memory.mark("made")
        ...     del big
        >>> timeline = memory.timeline()
        >>> [name for _, name in timeline.marks]
        ['made']

    `timeline.save_picture("memory.png")` draws it.
    """

    def __init__(self, *, every_seconds: float = 0.05) -> None:
        check_number("every_seconds", every_seconds, above=0)
        self._every = min(every_seconds, threading.TIMEOUT_MAX)  # beyond it the thread would end with an error
        self._samples: list[tuple[float, int | None, dict[str, int]]] = []
        self._marks: list[tuple[float, str]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise RuntimeError("this track_memory has already recorded a block; make a new one for each")
        self._start = time.perf_counter()
        self._sample()
        self._thread = threading.Thread(target=self._run, name="linkboy-track-memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._sample()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self._sample()

    def _sample(self) -> float:
        devices = {device.device: device.allocated for device in read_devices()}
        now = time.perf_counter() - self._start
        self._samples.append((now, read_process_memory().resident, devices))
        return now

    def mark(self, name: str) -> None:
        """Name this moment, and take a sample at it.

        Raises:
            RuntimeError: recording has not begun, or is over.
            TypeError: `name` is no string.
        """
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, got {describe(name)}")
        if self._thread is None or self._stop.is_set():
            raise RuntimeError(f"mark({name!r}) must be called inside the block: `with track_memory() as memory: ...`")
        self._marks.append((self._sample(), name))

    def timeline(self) -> MemoryTimeline:
        """Return what has been recorded so far.

        Raises:
            RuntimeError: nothing has been recorded yet.
        """
        if not self._samples:
            raise RuntimeError("timeline() needs a recorded block: `with track_memory() as memory: ...`")
        samples = sorted(self._samples, key=lambda sample: sample[0])  # two threads take them
        devices = sorted({name for _, _, allocated in samples for name in allocated})
        return MemoryTimeline(
            seconds=tuple(moment for moment, _, _ in samples),
            resident=tuple(resident for _, resident, _ in samples),
            allocated={name: tuple(allocated.get(name, 0) for _, _, allocated in samples) for name in devices},
            marks=tuple(self._marks),
        )
