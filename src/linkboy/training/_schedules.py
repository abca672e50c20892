"""How far a scheduler reaches beside the steps of a run: it is stepped after each of them, and often made for epochs."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from linkboy._report import plural

# What tells how far each reaches, in steps.
_LENGTHS = {
    lr_scheduler.CosineAnnealingLR: "T_max",
    lr_scheduler.CosineAnnealingWarmRestarts: "T_0",
    lr_scheduler.MultiStepLR: "milestones",
    lr_scheduler.PolynomialLR: "total_iters",
}
_GONE = 1e-4  # a rate that is so small a part of the first trains nothing


def check_reach(scheduler: LRScheduler, state: Mapping[str, Any] | None, steps: int | None) -> None:
    """Raise if a schedule of a fixed number of steps, in this state, is over before the run.

    Raises:
        ValueError: `OneCycleLR` has fewer steps; torch would stop the run at the first one too many.
    """
    if not isinstance(scheduler, lr_scheduler.OneCycleLR) or state is None or steps is None:
        return
    total = state.get("total_steps", scheduler.total_steps)
    if steps > total:
        raise ValueError(
            f"scheduler has total_steps={total}, this run has {plural(steps, 'step')}, after each of which it is stepped; make "
            f"OneCycleLR with total_steps={steps}"
        )


def reach_note(scheduler: LRScheduler, epochs: int | None, steps: int | None, per_epoch: int | None) -> str | None:
    """Return what to say of a schedule that fits the number of epochs, but is stepped after each step."""
    if epochs is None or steps is None or per_epoch is None or steps <= epochs:
        return None
    for part in _parts(scheduler):
        name, option = type(part).__name__, _LENGTHS.get(type(part))
        told = f"is stepped after each of the {steps} steps and not after each of the {epochs} epochs"
        if option is not None:
            value = getattr(part, option)
            value = sorted(value.elements()) if isinstance(value, Counter) else value
            length = max(value, default=0) if isinstance(value, list) else value
            if length <= epochs:
                return f"{name}({option}={value}) {told}: {option} counts steps, {per_epoch} of which are an epoch"
        elif isinstance(part, (lr_scheduler.ExponentialLR, lr_scheduler.StepLR)):
            every = part.step_size if isinstance(part, lr_scheduler.StepLR) else 1
            left = part.gamma ** (steps // every)
            if every <= epochs and left < _GONE <= part.gamma ** (epochs // every):
                return f"{name}(gamma={part.gamma:g}) {told}: the learning rate ends at {left:.2g} of the first one"
        elif isinstance(part, lr_scheduler.LambdaLR):
            left = _factor(part, steps)
            if 0 < left < _GONE <= _factor(part, epochs):
                return f"{name} {told}: the learning rate ends at {left:.2g} of the first one"
    return None


def _factor(scheduler: lr_scheduler.LambdaLR, step: int) -> float:
    """Return the largest factor at a step; 0 where a function raises, as a table of rates does behind its end."""
    try:
        return max(function(step) for function in scheduler.lr_lambdas)
    except Exception:  # noqa: BLE001 - it comes again, at the step that it is about
        return 0.0


def _parts(scheduler: LRScheduler) -> Iterator[LRScheduler]:
    """Yield a scheduler, or those that it is made of."""
    inner = getattr(scheduler, "_schedulers", None)
    if not inner:
        yield scheduler
    for part in inner or ():
        yield from _parts(part)
