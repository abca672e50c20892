"""What autocast asks for on a device."""

import torch
from torch import Tensor


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """Return the dtype that autocast computes in where the tensor is, `None` where it is off or not to be had."""
    kind = tensor.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):  # torch raises for meta
        return None
    return torch.get_autocast_dtype(kind)
