"""How many weights the packed tensors of a checkpoint stand for, from their shapes and the configuration beside the file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linkboy.parameters._pickles import DTYPES, FileTensor

Tensors = Mapping[str, FileTensor]
_FOUR_BIT = (".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4")
_NVFP4 = ("weight_scale_2", "weight_global_scale")  # the second scale of its blocks, as two libraries call it
_CONFIGS = ("config.json", "quantize_config.json", "quant_config.json")
_MOST_BYTES = 1 << 20  # of a configuration
_INTEGERS = ("int64", "int32", "int16", "int8", "uint8", "uint32")
_SCALES = ("weight_scale", "weight_scales", "scales")  # beside a weight of integers


def numel_behind(parameters: Tensors, scales: Tensors, folder: Path) -> tuple[int, list[str]]:
    """Return how many weights there are beyond the elements stored, and the packed tensors whose width is not known.

    Args:
        parameters: the tensors that are counted.
        scales: what lies beside packed ones.
        folder: where a configuration may be; it is read only if the shapes do not tell the width.
    """
    nf4 = [name.partition(".quant_state.")[0] for name in scales if name.endswith(_FOUR_BIT)]
    more = sum(parameters[name].numel for name in nf4 if name in parameters)
    unknown: list[str] = []
    bits_of_all: float | None = None
    for name, tensor in parameters.items():
        if tensor.dtype not in _INTEGERS or not _is_packed(name, tensor, scales):
            continue
        bits = _bits_by_shape(name, tensor, scales)
        if bits is None:
            bits_of_all = _bits_in_config(folder) if bits_of_all is None else bits_of_all
            bits = bits_of_all or None
        if bits is None:
            unknown.append(name)
        else:
            more += round(tensor.numel * 8 * DTYPES[tensor.dtype] / bits) - tensor.numel
    return more, unknown


def _is_packed(name: str, tensor: FileTensor, scales: Tensors) -> bool:
    if name.endswith((".qweight", ".weight_packed", "_blocks", ".W_q")) or f"{name}_scale_2" in scales:
        return True
    # An int8 is a weight by itself; integers of another kind beside a scale hold several (BitNet, MLX, AQLM, Quark).
    beside = (f"{name.rpartition('.')[0]}.{key}" for key in _SCALES)
    return tensor.dtype != "int8" and len(tensor.shape) > 1 and not scales.keys().isdisjoint(beside)


def _bits_by_shape(name: str, tensor: FileTensor, scales: Tensors) -> float | None:
    """Return the bits of one weight: zero points are packed like weights, and there are as many as scales."""
    word = 8 * DTYPES[tensor.dtype]
    if name.endswith("_blocks"):  # MXFP4: two in a byte, and a scale for each block
        return 4 if f"{name[:-7]}_scales" in scales else word
    prefix = name.rpartition(".")[0]
    if tensor.dtype == "uint8" and not scales.keys().isdisjoint(f"{prefix}.{key}" for key in _NVFP4):
        return 4
    zeros, factors, order = (scales.get(f"{prefix}.{key}") for key in ("qzeros", "scales", "g_idx"))
    if zeros is not None and factors is not None and zeros.numel and factors.numel:
        return 8 * DTYPES[zeros.dtype] * zeros.numel / factors.numel
    if order is not None and order.numel and len(tensor.shape) == 2:
        return word * tensor.shape[0] / order.numel
    return None


def _bits_in_config(folder: Path) -> float:
    """Return the bits that a configuration in the folder states, 0 where none does."""
    for name in _CONFIGS:
        path = folder / name
        try:
            content = json.loads(path.read_bytes()) if path.stat().st_size <= _MOST_BYTES else None
        except (OSError, ValueError, RecursionError):
            continue
        found = content.get("quantization_config", content) if isinstance(content, dict) else None
        bits = _stated_bits(found, 4)
        if bits:
            return bits
    return 0


def _stated_bits(config: Any, levels: int) -> float:
    """Return the first `bits`, `w_bit`, `num_bits` or `nbits` in a nested configuration; BitNet has three values, in two bits."""
    if not isinstance(config, dict) or not levels:
        return 0
    if config.get("quant_method") == "bitnet":
        return 2
    for key in ("bits", "w_bit", "num_bits", "nbits"):
        if isinstance(config.get(key), int) and 1 <= config[key] <= 16:
            return config[key]
    return next((bits for value in config.values() if (bits := _stated_bits(value, levels - 1))), 0)
