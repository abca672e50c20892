"""What surrounds the loop: checkpoints, logs and callbacks."""

import contextlib
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from linkboy import _random
from linkboy.training import _processes
from linkboy.training._checkpoint import Checkpointer, is_checkpoint_name, read_part, step_of
from linkboy.training._logs import Logs
from linkboy.training._loop import PAUSED, GroupTotals, Loop
from linkboy.training._settings import Settings
from linkboy.training._state import from_state, to_state
from linkboy.training.report import History


class TrainingState:
    """What a callback sees: the run after a step, with final numbers, and a way to end it."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    @property
    def model(self) -> nn.Module:
        """The plain module that trains."""
        return self._loop.model

    @property
    def optimizer(self) -> Optimizer:
        """Its optimizer; a change of `param_groups` counts from the next step."""
        return self._loop.optimizer

    @property
    def step(self) -> int:
        """Number of steps done."""
        return self._loop.at.step

    @property
    def epoch(self) -> int:
        """Number of epochs finished."""
        return self._loop.at.epoch

    @property
    def rows(self) -> tuple[dict[str, Any], ...]:
        """One dict per finished epoch, as in `History.rows`."""
        return tuple(self._loop.at.rows)

    @property
    def log(self) -> tuple[dict[str, Any], ...]:
        """One dict per log line, as in `History.log`."""
        return tuple(self._loop.at.log)

    @property
    def checkpoint(self) -> Path | None:
        """The last checkpoint."""
        return self._loop.last_checkpoint

    def stop(self) -> None:
        """End the run after this step or epoch, as if it had been asked for no more; on all processes alike."""
        self._loop.stopped = self._loop.stopped or "callback"


class Session:
    """What surrounds the loop: checkpoints, logs and callbacks."""

    def __init__(
        self,
        settings: Settings,
        checkpoint: str | os.PathLike[str] | Checkpointer | None,
        stack: contextlib.ExitStack,
    ) -> None:
        self.settings, self.stack = settings, stack
        if checkpoint is None or isinstance(checkpoint, Checkpointer):
            self.checkpointer = checkpoint
        else:
            self.checkpointer = Checkpointer(checkpoint)
        self.seed = 0
        self.resumed_from: Path | None = None
        self.last: Path | None = None
        self.notes: list[str] = []
        self._parts: tuple[dict[str, Any], dict[str, Any]] | None = None
        self._streams: dict[str, Any] | None = None
        self._logs: Logs | None = None
        self._saved_step = -1
        self._saved_at = time.monotonic()
        if self.checkpointer is not None:
            stack.enter_context(self.checkpointer.locked())

    def find_checkpoint(self) -> None:
        """Choose the checkpoint to go on from, and read it."""
        path = self._chosen()
        if path is not None:
            reader = self.checkpointer or Checkpointer(path.parent)
            own = reader.load(path)
            self._parts = (own, own if "model" in own else read_part(path, 0))
            self.resumed_from = self.last = path

    def settle_seed(self, drawn: int) -> None:
        """Take the seed given or drawn; a resumed run keeps its own, and another one given is an error."""
        self.seed = drawn if self._parts is None else self._parts[0]["seed"]
        if self.settings.seed not in (None, self.seed):
            raise ValueError(
                f"the checkpoint was made with seed={self.seed}, this run has seed={self.settings.seed}; they must agree"
            )

    def begin(self, loop: Loop) -> None:
        """Restore a resumed run, and open the logs."""
        if self._parts is not None:
            own, shared = self._parts
            from_state(loop, own, shared)
            self._streams, self._parts = own["streams"], None
            self._saved_step = loop.at.step
        loop.last_checkpoint = self.last
        if self.checkpointer is not None and self.settings.log and _processes.is_main_process():
            self._logs = Logs(self.settings.log, self.checkpointer.directory, step=loop.at.step)
            self.stack.callback(self._logs.close)
        self.notes += _processes.broadcast(self._logs.notes if self._logs is not None else [])

    def save_wanted(self, step: int) -> bool:
        """Return whether a checkpoint is wanted after this step."""
        if self.checkpointer is None:
            return False
        steps, minutes = self.checkpointer.every_steps, self.checkpointer.every_minutes
        by_clock = minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes
        return by_clock or (steps is not None and step % steps == 0)

    def ready(self, loop: Loop) -> None:
        """Restore the random streams of a resumed run, now that nothing else will draw from them."""
        if self._streams is not None:
            _random.restore(self._streams, loop.placement.device)
            self._streams = None

    def stepped(self, loop: Loop, totals: GroupTotals) -> None:
        """Call the callbacks, stop at a signal that any process received, and save where that is wanted."""
        self._call_back("step", loop)
        if totals.stop:
            loop.stopped = self._signal(loop) or "max_minutes"
        if totals.save or totals.stop:
            self.save(loop)

    def logged(self, loop: Loop, line: dict[str, Any]) -> None:
        """Write a log line."""
        if self._logs is not None:
            self._logs.line(line)
        self._call_back("log", loop)

    def trained(self, loop: Loop, *, complete: bool) -> None:
        """Save after the last step of an epoch, where nothing else says when; and always where the run ends inside it."""
        keeper = self.checkpointer
        if not complete or (keeper is not None and keeper.every_steps is None and keeper.every_minutes is None):
            self.save(loop)

    def epoch_ended(self, loop: Loop) -> None:
        """Write the epoch's row."""
        if self._logs is not None:
            self._logs.epoch(loop.at.rows)
        self._call_back("epoch", loop)
        # A signal during validation is obeyed here; otherwise one in the last epoch would go by unseen.
        loop.stopped = self._signal(loop) or loop.stopped
        if loop.stopped:
            self.save(loop)

    def save(self, loop: Loop) -> None:
        """Save the run, unless this step is saved already."""
        if self.checkpointer is None or loop.at.step == self._saved_step:
            return
        loop.follow_optimizer()  # a callback may have changed it after the step
        loop.synchronise_buffers()
        loop.check_parameters()
        loop.signals.held = True
        try:
            self.last = self.checkpointer.save(
                to_state(loop, self.seed), loop.at.step, exact=not loop.source.reason, exact_reason=loop.source.reason
            )
        finally:
            loop.signals.held = False
        self._saved_step, self._saved_at = loop.at.step, time.monotonic()
        loop.last_checkpoint = self.last
        self._call_back("checkpoint", loop)

    def finish(self, loop: Loop) -> History:
        """Save the end, leave the right weights in the model, and return the history."""
        if loop.stopped not in PAUSED:
            self.save(loop)
            loop.check_parameters()
            if loop.average is not None:
                loop.average.use()
            if loop.best is not None:
                loop.best.restore()
        loop.synchronise_buffers()
        loop.leave_optimizer()
        at, best = loop.at, loop.best
        most, epochs = self.settings.max_steps, self.settings.last_epoch
        if most is not None and epochs is not None and loop.stopped is None and at.step < most:
            self.notes.append(f"max_steps={most} was not reached: epochs={epochs} have {at.step} steps")
        return History(
            steps=at.step, epochs=at.epoch, skipped_steps=at.skipped, rows=tuple(at.rows), log=tuple(at.log),
            stopped=loop.stopped, best_epoch=best.epoch if best else None, best_value=best.value if best else None,
            seed=self.seed, process_count=loop.world, device=str(loop.placement.device), precision=loop.placement.precision,
            exact=not loop.source.reason, exact_reason=loop.source.reason,
            resumed_from=str(self.resumed_from) if self.resumed_from else None,
            checkpoint=str(self.last) if self.last else None, notes=tuple(self.notes), versions=_versions(),
        )  # fmt: skip

    def _signal(self, loop: Loop) -> str | None:
        """The first signal that any process received."""
        return next(filter(None, _processes.gather(loop.signals.received)), None)

    def _chosen(self) -> Path | None:
        resume, keeper = self.settings.resume, self.checkpointer
        there = _processes.broadcast(keeper.paths()) if keeper is not None else []
        if resume not in ("auto", "never"):
            return self._named(Path(resume), there)
        if keeper is None or not there:
            return None
        if resume == "never":
            raise FileExistsError(
                f'resume="never" but {keeper.directory} holds {there[-1].name}; use another directory or resume="auto"'
            )
        latest = keeper.latest()
        if latest != there[-1]:
            problem = f"{there[-1].name} is damaged: {keeper.verify(there[-1]).notes[0]}"
            if latest is None:
                raise ValueError(f"no checkpoint in {keeper.directory} is whole; {problem}")
            self.notes.append(f"{problem}; went on from {latest.name}")
        return latest

    def _named(self, path: Path, there: list[Path]) -> Path:
        """Return the checkpoint that `resume` names, unless the run would come upon later ones in its own directory."""
        if not is_checkpoint_name(path.name):
            found = Checkpointer(path).latest()
            if found is None:
                raise FileNotFoundError(
                    f'resume must be "auto", "never", a checkpoint or a directory of them, found none in {path}'
                )
            path = found
        later = [other.name for other in there if step_of(other) > step_of(path)]
        if later:
            raise FileExistsError(
                f"resume names {path.name} but the checkpoint directory holds {later[-1]} already; use another directory"
            )
        return path

    def _call_back(self, event: str, loop: Loop) -> None:
        if self.settings.callbacks:
            state = TrainingState(loop)
            for callback in self.settings.callbacks:
                callback(event, state)


def _versions() -> dict[str, str]:
    names = ("torch", "accelerate", "linkboy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
