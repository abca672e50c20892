"""Memory over time."""

import threading
import time
from types import TracebackType
from typing import Self

from linkboy._checks import check_number, describe
from linkboy._report import plural
from linkboy.memory._process import read_devices, read_process_memory
from linkboy.memory.report import MemoryTimeline


class track_memory:  # noqa: N801  # used like a function: `with track_memory() as memory:`
    """Record the memory of the process and the devices while a block runs.

    A thread of its own takes the samples, so that peaks inside a call are seen; `mark` names moments. No device is
    initialised; one that the block begins to use is recorded with zeros until then.

    Args:
        every_seconds: time between two samples.

    Raises:
        TypeError: `every_seconds` is not a number.
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

    def __repr__(self) -> str:
        seen = (
            f"{plural(len(self._samples), 'sample')}; timeline() has them" if self._samples else "nothing recorded yet"
        )
        return f"<track_memory every {self._every:g} s: {seen}>"

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self._sample()

    def _sample(self) -> float:
        devices = {device.device: device.allocated_nbytes for device in read_devices()}
        now = time.perf_counter() - self._start
        self._samples.append((now, read_process_memory().resident_nbytes, devices))
        return now

    def mark(self, name: str) -> None:
        """Name this moment, and take a sample at it.

        Raises:
            RuntimeError: recording has not begun, or is over.
            TypeError: `name` is not a string.
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
