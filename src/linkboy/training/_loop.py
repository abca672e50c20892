"""The loop itself: groups of micro-batches, each one optimizer step whose gradient is that of the whole group.

The gradient of a step is that of `sum(w * l) / sum(w)` over every element of every micro-batch of the group on every process.
One micro-batch on one process is divided before the backward pass. Otherwise the division is deferred: the sums are
back-propagated undivided, the total weight is added up over micro-batches and processes, and the gradients are multiplied
once, before clipping. The number of micro-batches is never a divisor, and the number of processes does not matter.
"""

import contextlib
import dataclasses
import math
import operator
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from linkboy._progress import Progress
from linkboy.training import _batches, _gradients, _non_finite, _processes
from linkboy.training._early_stopping import BestEpoch
from linkboy.training._evaluate import Evaluator
from linkboy.training._findings import Examination
from linkboy.training._moving_average import MovingAverage
from linkboy.training._objective import Objective, rows_of
from linkboy.training._placement import Placement, same_state
from linkboy.training._settings import Settings, is_plateau
from linkboy.training._signals import StopSignals
from linkboy.training._sources import Batch, Source
from linkboy.training.report import epoch_line

NO_BATCH = "train_loader has no batch to train on"
PAUSED = ("SIGINT", "SIGTERM", "max_minutes")  # what stops a run that is to go on where it was


class Mean:
    """`sum(w * l) / sum(w)`; on a GPU the sum stays there until it is read."""

    def __init__(self) -> None:
        self.loss: Any = 0.0
        self.weight = 0.0

    def add(self, loss: Any, weight: float) -> None:
        """Add `sum(w * l)` of this process and `sum(w)` of all."""
        self.loss, self.weight = self.loss + loss, self.weight + weight

    def value(self) -> float:
        """The mean over all processes, each of which must ask; `nan` over nothing."""
        loss = _processes.add_up(float(self.loss))[0]
        return loss / self.weight if self.weight else math.nan


@dataclasses.dataclass
class Progression:
    """How far the run is, and the numbers it has collected: what a checkpoint keeps besides weights and streams."""

    epoch: int = 0
    group: int = 0
    step: int = 0
    skipped: int = 0
    examples: int = 0
    seconds: float = 0.0
    validated: int = 0
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    log: list[dict[str, Any]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class GroupTotals:
    """Sums over the micro-batches of a group; `loss` is that of this process, the rest that of all."""

    loss: Any = 0.0
    weight: float = 0.0
    bad: float = 0.0
    examples: float = 0.0
    stop: float = False
    save: float = False
    culprit: tuple[Any, list[Any]] | None = None  # inputs and samples of the first batch whose loss is not finite
    norm: Any = None  # of the gradient, before it is clipped, where it was asked for


class Observer(Protocol):
    """What the loop reports to, and what decides on checkpoints: the `Session`."""

    def save_wanted(self, step: int) -> bool: ...  # described in Session
    def ready(self, loop: "Loop") -> None: ...
    def stepped(self, loop: "Loop", totals: GroupTotals) -> None: ...
    def logged(self, loop: "Loop", line: dict[str, Any]) -> None: ...
    def trained(self, loop: "Loop", *, complete: bool) -> None: ...
    def epoch_ended(self, loop: "Loop") -> None: ...


class Loop:
    """Everything a run holds while it runs; `run` trains from where `at` is to the end or a stop."""

    def __init__(
        self,
        settings: Settings,
        optimizer: Optimizer,
        placement: Placement,
        source: Source,
        validation: Evaluator | None,
        signals: StopSignals,
    ) -> None:
        self.settings, self.model, self.optimizer = settings, placement.model, optimizer
        self.placement, self.source, self.validation, self.signals = placement, source, validation, signals
        if settings.compile:
            placement.compile()
        self.parameters: list[Tensor] = _parameters_of(optimizer)
        self._of_model = set(map(id, self.model.parameters()))
        self._unshared = [p for p in self.parameters if id(p) not in self._of_model]  # such as those of a loss
        self.world, self.main = _processes.process_count(), _processes.is_main_process()
        # Reading a value is free on a CPU; elsewhere it waits for the device, so it is done only on request.
        self.check_each = placement.device.type == "cpu" or settings.on_nan == "skip"
        self.objective = Objective(
            self.model, settings.loss_fn, settings.unpack, settings.sample_weight, by_model=settings.loss_fn is None
        )
        self.at = Progression()
        self.epoch_mean, self.window = Mean(), Mean()
        self.average = MovingAverage(self.parameters, settings.ema) if settings.ema is not None else None
        self.best = BestEpoch(settings.early_stopping, placement.model) if settings.early_stopping is not None else None
        self.order: list[Any] | None = None  # of the epoch a resumed run goes on in, where it cannot be drawn again
        self.last_checkpoint: Path | None = None
        self.stopped: str | None = None
        self.modes = Modes(self.model)
        self._deadline = math.inf if settings.max_minutes is None else time.monotonic() + 60 * settings.max_minutes
        self.examination = Examination(self.model, optimizer, settings.on_finding, sharded=placement.sharded)
        self._figures: tuple[int, dict[str, Any]] = -1, {}  # of the last validation, and its step
        self._first = True  # the step to come is the first of this start

    def steps_per_epoch(self) -> int | None:
        """Return how many steps an epoch most likely has, `None` where the loader does not say."""
        batches = self.source.length()
        return None if batches is None else -(-batches // self.settings.accumulate)

    def steps(self) -> int | None:
        """Return how many steps the whole run most likely has."""
        most, epochs, each = self.settings.max_steps, self.settings.last_epoch, self.steps_per_epoch()
        known = [most, None if epochs is None or each is None else epochs * each]
        return min((steps for steps in known if steps is not None), default=None)

    def run(self, observer: Observer) -> None:
        """Train until the totals are reached or something stops the run."""
        at = self.at
        self.optimizer.zero_grad()
        self._synchronise_unshared(self._unshared)
        self.modes.train()
        self.examination.begin(compiled=self.settings.compile)
        if self.best is not None and self.best.exhausted:
            self.stopped = "early stopping"
        while not self.stopped and at.epoch < self.settings.epochs and not (at.group == 0 and self.at_max_steps()):
            complete = self._run_epoch(observer)
            if self.stopped in PAUSED:
                return
            # Saved before the epoch's row is made: an error in the validation loses nothing, and a longer run goes on from
            # the middle of an epoch as if it had never been cut.
            observer.trained(self, complete=complete)
            self._close_epoch()
            if not complete:
                return
            at.epoch, at.group, at.examples, at.seconds = at.epoch + 1, 0, 0, 0.0
            self.epoch_mean = Mean()
            if self.best is not None and self.best.exhausted:
                self.stopped = self.stopped or "early stopping"
            observer.epoch_ended(self)

    def _run_epoch(self, observer: Observer) -> bool:
        """Train on what is left of the epoch; `False` when `max_steps` or a stop came before its end."""
        at, settings = self.at, self.settings
        count = self.source.begin(at.epoch, self.order)
        self.order = None
        if count == 0:
            raise ValueError(NO_BATCH)
        _switch(self.optimizer, "train")
        micro_batches = self.source.batches(at.group * settings.accumulate, count)  # type: ignore[arg-type]
        observer.ready(self)  # restores the streams of a resumed run, after the iterator was made
        started = time.perf_counter() - at.seconds
        with self._progress() as progress:
            progress.done = at.examples
            self._validate_on_the_way(observer)  # a resumed run may have been cut before it
            while not self.at_max_steps():
                totals = self._train_group(_group(micro_batches, settings.accumulate), observer)
                if totals is None:
                    break
                at.seconds = time.perf_counter() - started
                if at.step % settings.log_every == 0:
                    line = self._log(totals)
                    observer.logged(self, line)
                    progress.advance(int(totals.examples), loss=f"{line['loss']:.4g}")
                else:
                    progress.advance(int(totals.examples))
                observer.stepped(self, totals)
                if self.stopped:
                    break
                self._validate_on_the_way(observer)
        if at.group == 0 and not self.at_max_steps():  # an iterable, which says nothing of its length beforehand
            raise ValueError(NO_BATCH)
        at_end = count is not None and at.group * settings.accumulate >= count
        return at_end or not (self.stopped or self.at_max_steps())

    def _train_group(self, group: Iterator[tuple[Batch, bool]], observer: Observer) -> GroupTotals | None:
        """Make the step of a group of micro-batches; `None` where there is none left."""
        totals, at = GroupTotals(), self.at
        at_once, number = False, -1
        for number, (batch, last) in enumerate(group):
            if number == 0:
                self.follow_optimizer()
                at_once = self.world == 1 and last
            with self.placement.exchange(last=last):
                self._forward_backward(batch, number, totals, at_once=at_once)
        if number < 0:
            return None
        totals.stop = self.signals.received is not None or (self.main and time.monotonic() > self._deadline)
        totals.save = self.main and observer.save_wanted(at.step + 1)
        if self.world > 1:
            totals.weight, totals.bad, totals.examples, totals.stop, totals.save = _processes.add_up(
                totals.weight, totals.bad, totals.examples, totals.stop, totals.save
            )
        stepped = False
        if totals.bad:
            self._not_finite("the loss", totals.culprit)
        elif totals.weight:
            self.epoch_mean.add(totals.loss, totals.weight)
            self.window.add(totals.loss, totals.weight)
            stepped = self._update(None if at_once else self.world / totals.weight, totals)
            self._first = False
            if self.examination.open:
                self.examination.stepped()
        self.optimizer.zero_grad()
        at.skipped += not stepped
        at.step, at.group, at.examples = at.step + 1, at.group + 1, at.examples + int(totals.examples)
        return totals

    def _forward_backward(self, batch: Batch, number: int, totals: GroupTotals, *, at_once: bool) -> None:
        settings = self.settings
        inputs, target, weight = self.objective.split(batch.data)
        look = self.examination.open and number == 0 and not batch.filler
        with self.examination.calls() if look else _NOTHING:
            output = self.placement.call(inputs)
            losses = self.objective.losses(output, self.placement.move(target))
        rows = losses.shape[0] if settings.loss_fn is not None else rows_of(inputs)
        weight, counted = self.objective.counted(losses, target, weight, rows)
        if look:
            weighed = weight is not None or counted is not None
            self.examination.saw_losses(output, losses, target, weighed=weighed)
        factor, total = (0.0, 0.0) if batch.filler else _batches.weigh(losses, weight, counted)
        value: Any = 0.0 if batch.filler else _batches.weighted_sum(losses, factor)
        if self.check_each and not batch.filler:
            value = value.item()
            if not math.isfinite(value):
                totals.bad += 1
                totals.culprit = totals.culprit or (inputs, self._bad_samples(losses, number))
        totals.loss, totals.weight = totals.loss + value, totals.weight + total
        totals.examples += 0 if batch.filler else rows
        if at_once and (totals.bad or not total):
            return
        if self.placement.scaler is not None:
            losses = self.placement.scaler.scale(losses)
        _batches.backward(losses, factor, total if at_once else 1.0)

    def _update(self, factor: float | None, totals: GroupTotals) -> bool:
        """Normalise, clip and step; `False` when no step was made."""
        settings, scaler = self.settings, self.placement.scaler
        self._share_by_hand()
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        gradients = _gradients.gradients_of(self.parameters)
        if factor is not None:
            _gradients.multiply(gradients, factor)
        if settings.clip_grad_norm is not None:
            totals.norm = _gradients.clip(self.parameters, gradients, settings.clip_grad_norm)
        elif settings.on_nan == "skip" or self._first or (self.at.step + 1) % settings.log_every == 0:
            totals.norm = _gradients.norm_of(gradients)
        if totals.norm is not None and scaler is None and (self.check_each or self._first):
            totals.norm = totals.norm.item()
            if not math.isfinite(totals.norm):
                self._not_finite("the gradient", None)
                return False
        if scaler is None:
            self.optimizer.step()
        else:
            scale = scaler.get_scale()
            scaler.step(self.optimizer)
            scaler.update()
            if scaler.get_scale() < scale:
                return False
        if settings.scheduler is not None and not is_plateau(settings.scheduler):
            settings.scheduler.step()
        if self.average is not None:
            self.average.update()
        return True

    def follow_optimizer(self) -> None:
        """Take in the parameters that a callback gave to the optimizer, and those that it froze or unfroze."""
        now = _parameters_of(self.optimizer)
        if len(now) != len(self.parameters) or any(map(operator.is_not, now, self.parameters)):
            known = set(map(id, self.parameters))
            new = [parameter for parameter in now if id(parameter) not in known]
            for parameter in new:
                parameter.grad = None  # of steps in which the optimizer did not hold it
            self.parameters = now
            self._of_model = set(map(id, self.model.parameters()))
            self._unshared = [p for p in now if id(p) not in self._of_model]
            self._synchronise_unshared([p for p in new if id(p) not in self._of_model])
            if self.average is not None:
                self.average.follow(now)
        if self.world > 1:
            self.placement.share_gradients_again()

    def _synchronise_unshared(self, parameters: list[Tensor]) -> None:
        """Give every process the main one's parameters outside the model, which nothing else keeps equal."""
        if self.world > 1:
            for parameter in parameters:
                torch.distributed.broadcast(parameter.detach(), src=0)

    def _share_by_hand(self) -> None:
        """Average the gradients that no `DistributedDataParallel` shares: those of parameters outside the model, and in the
        first step all, which shows whether each parameter takes part in it."""
        of_model = self.placement.unshared
        if self.world == 1 or not (self._unshared or of_model):
            return
        by_hand = [*self._unshared, *of_model]
        some = _processes.add_up(*(float(p.grad is not None) for p in by_hand))
        for parameter, count in zip(by_hand, some, strict=True):
            if count:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                gradient = gradient.coalesce() if gradient.is_sparse else gradient.contiguous()
                torch.distributed.all_reduce(gradient)
                parameter.grad = gradient / self.world
        if of_model:
            self.placement.all_take_part(min(some[len(self._unshared) :]) == self.world)

    def _log(self, totals: GroupTotals) -> dict[str, Any]:
        loss = self._value(self.window)
        self.window = Mean()
        line = {"step": self.at.step, "epoch": self.at.epoch + 1, "loss": loss, "lr": self._rate()}
        line["grad_norm"] = None if totals.norm is None else float(totals.norm)
        self.at.log.append(line)
        return line

    def _close_epoch(self) -> dict[str, Any]:
        """Validate, and record the row of the epoch."""
        at = self.at
        row: dict[str, Any] = {
            "epoch": at.epoch + 1,
            "step": at.step,
            "train_loss": self._value(self.epoch_mean),
        }
        with self._evaluating():
            if self.validation is not None:
                row |= self._validate(self.validation)
            rate = at.examples / at.seconds if at.seconds else 0.0
            row |= {"lr": self._rate(), "seconds": at.seconds, "examples_per_second": rate}
            row = _processes.broadcast(row)  # the clock of the main process counts
            at.rows.append(row)
            if self.best is not None:
                self.best.see(row)
        if is_plateau(self.settings.scheduler):
            self.settings.scheduler.step(row[self.settings.watched(validated=self.validation is not None)])
        if self.settings.progress and self.main:
            Progress("").write(epoch_line(row, self.settings.last_epoch))
        return row

    def _validate(self, validation: Evaluator) -> dict[str, Any]:
        """Return loss and metrics of the whole validation."""
        if self._figures[0] != self.at.step:
            self.synchronise_buffers()
            evaluation = validation.run()
            self._figures = self.at.step, {"val_loss": evaluation.loss, **evaluation.metrics}
        self.at.validated = self.at.step
        return self._figures[1]

    def _validate_on_the_way(self, observer: Observer) -> None:
        """Validate inside an epoch where `validate_every` says so; the figures are a line of the log."""
        every, at = self.settings.validate_every, self.at
        if self.validation is None or every is None or at.step % every or at.validated == at.step:
            return
        with self._evaluating():
            figures = _processes.broadcast(self._validate(self.validation))
        line = {"step": at.step, "epoch": at.epoch + 1, **figures}
        at.log.append(line)
        observer.logged(self, line)

    def rehearse(self) -> None:
        """Validate on one batch before anything is trained: what is wrong there must not show after hours.

        A metric may need more rows than a batch has, such as one of each class: one that fails is tried on all.
        """
        if self.validation is not None and self.settings.sanity:
            with self._evaluating(), same_state(self.model):
                self.validation.rehearse()

    def leave_optimizer(self) -> None:
        """Leave the weights of an optimizer with modes as they are measured."""
        _switch(self.optimizer, "eval")

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Have the weights for measuring in the model: the running average, or those of an optimizer with modes."""
        _switch(self.optimizer, "eval")
        try:
            with self.average.in_model() if self.average is not None else _NOTHING:
                yield
        finally:
            _switch(self.optimizer, "train")

    def synchronise_buffers(self) -> None:
        """Give every process the buffers of the main one, as the next forward pass of several processes would."""
        if self.world > 1 and not self.placement.sharded:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def check_parameters(self) -> None:
        """Raise where a parameter is not finite, so that no checkpoint and no returned model ever holds one."""
        if name := next(filter(None, _processes.gather(_non_finite.non_finite_parameter(self.model))), None):
            raise FloatingPointError(f"the parameter {name!r} is not finite after step {self.at.step}")

    def _progress(self) -> Progress:
        order = getattr(self.source, "order", None)
        return Progress(
            f"epoch {self.at.epoch + 1}" + (f"/{total}" if (total := self.settings.last_epoch) else ""),
            total=None if order is None or getattr(self.source, "lists", False) else len(order),
            unit="examples",
            enabled=self.settings.progress and _processes.is_main_process(),
        )

    def at_max_steps(self) -> bool:
        """Return whether `max_steps` is reached."""
        return self.settings.max_steps is not None and self.at.step >= self.settings.max_steps

    def _rate(self) -> float | None:
        rate = self.optimizer.param_groups[0].get("lr")
        return None if rate is None else float(rate)  # Adafactor finds its own

    def _value(self, mean: Mean) -> float:
        value = mean.value()
        # On a GPU the losses are not looked at one by one: here at the latest a bad one shows.
        if mean.weight and not math.isfinite(value):
            raise FloatingPointError(f"the loss is not finite; it became so in one of the steps up to {self.at.step}")
        return value

    def _bad_samples(self, losses: Tensor, number: int) -> list[Any]:
        """Return dataset indices of the samples whose loss is not finite; all of the batch where rows are not samples."""
        indices = self.source.indices(self.at.group * self.settings.accumulate + number)
        if not isinstance(indices, list):
            return []
        if len(indices) != losses.shape[0]:
            return indices
        finite = losses.detach().isfinite().flatten(1).all(1) if losses.ndim > 1 else losses.detach().isfinite()
        return [index for index, good in zip(indices, finite.tolist(), strict=True) if not good]

    def _not_finite(self, what: str, culprit: tuple[Any, list[Any]] | None) -> None:
        """Raise on every process, or with `on_nan="skip"` let the group go by without a step."""
        if self.settings.on_nan == "skip":
            self.examination.skipped("gradient" if what == "the gradient" else "loss")
            return
        reason = ""
        if what == "the gradient":
            reason = _non_finite.non_finite_gradient(self.model)
        elif culprit is not None and not self.placement.sharded:
            reason = _non_finite.where_it_began(self.placement, culprit[0])
            if culprit[1]:
                shown = ", ".join(map(str, culprit[1][:8])) + (", ..." if len(culprit[1]) > 8 else "")
                reason += f", samples [{shown}]"
        reason = next(filter(None, _processes.gather(reason)), "")
        good = (
            f"the last good checkpoint is {self.last_checkpoint}" if self.last_checkpoint else "there is no checkpoint"
        )
        raise FloatingPointError(
            f"{what} is not finite in step {self.at.step + 1} of epoch {self.at.epoch + 1}; {reason}; {good}"
        )


_NOTHING = contextlib.nullcontext()


def _parameters_of(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _group(batches: Iterator[Batch], size: int) -> Iterator[tuple[Batch, bool]]:
    """Yield the next `size` batches, each with whether it is the last of them, and fetch one ahead to know; no more."""
    batch = next(batches, None)
    for place in range(1, size + 1):
        if batch is None:
            return
        ahead = next(batches, None) if place < size else None
        yield batch, ahead is None
        batch = ahead


def _switch(optimizer: Optimizer, mode: str) -> None:
    """Call `train` or `eval` of an optimizer that has both, as schedule-free ones do: their weights depend on it."""
    if callable(getattr(optimizer, "train", None)) and callable(switch := getattr(optimizer, mode, None)):
        switch()


class Modes:
    """The modules that were left in evaluation mode inside a model in training mode, such as a frozen BatchNorm."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.kept = [module for module in model.modules() if not module.training] if model.training else []

    def train(self) -> None:
        """Put the model into training mode, but not what was left out of it."""
        self.model.train()
        for module in self.kept:
            module.training = False

    def to_state(self) -> list[str]:
        """Return the names of the modules in evaluation mode."""
        return [name for name, module in self.model.named_modules() if not module.training]

    def from_state(self, names: list[str]) -> None:
        """Leave these modules in evaluation mode, as the run had them when it was saved."""
        modules = dict(self.model.named_modules())
        self.kept = [modules[name] for name in names if name in modules]
