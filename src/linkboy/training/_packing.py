"""Nested Python values with tensors in them, as one flat dict of tensors and one JSON value, and back."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, strided

_NOT_KEPT = re.compile(r"torch\.(complex(32|128)|u?int[1-7]|q.*|bits.*)")  # dtypes that safetensors does not have
_TENSOR, _TUPLE, _ITEMS = "__tensor__", "__tuple__", "__items__"


def pack(state: Any) -> tuple[dict[str, Tensor], Any]:
    """Split `state` into contiguous CPU tensors, none sharing memory, and a value that JSON can hold.

    Raises:
        TypeError: something is neither dense tensor, number, string, boolean, `None` nor a dict, list or tuple of such.
    """
    tensors: dict[str, Tensor] = {}
    used: set[int] = set()

    def walk(value: Any, path: str) -> Any:
        value = _without_numpy(value)
        if value is None or isinstance(value, (bool, int, float, str)):
            # A NumPy or torch scalar that is a float by inheritance must not come back as another type.
            return value if type(value) in (type(None), bool, int, float, str) else _plain_number(value)
        if isinstance(value, Mapping):
            plain = all(isinstance(key, str) and not key.startswith("__") for key in value)
            if plain:
                return {key: walk(item, f"{path}/{key}") for key, item in value.items()}
            return {_ITEMS: [[walk(key, path), walk(item, f"{path}/{key}")] for key, item in value.items()]}
        if isinstance(value, tuple):
            return {_TUPLE: [walk(item, f"{path}/{index}") for index, item in enumerate(value)]}
        if isinstance(value, list):
            return [walk(item, f"{path}/{index}") for index, item in enumerate(value)]
        _check_leaf(value, path)
        local = value.detach().cpu().contiguous()
        storage = local.untyped_storage().data_ptr()
        if storage in used or local.untyped_storage().nbytes() != local.nbytes:
            local = local.clone()
        used.add(local.untyped_storage().data_ptr())
        name = str(len(tensors)) + path
        tensors[name] = local
        return {_TENSOR: name}

    return tensors, walk(state, "")


def check_packable(state: Any, path: str = "") -> None:
    """Raise what `pack` would raise, and copy nothing."""
    state = _without_numpy(state)
    if isinstance(state, Mapping):
        for key, item in state.items():
            check_packable(key, path)
            check_packable(item, f"{path}/{key}")
    elif isinstance(state, (list, tuple)):
        for index, item in enumerate(state):
            check_packable(item, f"{path}/{index}")
    elif state is not None and not isinstance(state, (bool, int, float, str)):
        _check_leaf(state, path)


def _check_leaf(value: Any, path: str) -> None:
    """Raise unless a value that is neither plain nor holds others is a dense tensor."""
    name = f"state{path.replace('/', '.')}"
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a tensor, a plain value or a dict, list or tuple of them, got {type(value).__name__}; convert it, "
            "as with torch.from_numpy, list or str"
        )
    if value.is_meta or value.is_nested or value.layout is not strided:
        kind = "on the meta device, without values" if value.is_meta else f"of layout {value.layout}"
        raise TypeError(f"{name} must be a dense tensor, got {'a nested one' if value.is_nested else f'one {kind}'}")
    if _NOT_KEPT.fullmatch(str(value.dtype)):
        raise TypeError(f"{name} must have a dtype that safetensors has, got {value.dtype}; convert it first")


def _without_numpy(value: Any) -> Any:
    """Return a scalar of NumPy as the plain number that it is."""
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "shape", None) == () else value


def unpack(tensors: dict[str, Tensor], packed: Any) -> Any:
    """Put together again what `pack` split."""
    if isinstance(packed, list):
        return [unpack(tensors, item) for item in packed]
    if not isinstance(packed, dict):
        return packed
    if _TENSOR in packed:
        return tensors[packed[_TENSOR]]
    if _TUPLE in packed:
        return tuple(unpack(tensors, item) for item in packed[_TUPLE])
    if _ITEMS in packed:
        return {unpack(tensors, key): unpack(tensors, item) for key, item in packed[_ITEMS]}
    return {key: unpack(tensors, item) for key, item in packed.items()}


def _plain_number(value: Any) -> Any:
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value
