"""What the parameters of packed and quantised layers stand for, also where `parameters()` does not list them."""

import math

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
    if (unpack := getattr(kind, "_weight_bias", None)) is not None:  # torch.ao: quantised Linear and convolutions
        return [part for part in unpack(module) if isinstance(part, Tensor)]
    packed_recurrent = kind.__module__.startswith("torch.ao.nn.quantized") and kind.__name__ == "PackedParameter"
    packed_buffer = "qweight" in module._buffers  # GPTQ and AWQ layers
    return None if packed_recurrent or packed_buffer else []
