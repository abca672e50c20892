"""How many inputs and outputs a weight connects, block by block where several matrices are stored as one."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy

from linkboy._walk import TORCH_NORMS, is_norm

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
    if len(shape) < 2 or not _is_weight_key(module, key):
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
        return Blocks(count, shape[1], shape[0] / count)
    for kind, gates in _GATES.items():
        if isinstance(module, kind):
            count = 1 if key.startswith("weight_hr") else gates
            return Blocks(count, shape[1], shape[0] / count)
    if _is_conv1d(module):
        return Blocks(1, shape[0], shape[1])
    return None


def _is_weight_key(module: nn.Module, key: str) -> bool:
    """Return whether a parameter of a layer is the weight of that layer, and not one that a subclass added."""
    if isinstance(module, nn.MultiheadAttention):
        return key in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    if isinstance(module, tuple(_GATES)):
        return key.startswith(("weight_ih", "weight_hh", "weight_hr"))
    return key == "weight"


def is_matrix(module: nn.Module, key: str, shape: tuple[int, ...]) -> bool:
    """Return whether a parameter is the weight of a layer that multiplies."""
    return blocks_of(module, key, shape) is not None


def is_bias(module: nn.Module, key: str, shape: tuple[int, ...]) -> bool:
    """Return whether a parameter is the additive bias of a layer that linkboy knows."""
    if isinstance(module, nn.MultiheadAttention):
        return key == "in_proj_bias"
    if isinstance(module, tuple(_GATES)):
        return key.startswith(("bias_ih", "bias_hh"))
    known = isinstance(module, (nn.Linear, nn.Bilinear, _ConvNd)) or is_norm(module)
    return key == "bias" and (known or _is_conv1d(module))


def is_input_bias(module: nn.Module, key: str, shape: tuple[int, ...]) -> bool:
    """Return whether a parameter is the bias of an LSTM's gates that stands beside the weight of its input."""
    return isinstance(module, (nn.LSTM, nn.LSTMCell)) and key.startswith("bias_ih")


def is_norm_weight(module: nn.Module, key: str, shape: tuple[int, ...]) -> bool:
    """Return whether a parameter multiplies what a normalisation layer gives."""
    return key == "weight" and is_norm(module) and neutral_weight(module) == 1


def is_shifted_norm_weight(module: nn.Module, key: str, shape: tuple[int, ...]) -> bool:
    """Return whether a normalisation layer multiplies by one plus this parameter, as those of Gemma do."""
    return key == "weight" and is_norm(module) and neutral_weight(module) == 0


def is_embedding(module: nn.Module, key: str, shape: tuple[int, ...]) -> bool:
    """Return whether a parameter is looked up; a table that a subclass computed and does not train is none."""
    if not isinstance(module, (nn.Embedding, nn.EmbeddingBag)) or key != "weight":
        return False
    return type(module) in (nn.Embedding, nn.EmbeddingBag) or module.weight.requires_grad


def is_slope(module: nn.Module, key: str, shape: tuple[int, ...]) -> bool:
    """Return whether a parameter is the slope of a PReLU."""
    return isinstance(module, nn.PReLU) and key == "weight"


def neutral_weight(module: nn.Module) -> int | None:
    """Return the weight with which a normalisation layer only normalises: 1, or 0 where it multiplies by `1 + weight`.

    Torch's own layers multiply by the weight. A class with a `forward` of its own is asked: it is called with a weight of zeros
    and of ones. `None` means that its output answers neither way.
    """
    torchs = isinstance(module, TORCH_NORMS)
    if torchs and type(module).forward.__module__.startswith("torch.nn."):
        return 1
    answer = _asked(module)
    return 1 if answer is None and torchs else answer


def _asked(module: nn.Module) -> int | None:
    weight = module._parameters.get("weight")
    if weight is None or is_lazy(weight):
        return None
    for shape in ((8, *weight.shape), (2, *weight.shape, 4, 4), (2, *weight.shape, 4)):
        try:
            low, high = (_normalised(module, weight, shape, value) for value in (0, 1))
        except Exception:  # noqa: BLE001 - its forward may take anything
            continue
        if high.shape != shape:  # one for channels in the second dim, called with them in the last
            continue
        if not high.any():
            return None
        if not low.any():
            return 1
        return 0 if torch.allclose(high, 2 * low, rtol=1e-3, atol=1e-5) else None
    return None


def _normalised(module: nn.Module, weight: Tensor, shape: tuple[int, ...], value: int) -> Tensor:
    state: dict[str, Tensor] = {key: torch.zeros(each.shape) for key, each in module.named_parameters()}
    state |= {key: each.detach().clone() for key, each in module.named_buffers()}
    state["weight"] = torch.full(weight.shape, float(value))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.func.functional_call(module, state, (x,))


def _is_conv1d(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")  # transformers' Linear with (in, out) weights
