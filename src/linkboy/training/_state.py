"""All that a run is made of, as one nested dict for the `Checkpointer`, and back.

The main process keeps weights and optimizer (every process its own shard under FSDP2); each keeps its streams and sums.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from linkboy import _random
from linkboy._checks import did_you_mean
from linkboy.training import _processes
from linkboy.training._loop import Loop, Progression
from linkboy.training._packing import check_packable
from linkboy.training._placement import local_part


def to_state(loop: Loop, seed: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what a checkpoint holds, and apart from it the parameters that do not train, which are seldom other ones.

    Called between two steps only, when no gradient is under way.
    """
    state: dict[str, Any] = {
        "seed": seed,
        "facts": facts(loop),
        "at": dataclasses.asdict(loop.at),
        "epoch_mean": [float(loop.epoch_mean.loss), loop.epoch_mean.weight],
        "window": [float(loop.window.loss), loop.window.weight],
        "streams": _random.capture(loop.placement.device),
        "order": loop.source.order_to_save() if loop.at.group else None,
        "state": {name: thing.state_dict() for name, thing in loop.settings.state.items()},
    }
    if not (loop.placement.sharded or _processes.is_main_process()):
        return state, {}
    model = _local(loop.model.state_dict())
    still = {name for name, p in loop.model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    frozen = {name: value for name, value in model.items() if name in still and isinstance(value, Tensor)}
    state |= {"model": {name: value for name, value in model.items() if name not in frozen}}
    return state | _training_state(loop) | _weights_beside(loop, frozen), frozen


def check_can_be_saved(loop: Loop) -> None:
    """Raise if a checkpoint could not hold what the run was given: now, and not when the first one is written.

    Raises:
        TypeError: the extra state of a module, or part of a `state_dict`, is neither a tensor nor a plain value.
    """
    loss, settings = _stateful(loop.settings.loss_fn), loop.settings
    given = {"model": loop.model, "loss": loss, "optimizer": loop.optimizer, "scheduler": settings.scheduler}
    state = {name: thing.state_dict() for name, thing in given.items() if thing is not None}
    check_packable(state | {"state": {name: thing.state_dict() for name, thing in settings.state.items()}})


def _training_state(loop: Loop) -> dict[str, Any]:
    """Return what trains the model: the optimizer with its groups by name, schedule, scaler, loss, and what is frozen."""
    names, loss, settings = _names(loop), _stateful(loop.settings.loss_fn), loop.settings
    groups = loop.optimizer.param_groups
    return {
        "groups": [[names.get(id(parameter)) for parameter in group["params"]] for group in groups],
        "trainable": sorted(names[id(parameter)] for parameter in _named(loop).values() if parameter.requires_grad),
        "loss": _local(loss.state_dict()) if loss is not None else None,
        "unnamed": [local_part(p) for p in loop.parameters if id(p) not in names],
        "evaluating": loop.modes.to_state(),
        "optimizer": _local(loop.optimizer.state_dict()),
        "scheduler": settings.scheduler.state_dict() if settings.scheduler is not None else None,
        "scaler": loop.placement.scaler.state_dict() if loop.placement.scaler is not None else None,
    }


def _weights_beside(loop: Loop, frozen: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the running average and the best epoch's weights, without what equals the frozen ones, and how they are split."""
    state: dict[str, Any] = {}
    if loop.average is not None:
        pairs = zip(loop.parameters, _local(loop.average.average), strict=True)
        averages = [None if _is_still(parameter, average) else average for parameter, average in pairs]
        state["average"] = [loop.average.updates, averages]
    if loop.placement.sharded:
        state["shards"] = _shards(loop.model)
    if (best := loop.best) is not None:
        weights = {n: value for n, value in _local(best.weights).items() if not _equal(frozen.get(n), value)}
        state["best"] = [best.value, best.loss, best.epoch, best.waited, weights]
    return state


def _is_still(parameter: Tensor, average: Tensor) -> bool:
    """Return whether the average of a parameter is the parameter, because it does not train."""
    return not parameter.requires_grad and torch.equal(local_part(parameter.detach()), average)


def _equal(first: Tensor | None, second: Any) -> bool:
    return first is not None and isinstance(second, Tensor) and torch.equal(first, second)


def _shards(model: nn.Module) -> dict[str, int]:
    """Return the dimension along which the processes hold each tensor in parts.

    Raises:
        ValueError: a tensor is split in another way than `fully_shard` does along one dimension of processes.
    """
    from torch.distributed.tensor import DTensor, Shard

    found: dict[str, int] = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, DTensor):
            continue
        split = [placement for placement in tensor.placements if not placement.is_replicate()]
        if len(tensor.placements) == 1 and not split:
            continue
        if len(tensor.placements) > 1 or not isinstance(split[0], Shard):
            return {}  # a hybrid of shards and copies: restored as it is, but not put together
        found[name] = split[0].dim
    return found


def facts(loop: Loop) -> dict[str, Any]:
    """Return what a resumed run must share with the run that it continues: positions are counted in these."""
    settings = loop.settings
    return {
        **loop.source.facts(),
        "accumulate": settings.accumulate,
        "precision": loop.placement.precision,
        "optimizer": type(loop.optimizer).__name__,
        "scheduler": type(settings.scheduler).__name__ if settings.scheduler is not None else None,
        "ema": settings.ema is not None,
        "early_stopping": settings.early_stopping.metric if settings.early_stopping is not None else None,
    }


def from_state(loop: Loop, own: Mapping[str, Any], shared: Mapping[str, Any]) -> None:
    """Restore a run: `own` is the part that this process saved, `shared` the one with the weights.

    Everything is compared before anything is changed. The caller restores the random streams later.

    Raises:
        ValueError: model, optimizer or data are not those of the checkpoint.
    """
    settings = loop.settings
    check_same_run(loop, own, shared)
    _load_model(loop, shared)
    if "evaluating" in shared:
        loop.modes.from_state(shared["evaluating"])
    _load_groups(loop, shared.get("groups"))
    _load_optimizer(loop, shared["optimizer"])
    for name, thing in settings.state.items():
        thing.load_state_dict(own["state"][name])
    if settings.scheduler is not None:
        settings.scheduler.load_state_dict(shared["scheduler"])
    if loop.placement.scaler is not None:
        loop.placement.scaler.load_state_dict(shared["scaler"])
    if loop.average is not None:
        loop.average.updates, saved = shared["average"]
        with torch.no_grad():
            for mine, parameter, tensor in zip(loop.average.average, loop.parameters, saved, strict=True):
                local_part(mine).copy_(local_part(parameter) if tensor is None else tensor)
    if loop.best is not None:
        loop.best.value, loop.best.loss, loop.best.epoch, loop.best.waited, weights = shared["best"]
        if weights:
            weights = {**shared.get("frozen", {}), **weights}
        like = loop.model.state_dict()
        loop.best.weights = {
            name: _as(like[name], value) if isinstance(value, Tensor) else value for name, value in weights.items()
        }
    loop.at = Progression(**own["at"])
    for mean, (loss, weight) in ((loop.epoch_mean, own["epoch_mean"]), (loop.window, own["window"])):
        mean.loss, mean.weight = loss, weight
    loop.order = own["order"]


def check_same_run(loop: Loop, own: Mapping[str, Any], shared: Mapping[str, Any]) -> None:
    """Raise unless the checkpoint is of this model, optimizer and data."""
    then, now = own["facts"], facts(loop)
    same_steps = _splits_alike(then, now)
    split = ("batch_size", "accumulate")
    for name, value in sorted(now.items(), key=lambda item: item[0] in split):
        if then.get(name) != value and not (same_steps and name in split):
            raise ValueError(
                f"the checkpoint was made with {name}={then.get(name)!r}, this run has {name}={value!r}; they must agree"
            )
    _check_model(loop, shared)
    _check_optimizer(loop, shared)
    # An earlier version did not keep the loss.
    if "loss" in shared and (shared["loss"] is not None) != (_stateful(loop.settings.loss_fn) is not None):
        with_state = "the checkpoint" if shared["loss"] is not None else "this run"
        raise ValueError(f"{with_state} has a loss_fn with parameters or buffers, the other has not; they must agree")
    now, then = sorted(loop.settings.state), sorted(own.get("state", {}))
    if now != then:
        raise ValueError(
            f"the checkpoint was made with state for {then}, this run has state for {now}; they must agree"
        )


def _splits_alike(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether steps are of the same samples, split into other micro-batches: after running out of memory, say."""
    sizes = [run.get("batch_size") for run in (then, now)]
    if None in sizes or then.get("drop_last") or now.get("drop_last"):
        return False
    first, second = (size * run["accumulate"] for size, run in zip(sizes, (then, now), strict=True))
    return first == second


def reasons(loop: Loop, own: Mapping[str, Any]) -> list[str]:
    """Return why a run that goes on from this checkpoint is not bit-identical, beyond what its source says."""
    kept = list(own.get("reasons", []))
    then, now = own["facts"], facts(loop)
    if then["accumulate"] != now["accumulate"] and _splits_alike(then, now):
        kept.append(
            f"the samples of each step are the same, but micro-batches of {now['batch_size']} instead of "
            f"{then['batch_size']} add up in another order"
        )
    return kept


def _check_model(loop: Loop, shared: Mapping[str, Any]) -> None:
    have = _shapes(loop.model.state_dict())
    saved = _shapes({**shared["model"], **shared.get("frozen", {})})
    for name in sorted(have.keys() - saved.keys()):
        raise ValueError(f"the checkpoint has no {name!r}, which the model needs{did_you_mean(name, saved)}")
    for name in sorted(saved.keys() - have.keys()):
        raise ValueError(f"the checkpoint has {name!r}, which the model does not{did_you_mean(name, have)}")
    for name, shape in have.items():
        if saved[name] != shape:
            raise ValueError(f"{name!r} has shape {saved[name]} in the checkpoint and {shape} in the model")


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the shape of each tensor in a state dict; `None` for extra state, which has none."""
    return {
        name: tuple(local_part(value).shape) if isinstance(value, Tensor) else None for name, value in state.items()
    }


def _check_optimizer(loop: Loop, shared: Mapping[str, Any]) -> None:
    """Raise unless the optimizer has the parameters of the checkpoint's, or those that it had before a callback gave it more."""
    groups = loop.optimizer.param_groups
    names = _names(loop)
    have = [[names.get(id(parameter)) for parameter in group["params"]] for group in groups]
    saved = shared.get("groups")
    sizes, saved_sizes = [len(group) for group in have], [len(g["params"]) for g in shared["optimizer"]["param_groups"]]
    if saved is None and sizes == saved_sizes:  # of a version that did not keep the names
        return
    begins = saved is not None and len(have) <= len(saved)
    if not begins or any(size > saved_size for size, saved_size in zip(sizes, saved_sizes, strict=False)):
        raise ValueError(f"the checkpoint's optimizer has groups of {saved_sizes} parameters, this one has {sizes}")
    known = _named(loop)
    for number, then in enumerate(saved):  # type: ignore[arg-type]  # not None, see above
        now = have[number] if number < len(have) else []
        for place, name in enumerate(then):
            if place >= len(now) and name not in known:
                raise ValueError(
                    f"a callback gave the optimizer a parameter that neither the model nor loss_fn has, in group {number}; "
                    "a run cannot resume after that: register it in the model"
                )
            if place < len(now) and now[place] != name:
                raise ValueError(
                    f"the checkpoint's optimizer has {name!r} at place {place} of group {number}, this one has "
                    f"{now[place]!r}; they must agree"
                )


def _load_model(loop: Loop, shared: Mapping[str, Any]) -> None:
    loss_fn, saved = loop.settings.loss_fn, {**shared["model"], **shared.get("frozen", {})}
    if loop.placement.sharded:
        with torch.no_grad():
            for name, tensor in loop.model.state_dict().items():
                if isinstance(tensor, Tensor):
                    local_part(tensor).copy_(saved[name])
                else:
                    loop.model.get_submodule(name.rpartition(".")[0]).set_extra_state(saved[name])
    else:
        loop.model.load_state_dict(saved)  # the tensors of a state dict need not be the memory of the model
    if isinstance(loss_fn, nn.Module) and shared.get("loss") is not None:
        loss_fn.load_state_dict(shared["loss"])
    named, names = _named(loop), _names(loop)
    if "trainable" in shared:
        trainable = set(shared["trainable"])
        for name, parameter in named.items():
            parameter.requires_grad_(name in trainable)
    unnamed = [parameter for parameter in loop.parameters if id(parameter) not in names]
    with torch.no_grad():
        for parameter, tensor in zip(unnamed, shared.get("unnamed", unnamed), strict=True):
            local_part(parameter).copy_(tensor)


def _load_groups(loop: Loop, saved: Sequence[Sequence[str]] | None) -> None:
    """Give the optimizer the parameters that a callback had given it when the checkpoint was saved."""
    named, groups = _named(loop), loop.optimizer.param_groups
    for number, names in enumerate(saved or ()):
        if number >= len(groups):
            loop.optimizer.add_param_group({"params": [named[name] for name in names]})
        else:
            have = groups[number]["params"]
            have.extend(named[name] for name in names[len(have) :])
    loop.follow_optimizer()


def _named(loop: Loop) -> dict[str, nn.Parameter]:
    """Return the parameters of the model and of the loss by the names that a checkpoint has for them."""
    parts = {"model": loop.model, "loss": loop.settings.loss_fn}
    return {
        f"{part}:{name}": parameter
        for part, module in parts.items()
        if isinstance(module, nn.Module)
        for name, parameter in module.named_parameters()
    }


def _names(loop: Loop) -> dict[int, str]:
    return {id(parameter): name for name, parameter in reversed(_named(loop).items())}


def _stateful(loss_fn: object) -> nn.Module | None:
    """Return a loss with parameters or buffers of its own; those of torch's and of linkboy's are settings: class weights."""
    if not isinstance(loss_fn, nn.Module) or type(loss_fn).__module__.startswith(("torch.", "linkboy.")):
        return None
    return loss_fn if loss_fn.state_dict() else None


def _load_optimizer(loop: Loop, saved: dict[str, Any]) -> None:
    if loop.placement.sharded:
        # A state tensor belongs to its parameter's shard; torch would mix it with the whole parameter otherwise.
        for number, parameter in enumerate(loop.parameters):
            values = saved["state"].get(number, {})
            for name, value in values.items():
                if isinstance(value, Tensor) and value.ndim:
                    values[name] = _as(parameter, value)
    loop.optimizer.load_state_dict(saved)


def _local(value: Any) -> Any:
    if isinstance(value, Tensor):
        return local_part(value)
    if isinstance(value, Mapping):
        return {key: _local(item) for key, item in value.items()}
    return [_local(item) for item in value] if isinstance(value, list) else value


def _as(like: Tensor, local: Tensor) -> Tensor:
    """Return a process's part of a tensor as what `like` is: a shard of a whole, or just a tensor on its device."""
    from torch.distributed.tensor import DTensor

    local = local.to(like.device)
    if not isinstance(like, DTensor):
        return local
    return DTensor.from_local(local, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())
