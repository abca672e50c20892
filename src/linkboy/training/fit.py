"""`fit`: the pieces put together around the loop."""

import contextlib
import os
import platform
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from linkboy.training import batches, processes, streams
from linkboy.training.averaging import EarlyStopping
from linkboy.training.checkpoint import Checkpointer, read_part
from linkboy.training.data import training_source
from linkboy.training.evaluation import Evaluator, Metrics
from linkboy.training.history import History
from linkboy.training.loop import GroupTotals, Loop
from linkboy.training.placement import placed
from linkboy.training.settings import Callback, Settings
from linkboy.training.signals import StopSignals
from linkboy.training.state import from_state, to_state


def fit(
    model: nn.Module,
    loss_fn: batches.Loss,
    optimizer: Optimizer,
    train_loader: Iterable[Any],
    *,
    val_loader: Iterable[Any] | None = None,
    metrics: Metrics | None = None,
    epochs: int = 1,
    max_steps: int | None = None,
    scheduler: LRScheduler | None = None,
    sample_weight: batches.SampleWeight | None = None,
    unpack: batches.Unpack | None = None,
    accumulate: int = 1,
    clip_grad_norm: float | None = None,
    precision: str = "fp32",
    ema: float | None = None,
    compile: bool = False,
    on_nan: str = "stop",
    early_stopping: EarlyStopping | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | os.PathLike[str] | Checkpointer | None = None,
    resume: str | os.PathLike[str] = "auto",
    log_every: int = 50,
    log: Sequence[str] = ("csv", "tensorboard"),
    seed: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> History:
    """Train a plain module with a plain optimizer on a plain loader, exactly, and resumably to the same bits.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from linkboy.training import fit
        >>> inputs = torch.randn(64, 3)
        >>> data = torch.utils.data.TensorDataset(inputs, inputs.sum(1, keepdim=True))
        >>> loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)
        >>> model = nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> history = fit(model, nn.MSELoss(reduction="none"), optimizer, loader, epochs=20, seed=0, progress=False)
        >>> history.rows[-1]["train_loss"] < 0.01
        True
    """
    settings = Settings(
        loss_fn=loss_fn, metrics=metrics or {}, epochs=epochs, max_steps=max_steps, scheduler=scheduler,
        sample_weight=sample_weight, unpack=unpack, accumulate=accumulate, clip_grad_norm=clip_grad_norm,
        precision=precision, ema=ema, compile=compile, on_nan=on_nan, early_stopping=early_stopping,
        callbacks=tuple(callbacks), resume=resume, log_every=log_every, log=tuple(log), seed=seed, progress=progress,
    )  # fmt: skip
    settings.check(model, optimizer, validated=val_loader is not None)
    processes.join()
    drawn = seed if seed is not None else processes.broadcast(int(torch.randint(2**31, ()).item()))
    with contextlib.ExitStack() as stack:
        placement = stack.enter_context(placed(model, optimizer, device=device, precision=precision, training=True))
        stack.enter_context(_left_as_found(model, placement.device))
        session = Session(settings, checkpoint, stack)
        found = session.find_checkpoint()
        session.seed = session.agree_on_seed(drawn)
        streams.seed_everything(streams.mix(session.seed, processes.process_index()), placement.device)
        signals = stack.enter_context(StopSignals())
        validation = None
        if val_loader is not None:
            validation = Evaluator(
                model, val_loader, settings.metrics, loss_fn=loss_fn, unpack=unpack, sample_weight=sample_weight,
                device=placement.device,
            )  # fmt: skip
        source = training_source(train_loader, session.seed)
        loop = Loop(settings, model, optimizer, placement, source, validation, signals)
        if found is not None:
            session.put_back(loop)
        loop.run(session)
        return session.finish(loop)


class Session:
    """The outside of a run: its checkpoints, logs and callbacks."""

    def __init__(
        self,
        settings: Settings,
        checkpoint: str | os.PathLike[str] | Checkpointer | None,
        stack: contextlib.ExitStack,
    ) -> None:
        self.settings = settings
        is_path = checkpoint is not None and not isinstance(checkpoint, Checkpointer)
        self.checkpointer = Checkpointer(checkpoint) if is_path else checkpoint  # type: ignore[arg-type]
        self.seed = 0
        self.resumed_from: Path | None = None
        self.last: Path | None = None
        self.notes: list[str] = []
        self._parts: tuple[dict[str, Any], dict[str, Any]] | None = None
        self._streams: dict[str, Any] | None = None
        self._saved_step = -1
        self._saved_at = time.monotonic()
        if self.checkpointer is not None:
            stack.enter_context(self.checkpointer.locked())

    def find_checkpoint(self) -> Path | None:
        """Choose the checkpoint to go on from, and read it."""
        path = self._chosen()
        if path is not None:
            reader = self.checkpointer or Checkpointer(path.parent)
            own = reader.load(path)
            self._parts = (own, own if "model" in own else read_part(path, 0))
            self.resumed_from = self.last = path
        return path

    def agree_on_seed(self, drawn: int) -> int:
        """A resumed run keeps its seed; another one given is an error."""
        if self._parts is None:
            return drawn
        saved = self._parts[0]["seed"]
        if self.settings.seed is not None and self.settings.seed != saved:
            raise ValueError(
                f"the checkpoint was made with seed={saved}, this run has seed={self.settings.seed}; they must agree"
            )
        return saved

    def put_back(self, loop: Loop) -> None:
        if self._parts is None:
            return
        own, shared = self._parts
        from_state(loop, own, shared)
        self._streams, self._parts = own["streams"], None
        self._saved_step = loop.at.step

    def save_due(self, step: int) -> bool:
        if self.checkpointer is None:
            return False
        steps, minutes = self.checkpointer.every_steps, self.checkpointer.every_minutes
        by_clock = minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes
        return by_clock or (steps is not None and step % steps == 0)

    def ready(self, loop: Loop) -> None:
        if self._streams is not None:
            streams.restore(self._streams, loop.placement.device)
            self._streams = None

    def stepped(self, loop: Loop, totals: GroupTotals) -> None:
        self._tell("step", loop)
        if totals.stop:
            loop.stopped = next(filter(None, processes.gather(loop.signals.received)))
        if totals.save or totals.stop:
            self.save(loop)

    def logged(self, loop: Loop, line: dict[str, Any]) -> None:
        self._tell("log", loop)

    def cut_short(self, loop: Loop) -> None:
        self.save(loop)

    def epoch_ended(self, loop: Loop, row: dict[str, Any]) -> None:
        self._tell("epoch", loop)
        keeper = self.checkpointer
        if keeper is not None and keeper.every_steps is None and keeper.every_minutes is None:
            self.save(loop)

    def save(self, loop: Loop) -> None:
        """Save the run as it stands, unless this very step is saved already."""
        if self.checkpointer is None or loop.at.step == self._saved_step:
            return
        loop.synchronise_buffers()
        loop.check_parameters()
        loop.signals.held = True
        try:
            self.last = self.checkpointer.save(
                to_state(loop, self.seed), loop.at.step, exact=not loop.source.reason, reason=loop.source.reason
            )
        finally:
            loop.signals.held = False
        self._saved_step, self._saved_at = loop.at.step, time.monotonic()
        self._tell("checkpoint", loop)

    def finish(self, loop: Loop) -> History:
        """Save the end, leave the right weights in the model, and say what was done."""
        if loop.stopped not in ("SIGINT", "SIGTERM"):
            self.save(loop)
            loop.check_parameters()
            if loop.average is not None:
                loop.average.use()
            if loop.best is not None:
                loop.best.restore()
        loop.synchronise_buffers()
        at, best = loop.at, loop.best
        return History(
            steps=at.step, epochs=at.epoch, skipped_steps=at.skipped, rows=tuple(at.rows), log=tuple(at.log),
            stopped=loop.stopped, best_epoch=best.epoch if best else None, best_value=best.value if best else None,
            seed=self.seed, processes=loop.world, device=str(loop.placement.device), precision=self.settings.precision,
            exact=not loop.source.reason, exact_reason=loop.source.reason,
            resumed_from=str(self.resumed_from) if self.resumed_from else None,
            checkpoint=str(self.last) if self.last else None, notes=tuple(self.notes), versions=_versions(),
        )  # fmt: skip

    def _chosen(self) -> Path | None:
        resume, keeper = self.settings.resume, self.checkpointer
        if resume not in ("auto", "never"):
            path = Path(resume)
            if path.name.startswith("step-") or not path.is_dir():
                return path
            latest = Checkpointer(path).latest()
            if latest is None:
                raise FileNotFoundError(f"resume must name a checkpoint or a directory of them, found none in {path}")
            return latest
        if keeper is None:
            return None
        there = processes.broadcast(keeper.paths())
        if resume == "never":
            if there:
                raise FileExistsError(
                    f'resume="never" but {keeper.directory} holds {there[-1].name}; use another directory or resume="auto"'
                )
            return None
        latest = keeper.latest()
        if there and latest is None:
            raise ValueError(
                f"no checkpoint in {keeper.directory} is whole: {keeper.verify(there[-1]).problem} in {there[-1].name}"
            )
        if latest is not None and latest != there[-1]:
            self.notes.append(
                f"{there[-1].name} is damaged ({keeper.verify(there[-1]).problem}); went on from {latest.name}"
            )
        return latest

    def _tell(self, event: str, loop: Loop) -> None:
        for callback in self.settings.callbacks:
            callback(event, loop)


@contextlib.contextmanager
def _left_as_found(model: nn.Module, device: torch.device) -> Any:
    """Put modes and random streams back to what they were, and leave no gradient behind."""
    modes = [(module, module.training) for module in model.modules()]
    before = streams.capture(device)
    try:
        yield
    finally:
        streams.restore(before, device)
        for module, training in modes:
            module.training = training


def _versions() -> dict[str, str]:
    names = ("torch", "accelerate", "linkboy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
