"""What rooms ask about a tensor or a module: whether it is one, in which dtype to compute, where its memory is."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from linkboy._checks import describe
from linkboy._compat import autocast_enabled

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ROWS_AT_ONCE = 1024
_PLAIN = (Tensor, nn.Parameter)


def check_floating(argument: str, value: object) -> Tensor:
    """Return `value` if it is a floating point tensor, else raise."""
    if not isinstance(value, Tensor):
        array = hasattr(value, "__array_interface__")
        got = (
            f"a NumPy array {describe(value)}; convert it with torch.from_numpy({argument})"
            if array
            else describe(value)
        )
        if isinstance(getattr(value, "logits", None), Tensor):  # the output of a model of transformers
            got += f"; pass {argument}.logits"
        raise TypeError(f"{argument} must be a floating point tensor, got {got}")
    if not value.is_floating_point():
        fix = "take .real or .abs()" if value.is_complex() else "convert it with .float()"
        raise TypeError(f"{argument} must be a floating point tensor, got {describe(value)}; {fix}")
    return value


def check_module(argument: str, value: object) -> nn.Module:
    """Return `value` if it is a module, else raise.

    Examples:
        >>> check_module("model", nn.Linear)
        Traceback (most recent call last):
        TypeError: model must be an nn.Module, got the class Linear; build it first
    """
    if not isinstance(value, nn.Module):
        raise TypeError(f"{argument} must be an nn.Module, got {describe_with_fix(value)}")
    return value


def describe_with_fix(value: object) -> str:
    """Describe what came in place of a module, and what would make a module of it.

    Examples:
        >>> describe_with_fix(nn.Linear(1, 1).state_dict())
        'a state dict; load it into its model with load_state_dict'
    """
    if isinstance(value, type):
        return f"the class {value.__name__}; build it first"
    if isinstance(value, Mapping) and any(isinstance(each, Tensor) for each in value.values()):
        return "a state dict; load it into its model with load_state_dict"
    if isinstance(value, torch.export.ExportedProgram):
        return "an ExportedProgram; pass its .module()"
    for attribute in ("model", "module"):  # of pipelines and trainers
        if isinstance(getattr(value, attribute, None), nn.Module):
            return f"{describe(value)}; pass its .{attribute}"
    return describe(value)


def work_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype of arithmetic on whole tensors: float32 for half precision and below, otherwise their own.

    Examples:
        >>> work_dtype(torch.ones(2, dtype=torch.bfloat16)), work_dtype(torch.ones(2, dtype=torch.float64))
        (torch.float32, torch.float64)
    """
    return torch.float32 if tensor.dtype.itemsize < 4 else tensor.dtype


def in_work_dtype(tensor: Tensor) -> Tensor:
    """Return a floating point tensor in its `work_dtype`; if it has that already, the tensor itself."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the dtype that autocast computes in on a device, `None` where it is off or the device has none.

    Examples:
        >>> with torch.autocast("cpu"):
        ...     autocast_dtype(torch.device("cpu")), autocast_dtype(torch.device("meta"))
        (torch.bfloat16, None)
    """
    return torch.get_autocast_dtype(device.type) if autocast_enabled(device) else None


def result_dtype(input: Tensor) -> torch.dtype:
    """Return the dtype that torch's losses and norms give: the input's, but float32 for half precision under autocast.

    Examples:
        >>> with torch.autocast("cpu"):
        ...     result_dtype(torch.ones(2, dtype=torch.bfloat16))
        torch.float32
    """
    half = input.dtype.itemsize == 2
    return torch.float32 if half and autocast_dtype(input.device) is not None else input.dtype


def wide_dtype(device: torch.device) -> torch.dtype:
    """Return the most precise dtype of a device: float64, or float32 where there is none."""
    return torch.float32 if device.type == "mps" else torch.float64


def values_visible(tensor: Tensor) -> bool:
    """Return whether looking at values is free of synchronisation and graph breaks."""
    # Compiling first: torch guards what is looked at while it traces, and checks that again at every call.
    return (
        not torch.compiler.is_compiling()
        and tensor.is_cpu  # half the time of `tensor.device.type`
        and type(tensor) in _PLAIN
        and not transforms_active()
    )


def transforms_active() -> bool:
    """Return whether a `torch.func` transform (vmap, grad) is at work, whose tensors have no values that could be read.

    torch's own `Function.apply` asks the same question.
    """
    return torch._C._are_functorch_transforms_active()  # pyright: ignore[reportAttributeAccessIssue]


def is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is an ordinary dense one, for which `numel`, `nbytes` and its storage tell everything."""
    return (type(tensor) is nn.Parameter or type(tensor) is Tensor) and tensor.layout is torch.strided


def dense_parts(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the dense tensors in which a tensor is stored: indices, shards, packed data, scales; often itself alone.

    Examples:
        >>> [part.shape for part in dense_parts(torch.eye(3).to_sparse())]
        [torch.Size([2, 3]), torch.Size([3])]
    """
    if is_plain(tensor):
        yield tensor
    elif (local := getattr(tensor, "_local_tensor", None)) is not None:  # DTensor: what this process holds
        yield from dense_parts(local)
    elif (flatten := getattr(type(tensor), "__tensor_flatten__", None)) is not None:  # torchao and similar libraries
        for name in flatten(tensor)[0]:
            yield from dense_parts(getattr(tensor, name))
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


def fill_rows_like(
    weight: Tensor, rows: Tensor, like: Tensor, *, spread: bool = True, generator: torch.Generator | None = None
) -> None:
    """Fill rows of a weight in place with numbers like those of other rows: column by column their mean and spread.

    The statistics are taken in float64 over the finite ones of these rows, in chunks that bound the memory.

    Args:
        weight: `(rows, ...)`, floating point.
        rows: indices of the rows to fill.
        like: indices of the rows to imitate.
        spread: whether to draw with the standard deviation of each column; `False` fills in the mean.
        generator: source of the random numbers; by default torch's own.

    Examples:
        >>> weight = torch.tensor([[1.0, 10.0], [3.0, 10.0], [0.0, 0.0]])
        >>> fill_rows_like(weight, torch.tensor([2]), torch.tensor([0, 1]), spread=False)
        >>> weight[2].tolist()
        [2.0, 10.0]
    """
    if not len(rows) or weight.is_meta:
        return
    table = weight.detach().view(len(weight), -1)
    mean, deviation = (torch.from_numpy(column) for column in _statistics(table, like))
    dtype, device = work_dtype(weight), weight.device if generator is None else generator.device
    for some in rows.split(_ROWS_AT_ONCE):
        drawn = mean.expand(len(some), -1)
        if spread:
            noise = torch.randn(len(some), table.shape[1], generator=generator, dtype=dtype, device=device)
            drawn = drawn + noise.cpu() * deviation
        table[some.to(table.device)] = drawn.to(table)


def _statistics(table: Tensor, like: Tensor) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Return mean and standard deviation of each column over the finite ones of some rows."""
    import numpy as np

    columns = table.shape[1]
    total, squares, count = np.zeros(columns), np.zeros(columns), 0
    for rows in _finite_chunks(table, like):
        total += rows.sum(0, dtype=np.float64)
        count += len(rows)
    mean = total / max(count, 1)
    for rows in _finite_chunks(table, like):
        difference = rows - mean
        squares += np.einsum("rc,rc->c", difference, difference)
    return mean, np.sqrt(squares / max(count, 1))


def _finite_chunks(table: Tensor, like: Tensor) -> "Iterator[NDArray[Any]]":
    import numpy as np

    for some in like.split(_ROWS_AT_ONCE):
        rows = in_work_dtype(table[some.to(table.device)]).cpu().numpy()
        with np.errstate(invalid="ignore", over="ignore"):
            all_finite = np.isfinite(rows.sum())
        yield rows if all_finite else rows[np.isfinite(rows).all(1)]
