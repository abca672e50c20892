"""`watch_training`: watch a loop of one's own, in a notebook or a test."""

from collections.abc import Iterable
from types import TracebackType

from linkboy._checks import check_number
from linkboy._report import plural
from linkboy.doctor._finish import check_words, finish
from linkboy.doctor._watcher import Watcher
from linkboy.doctor.report import TrainingCheck


class watch_training:  # noqa: N801 - used like a function
    """Watch the training that a block runs, and say what silently goes wrong in it.

    The loop is the user's own, and nothing is put back. Weights, random numbers and printed output are those of the
    loop without the watch; nothing is read of the source. Worker processes and other threads see plain torch.

    Args:
        steps: optimizer steps to watch; the block goes on after them unwatched. `None` watches all of the block.
        ignore: words of findings that are left out, such as `"same-batch"`.

    Raises:
        RuntimeError: a training is watched already.
        ValueError: a word is not one of the doctor's.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with watch_training() as watch:
        ...     for _ in range(8):
        ...         loss = nn.functional.cross_entropy(model(torch.randn(16, 4)), torch.randint(0, 3, (16,)))
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...         optimizer.step()
        >>> watch.report().findings[0].word
        'double-softmax'
    """

    def __init__(self, steps: int | None = 60, *, ignore: Iterable[str] = ()) -> None:
        if steps is not None:
            check_number("steps", steps, minimum=1, integer=True)
        self._ignore = check_words("ignore", ignore)
        self._watcher = Watcher()
        self._steps = steps
        self._report: TrainingCheck | None = None

    def __enter__(self) -> "watch_training":
        self._watcher.start()
        if self._steps is not None:
            self._watcher.pause_after = self._steps
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        watcher = self._watcher
        watcher.facts.ended = error is None and not watcher.paused
        watcher.stop()
        notes = () if error is None else (f"the block ended by {type(error).__name__}: {error}",)
        self._report = finish(watcher, source="the block", ignore=self._ignore, notes=notes)

    def __repr__(self) -> str:
        if self._report is not None:
            return f"<watch_training: {self._report.summary}; report() has the findings>"
        return f"<watch_training: {plural(self._watcher.record.steps, 'step')} watched, and the block has not ended>"

    def report(self) -> TrainingCheck:
        """Return what was found, once the block has ended.

        Returns:
            A `TrainingCheck`.

        Raises:
            RuntimeError: the block has not ended.
        """
        if self._report is None:
            raise RuntimeError("the report is made when the block ends; ask for it after the with statement")
        return self._report
