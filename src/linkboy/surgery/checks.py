"""The proof: the edited model runs, every new module is called, and what changed in its output."""

import dataclasses
from typing import Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)

from linkboy._checks import describe
from linkboy.surgery.caching import cache_difference
from linkboy.surgery.changes import Changes
from linkboy.surgery.names import Place, kind_of
from linkboy.surgery.runs import Example, Refused, Run, named_tensors, run_model

Mode = Literal["auto", "fake", "real"]

_NOT_ON_SHAPES = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)
_CACHE_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}


@dataclasses.dataclass(frozen=True)
class OutputChange:
    """One tensor of the output before and after the edit, as `f32[2, 10]`; `difference`: largest, `None` if not comparable."""

    name: str
    before: str
    after: str
    difference: float | None


@dataclasses.dataclass(frozen=True)
class Checked:
    """What the runs showed."""

    how: str
    before: Run | None = None
    after: Run | None = None
    outputs: tuple[OutputChange, ...] = ()
    cache_difference: float | None = None


def run_before(model: nn.Module, example: Example | None, mode: Mode) -> Run | None:
    """Run the unedited model, for comparison; that it fails is no error, as the edit may be the cure."""
    return None if example is None else run_model(model, example, fake=mode == "fake" or _without_values(model))


def check(changes: Changes, example: Example | None, mode: Mode, before: Run | None) -> Checked:
    """Run the edited model and compare it with the unedited one.

    Raises:
        RuntimeError: it does not run, or its cache does not agree with its full pass.
    """
    settle_removals(changes, example, mode, before)
    if example is None:
        return Checked("not run: no example was given")
    model, how = changes.model, "run on fake tensors (shapes, dtypes, devices, ids) and for real"
    shapes_only = mode == "fake" or _without_values(model)
    after = run_model(model, example, fake=mode != "real")
    if shapes_only:
        _demand(after, before)
        how = "run on fake tensors (shapes, dtypes, devices, ids), not for real"
    else:
        if mode == "auto":
            if isinstance(after.error, Refused):
                _demand(after, before)
            how = how if after.failure is None else f"run for real, as fake tensors did not do: {after.failure}"
        else:
            how = "run for real"
        after = run_model(model, example, fake=False)
        _demand(after, before)
    if before is not None and before.failure is not None:
        changes.warnings.append(f"the example did not run before the edit: {before.failure}")
    _warn_of_dead_modules(changes, before, after)
    outputs = _outputs(before, after)
    changes.warnings += [f"the output {one.name} is no longer there" for one in outputs if one.after == "-"]
    return Checked(how, before, after, outputs, _check_cache(changes, example, after))


def _without_values(model: nn.Module) -> bool:
    return any(tensor.is_meta for tensor in model.parameters())


def _demand(after: Run, before: Run | None) -> None:
    if after.failure is None:
        return
    also = " (nor did it run before the edit)" if before is not None and before.failure is not None else ""
    if isinstance(after.error, _NOT_ON_SHAPES):
        raise RuntimeError(
            f"the edited model cannot be checked on shapes alone: {after.failure}; run='auto' checks it for real"
        ) from after.error
    raise RuntimeError(f"the edited model does not run: {after.failure}{also}") from after.error


def settle_removals(changes: Changes, example: Example | None, mode: Mode, before: Run | None) -> None:
    """Leave a removed attribute `None` where the forward runs without it, and make it an `nn.Identity` where not."""
    pending = [(place, old) for place, old in changes.removals if place.parent._modules.get(place.key) is None]
    if not pending:
        return
    known = before is not None and before.failure is None
    needed = [item for item in pending if not (known and before is not None and id(item[1]) not in before.called)]
    if example is None:
        for place, old in pending:
            if not isinstance(place.parent, nn.ModuleDict):
                _stand_in(changes, place, old)
        changes.warnings.append(
            f"whether the forward calls {', '.join(place.name for place, _ in pending)} is not known without an example"
        )
    elif needed and not _runs(changes, example, mode):
        for place, old in needed:
            _stand_in(changes, place, old)
        for place, _ in needed if len(needed) > 1 and _runs(changes, example, mode) else ():
            identity = place.parent._modules[place.key]
            _leave_out(place)
            if not _runs(changes, example, mode):
                place.parent._modules[place.key] = identity
    for place, _ in pending:
        what = "an nn.Identity now" if place.parent._modules.get(place.key) is not None else "gone"
        called = (
            "" if example is None else ": the forward calls it" if what != "gone" else ": the forward runs without it"
        )
        changes.repairs.append(f"{place.name} is {what}{called}")


def _stand_in(changes: Changes, place: Place, old: nn.Module) -> None:
    identity = nn.Identity()
    identity.training = old.training
    place.parent._modules[place.key] = identity
    changes.hold(identity)


def _leave_out(place: Place) -> None:
    if isinstance(place.parent, nn.ModuleDict):
        del place.parent._modules[place.key]
    else:
        place.parent._modules[place.key] = None


def _runs(changes: Changes, example: Example, mode: Mode) -> bool:
    run = run_model(changes.model, example, fake=mode != "real")
    if mode == "auto" and isinstance(run.error, _NOT_ON_SHAPES) and not _without_values(changes.model):
        run = run_model(changes.model, example, fake=False)
    return run.failure is None


def _warn_of_dead_modules(changes: Changes, before: Run | None, after: Run) -> None:
    old = {id(module) for module in changes.before.names.values()}
    was_called = before.called if before is not None and before.failure is None else set()
    seen: list[str] = []
    for name, module in changes.model.named_modules():
        fresh = id(module) not in old
        if any(id(part) in after.called for part in module.modules()) or any(name.startswith(f"{s}.") for s in seen):
            continue
        if fresh:
            changes.warnings.append(f"{name} ({kind_of(module)}) is new, and the forward does not call it")
        elif id(module) in was_called:
            changes.warnings.append(f"{name} ({kind_of(module)}) was called before the edit and no longer is")
        if fresh or id(module) in was_called:
            seen.append(name)


def _outputs(before: Run | None, after: Run) -> tuple[OutputChange, ...]:
    old = dict(named_tensors(before.output)) if before is not None and before.failure is None else {}
    new = dict(named_tensors(after.output))
    return tuple(
        OutputChange(
            name,
            describe(old[name]) if name in old else "-",
            describe(new[name]) if name in new else "-",
            _difference(old.get(name), new.get(name), before is not None and not (before.fake or after.fake)),
        )
        for name in dict.fromkeys([*old, *new])
    )


def _difference(old: Tensor | None, new: Tensor | None, real: bool) -> float | None:
    if not real or old is None or new is None or old.shape != new.shape or old.device != new.device or not new.numel():
        return None
    return (new.double() - old.double()).abs().max().item() if not new.is_complex() else (new - old).abs().max().item()


def _check_cache(changes: Changes, example: Example, after: Run) -> float | None:
    if after.fake:
        return None
    found = cache_difference(changes.model, example, after)
    tensor = next((tensor for _, tensor in named_tensors(after.output)), None)
    tolerance = _CACHE_TOLERANCE.get(tensor.dtype, 0.05) if tensor is not None else 0.0
    if found is None or found <= tolerance:
        return found
    message = (
        f"token by token, with its cache, the edited model's outputs differ by {found:.3g} of the largest "
        "from those of one full pass"
    )
    if not changes.shared_layers:
        raise RuntimeError(message)
    changes.warnings.append(message)
    return found
