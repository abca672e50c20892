"""Where the model runs and in which precision: the only file that speaks with accelerate.

accelerate picks the device, wraps the model for several processes, and brings autocast and the fp16 scaler. Its loaders,
schedulers, `accumulate` and `save_state` are not used: they are where weighted accumulation and resume go wrong.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from linkboy._tensors import check_module
from linkboy.training import _processes

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_NAMES = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


class Placement(NamedTuple):
    """A model made ready: `model` is called, `scaler` is for fp16 only, `sharded` says that FSDP2 split the weights."""

    model: Any
    device: torch.device
    scaler: Any
    sharded: bool


@contextlib.contextmanager
def placed(
    model: nn.Module,
    optimizer: Optimizer | None,
    *,
    device: str | torch.device | None,
    precision: Precision,
    training: bool,
) -> Iterator[Placement]:
    """Make the model ready for the block; afterwards it is the plain module it was, on the device it was on.

    Several fits in one process may differ in device and precision, so accelerate's process-wide record is put back too.
    """
    from accelerate import Accelerator

    check_module("model", model)
    _processes.join()
    target = _checked(device) if device is not None else default_device()
    if precision == "fp16" and target.type == "cpu":
        raise ValueError(
            'precision="fp16" needs a GPU (its loss scaler has no CPU form); use "bf16" or "fp32" on a CPU'
        )
    home = next((p.device for p in model.parameters()), target)
    if home.type == "meta":
        raise ValueError(
            "model is on the meta device, where weights have no values; make it on a real one and load them"
        )
    attributes = set(vars(model))
    sharded = is_sharded(model)
    with _own_record():
        accelerator = Accelerator(cpu=target.type == "cpu", mixed_precision=_NAMES[precision])
        if not sharded and home != target:
            _move(model, optimizer, target)
        wrap = training and not sharded and any(p.requires_grad for p in model.parameters())
        try:
            ready = accelerator.prepare_model(model, device_placement=False, evaluation_mode=not wrap)
            yield Placement(ready, target, accelerator.scaler, sharded)
        finally:
            for name in set(vars(model)) - attributes:
                delattr(model, name)
            if not sharded and home != target:
                _move(model, optimizer, home)


def default_device() -> torch.device:
    """The accelerator that belongs to this process (`LOCAL_RANK` of torchrun), or the CPU."""
    import os

    if not torch.accelerator.is_available():
        return torch.device("cpu")
    kind = torch.accelerator.current_accelerator()
    if kind is None or kind.type == "mps":
        return kind or torch.device("cpu")
    index = int(os.environ["LOCAL_RANK"]) if "LOCAL_RANK" in os.environ else torch.accelerator.current_device_index()
    torch.accelerator.set_device_index(index)
    return torch.device(kind.type, index)


def _checked(device: str | torch.device) -> torch.device:
    """Return a device that computes and is there; torch would find out late, and say it each time in another way."""
    try:
        target = torch.device(device)
    except (RuntimeError, TypeError):
        here = default_device().type
        raise ValueError(f'device must be one that torch knows, such as "{here}", got {device!r}') from None
    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if target.type != "cpu" and (there is None or target.type != there.type):
        have = "cpu" if there is None else f"cpu and {there.type}"
        raise ValueError(
            f"device must be one that this machine has ({have}), got {str(target)!r}; leave it out for the fastest"
        )
    count = 1 if target.type == "cpu" else torch.accelerator.device_count()
    if target.index is not None and target.index >= count:
        raise ValueError(f"device must have an index below {count}, got {str(target)!r}")
    return target


def is_sharded(model: nn.Module) -> bool:
    """Say whether `fully_shard` has split the model's parameters over the processes."""
    if _processes.process_count() == 1:
        return False
    from torch.distributed.tensor import DTensor

    return any(isinstance(p, DTensor) for p in model.parameters())


def local_part(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor that FSDP2 split, sharing its memory; any other tensor itself."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


@contextlib.contextmanager
def _own_record() -> Iterator[None]:
    from accelerate.state import AcceleratorState, GradientState, PartialState

    records = [state._shared_state for state in (AcceleratorState, GradientState, PartialState)]
    before = [dict(record) for record in records]
    for record in records:
        record.clear()
    try:
        yield
    finally:
        for record, content in zip(records, before, strict=True):
            record.clear()
            record.update(content)


def _move(model: nn.Module, optimizer: Optimizer | None, device: torch.device) -> None:
    model.to(device)
    if optimizer is not None and optimizer.state:
        optimizer.load_state_dict(optimizer.state_dict())  # casts the state to where the parameters now are
