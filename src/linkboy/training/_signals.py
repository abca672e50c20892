"""Ctrl-C and SIGTERM as a flag that the loop reads between two steps."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class StopSignals:
    """While the block runs, SIGINT and SIGTERM only set `received`; a second Ctrl-C interrupts unless `held`.

    Outside the main thread, where Python allows no handler, nothing is installed. A signal that was ignored stays ignored.
    Handlers that were there before are put back at the end, and one that the user wrote is then called.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self.held = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                previous = signal.getsignal(number)
                # None: installed by C code, which could not be put back.
                if previous not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)  # type: ignore[arg-type]  # as `signal.signal` returned it
        if error is None and self.received is not None:
            number = signal.Signals[self.received]
            previous = self._previous.get(number)
            if callable(previous) and previous is not signal.default_int_handler:
                previous(number, None)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT and not self.held:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
