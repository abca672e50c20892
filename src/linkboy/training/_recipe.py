"""What a run was asked to do, as plain values: kept with it, and compared with what the call that resumes it asks for."""

import functools
import hashlib
import math
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from linkboy.training._settings import Settings

_MOVED = ("lr", "momentum", "betas")  # what schedules change
# Of a scheduler's state: what its steps move, and the rates, which are those of the groups.
_STEPPED = ("last_epoch", "_step_count", "_last_lr", "base_lrs", "_get_lr_called_within_step", "_is_initial", "T_cur", "T_i",
            "best", "num_bad_epochs", "cooldown_counter")  # fmt: skip
_COMPARED = ("loss_fn", "clip_grad_norm", "ema", "on_nan", "sample_weight", "unpack")


def recipe_of(settings: Settings, optimizer: Optimizer) -> dict[str, Any]:
    """Return the loss, the options, the optimizer's groups and the schedule of a call, before a checkpoint changes them."""
    options = {name: getattr(settings, name) for name in ("clip_grad_norm", "ema", "on_nan")}
    functions = {name: describe(getattr(settings, name)) for name in ("loss_fn", "sample_weight", "unpack")}
    schedule = {} if settings.scheduler is None else dict(_asked_of(settings.scheduler.state_dict()))
    return {**options, **functions, "groups": [_plain(group) for group in optimizer.param_groups], "schedule": schedule}


def changes(then: Mapping[str, Any], now: Mapping[str, Any], step: int) -> list[str]:
    """Return a sentence for each thing that a call asks for and that the run it resumes did not have."""
    notes = [
        f"{name} was {_shown(then[name])} up to step {step} and is {_shown(now[name])} from there on"
        for name in _COMPARED
        if name in then and then[name] != now[name] and _comparable(then[name], now[name])
    ]
    if then.get("data") and now.get("data") and then["data"] != now["data"]:
        notes.append(
            f"the data set is not the one up to step {step}: it has the same length, but another type or other first samples"
        )
    for number, (before, after) in enumerate(zip(then.get("groups", []), now["groups"], strict=False)):
        where = "" if len(now["groups"]) == 1 else f" of group {number}"
        notes += [
            f"{name}{where} is {after[name]!r} in this call and was {before[name]!r} when the run began, which goes on as it "
            f"began; change state.optimizer.param_groups in a callback, or use another directory"
            for name in before
            if name in after and not _same(before[name], after[name])
        ]
    before, after = then.get("schedule", {}), now["schedule"]
    other = [name for name in before if name in after and not _same(before[name], after[name])]
    if other:  # one of them often decides the rest, as the number of all steps does
        name, more = other[0], f" (and {', '.join(other[1:])} with it)" if len(other) > 1 else ""
        notes.append(
            f"{name} of the scheduler is {after[name]!r} in this call and was {before[name]!r} when the run began{more}, which "
            f"goes on as it began; set it on the scheduler in a callback, or use another directory"
        )
    return notes


def joined(then: Mapping[str, Any] | None, now: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the run is from here on: groups and schedule as it began, the rest as this call has it."""
    if then is None:
        return dict(now)
    return {**now, "groups": then.get("groups", now["groups"]), "schedule": then.get("schedule", now["schedule"])}


def describe(thing: Any) -> str | None:
    """Return a text that is the same for functions and modules that do the same, as far as can be seen without running them."""
    if thing is None:
        return None
    if isinstance(thing, functools.partial):
        return f"partial of {describe(thing.func)} {_values(thing.keywords)}"
    if isinstance(thing, types.MethodType):
        return f"{describe(thing.__func__)} of {type(thing.__self__).__name__}"
    if isinstance(thing, types.FunctionType):
        python = f"{sys.version_info[0]}.{sys.version_info[1]}"
        return f"{thing.__qualname__} #{_code(thing.__code__)} py{python}"
    if isinstance(thing, nn.Module):
        options = {
            name: value for name, value in vars(thing).items() if not name.startswith("_") and name != "training"
        }
        buffers = {name: _digest(buffer) for name, buffer in thing.named_buffers()}
        parts = {name: describe(part) for name, part in thing.named_children()}
        return f"{type(thing).__name__} {_values({**options, **buffers, **parts})}"
    return getattr(thing, "__qualname__", type(thing).__qualname__)


def _plain(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a group; of those that a schedule moves, what they were at first."""
    kept: dict[str, Any] = {}
    for name, value in group.items():
        if name in _MOVED and (f"initial_{name}" in group or (name != "lr" and "max_momentum" in group)):
            continue
        value = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        if value is None or isinstance(value, (bool, int, float, str)):
            kept[name.removeprefix("initial_")] = value
        elif isinstance(value, (tuple, list)) and all(isinstance(part, (bool, int, float)) for part in value):
            kept[name] = list(value)
    return {name: value for name, value in kept.items() if name not in ("train_mode", "k", "weight_sum", "lr_max")}


def _asked_of(schedule: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what a scheduler was asked for by its names: plain values of its state, without those that its steps move."""
    if isinstance(schedule, (bool, int, str)) or (isinstance(schedule, float) and math.isfinite(schedule)):
        yield name, schedule
    elif isinstance(schedule, (list, tuple)) and all(isinstance(part, (int, float)) for part in schedule):
        yield name, list(schedule)
    elif isinstance(schedule, Mapping) and schedule and all(isinstance(key, int) for key in schedule):
        yield name, sorted(schedule)  # the milestones of MultiStepLR
    elif isinstance(schedule, (Mapping, list, tuple)):
        for key, value in schedule.items() if isinstance(schedule, Mapping) else enumerate(schedule):
            if key not in _STEPPED:
                yield from _asked_of(value, f"{name}.{key}".lstrip("._"))


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, float) and isinstance(second, float):
        return first == second or abs(first - second) <= 1e-6 * max(abs(first), abs(second))
    return first == second


def _comparable(first: Any, second: Any) -> bool:
    """Each version of Python compiles code in its own way."""
    texts = [text.rpartition(" py")[2] for text in (first, second) if isinstance(text, str) and " #" in text]
    return len(texts) < 2 or texts[0] == texts[1]


def _shown(value: Any) -> Any:
    return value.partition(" #")[0] if isinstance(value, str) else value


def _values(options: Mapping[str, Any]) -> str:
    shown = {}
    for name, value in options.items():
        if value is None or isinstance(value, (bool, int, float, str)):
            shown[name] = repr(value)
        elif isinstance(value, Tensor):
            shown[name] = _digest(value)
    return "(" + ", ".join(f"{name}={value}" for name, value in sorted(shown.items())) + ")"


def _digest(tensor: Tensor) -> str:
    content = (
        tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    )
    return f"{tuple(tensor.shape)}:{hashlib.sha256(content).hexdigest()[:12]}"


def _code(code: types.CodeType) -> str:
    constants = [
        _code(constant) if isinstance(constant, types.CodeType) else repr(constant)
        for constant in code.co_consts
        if not isinstance(constant, frozenset)  # its order differs from start to start
    ]
    return hashlib.sha256(repr((code.co_code, constants, code.co_names)).encode()).hexdigest()[:12]
