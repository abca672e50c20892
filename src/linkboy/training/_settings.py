"""What `fit` was asked to do, checked once before anything is touched."""

import dataclasses
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from linkboy._checks import check_choice, check_flag, check_number, describe
from linkboy._tensors import check_module
from linkboy.training import _batches
from linkboy.training._early_stopping import EarlyStopping, check_metric
from linkboy.training._evaluate import Metrics, check_metrics
from linkboy.training._findings import OnFinding

# what every epoch has, in its row or its line of the log
FIGURES = frozenset({"epoch", "step", "train_loss", "val_loss", "lr", "grad_norm", "seconds", "examples_per_second"})

Callback = Callable[[str, Any], object]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The arguments of `fit` that the loop reads."""

    loss_fn: _batches.Loss | None
    metrics: Metrics
    epochs: int
    max_steps: int | None
    max_minutes: float | None
    validate_every: int | None
    sanity: bool
    ddp: Mapping[str, Any]
    on_finding: OnFinding
    scheduler: LRScheduler | None
    sample_weight: _batches.SampleWeight | None
    unpack: _batches.Unpack | None
    accumulate: int
    clip_grad_norm: float | None
    ema: float | None
    compile: bool
    on_nan: str
    early_stopping: EarlyStopping | None
    callbacks: Sequence[Callback]
    state: Mapping[str, Any]
    resume: str | os.PathLike[str]
    log_every: int
    log: Sequence[str]
    seed: int | None
    progress: bool

    def check(self, model: nn.Module, optimizer: Optimizer, *, validated: bool) -> None:
        """Raise for anything that cannot be done."""
        check_module("model", model)
        check_optimizer(optimizer)
        check_number("epochs", self.epochs, minimum=1, integer=True)
        check_number("accumulate", self.accumulate, minimum=1, integer=True)
        check_number("log_every", self.log_every, minimum=1, integer=True)
        if self.max_steps is not None:
            check_number("max_steps", self.max_steps, minimum=1, integer=True)
        if self.max_minutes is not None:
            check_number("max_minutes", self.max_minutes, above=0)
        if self.validate_every is not None:
            check_number("validate_every", self.validate_every, minimum=1, integer=True)
        if self.clip_grad_norm is not None:
            check_number("clip_grad_norm", self.clip_grad_norm, above=0)
        if self.ema is not None:
            check_number("ema", self.ema, above=0, maximum=1)
        if self.seed is not None:
            check_number("seed", self.seed, minimum=0, integer=True)
        check_choice("on_nan", self.on_nan, ("raise", "skip"))
        check_choice("on_finding", self.on_finding, ("warn", "raise", "off"))
        check_flag("compile", self.compile)
        check_flag("progress", self.progress)
        check_flag("sanity", self.sanity)
        if not isinstance(self.ddp, Mapping):
            raise TypeError(f"ddp must map options of DistributedDataParallel to values, got {describe(self.ddp)}")
        if not isinstance(self.resume, (str, os.PathLike)):
            raise TypeError(f'resume must be "auto", "never" or a path, got {describe(self.resume)}')
        for kind in self.log:
            check_choice("log", kind, ("csv", "tensorboard"))
        check_metrics(self.metrics)
        self._check_functions()
        self._check_together(model, optimizer, validated=validated)

    def _check_functions(self) -> None:
        needed = {} if self.loss_fn is None else {"loss_fn": self.loss_fn}
        needed |= {f"callbacks[{index}]": callback for index, callback in enumerate(self.callbacks)}
        for name, function in needed.items():
            if not callable(function):
                raise TypeError(f"{name} must be a function, got {describe(function)}")
        _batches.check_functions(unpack=self.unpack, sample_weight=self.sample_weight)
        self._check_state()
        if self.early_stopping is not None and not isinstance(self.early_stopping, EarlyStopping):
            raise TypeError(f"early_stopping must be an EarlyStopping, got {describe(self.early_stopping)}")

    def _check_state(self) -> None:
        if not isinstance(self.state, Mapping):
            raise TypeError(f"state must map names to objects with a state_dict, got {describe(self.state)}")
        for name, thing in self.state.items():
            if not all(callable(getattr(thing, method, None)) for method in ("state_dict", "load_state_dict")):
                raise TypeError(f"state[{name!r}] must have state_dict and load_state_dict, got {describe(thing)}")

    def _check_together(self, model: nn.Module, optimizer: Optimizer, *, validated: bool) -> None:
        for name in sorted(FIGURES.intersection(self.metrics)):
            raise ValueError(
                f"metrics must have names of their own, got {name!r}, which every epoch has; choose another one"
            )
        if self.metrics and not validated:
            raise ValueError("metrics are computed on val_loader, which is missing")
        if self.early_stopping is not None:
            check_metric(self.early_stopping, ["train_loss", *(["val_loss", *self.metrics] if validated else [])])
        if self.scheduler is not None and not isinstance(self.scheduler, LRScheduler):
            raise TypeError(f"scheduler must be a torch.optim.lr_scheduler.LRScheduler, got {describe(self.scheduler)}")
        self._check_plateau(validated=validated)
        if self.validate_every is not None and not validated:
            raise ValueError("validate_every validates on val_loader, which is missing")
        if self.scheduler is not None and self.scheduler.optimizer is not optimizer:
            raise ValueError("scheduler belongs to another optimizer than the one passed")
        own = {id(parameter) for parameter in model.parameters()}
        if not any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
            raise ValueError("optimizer holds no parameter of model; make it from model.parameters()")

    @property
    def last_epoch(self) -> int | None:
        """The number of epochs as people write it: `None` where `max_steps` alone says when to end."""
        return None if self.epochs == sys.maxsize else self.epochs

    def watched(self, *, validated: bool) -> str:
        """The figure of an epoch that a `ReduceLROnPlateau` follows: that of `early_stopping`, else the loss."""
        if self.early_stopping is not None:
            return self.early_stopping.metric
        return "val_loss" if validated else "train_loss"

    def _check_plateau(self, *, validated: bool) -> None:
        if not is_plateau(self.scheduler):
            return
        figure, mode = self.watched(validated=validated), self.scheduler.mode
        if self.early_stopping is None and mode == "max":
            raise ValueError(
                f'scheduler has mode="max" and would follow {figure!r}, of which less is better; name its figure with '
                'early_stopping=EarlyStopping(metric, mode="max")'
            )
        if self.early_stopping is not None and mode != self.early_stopping.mode:
            raise ValueError(
                f"scheduler follows {figure!r} with mode={mode!r}, early_stopping with mode={self.early_stopping.mode!r}; "
                "they must agree"
            )


def is_plateau(scheduler: object) -> TypeGuard[ReduceLROnPlateau]:
    """Return whether a scheduler is stepped once per epoch with a figure, and not once per step."""
    return isinstance(scheduler, ReduceLROnPlateau)


def check_optimizer(optimizer: object) -> None:
    """Refuse anything but an optimizer of torch that steps with the gradients it finds."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {describe(optimizer)}")
    if needs_closure(optimizer):
        raise ValueError(
            f"optimizer {type(optimizer).__name__} computes the loss several times in a step and needs a closure, which fit "
            "does not have; use an optimizer that steps once with the gradient, or write the loop for this one"
        )


def needs_closure(optimizer: Optimizer) -> bool:
    """Return whether an optimizer computes the loss itself, as LBFGS does."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def as_list(argument: str, need: str, value: Any) -> tuple[Any, ...]:
    """Return a list or another collection as a tuple; one thing alone, or `None`, is refused."""
    if not isinstance(value, Iterable):
        raise TypeError(f"{argument} must be a list of {need}, got {describe(value)}")
    return tuple(value)
