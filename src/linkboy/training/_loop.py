"""The loop itself: groups of micro-batches, each one optimizer step whose gradient is that of the whole group.

The gradient of a step is that of `sum(w * l) / sum(w)` over every element of every micro-batch of the group on every process.
One micro-batch on one process is divided before the backward pass. Otherwise the division is deferred: the sums are
back-propagated undivided, the total weight is added up over micro-batches and processes, and the gradients are multiplied
once, before clipping. The number of micro-batches is never a divisor, and the number of processes does not matter.
"""

import contextlib
import dataclasses
import itertools
import math
import operator
import time
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from linkboy._progress import Progress
from linkboy.training import _batches, _non_finite, _processes
from linkboy.training._early_stopping import BestEpoch
from linkboy.training._evaluate import Evaluator
from linkboy.training._label_weights import LabelWeights
from linkboy.training._moving_average import MovingAverage
from linkboy.training._placement import Placement
from linkboy.training._settings import Settings
from linkboy.training._signals import StopSignals
from linkboy.training._sources import Batch, Source
from linkboy.training.report import epoch_line

NO_BATCH = "train_loader has no batch to train on"


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
        self.label_weights = LabelWeights(settings.loss_fn)
        self.at = Progression()
        self.epoch_mean, self.window = Mean(), Mean()
        self.average = MovingAverage(self.parameters, settings.ema) if settings.ema is not None else None
        self.best = BestEpoch(settings.early_stopping, placement.model) if settings.early_stopping is not None else None
        self.order: list[Any] | None = None  # of the epoch a resumed run goes on in, where it cannot be drawn again
        self.last_checkpoint: Path | None = None
        self.stopped: str | None = None

    def run(self, observer: Observer) -> None:
        """Train until the totals are reached or something stops the run."""
        at = self.at
        self.optimizer.zero_grad()
        self._synchronise_unshared(self._unshared)
        if self.best is not None and self.best.exhausted:
            self.stopped = "early stopping"
        while not self.stopped and at.epoch < self.settings.epochs and not (at.group == 0 and self._at_max_steps()):
            complete = self._run_epoch(observer)
            if self.stopped in ("SIGINT", "SIGTERM"):
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
        self.model.train()
        micro_batches = self.source.batches(at.group * settings.accumulate, count)  # type: ignore[arg-type]
        observer.ready(self)  # restores the streams of a resumed run, after the iterator was made
        started = time.perf_counter() - at.seconds
        with self._progress() as progress:
            progress.done = at.examples
            while not self._at_max_steps() and (group := list(itertools.islice(micro_batches, settings.accumulate))):
                totals = self._train_group(group, observer)
                at.seconds = time.perf_counter() - started
                if at.step % settings.log_every == 0:
                    line = self._log()
                    observer.logged(self, line)
                    progress.advance(int(totals.examples), loss=f"{line['loss']:.4g}")
                else:
                    progress.advance(int(totals.examples))
                observer.stepped(self, totals)
                if self.stopped:
                    break
        if at.group == 0 and not self._at_max_steps():  # an iterable, which says nothing of its length beforehand
            raise ValueError(NO_BATCH)
        at_end = count is not None and at.group * settings.accumulate >= count
        return at_end or not (self.stopped or self._at_max_steps())

    def _train_group(self, group: list[Batch], observer: Observer) -> GroupTotals:
        self.follow_optimizer()
        totals, at = GroupTotals(), self.at
        at_once = self.world == 1 and len(group) == 1
        for number, batch in enumerate(group):
            with self.placement.exchange(last=number == len(group) - 1):
                self._forward_backward(batch, number, totals, at_once=at_once)
        totals.stop = self.signals.received is not None
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
            stepped = self._update(None if at_once else self.world / totals.weight)
        self.optimizer.zero_grad()
        at.skipped += not stepped
        at.step, at.group, at.examples = at.step + 1, at.group + 1, at.examples + int(totals.examples)
        return totals

    def _forward_backward(self, batch: Batch, number: int, totals: GroupTotals, *, at_once: bool) -> None:
        settings = self.settings
        inputs, target, weight = _batches.split(batch.data, settings.unpack, settings.sample_weight)
        output = self.placement.call(inputs)
        losses = settings.loss_fn(output, self.placement.move(target))
        _batches.check_losses(losses)
        counted = self.label_weights(target, weighted=weight is not None)
        factor, total = (0.0, 0.0) if batch.filler else _batches.weigh(losses, weight, counted)
        value: Any = 0.0 if batch.filler else _batches.weighted_sum(losses, factor)
        if self.check_each and not batch.filler:
            value = value.item()
            if not math.isfinite(value):
                totals.bad += 1
                totals.culprit = totals.culprit or (inputs, self._bad_samples(losses, number))
        totals.loss, totals.weight = totals.loss + value, totals.weight + total
        totals.examples += 0 if batch.filler else losses.shape[0]
        if at_once and (totals.bad or not total):
            return
        if self.placement.scaler is not None:
            losses = self.placement.scaler.scale(losses)
        _batches.backward(losses, factor, total if at_once else 1.0)

    def _update(self, factor: float | None) -> bool:
        """Normalise, clip and step; `False` when no step was made."""
        settings, scaler = self.settings, self.placement.scaler
        self._share_unshared()
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        if factor is not None:
            _multiply([p.grad for p in self.parameters if p.grad is not None], factor)
        if settings.clip_grad_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, settings.clip_grad_norm)
            if self.check_each and scaler is None and not math.isfinite(norm.item()):
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
        if settings.scheduler is not None:
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

    def _share_unshared(self) -> None:
        """Average the gradients of parameters outside the model over the processes, as is done for those of the model."""
        if self.world == 1 or not self._unshared:
            return
        some = _processes.add_up(*(float(p.grad is not None) for p in self._unshared))
        for parameter, count in zip(self._unshared, some, strict=True):
            if count:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                torch.distributed.all_reduce(gradient)
                parameter.grad = gradient / self.world

    def _log(self) -> dict[str, Any]:
        loss = self._value(self.window)
        self.window = Mean()
        line = {"step": self.at.step, "epoch": self.at.epoch + 1, "loss": loss, "lr": self._rate()}
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
        with self.average.in_model() if self.average is not None else _NOTHING:
            if self.validation is not None:
                self.synchronise_buffers()
                evaluation = self.validation.run()
                row |= {"val_loss": evaluation.loss, **evaluation.metrics}
            rate = at.examples / at.seconds if at.seconds else 0.0
            row |= {"lr": self._rate(), "seconds": at.seconds, "examples_per_second": rate}
            row = _processes.broadcast(row)  # the clock of the main process counts
            at.rows.append(row)
            if self.best is not None:
                self.best.see(row)
        if self.settings.progress and _processes.is_main_process():
            Progress("").write(epoch_line(row, self.settings.epochs))
        return row

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
            f"epoch {self.at.epoch + 1}/{self.settings.epochs}",
            total=None if order is None or getattr(self.source, "lists", False) else len(order),
            unit="examples",
            enabled=self.settings.progress and _processes.is_main_process(),
        )

    def _at_max_steps(self) -> bool:
        return self.settings.max_steps is not None and self.at.step >= self.settings.max_steps

    def _rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

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


def _multiply(gradients: list[Tensor], factor: float) -> None:
    dense = [gradient for gradient in gradients if gradient.layout is torch.strided]
    if dense:
        torch._foreach_mul_(dense, factor)  # type: ignore[attr-defined]  # public in all but name
    for gradient in gradients:
        if gradient.layout is not torch.strided:
            gradient.mul_(factor)
