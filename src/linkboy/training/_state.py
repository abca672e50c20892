"""All that a run is made of, as one nested dict for the `Checkpointer`, and back.

The main process keeps weights and optimizer (every process its own shard under FSDP2); each keeps its streams and sums.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from linkboy import _random
from linkboy._checks import did_you_mean
from linkboy.training import _processes
from linkboy.training._loop import Loop, Progression
from linkboy.training._placement import local_part


def to_state(loop: Loop, seed: int) -> dict[str, Any]:
    """Return what a checkpoint holds; called between two steps only, when no gradient is under way."""
    settings = loop.settings
    state: dict[str, Any] = {
        "seed": seed,
        "facts": facts(loop),
        "at": dataclasses.asdict(loop.at),
        "epoch_mean": [float(loop.epoch_mean.loss), loop.epoch_mean.weight],
        "window": [float(loop.window.loss), loop.window.weight],
        "streams": _random.capture(loop.placement.device),
        "order": loop.source.order_to_save() if loop.at.group else None,
    }
    if loop.placement.sharded or _processes.is_main_process():
        state |= {
            "model": _local(loop.model.state_dict()),
            "optimizer": _local(loop.optimizer.state_dict()),
            "scheduler": settings.scheduler.state_dict() if settings.scheduler is not None else None,
            "scaler": loop.placement.scaler.state_dict() if loop.placement.scaler is not None else None,
        }
        if loop.average is not None:
            state["average"] = [loop.average.updates, _local(loop.average.average)]
        if loop.best is not None:
            state["best"] = [
                loop.best.value,
                loop.best.loss,
                loop.best.epoch,
                loop.best.waited,
                _local(loop.best.weights),
            ]
    return state


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
    if loop.placement.sharded:
        with torch.no_grad():
            _load_tensors(loop.model.state_dict(), shared["model"])
    else:
        loop.model.load_state_dict(shared["model"])  # the tensors of a state dict need not be the memory of the model
    _load_optimizer(loop, shared["optimizer"])
    if settings.scheduler is not None:
        settings.scheduler.load_state_dict(shared["scheduler"])
    if loop.placement.scaler is not None:
        loop.placement.scaler.load_state_dict(shared["scaler"])
    if loop.average is not None:
        loop.average.updates, saved = shared["average"]
        with torch.no_grad():
            for mine, tensor in zip(loop.average.average, saved, strict=True):
                local_part(mine).copy_(tensor)
    if loop.best is not None:
        loop.best.value, loop.best.loss, loop.best.epoch, loop.best.waited, weights = shared["best"]
        like = loop.model.state_dict()
        loop.best.weights = {name: _as(like[name], tensor) for name, tensor in weights.items()}
    loop.at = Progression(**own["at"])
    for mean, (loss, weight) in ((loop.epoch_mean, own["epoch_mean"]), (loop.window, own["window"])):
        mean.loss, mean.weight = loss, weight
    loop.order = own["order"]


def check_same_run(loop: Loop, own: Mapping[str, Any], shared: Mapping[str, Any]) -> None:
    """Raise unless the checkpoint is of this model, optimizer and data."""
    for name, now in facts(loop).items():
        then = own["facts"].get(name)
        if then != now:
            raise ValueError(
                f"the checkpoint was made with {name}={then!r}, this run has {name}={now!r}; they must agree"
            )
    have = {name: tuple(local_part(tensor).shape) for name, tensor in loop.model.state_dict().items()}
    saved = {name: tuple(tensor.shape) for name, tensor in shared["model"].items()}
    for name in sorted(have.keys() - saved.keys()):
        raise ValueError(f"the checkpoint has no {name!r}, which the model needs{did_you_mean(name, saved)}")
    for name in sorted(saved.keys() - have.keys()):
        raise ValueError(f"the checkpoint has {name!r}, which the model does not{did_you_mean(name, have)}")
    for name, shape in have.items():
        if saved[name] != shape:
            raise ValueError(f"{name!r} has shape {saved[name]} in the checkpoint and {shape} in the model")
    sizes = [len(group["params"]) for group in loop.optimizer.param_groups]
    saved_sizes = [len(group["params"]) for group in shared["optimizer"]["param_groups"]]
    if sizes != saved_sizes:
        raise ValueError(f"the checkpoint's optimizer has groups of {saved_sizes} parameters, this one has {sizes}")


def _load_tensors(into: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    for name, tensor in into.items():
        local_part(tensor).copy_(saved[name])


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
