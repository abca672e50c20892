"""Which tensors a module holds, under which names, and how many bytes each of them really takes."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


@dataclasses.dataclass(slots=True)
class Held:
    """Parameters and buffers of a module tree, each tensor once, in the order of `named_parameters()`.

    `names[id(tensor)]` lists every name of a tensor, aliases included; `owners` runs beside `parameters`. `masks`:
    the buffers among them that `torch.nn.utils.prune` multiplies weights with.
    """

    parameters: list[Tensor]
    owners: list[tuple[str, nn.Module]]
    buffers: list[Tensor]
    names: dict[int, list[str]]
    modules: list[tuple[str, nn.Module]]
    masks: list[Tensor]


def held_tensors(model: nn.Module) -> Held:
    """Walk the module tree once; a module that contains itself is entered once on each path."""
    held = Held([], [], [], {}, [], [])
    _visit(model, "", held, set())
    return held


def _visit(module: nn.Module, path: str, held: Held, ancestors: set[int]) -> None:
    # One plain recursion instead of named_parameters + named_buffers + named_modules: a third of their time.
    held.modules.append((path, module))
    prefix = f"{path}." if path else ""
    names = held.names
    for key, tensor in module._parameters.items():
        if tensor is not None:
            known = names.get(id(tensor))
            if known is None:
                names[id(tensor)] = [prefix + key]
                held.parameters.append(tensor)
                held.owners.append((path, module))
            else:
                known.append(prefix + key)
    for key, tensor in module._buffers.items():
        if tensor is not None:
            known = names.get(id(tensor))
            if known is None:
                names[id(tensor)] = [prefix + key]
                held.buffers.append(tensor)
                if key.endswith("_mask") and f"{key[:-4]}orig" in module._parameters:
                    held.masks.append(tensor)
            else:
                known.append(prefix + key)
    children = module._modules
    if len(children):
        ancestors.add(id(module))
        for key, child in children.items():
            if child is not None and id(child) not in ancestors:
                _visit(child, prefix + key, held, ancestors)
        ancestors.discard(id(module))


def is_plain(tensor: Tensor) -> bool:
    """Say whether a tensor is an ordinary dense one, for which `numel`, `nbytes` and its storage tell everything."""
    return (type(tensor) is nn.Parameter or type(tensor) is Tensor) and tensor.layout is torch.strided


def is_uninitialized(tensor: Tensor) -> bool:
    """Say whether a lazy tensor still waits for its first batch."""
    return is_lazy(tensor)


def stored_parts(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the dense tensors in which `tensor` is really stored: shards, packed data, scales, indices."""
    if (local := getattr(tensor, "_local_tensor", None)) is not None:  # DTensor: what this process holds
        yield from stored_parts(local)
    elif (flatten := getattr(type(tensor), "__tensor_flatten__", None)) is not None:  # torchao and its like
        for name in flatten(tensor)[0]:
            yield from stored_parts(getattr(tensor, name))
    elif tensor.layout is torch.sparse_coo:
        yield tensor._indices()
        yield tensor._values()
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        yield from (tensor.crow_indices(), tensor.col_indices(), tensor.values())
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        yield from (tensor.ccol_indices(), tensor.row_indices(), tensor.values())
    else:
        yield tensor
        yield from _quant_state_tensors(getattr(tensor, "quant_state", None))


def _quant_state_tensors(state: Any) -> Iterator[Tensor]:
    # bitsandbytes keeps block scales and the code book beside the packed data, and quantises the scales once more.
    if state is not None:
        for name in ("absmax", "code", "offset"):
            if isinstance(part := getattr(state, name, None), Tensor):
                yield part
        yield from _quant_state_tensors(getattr(state, "state2", None))


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
