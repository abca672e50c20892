"""Texts that arrive over time, as through a pipe: what is there is answered, and nothing waits for what is not."""

import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

MOST_TEXTS = 4096  # of a batch
MOST_CHARACTERS = 1 << 20  # of a batch, so that long texts take no more memory than many short ones


def batches_of(texts: Iterable[str], batch_size: int = MOST_TEXTS) -> Iterator[list[str]]:
    """Cut texts into batches; where asking for the next text raises, what is left before it comes first.

    Examples:
        >>> list(batches_of(["a", "b", "c"], 2))
        [['a', 'b'], ['c']]
    """
    remaining = iter(texts)
    while True:
        batch: list[str] = []
        size = 0
        try:
            for text in islice(remaining, batch_size):
                batch.append(text)
                size += len(text) if isinstance(text, str) else 0
                if size >= MOST_CHARACTERS:
                    break
        except Exception:
            if batch:
                yield batch
            raise
        if not batch:
            return
        yield batch


class LiveReader:
    """Bytes of a stream as they come.

    Args:
        stream: where they come from. What is below its buffer is read, since a thread that waits inside a buffer would keep
            the interpreter from ending.
    """

    def __init__(self, stream: Any) -> None:
        self._read = getattr(stream, "raw", stream).read
        self.before_read: Callable[[], None] = lambda: None

    def read(self, size: int, /) -> bytes:
        """Return what is there, at most `size` bytes; wait where there is nothing, and return nothing at the end."""
        self.before_read()
        while (piece := self._read(size)) is None:  # another program has told the stream not to wait
            threading.Event().wait(0.01)
        return piece


class Arriving:
    """Batches of texts that are there, read by a thread: iterating gives all that wait, and waits where there are none.

    All that was read has become texts when the reader is asked for more, so this is when they are handed over.

    Args:
        texts: made of what the reader reads, and no further than needed.
        reader: where their bytes come from.
    """

    def __init__(self, texts: Iterable[str], reader: LiveReader) -> None:
        self._changed = threading.Condition()
        self._waiting: list[str] = []
        self._characters = 0
        self._error: BaseException | None = None
        self._ended = self._closed = False
        self._read: list[str] = []
        reader.before_read = self._hand_over
        # A daemon, since it may wait for input that never comes.
        threading.Thread(target=self._gather, args=(texts,), daemon=True).start()

    def _gather(self, texts: Iterable[str]) -> None:
        try:
            for text in texts:
                self._read.append(text)
                if len(self._read) == MOST_TEXTS or len(text) > MOST_CHARACTERS // MOST_TEXTS:
                    self._hand_over()
                if self._closed:
                    return
            self._hand_over()
        except BaseException as error:  # noqa: BLE001 (raised again where the batches are taken)
            self._hand_over()
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()

    def _hand_over(self) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or (len(self._waiting) < MOST_TEXTS and self._characters < MOST_CHARACTERS)
            )
            if not self._closed:
                self._waiting += self._read
            self._characters += sum(map(len, self._read))
            self._read = []
            self._changed.notify()

    def more(self) -> bool:
        """Return whether a batch can be had without waiting."""
        return bool(self._waiting)

    def __iter__(self) -> Iterator[list[str]]:
        try:
            while True:
                with self._changed:
                    # Ctrl-C may arrive in the thread that reads; this one sees it only when it wakes.
                    while not self._changed.wait_for(lambda: self._waiting or self._ended, timeout=0.2):
                        pass
                    batch, self._waiting, self._characters = self._waiting, [], 0
                    self._changed.notify()
                if not batch:
                    break
                yield from batches_of(batch)
            if self._error is not None:
                raise self._error
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify()
