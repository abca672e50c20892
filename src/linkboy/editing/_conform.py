"""Give a new module the dtype, the device and the training flag of the place it goes to."""

import dataclasses

import torch
from torch import Tensor, nn

from linkboy.editing._names import kind_of


@dataclasses.dataclass(frozen=True)
class Likeness:
    """What a new module takes over from the old one, or from the nearest module around it that has parameters."""

    dtype: torch.dtype | None
    device: torch.device | None
    training: bool


def likeness(model: nn.Module, name: str, module: nn.Module) -> Likeness:
    """Read dtype and device from `module`, or from the nearest ancestor of `name` that has floating parameters."""
    parts = name.split(".")
    around = [model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts) - 1, -1, -1)]
    for candidate in [module, *around]:
        for tensor in candidate.parameters():
            if tensor.is_floating_point() and tensor.dtype.itemsize > 1:  # eight bits are storage, not arithmetic
                return Likeness(tensor.dtype, tensor.device, module.training)
    return Likeness(None, None, module.training)


def conform(model: nn.Module, new: nn.Module, like: Likeness, name: str) -> None:
    """Cast, move and switch what is new in `new`; tensors and flags of modules that the model has stay as they are."""
    known = {id(part) for part in model.modules()}
    fresh = [part for part in new.modules() if id(part) not in known]
    for part in fresh:
        part.training = like.training
    if like.device is None:
        return
    held = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    moved: dict[int, nn.Parameter] = {}
    for part in fresh:
        for key, tensor in [*part._parameters.items(), *part._buffers.items()]:
            if tensor is None or id(tensor) in held or nn.parameter.is_lazy(tensor):
                continue
            if tensor.is_meta and like.device.type != "meta":
                raise ValueError(
                    f"module for {name!r} has {key!r} on the meta device, without values, and the model is on "
                    f"{like.device}; build the {kind_of(new)} on a real device"
                )
            _move(part, key, tensor, like, moved)


def _move(part: nn.Module, key: str, tensor: Tensor, like: Likeness, moved: dict[int, nn.Parameter]) -> None:
    dtype = like.dtype if tensor.is_floating_point() else tensor.dtype
    if tensor.dtype == dtype and tensor.device == like.device:
        return
    cast = tensor.detach().to(device=like.device, dtype=dtype)
    if key in part._buffers:
        part._buffers[key] = cast
    elif tensor.device.type == cast.device.type:
        tensor.data = cast  # the same parameter object, so that a handle of the caller stays good
        tensor.grad = None
    else:
        part._parameters[key] = moved.setdefault(id(tensor), nn.Parameter(cast, tensor.requires_grad))
