"""Watch schedules, clips and gradient scalers."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from linkboy._calls import tensors_in
from linkboy._watch import OptimizerFacts
from linkboy._watch._graph import mark_scaled
from linkboy._watch._places import user_line
from linkboy.doctor._facts import SchedulerFacts
from linkboy.doctor._part import Part

EARLY_STEPS = 12
FEWEST_SUMMED = 3  # backward passes in a step that is taken for an accumulation


class Rates(Part):
    """Patches the schedules, the clips and the GradScaler of torch."""

    def __init__(self, watcher: Any) -> None:
        super().__init__(watcher)
        self.schedulers: dict[int, tuple[Any, SchedulerFacts]] = {}
        self.scaled = False  # whether gradients carry the factor of a GradScaler
        self.in_scaler = False
        # By id of an optimizer: the size of its gradients as torch left them last, and by what the program multiplied them since
        # the last backward pass.
        self._sizes: dict[int, float] = {}
        self._by_hand: dict[int, float] = {}
        self._scheduling = 0

    def patch(self) -> None:
        """Patch them."""
        patches = self.patches
        patches.wrap(LRScheduler, "__init__", self._scheduler_made)
        patches.wrap(LRScheduler, "_initial_step", self._initial_step)
        for owner in (torch.nn.utils, torch.nn.utils.clip_grad):
            for name in ("clip_grad_norm_", "clip_grad_value_"):
                patches.wrap(owner, name, self._clip)
        scaler = torch.amp.GradScaler
        patches.wrap(scaler, "scale", self._scale)
        patches.wrap(scaler, "unscale_", self._unscale)
        patches.wrap(scaler, "step", self._scaler_step)

    def _scheduler_made(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def __init__(scheduler: LRScheduler, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            for kind in type(scheduler).__mro__:
                step = vars(kind).get("step")
                if step is not None and not getattr(step, "linkboy", False) and kind is not object:
                    self.patches.wrap(kind, "step", self._scheduler_step)
            self._scheduling += 1
            try:
                original(scheduler, *args, **kwargs)
            finally:
                self._scheduling -= 1
            if self.on() and not self._scheduling:
                self._scheduler(scheduler, user_line())

        return __init__

    def _initial_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """See no step of the program where a schedule of schedules makes the first step of one, as `SequentialLR` does."""

        def _initial_step(scheduler: LRScheduler) -> None:
            self._scheduling += 1
            try:
                original(scheduler)
            finally:
                self._scheduling -= 1

        return _initial_step

    def _scheduler(self, scheduler: Any, place: str = "") -> SchedulerFacts:
        known = self.schedulers.get(id(scheduler))
        if known is not None and known[0] is scheduler:
            return known[1]
        facts = SchedulerFacts(type(scheduler).__name__, place)
        facts.period = int(getattr(scheduler, "T_max", 0) or 0)
        if (optimizer := _turned(scheduler)) is not None:
            of = self.observer.optimizer(optimizer)
            facts.optimizer = next(i for i, each in enumerate(self.record.optimizers) if each is of)
        self.schedulers[id(scheduler)] = (scheduler, facts)
        self.facts.schedulers.append(facts)
        return facts

    def _scheduler_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def step(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            outermost = not self._scheduling and self.on()
            if outermost:
                self._note_scheduler_step(scheduler)
            self._scheduling += 1
            try:
                return original(scheduler, *args, **kwargs)
            finally:
                self._scheduling -= 1

        step.linkboy = True  # type: ignore[attr-defined]
        return step

    def _note_scheduler_step(self, scheduler: Any) -> None:
        facts = self._scheduler(scheduler)
        if facts.optimizer is None:
            return
        of = self.record.optimizers[facts.optimizer]
        facts.steps += 1
        facts.early += of.steps == 0
        facts.in_advance += self.record.backwards == 0
        facts.skipped_by_scaler = facts.skipped_by_scaler or self.facts.scaler_steps > of.steps
        facts.place_step = facts.place_step or user_line()

    def _clip(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def clip(parameters: Any, *args: Any, **kwargs: Any) -> Any:
            if not self.on():
                return original(parameters, *args, **kwargs)
            given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
            self._note_clip(given)
            self._look_at_sizes()
            try:
                with self.quiet():
                    return original(given, *args, **kwargs)
            finally:
                self._keep_sizes()

        return clip

    def _note_clip(self, tensors: list[Any]) -> None:
        ids = {id(tensor) for tensor in tensors}
        mine = [
            facts
            for optimizer, facts in self.observer._live_optimizers()
            if any(id(t) in ids for group in optimizer.param_groups for t in group["params"])
        ]
        self.facts.clips += 1
        self.facts.clip_place = self.facts.clip_place or user_line()
        self.facts.late_clips += bool(mine) and all(facts.steps and not facts.since_step for facts in mine)
        self.facts.scaled_clips += self.scaled

    def _scale(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def scale(scaler: Any, outputs: Any) -> Any:
            scaled = original(scaler, outputs)
            if self.on() and scaler.is_enabled():
                self.scaled = True
                self.record.in_scaler = True
                with self.looking():
                    factor = scaler.get_scale()
                    for tensor in tensors_in(scaled):
                        mark_scaled(tensor, factor)
            return scaled

        return scale

    def _unscale(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def unscale_(scaler: Any, optimizer: Any) -> Any:
            if self.on():
                with self.looking():
                    self._note_changed(optimizer)
                self.scaled = False
            try:
                return original(scaler, optimizer)
            finally:
                if self.on():
                    self._keep_sizes()

        return unscale_

    def backward_ended(self) -> None:
        """Note the size of gradients that carry the factor of a scaler, or are summed over backward passes."""
        self._sizes, self._by_hand = {}, {}
        if self.record.steps < EARLY_STEPS:
            for optimizer, facts in self.observer._live_optimizers():
                if self.scaled or facts.since_step >= FEWEST_SUMMED:
                    self._sizes[id(optimizer)], self._by_hand[id(optimizer)] = _size(optimizer), 1.0

    def step_begins(self, optimizer: Optimizer, facts: OptimizerFacts) -> None:
        """Note by what the program has multiplied the sum of the gradients of several backward passes."""
        self._change(optimizer)
        factor = self._by_hand.pop(id(optimizer), None)
        if factor is not None and facts.since_step >= FEWEST_SUMMED:
            facts.by_hand.append(factor)

    def _change(self, optimizer: Any) -> float | None:
        """Return by what gradients were multiplied since torch left them; hooks run within backward."""
        before = self._sizes.pop(id(optimizer), 0.0)
        if not 0 < before < math.inf or not math.isfinite(now := _size(optimizer)):
            return None
        self._by_hand[id(optimizer)] *= now / before
        return now / before

    def _note_changed(self, optimizer: Any) -> None:
        change = self._change(optimizer)
        if self.scaled and change is not None:
            self.facts.scaled_changes.append(change)

    def _look_at_sizes(self) -> None:
        if self._sizes:
            with self.looking():
                for optimizer, _ in self.observer._live_optimizers():
                    self._change(optimizer)

    def _keep_sizes(self) -> None:
        if self._by_hand:
            with self.looking():
                for optimizer, _ in self.observer._live_optimizers():
                    if id(optimizer) in self._by_hand:
                        self._sizes[id(optimizer)] = _size(optimizer)

    def _scaler_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def step(scaler: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            if self.on():
                self.facts.scaler_steps += 1
            before, self.in_scaler = self.in_scaler, True
            try:
                return original(scaler, optimizer, *args, **kwargs)
            finally:
                self.in_scaler = before

        return step


def _turned(scheduler: Any) -> Optimizer | None:
    """Return the optimizer whose rate a schedule turns."""
    optimizer: Any = getattr(scheduler, "optimizer", None)
    while (inner := getattr(optimizer, "optimizer", None)) is not None:
        optimizer = inner  # of a wrapper, which may be an Optimizer itself
    return optimizer if isinstance(optimizer, Optimizer) else None


def _size(optimizer: Optimizer) -> float:
    """Return the norm of all gradients of an optimizer."""
    gradients = [t.grad for group in optimizer.param_groups for t in group["params"] if t.grad is not None]
    # The norm of a DTensor would wait for the other processes.
    dense = [grad for grad in gradients if type(grad) is Tensor and grad.layout is torch.strided and not grad.is_meta]
    return math.hypot(*(float(norm) for norm in torch._foreach_norm(dense))) if dense else 0.0  # type: ignore[attr-defined]
