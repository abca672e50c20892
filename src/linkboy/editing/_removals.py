"""Settle what a removed attribute becomes: `None` where the forward runs without it, and an `nn.Identity` where not."""

from torch import nn

from linkboy.editing._changes import Changes
from linkboy.editing._names import Place
from linkboy.editing._recorder import Refused, Run
from linkboy.editing._runs import Example, Mode, run_model, without_values

Removal = tuple[Place, nn.Module]


def settle_removals(changes: Changes, example: Example | None, mode: Mode, before: Run | None) -> None:
    """Give each place from which an attribute was removed its final state, and say which."""
    pending = [(place, old) for place, old in changes.removals if place.is_empty]
    if not pending:
        return
    if example is None:
        _stand_in(changes, [item for item in pending if not isinstance(item[0].parent, nn.ModuleDict)])
        changes.warnings.append(
            f"whether the forward calls {', '.join(place.name for place, _ in pending)} is not known without an example"
        )
    else:
        called = None if before is None or before.failure is not None else before.called
        needed = [(place, old) for place, old in pending if called is None or id(old) in called]
        _stand_in_where_needed(changes, example, mode, needed)
    for place, _ in pending:
        what = "gone" if place.is_empty else "an nn.Identity now"
        why = ": the forward runs without it" if place.is_empty else ": the forward calls it"
        changes.repairs.append(f"{place.name} is {what}" + why * (example is not None))


def _stand_in_where_needed(changes: Changes, example: Example, mode: Mode, removals: list[Removal]) -> None:
    if not removals or _runs(changes, example, mode):
        return
    _stand_in(changes, removals)
    if len(removals) == 1 or not _runs(changes, example, mode):
        return
    for place, _ in removals:  # one failure does not say which of several was missed
        identity = place.parent._modules[place.key]
        place.leave_out()
        if not _runs(changes, example, mode):
            place.parent._modules[place.key] = identity


def _stand_in(changes: Changes, removals: list[Removal]) -> None:
    for place, old in removals:
        identity = nn.Identity()
        identity.training = old.training
        place.parent._modules[place.key] = identity
        changes.hold(identity)


def _runs(changes: Changes, example: Example, mode: Mode) -> bool:
    run = run_model(changes.model, example, fake=mode != "real")
    unsure = run.failure is not None and not isinstance(run.error, Refused)  # some kernels have no fake for a CPU
    if mode == "auto" and unsure and not without_values(changes.model):
        run = run_model(changes.model, example, fake=False)
    return run.failure is None
