"""A learning-rate range test that leaves model, optimizer and random streams unchanged."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from linkboy._checks import check_number
from linkboy._tensors import check_module
from linkboy.training import _batches
from linkboy.training._fit import fit
from linkboy.training._placement import Device, Precision, snapshot
from linkboy.training._session import TrainingState
from linkboy.training._settings import check_optimizer
from linkboy.training.report import LearningRates

_SMOOTHING = 0.9  # weight of the past in the running mean of the loss
_DIVERGED = 4.0  # the test ends once the running mean is that many times its lowest value


def lr_find(
    model: nn.Module,
    loss_fn: _batches.Loss,
    optimizer: Optimizer,
    train_loader: Iterable[Any],
    *,
    min_lr: float = 1e-6,
    max_lr: float = 10.0,
    max_steps: int = 100,
    sample_weight: _batches.SampleWeight | None = None,
    unpack: _batches.Unpack | None = None,
    accumulate: int = 1,
    precision: Precision | None = None,
    seed: int | None = None,
    device: Device = None,
) -> LearningRates:
    """Raise the learning rate step by step from `min_lr` to `max_lr` and see where the loss falls fastest.

    Model, optimizer and random streams are unchanged afterwards, bit for bit. If the optimizer has several groups, all get the
    same rate.

    Args:
        model: as for `fit`.
        loss_fn: function of `(output, target)` that returns losses not reduced.
        optimizer: the optimizer to be used; its own rates do not matter.
        train_loader: iterated as often as `max_steps` needs.
        min_lr: first rate.
        max_lr: last rate.
        max_steps: number of optimizer steps, unless the loss diverges earlier.
        sample_weight: function of the batch that returns the weights of the losses.
        unpack: function of the batch that returns `(input, target)` or `(input, target, weight)`.
        accumulate: micro-batches per step.
        precision: `"fp32"`, `"bf16"` or `"fp16"`.
        seed: seeds order, augmentation and dropout.
        device: where to run.

    Returns:
        The losses by rate, and a suggestion.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: `max_lr` is not above `min_lr`, or as for `fit`.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from linkboy.training import lr_find
        >>> _ = torch.manual_seed(0)
        >>> inputs = torch.randn(64, 3)
        >>> data = torch.utils.data.TensorDataset(inputs, inputs.sum(1, keepdim=True))
        >>> loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)
        >>> model = nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        >>> found = lr_find(model, nn.MSELoss(reduction="none"), optimizer, loader, max_steps=40, seed=0)
        >>> 1e-3 < found.suggestion < 1 and optimizer.param_groups[0]["lr"] == 1.0
        True

    Source: Smith 2017, https://arxiv.org/abs/1506.01186, with the loss smoothed; the suggestion
    follows fastai's `valley`, at the middle of the fall.
    """
    check_module("model", model)
    check_optimizer(optimizer)
    check_number("min_lr", min_lr, above=0)
    check_number("max_lr", max_lr, above=min_lr)
    check_number("max_steps", max_steps, minimum=2, integer=True)
    rates = [min_lr * (max_lr / min_lr) ** (step / (max_steps - 1)) for step in range(max_steps)]
    losses: list[float] = []

    def climb(event: str, state: TrainingState) -> None:
        if event == "log":
            losses.append(state.log[-1]["loss"])
            if _rose(_smooth(losses)):
                state.stop()
        if event == "step" and state.step < max_steps:
            _set_rate(optimizer, rates[state.step])

    weights = snapshot(model)
    of_loss = snapshot(loss_fn) if isinstance(loss_fn, nn.Module) else None
    before = copy.deepcopy(optimizer.state_dict())
    finite = True
    try:
        _set_rate(optimizer, rates[0])
        fit(
            model, loss_fn, optimizer, train_loader, epochs=max_steps, max_steps=max_steps, sample_weight=sample_weight,
            unpack=unpack, accumulate=accumulate, precision=precision, seed=seed, device=device, log_every=1, log=(),
            callbacks=[climb], progress=False, on_finding="off",
        )  # fmt: skip
    except FloatingPointError:
        finite = False
    finally:
        model.load_state_dict(weights)
        if isinstance(loss_fn, nn.Module) and of_loss is not None:
            loss_fn.load_state_dict(of_loss)
        optimizer.load_state_dict(before)
    smoothed = _smooth(losses)
    stopped = not finite or _rose(smoothed)
    return LearningRates(
        suggestion=_valley(rates, smoothed),
        diverged_at=rates[min(len(losses), max_steps) - 1 if finite else min(len(losses), max_steps - 1)]
        if stopped
        else None,
        rates=tuple(rates[: len(losses)]),
        losses=tuple(losses),
        smoothed=tuple(smoothed),
    )


def _set_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _smooth(losses: Sequence[float]) -> list[float]:
    mean, smoothed = 0.0, []
    for count, loss in enumerate(losses, 1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        smoothed.append(mean / (1 - _SMOOTHING**count))
    return smoothed


def _rose(smoothed: Sequence[float]) -> bool:
    return bool(smoothed) and smoothed[-1] > _DIVERGED * min(smoothed)


def _valley(rates: Sequence[float], smoothed: Sequence[float]) -> float | None:
    """The rate half-way down the longest fall of the loss.

    A fall is a longest decreasing subsequence: unlike the steepest point it is not moved by noise at the first steps.
    """
    length, start = [1] * len(smoothed), list(range(len(smoothed)))
    for end in range(len(smoothed)):
        for earlier in range(end):
            if smoothed[earlier] > smoothed[end] and length[earlier] + 1 > length[end]:
                length[end], start[end] = length[earlier] + 1, start[earlier]
    last = max(range(len(smoothed)), key=length.__getitem__, default=0)
    return rates[(start[last] + last) // 2] if length and length[last] > 1 else None
