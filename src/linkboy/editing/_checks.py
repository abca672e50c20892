"""The check: the edited model runs, every new module is called, nothing became worse; and how the output changed."""

import dataclasses

from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)

from linkboy._calls import Arguments, How, Way, named_tensors, ways, without_values
from linkboy._checks import describe
from linkboy._tensors import wide_dtype
from linkboy.editing._caching import NOTHING, Cached, compare_cache
from linkboy.editing._changes import Changes
from linkboy.editing._names import ModulePlace, kind_of
from linkboy.editing._recorder import RecordedRun, Refused, record
from linkboy.editing.report import OutputChange

_NOT_ON_SHAPES = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)
_ON_SHAPES = "on shapes (with dtypes, devices and ids)"
_WORSE = 2  # a difference of the cache that was there before the edit may vary by this factor


@dataclasses.dataclass(frozen=True)
class Before:
    """What the unedited model showed."""

    run: RecordedRun | None = None
    cached: Cached = NOTHING

    @property
    def failure(self) -> str | None:
        """Why the example did not run."""
        return None if self.run is None else self.run.failure

    @property
    def good(self) -> RecordedRun | None:
        """The run, if it ended well."""
        return None if self.failure is not None else self.run


@dataclasses.dataclass(frozen=True)
class Checked:
    """What the runs showed."""

    how: str
    before: Before = dataclasses.field(default_factory=Before)
    after: RecordedRun | None = None
    outputs: tuple[OutputChange, ...] = ()
    cached: Cached = NOTHING


def run_before(model: nn.Module, example: Arguments | None, how: How) -> Before:
    """Run the unedited model, for comparison; that it fails is not an error, as the edit may be the cure."""
    if example is None:
        return Before()
    run = record(model, example, _ways(model, how)[-1])
    return Before(run, _compare_cache(model, example, run))


def _ways(model: nn.Module, how: How) -> tuple[Way, ...]:
    # An edit may bring in tensors without values: the run on shapes then names the edge at which they meet others.
    return ways(model, "shapes" if without_values(model) else how, devices=True)


def _compare_cache(model: nn.Module, example: Arguments, run: RecordedRun) -> Cached:
    return compare_cache(model, example, run) if run.on_values and run.failure is None else NOTHING


def check(changes: Changes, example: Arguments | None, how: How, before: Before) -> Checked:
    """Run the edited model and compare it with the unedited one.

    Raises:
        RuntimeError: it does not run, or its cache agrees less with its full pass than before the edit.
    """
    settle_removals(changes, example, how, before)
    if example is None:
        return Checked("not run, as no example was given")
    after, said = _run_after(changes.model, example, how, before)
    if before.failure is not None:
        changes.notes.append(f"the example did not run before the edit: {before.failure}")
    _note_dead_modules(changes, before, after)
    outputs = _outputs(before.good, after)
    changes.notes += [f"the output {one.name} is no longer there" for one in outputs if one.after == "-"]
    cached = _compare_cache(changes.model, example, after)
    _check_cache(changes, before.cached, cached)
    return Checked(said, before, after, outputs, cached)


def _run_after(model: nn.Module, example: Arguments, how: How, before: Before) -> tuple[RecordedRun, str]:
    """Run the edited model in the ways asked for, as far as it has values; return the last run, and how it was run."""
    possible = _ways(model, how)
    shapes = record(model, example, "fake") if "fake" in possible else None
    if shapes is not None and "values" not in possible:
        _demand(shapes, before)
        return shapes, f"run {_ON_SHAPES}, not on values"
    if shapes is not None and isinstance(shapes.error, Refused):
        _demand(shapes, before)
    values = record(model, example, "values")
    _demand(values, before)
    if shapes is None:
        return values, "run on values"
    if shapes.failure is not None:  # shapes cannot follow what depends on values, and what they say is not a fault
        return values, f"run on values, as it does not run on shapes: {shapes.failure}"
    return values, f"run {_ON_SHAPES} and on values"


def _demand(after: RecordedRun, before: Before) -> None:
    if after.failure is None:
        return
    also = "; it did not run before the edit either, so check the example first" if before.failure is not None else ""
    if isinstance(after.error, _NOT_ON_SHAPES):
        raise RuntimeError(
            f"the edited model cannot be checked on shapes alone: {after.failure}; run='auto' checks it on values"
        ) from after.error
    raise RuntimeError(f"the edited model does not run: {after.failure}{also}") from after.error


def _note_dead_modules(changes: Changes, before: Before, after: RecordedRun) -> None:
    old = {id(module) for module in changes.before.names.values()}
    was_called = before.good.called if before.good is not None else set[int]()
    # MultiheadAttention reads the weights of its out_proj and does not call it.
    read = {id(part.out_proj) for part in changes.model.modules() if isinstance(part, nn.MultiheadAttention)}
    used, seen = after.called | read, list[str]()
    for name, module in changes.model.named_modules():
        fresh = id(module) not in old
        if any(id(part) in used for part in module.modules()) or any(name.startswith(f"{s}.") for s in seen):
            continue
        if fresh:
            changes.notes.append(f"{name} ({kind_of(module)}) is new, and the forward does not call it")
        elif id(module) in was_called:
            changes.notes.append(f"{name} ({kind_of(module)}) was called before the edit and no longer is")
        if fresh or id(module) in was_called:
            seen.append(name)


def _outputs(before: RecordedRun | None, after: RecordedRun) -> tuple[OutputChange, ...]:
    old = dict(named_tensors(before.output)) if before is not None else {}
    new = dict(named_tensors(after.output))
    return tuple(
        OutputChange(
            name,
            describe(old[name]) if name in old else "-",
            describe(new[name]) if name in new else "-",
            _difference(old.get(name), new.get(name))
            if before is not None and before.on_values and after.on_values
            else None,
        )
        for name in dict.fromkeys([*old, *new])
    )


def _difference(old: Tensor | None, new: Tensor | None) -> float | None:
    if old is None or new is None or old.shape != new.shape or old.device != new.device or not new.numel():
        return None
    wide = wide_dtype(new.device).to_complex() if new.is_complex() else wide_dtype(new.device)
    difference = (new.to(wide) - old.to(wide)).abs()
    same = (new == old) | (new.isnan() & old.isnan())  # a mask holds infinities, whose difference is not a number
    return difference.masked_fill(same, 0.0).max().item()


def _check_cache(changes: Changes, before: Cached, after: Cached) -> None:
    if after.error is not None and before.error is None:
        raise RuntimeError(
            f"the edited model does not run with its cache, token by token: {type(after.error).__name__}: {after.error}"
        ) from after.error
    if after.difference is None or after.difference <= max(after.tolerance, _WORSE * (before.difference or 0.0)):
        return
    was = "" if before.difference is None else f"; before the edit they differed by {before.difference:.3g}"
    message = (
        f"token by token, with its cache, the edited model's outputs differ by {after.difference:.3g} of the largest "
        f"from those of one full pass{was}"
    )
    if not changes.shared_layers:
        raise RuntimeError(message)
    changes.notes.append(message)


Removal = tuple[ModulePlace, nn.Module]


def settle_removals(changes: Changes, example: Arguments | None, how: How, before: Before) -> None:
    """Give each place from which an attribute was removed its final state, and report which.

    It becomes `None` where the forward runs without it, and an `nn.Identity` where not.
    """
    pending = [(place, old) for place, old in changes.removals if place.is_empty]
    if not pending:
        return
    if example is None:
        _stand_in(changes, [item for item in pending if not isinstance(item[0].parent, nn.ModuleDict)])
        changes.notes.append(
            f"whether the forward calls {', '.join(place.name for place, _ in pending)} is not known without an example"
        )
    else:
        called = None if before.good is None else before.good.called
        needed = [(place, old) for place, old in pending if called is None or id(old) in called]
        _stand_in_where_needed(changes, example, how, needed)
    for place, _ in pending:
        what = "gone" if place.is_empty else "an nn.Identity now"
        why = ": the forward runs without it" if place.is_empty else ": the forward calls it"
        changes.repairs.append(f"{place.name} is {what}" + why * (example is not None))


def _stand_in_where_needed(changes: Changes, example: Arguments, how: How, removals: list[Removal]) -> None:
    if not removals or _runs(changes, example, how):
        return
    _stand_in(changes, removals)
    if len(removals) == 1 or not _runs(changes, example, how):
        return
    for place, _ in removals:  # one failure does not say which of several was missed
        identity = place.parent._modules[place.key]
        place.leave_out()
        if not _runs(changes, example, how):
            place.parent._modules[place.key] = identity


def _stand_in(changes: Changes, removals: list[Removal]) -> None:
    for place, old in removals:
        identity = nn.Identity()
        identity.training = old.training
        place.parent._modules[place.key] = identity
        changes.hold(identity)


def _runs(changes: Changes, example: Arguments, how: How) -> bool:
    for way in _ways(changes.model, how):
        run = record(changes.model, example, way)
        if run.failure is None:
            return True
        if isinstance(run.error, Refused):
            break
    return False  # on values too, as some kernels have no shape function
