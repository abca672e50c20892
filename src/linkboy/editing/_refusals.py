"""Models that cannot be edited in place, each with the sentence that says what to edit instead."""

import torch
from torch import nn

from linkboy._tensors import check_module
from linkboy.editing._names import Place, find, kind_of

_WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
}


def check_editable(model: object) -> None:
    """Raise unless a model is a plain tree of modules.

    Raises:
        TypeError: it is no module, or scripted, compiled or wrapped for several devices.
    """
    model = check_module("model", model)
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(f"model is a {kind_of(model)}, which cannot be edited; edit the model before scripting it")
    for name, module in model.named_modules():
        classes = {cls.__name__ for cls in type(module).__mro__}
        where = f"{name!r}" if name else "model"
        inner = next((attribute for wrapper, attribute in _WRAPPERS.items() if wrapper in classes), None)
        if inner is not None:
            path = f"model.{name}.{inner}" if name else f"model.{inner}"
            raise TypeError(f"{where} is wrapped in {kind_of(module)}; edit {path} and wrap it again")
        if "FSDPModule" in classes:
            raise TypeError(f"{where} is sharded by fully_shard; edit the model before sharding it")
        if getattr(module, "_compiled_call_impl", None) is not None:
            raise TypeError(f"{where} was compiled in place; edit the model before compiling it")


def find_editable(model: nn.Module, name: str) -> Place:
    """Return the place of a module that may be exchanged.

    Raises:
        KeyError: there is no such module.
        TypeError: it is scripted.
        ValueError: it has lazy parameters.
    """
    place = find(model, name)
    if isinstance(place.module, torch.jit.ScriptModule):
        raise TypeError(
            f"{place.name!r} is a {kind_of(place.module)}, which cannot be edited; edit before scripting it"
        )
    if any(nn.parameter.is_lazy(tensor) for tensor in place.module.parameters()):
        raise ValueError(f"{place.name!r} has lazy parameters; run one batch through the model before editing it")
    return place
