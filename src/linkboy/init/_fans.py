"""How many inputs and outputs a weight connects, block by block where several matrices are stored as one."""

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from linkboy._walk import is_norm

Fan = tuple[float, float]
FanOption = Fan | Callable[[nn.Module, Tensor], Fan] | None

_GATES = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3, nn.RNN: 1, nn.RNNCell: 1}


class Blocks(NamedTuple):
    """A weight that is `pieces` matrices one below the other, each with this fan."""

    pieces: int
    fan_in: float
    fan_out: float


def blocks_of(module: nn.Module, key: str, shape: tuple[int, ...]) -> Blocks | None:
    """Return the blocks and fans of a weight of a known layer, `None` for anything else.

    fan_in is the number of products that make one output element, fan_out the number that one input element goes
    into, strides of the latter apart. A transposed convolution spreads each input over `stride` positions per axis,
    so an output element meets only one kernel element in `stride`.
    """
    if len(shape) < 2 or key.startswith("bias") or key.endswith("bias"):
        return None
    if isinstance(module, _ConvTransposeNd):
        kernel = math.prod(shape[2:])
        return Blocks(1, shape[0] / module.groups * kernel / math.prod(module.stride), shape[1] * kernel)
    if isinstance(module, _ConvNd):
        kernel = math.prod(shape[2:])
        return Blocks(1, shape[1] * kernel, shape[0] / module.groups * kernel)
    if isinstance(module, nn.Linear):
        return Blocks(1, shape[1], shape[0])
    if isinstance(module, nn.Bilinear):
        return Blocks(1, shape[1] * shape[2], shape[0])
    if isinstance(module, nn.MultiheadAttention):
        count = 3 if key == "in_proj_weight" else 1
        return Blocks(count, shape[1], shape[0] / count) if key.endswith("proj_weight") else None
    for kind, gates in _GATES.items():
        if isinstance(module, kind):
            count = 1 if key.startswith("weight_hr") else gates
            return Blocks(count, shape[1], shape[0] / count)
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # transformers' Linear with (in, out) weights
        return Blocks(1, shape[0], shape[1])
    return None


def is_matrix(module: nn.Module, key: str, shape: tuple[int, ...]) -> bool:
    """Return whether a parameter is the weight of a layer that multiplies."""
    return blocks_of(module, key, shape) is not None


def is_bias(module: nn.Module, key: str, shape: tuple[int, ...]) -> bool:
    """Return whether a parameter is added."""
    return key.startswith("bias") or key.endswith("bias")


def is_norm_weight(module: nn.Module, key: str, shape: tuple[int, ...]) -> bool:
    """Return whether a parameter scales what a normalisation layer gives."""
    return is_norm(module) and key == "weight"


def is_embedding(module: nn.Module, key: str, shape: tuple[int, ...]) -> bool:
    """Return whether a parameter is looked up."""
    return isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and key == "weight"


def is_slope(module: nn.Module, key: str, shape: tuple[int, ...]) -> bool:
    """Return whether a parameter is the slope of a PReLU."""
    return isinstance(module, nn.PReLU)
