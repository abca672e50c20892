"""What the parameters of packed and quantised layers stand for, also where `parameters()` does not list them."""

import math
from typing import Any

import torch
from torch import Tensor, nn


def logical_numel(tensor: Tensor) -> int:
    """Count the weights a tensor stands for: a packed 4-bit tensor holds two in each byte."""
    shape = getattr(getattr(tensor, "quant_state", None), "shape", None)
    return math.prod(shape) if shape is not None else tensor.numel()


def hidden_weights(module: nn.Module) -> list[Tensor] | None:
    """Return the weights that a module keeps outside `parameters()`; `None` where some cannot be read."""
    kind = type(module)
    if kind.__module__.startswith("torch.nn."):
        return []
    if "_packed_params" in module._modules:  # its child is visited by itself
        return []
    if hasattr(module, "_packed_weight_ih") or (kind.__name__ == "PackedParameter" and hasattr(module, "param")):
        return _recurrent_parts(module)
    if (unpack := getattr(kind, "_weight_bias", None)) is not None:  # torch.ao: quantised Linear and convolutions
        return [part for part in unpack(module) if isinstance(part, Tensor)]
    if kind.__name__ == "EmbeddingPackedParams" and hasattr(module, "_weight"):
        return [module._weight()]  # type: ignore[operator]
    if isinstance(module, torch.jit.ScriptModule):
        return _constants(module)
    return None if "qweight" in module._buffers else []


def _recurrent_parts(module: nn.Module) -> list[Tensor] | None:
    """Return the weights and biases of a quantised recurrent layer or cell, `None` if it cannot be read."""
    if type(module).__name__ == "PackedParameter":
        objects = _objects_in(module.param.__getstate__())  # type: ignore[operator, union-attr]
    else:
        objects = [getattr(module, key) for key in ("_packed_weight_ih", "_packed_weight_hh") if hasattr(module, key)]
    try:
        return [part for each in objects for part in each.unpack() if isinstance(part, Tensor)]
    except (AttributeError, RuntimeError):  # an object that torch does not unpack
        return None


def _constants(module: torch.jit.ScriptModule) -> list[Tensor]:
    """Return the weights of a frozen script, which are constants of its code; any other script has parameters."""
    if hasattr(module, "training"):
        return []
    constants: Any = module.code_with_constants[1].const_mapping.values()
    parts = [part for each in constants for part in (each if isinstance(each, list) else [each])]
    return [part for part in parts if isinstance(part, Tensor) and part.is_floating_point()]


def _objects_in(state: Any) -> list[Any]:
    if isinstance(state, (tuple, list)):
        return [found for item in state for found in _objects_in(item)]
    return [state] if isinstance(state, torch.ScriptObject) else []


def numel_behind(module: nn.Module) -> int | None:
    """Return how many weights the buffers of a GPTQ or AWQ layer stand for, `None` if it does not say."""
    sizes = [
        next((size for name in names if isinstance(size := getattr(module, name, None), int)), None)
        for names in (("in_features", "infeatures"), ("out_features", "outfeatures"))
    ]
    return None if None in sizes else math.prod(sizes)  # type: ignore[type-var]
