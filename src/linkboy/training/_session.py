"""What surrounds the loop: checkpoints, logs and callbacks."""

import contextlib
import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from linkboy import _random
from linkboy._progress import Progress
from linkboy._report import plural
from linkboy.training import _processes
from linkboy.training._checkpoint import Checkpointer, is_checkpoint_name, read_part, step_of
from linkboy.training._early_stopping import direction_note
from linkboy.training._exactness import Unsaved
from linkboy.training._logs import Logs
from linkboy.training._loop import PAUSED, GroupTotals, Loop
from linkboy.training._recipe import changes, joined, recipe_of
from linkboy.training._schedules import check_reach, reach_note
from linkboy.training._settings import Settings
from linkboy.training._sources import IterableSource, MapSource, fingerprint
from linkboy.training._state import check_can_be_saved, from_state, reasons, to_state
from linkboy.training.report import History


class TrainingState:
    """What a callback sees: the run after a step, with final numbers, and a way to end it."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def __repr__(self) -> str:
        return f"<TrainingState after {plural(self.step, 'step')}, {plural(self.epoch, 'epoch')} finished>"

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
        self.reasons: list[str] = []
        self.recipe: dict[str, Any] = {}
        self._unsaved = Unsaved({}, ())
        self._parts: tuple[dict[str, Any], dict[str, Any]] | None = None
        self._streams: dict[str, Any] | None = None
        self._logs: Logs | None = None
        self._saved_step = self._began = -1
        self._saved_at = time.monotonic()
        if self.checkpointer is not None:
            stack.enter_context(self.checkpointer.locked())

    def find_checkpoint(self) -> None:
        """Choose the checkpoint to go on from, and read it."""
        path = self._chosen()
        if path is not None:
            reader = self.checkpointer or Checkpointer(path.parent)
            report, world = reader.verify(path), _processes.process_count()
            if report.ok and report.process_count != world:
                wrote, read = (plural(n, "process", "processes") for n in (report.process_count, world))
                raise ValueError(
                    f"{path} was saved by {wrote}, and this run has {read}: start as many, or begin another run from its "
                    f"weights, model.load_state_dict(Checkpointer.weights({str(path)!r})), in another directory"
                )
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
        """Restore a resumed run, say what it was asked otherwise, and open the logs."""
        if self.checkpointer is not None:
            check_can_be_saved(loop)
        if self.settings.scheduler is not None:
            self._check_schedule(self.settings.scheduler, loop)
        asked = recipe_of(self.settings, loop.optimizer)
        asked["data"] = fingerprint(loop.source) if self.checkpointer is not None or self._parts is not None else None
        then: dict[str, Any] | None = None
        if self._parts is not None:
            own, shared = self._parts
            from_state(loop, own, shared)
            self.reasons = reasons(loop, own)
            self._streams, self._parts, then = own["streams"], None, own.get("recipe")
            self._saved_step = self._began = loop.at.step
            self.notes += changes(then or {}, asked, loop.at.step)
        self.notes += self._directions()
        if isinstance(loop.source, IterableSource) and loop.world > 1:
            self.notes.append(
                f"each of the {loop.world} processes reads train_loader for itself, as it has no indices: unless it gives each "
                "process its own part, by process_index(), every sample is trained on that many times"
            )
        self.recipe = joined(then, asked)
        self._unsaved = Unsaved(_roots(loop), _saved(loop))
        self._say_notes(loop, self.notes)
        loop.last_checkpoint = self.last
        if self.checkpointer is not None and self.settings.log and _processes.is_main_process():
            self._logs = Logs(self.settings.log, self.checkpointer.directory, step=loop.at.step)
            self.stack.callback(self._logs.close)
        self.notes += _processes.broadcast(self._logs.notes if self._logs is not None else [])

    def _directions(self) -> list[str]:
        """Return a note for each figure of which the wrong end seems to be taken for the best."""
        rule, keeper = self.settings.early_stopping, self.checkpointer
        given = [] if rule is None else [(rule.metric, rule.mode, "early_stopping")]
        if keeper is not None and keeper.keep_best is not None:
            given.append((keeper.keep_best, keeper.best_mode, "keep_best"))
        return [note for each in given if (note := direction_note(*each)) is not None]

    def _check_schedule(self, scheduler: LRScheduler, loop: Loop) -> None:
        """Refuse a schedule that ends before the run, and note one that was made for epochs."""
        steps = loop.steps()
        check_reach(scheduler, scheduler.state_dict() if self._parts is None else self._parts[1]["scheduler"], steps)
        if self._parts is None:
            note = reach_note(scheduler, self.settings.last_epoch, steps, loop.steps_per_epoch())
            self.notes += [] if note is None else [note]

    def why_not_exact(self, loop: Loop) -> str:
        """Return why a run that is resumed from here may not be bit-identical, or an empty string."""
        known = [loop.source.reason, *self.reasons]
        if not any(known) and (reason := self._state_elsewhere(loop)):
            self.reasons.append(reason)
        found = next(filter(None, _processes.gather(next(filter(None, [loop.source.reason, *self.reasons]), ""))), "")
        if found and not loop.source.reason and found not in self.reasons:
            self.reasons.append(found)  # that of another process
        return found

    def _state_elsewhere(self, loop: Loop) -> str:
        if loop.source.in_workers and (path := self._unsaved.generators("the data set")):
            return f"the order is the same, but {path} is a random generator of its own, which no checkpoint holds"
        if not (path := self._unsaved.changed()):
            return ""
        same = "order is" if path.startswith(("the data set", "collate_fn")) else "samples are"
        return (
            f"the {same} the same, but {path} changed during the run, and no checkpoint holds it; an object with state_dict and "
            "load_state_dict is saved where it is passed as state="
        )

    def _say_notes(self, loop: Loop, notes: Sequence[str]) -> None:
        """Write notes where the progress is shown: a run of hours should not end before they are read."""
        if self.settings.progress and loop.main:
            for note in notes:
                Progress("").write(f"note: {note}")

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
        if self.checkpointer is not None and self._saved_step == loop.at.step:
            self.checkpointer.see(loop.at.step, loop.at.rows[-1])
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
        reason = self.why_not_exact(loop)
        state, frozen = to_state(loop, self.seed)
        state |= {"recipe": self.recipe, "reasons": self.reasons}
        loop.signals.held = True
        try:
            self.last = self.checkpointer.save(
                state, loop.at.step, exact=not reason, exact_reason=reason, frozen=frozen
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
        loop.examination.end()
        at, best, reason = loop.at, loop.best, self.why_not_exact(loop)
        if self.resumed_from is not None and at.step == self._began:
            self.notes.append(f"nothing was trained: {self.resumed_from} is the end of the run that this call asks for")
            self._say_notes(loop, self.notes[-1:])
        most, epochs = self.settings.max_steps, self.settings.last_epoch
        if most is not None and epochs is not None and loop.stopped is None and at.step < most:
            self.notes.append(f"max_steps={most} was not reached: epochs={epochs} have {plural(at.step, 'step')}")
        return History(
            steps=at.step, epochs=at.epoch, skipped_steps=at.skipped, rows=tuple(at.rows), log=tuple(at.log),
            stopped=loop.stopped, best_epoch=best.epoch if best else None, best_value=best.value if best else None,
            seed=self.seed, process_count=loop.world, device=str(loop.placement.device), precision=loop.placement.precision,
            exact=not reason, exact_reason=reason,
            resumed_from=str(self.resumed_from) if self.resumed_from else None,
            checkpoint=str(self.last) if self.last else None, notes=tuple(self.notes), findings=tuple(loop.examination.findings),
            versions=_versions(),
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


def _roots(loop: Loop) -> dict[str, Any]:
    """Return the caller's objects that take part in the training, by the names that a message has for them."""
    settings, loader = loop.settings, loop.source.loader
    roots: dict[str, Any] = {f"callbacks[{place}]": callback for place, callback in enumerate(settings.callbacks)}
    roots |= {name: getattr(settings, name) for name in ("loss_fn", "unpack", "sample_weight")}
    if isinstance(loop.source, MapSource):
        roots |= {"the data set": loader.dataset, "collate_fn": loader.collate_fn}  # type: ignore[attr-defined]
    if not type(loop.optimizer).__module__.startswith(("torch.", "accelerate.")):
        roots["optimizer"] = loop.optimizer
    return {**roots, "model": loop.model}


def _saved(loop: Loop) -> list[Any]:
    """Return the objects whose state a checkpoint holds, and those that have none."""
    settings = loop.settings
    modules = [module for module in (loop.model, settings.loss_fn) if isinstance(module, nn.Module)]
    tensors = [t for module in modules for t in (*module.parameters(), *_persistent(module))]
    optimizer = [loop.optimizer.param_groups, loop.optimizer.state, *loop.parameters]
    others = [loop, *optimizer, settings.scheduler, *settings.state.values(), loop.source.loader]
    return [thing for thing in (*tensors, *others, *settings.metrics.values()) if thing is not None]


def _persistent(model: nn.Module) -> list[Tensor | None]:
    return [
        buffer
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if name not in module._non_persistent_buffers_set
    ]


def _versions() -> dict[str, str]:
    names = ("torch", "accelerate", "linkboy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
