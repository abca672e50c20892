"""The proof: the edited model runs, every new module is called, and what changed in its output."""

import dataclasses

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)

from linkboy._checks import describe
from linkboy.editing._caching import cache_difference
from linkboy.editing._changes import Changes
from linkboy.editing._names import kind_of
from linkboy.editing._recorder import Refused, Run, named_tensors
from linkboy.editing._removals import settle_removals
from linkboy.editing._runs import Example, Mode, run_model, without_values

_NOT_ON_SHAPES = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)
_ON_FAKES = "run on fake tensors (shapes, dtypes, devices, ids)"
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
    return None if example is None else run_model(model, example, fake=mode == "fake" or without_values(model))


def check(changes: Changes, example: Example | None, mode: Mode, before: Run | None) -> Checked:
    """Run the edited model and compare it with the unedited one.

    Raises:
        RuntimeError: it does not run, or its cache does not agree with its full pass.
    """
    settle_removals(changes, example, mode, before)
    if example is None:
        return Checked("not run: no example was given")
    after, how = _run_after(changes.model, example, mode, before)
    if before is not None and before.failure is not None:
        changes.warnings.append(f"the example did not run before the edit: {before.failure}")
    _warn_of_dead_modules(changes, before, after)
    outputs = _outputs(before, after)
    changes.warnings += [f"the output {one.name} is no longer there" for one in outputs if one.after == "-"]
    return Checked(how, before, after, outputs, _check_cache(changes, example, after))


def _run_after(model: nn.Module, example: Example, mode: Mode, before: Run | None) -> tuple[Run, str]:
    """Run the edited model in the ways asked for, as far as it has values; return the last run and say how it was run."""
    fake = run_model(model, example, fake=True) if mode != "real" or without_values(model) else None
    if fake is not None and (mode == "fake" or without_values(model)):
        _demand(fake, before)
        return fake, f"{_ON_FAKES}, not for real"
    if fake is not None and isinstance(fake.error, Refused):
        _demand(fake, before)
    real = run_model(model, example, fake=False)
    _demand(real, before)
    if fake is None:
        return real, "run for real"
    if fake.failure is not None:  # fakes cannot follow what depends on values, and what they say is no fault
        return real, f"run for real, as fake tensors did not do: {fake.failure}"
    return real, f"{_ON_FAKES} and for real"


def _demand(after: Run, before: Run | None) -> None:
    if after.failure is None:
        return
    failed_before = before is not None and before.failure is not None
    also = "; nor did it before the edit, so look at the example first" if failed_before else ""
    if isinstance(after.error, _NOT_ON_SHAPES):
        raise RuntimeError(
            f"the edited model cannot be checked on shapes alone: {after.failure}; run='auto' checks it for real"
        ) from after.error
    raise RuntimeError(f"the edited model does not run: {after.failure}{also}") from after.error


def _warn_of_dead_modules(changes: Changes, before: Run | None, after: Run) -> None:
    old = {id(module) for module in changes.before.names.values()}
    was_called = before.called if before is not None and before.failure is None else set()
    # MultiheadAttention reads the weights of its out_proj and does not call it.
    read = {id(part.out_proj) for part in changes.model.modules() if isinstance(part, nn.MultiheadAttention)}
    used, seen = after.called | read, list[str]()
    for name, module in changes.model.named_modules():
        fresh = id(module) not in old
        if any(id(part) in used for part in module.modules()) or any(name.startswith(f"{s}.") for s in seen):
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
