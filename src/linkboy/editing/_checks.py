"""The check: the edited model runs, every new module is called, nothing became worse; and how the output changed."""

import contextlib
import dataclasses
from collections.abc import Iterator

from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)
from torch.nn.modules.dropout import _DropoutNd

from linkboy._calls import Arguments, How, Way, named_tensors, tensors_in, ways, without_values
from linkboy._checks import describe
from linkboy._report import listed
from linkboy._tensors import wide_dtype
from linkboy.editing._caching import NOTHING, Cached, compare_cache
from linkboy.editing._changes import Changes
from linkboy.editing._names import ModulePlace, kind_of, named_once, places_of
from linkboy.editing._recorder import RecordedRun, Refused, record
from linkboy.editing._repairs import lend_to_first
from linkboy.editing.report import OutputChange

_NOT_ON_SHAPES = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)
_ON_SHAPES = "on shapes (with dtypes, devices and ids)"
_WORSE = 2  # a difference of the cache that was there before the edit may vary by this factor


@dataclasses.dataclass(frozen=True)
class Before:
    """What the unedited model showed."""

    run: RecordedRun | None = None
    cached: Cached = NOTHING
    listed: bool = False  # the example is a list, of which each entry was taken for an argument

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


def run_before(model: nn.Module, example: Arguments | None, how: How, *, listed: bool = False) -> Before:
    """Run the unedited model, for comparison; that it fails is not an error, as the edit may be the cure."""
    if example is None:
        return Before()
    run = record(model, example, _ways(model, example, how)[-1])
    return Before(run, _compare_cache(model, example, run), listed)


def check_ways(model: nn.Module, example: Arguments, how: How) -> None:
    """Raise unless a model and its example can be run in the way asked for.

    Raises:
        ValueError: `how` is `"values"`, and the model or the example has none.
    """
    ways(model, how)
    if how == "values" and _has_meta(example):
        raise ValueError("run='values' needs an example with values, got one on the meta device")


def _ways(model: nn.Module, example: Arguments, how: How) -> tuple[Way, ...]:
    # An edit may bring in tensors without values: the run on shapes then names the edge at which they meet others.
    return ways(model, "shapes" if without_values(model) or _has_meta(example) else how, devices=True)


def _has_meta(example: Arguments) -> bool:
    return any(tensor.is_meta for tensor in tensors_in((example.args, example.kwargs)))


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
    after, said = _run_after(changes, example, how, before)
    if before.failure is not None:
        changes.notes.append(f"the example did not run before the edit: {before.failure}")
    _note_dead_modules(changes, before, after)
    _note_residuals(changes, after)
    outputs = _outputs(before.good, after)
    changes.notes += [f"the output {one.name} is no longer there" for one in outputs if one.after == "-"]
    cached = _compare_cache(changes.model, example, after)
    _check_cache(changes, before.cached, cached)
    return Checked(said, before, after, outputs, cached)


def _run_after(changes: Changes, example: Arguments, how: How, before: Before) -> tuple[RecordedRun, str]:
    """Run the edited model on values, or where there are none on shapes; return the run, and how it was run."""
    # Values show all that shapes do, and a run on shapes takes as long as one of a small model.
    way = _ways(changes.model, example, how)[-1]
    run = record(changes.model, example, way)
    while lend_to_first(changes, run.error):
        run = record(changes.model, example, way)
    _demand(run, before)
    return run, "run on values" if run.on_values else f"run {_ON_SHAPES}, not on values"


def _demand(after: RecordedRun, before: Before) -> None:
    if after.failure is None:
        return
    also = "; it did not run before the edit either, so check the example first" if before.failure is not None else ""
    if also and before.listed:
        also += ": where forward takes the list itself, pass (example,)"
    if isinstance(after.error, _NOT_ON_SHAPES):
        raise RuntimeError(
            f"the edited model cannot be checked on shapes alone: {after.failure}; run='auto' checks it on values"
        ) from after.error
    raise RuntimeError(f"the edited model does not run: {after.failure}{also}") from after.error


def _note_residuals(changes: Changes, after: RecordedRun) -> None:
    """Say where what is left in the place of a branch with weights passes its input on, and that is added once more."""
    names = named_once(changes.model)
    found = [
        names[id(place.module)]
        for place, old in changes.removals
        if not place.is_empty and isinstance(place.module, nn.Identity) and any(x.dim() > 1 for x in old.parameters())
        if names.get(id(place.module)) in after.added
    ]
    if found:
        changes.notes.append(
            f"the forward adds to something what {listed(sorted(found), most=3)} passes on, its input, as a residual sum does; "
            "to take the branch out, replace it by a module that returns zeros"
        )


def _note_dead_modules(changes: Changes, before: Before, after: RecordedRun) -> None:
    old = {id(module) for module in changes.before.names.values()}
    was_called = before.good.called if before.good is not None else set[int]()
    # MultiheadAttention reads the weights of its out_proj and does not call it.
    read = {id(part.out_proj) for part in changes.model.modules() if isinstance(part, nn.MultiheadAttention)}
    used, seen, idle = after.called | read, list[str](), _idle_before(changes, before)
    for name, module in changes.model.named_modules():
        fresh = id(module) not in old
        if any(id(part) in used for part in module.modules()) or any(name.startswith(f"{s}.") for s in seen):
            continue
        if fresh and id(module) not in idle:
            changes.notes.append(f"{name} ({kind_of(module)}) is new, and the forward does not call it")
        elif id(module) in was_called:
            changes.notes.append(f"{name} ({kind_of(module)}) was called before the edit and no longer is")
        if fresh or id(module) in was_called:
            seen.append(name)


def _idle_before(changes: Changes, before: Before) -> set[int]:
    """Return the `id` of each new module that is a copy of, or stands for, one that the forward did not call either."""
    if before.good is None:
        return set()
    earlier = {part: id(module) for part, module in changes.copied().items()}
    earlier |= {id(new): key for key, new in changes.successor.items()}
    earlier |= {id(place.module): id(old) for place, old in changes.removals if not place.is_empty}
    return {part for part, key in earlier.items() if key not in before.good.called}


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

    It becomes `None` where the forward runs without it, and an `nn.Identity` where not; a dropout that the forward does not
    call and reads in training becomes one of rate 0.
    """
    names = named_once(changes.model)  # a stack may have been cut or numbered again since
    pending = [
        (ModulePlace(place.parent, place.key, f"{names[id(place.parent)]}.{place.key}".strip(".")), old)
        for place, old in changes.removals
        if place.is_empty and id(place.parent) in names
    ]
    if example is None and pending:
        _stand_in(changes, [item for item in pending if not isinstance(item[0].parent, nn.ModuleDict)])
        changes.notes.append(
            f"whether the forward calls {', '.join(place.name for place, _ in pending)} is not known without an example"
        )
    elif example is not None:
        called = None if before.good is None else before.good.called
        needed = [(place, old) for place, old in pending if called is None or id(old) in called]
        if _stand_in_where_needed(changes, example, how, needed):
            _check_training(changes, example, how, before, [item for item in pending if item[0].is_empty])
    for place, _ in pending:
        now = None if place.is_empty else place.module
        what = "gone" if now is None else f"{'an' if isinstance(now, nn.Identity) else 'a'} {_named(now)} now"
        why = "runs without it" if now is None else "calls it" if isinstance(now, nn.Identity) else "reads its rate"
        changes.repairs.append(f"{place.name} is {what}" + f": the forward {why}" * (example is not None))


def _named(module: nn.Module) -> str:
    return "nn.Identity" if isinstance(module, nn.Identity) else f"{kind_of(module)} with p=0"


def _stand_in_where_needed(changes: Changes, example: Arguments, how: How, removals: list[Removal]) -> bool:
    """Put something harmless where the forward calls what was removed; return whether it runs then."""
    if not removals:
        return True
    without = _last_run(changes, example, how, training=False)
    if without.failure is None:
        return True
    _stand_in(changes, removals)
    run = _last_run(changes, example, how, training=False)
    stand_ins = {id(place.module) for place, _ in removals}
    if run.failure is not None and len(run.called - stand_ins) < len(without.called):
        for place, _ in removals:  # nothing in their place came further, so that its failure is the one to tell
            place.leave_out()
    if len(removals) == 1 or run.failure is not None:
        return run.failure is None
    for place, _ in removals:  # one failure does not say which of several was missed
        identity = place.parent._modules[place.key]
        place.leave_out()
        if not _runs(changes, example, how):
            place.parent._modules[place.key] = identity
    return True


def _check_training(changes: Changes, example: Arguments, how: How, before: Before, removed: list[Removal]) -> None:
    """Run a model in training mode too where a module went or was replaced that evaluation mode did not call.

    An attention, for example, hands the rate of its dropout to a kernel in training mode only.

    Raises:
        RuntimeError: it does not run, and would with the old modules in their places.
    """
    called = set[int]() if before.good is None else before.good.called
    old = {id(module): module for module in changes.before.names.values()}
    replaced = [
        (place, old[key])
        for key, new in changes.successor.items()
        if key in old and key not in called
        for place in places_of(changes.model, new)
    ]
    silent = [*removed, *replaced]
    if not silent or before.good is None or _runs(changes, example, how, training=True):
        return
    with _in_place(silent):
        if not _runs(changes, example, how, training=True):
            return  # as before the edit, of a norm that wants more than one row for example
    _without_rate(changes, [item for item in removed if isinstance(item[1], _DropoutNd)])
    if _runs(changes, example, how, training=True):
        return
    _stand_in(changes, [item for item in removed if item[0].is_empty])
    run = _last_run(changes, example, how, training=True)
    if run.failure is not None:
        raise RuntimeError(
            f"the edited model runs in evaluation mode and not in training mode: {run.failure}"
        ) from run.error


@contextlib.contextmanager
def _in_place(modules: list[Removal]) -> Iterator[None]:
    kept = [(place, dict(place.parent._modules)) for place, _ in modules]
    try:
        for place, module in modules:
            place.parent._modules[place.key] = module
        yield
    finally:
        for place, children in kept:
            place.parent._modules.clear()
            place.parent._modules.update(children)


def _stand_in(changes: Changes, removals: list[Removal]) -> None:
    for place, old in removals:
        _put(changes, place, old, nn.Identity())


def _without_rate(changes: Changes, removals: list[Removal]) -> None:
    for place, old in removals:
        _put(changes, place, old, type(old)(0.0))


def _put(changes: Changes, place: ModulePlace, old: nn.Module, new: nn.Module) -> None:
    new.training = old.training
    place.parent._modules[place.key] = new
    changes.hold(new)


def _runs(changes: Changes, example: Arguments, how: How, *, training: bool = False) -> bool:
    return _last_run(changes, example, how, training=training).failure is None


def _last_run(changes: Changes, example: Arguments, how: How, *, training: bool) -> RecordedRun:
    """Return the first run without a failure; on values too, as some kernels have no shape function."""
    run = RecordedRun(on_values=False)
    for way in _ways(changes.model, example, how):
        run = record(changes.model, example, way, training=training)
        if run.failure is None or isinstance(run.error, Refused):
            break
    return run
