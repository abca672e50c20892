"""Compare two models by name, shape, dtype and value."""

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from linkboy._checks import describe
from linkboy._tensors import check_module
from linkboy._walk import NamedTensor, walk
from linkboy.parameters._packed import hidden_weights
from linkboy.parameters.report import Difference, ModelComparison


def compare_models(model_a: nn.Module, model_b: nn.Module) -> ModelComparison:
    """Return what differs between two models: names, shapes, dtypes, values, ties and what is trainable.

    Parameters and buffers are compared under every name they have, aliases included, and so are the weights that quantised
    layers and frozen scripts keep outside of them, as `layer.packed.0`. Two NaN are equal, 0.0 and -0.0
    too. Values are compared on the CPU, one tensor at a time.

    Args:
        model_a: the first model.
        model_b: the second.

    Returns:
        A `ModelComparison`; `ok` where the models are identical.

    Raises:
        TypeError: an argument is not a module.

    Examples:
        >>> import torch
        >>> from linkboy import compare_models
        >>> first = torch.nn.Linear(2, 1)
        >>> second = torch.nn.Linear(2, 1)
        >>> _ = second.load_state_dict(first.state_dict())
        >>> with torch.no_grad():
        ...     second.bias += 0.5
        >>> print(compare_models(first, second))
        equal tensors: 1, different: 1
        <BLANKLINE>
        name  differs in  first   second  largest difference
        bias  value       f32[1]  f32[1]                 0.5
    """
    check_module("model_a", model_a)
    check_module("model_b", model_b)
    first, second = _by_name(model_a), _by_name(model_b)
    differences: list[Difference] = []
    not_compared: list[str] = []
    shared = [name for name in first if name in second]
    for name in shared:
        if _without_values(first[name].tensor, second[name].tensor):
            not_compared.append(name)
        elif found := _difference(name, first[name], second[name]):
            differences.append(found)
    only_a = tuple(name for name in first if name not in second)
    only_b = tuple(name for name in second if name not in first)
    return ModelComparison(
        ok=not (differences or only_a or only_b or not_compared),
        equal_count=len(shared) - len(differences) - len(not_compared),
        only_in_first=only_a,
        only_in_second=only_b,
        differences=tuple(differences),
        not_compared=tuple(not_compared),
    )


def _by_name(model: nn.Module) -> dict[str, NamedTensor]:
    """Return every parameter, then every buffer, under each of its names."""
    modules, tensors = walk(model, plain=True)
    known = {id(each.tensor): each for each in tensors}
    tables = [
        [(path, module._parameters) for path, module in modules],
        [(path, module._buffers) for path, module in modules],
    ]
    named = {
        f"{path}.{key}" if path else key: known[id(tensor)]
        for kind in tables
        for path, table in kind
        for key, tensor in table.items()
        if tensor is not None
    }
    for path, module in modules:
        for number, weight in enumerate(hidden_weights(module) or ()):
            key = f"packed.{number}"
            named[f"{path}.{key}" if path else key] = NamedTensor(weight, False, (path, module, key))
    return named


def _without_values(a: Tensor, b: Tensor) -> bool:
    return is_lazy(a) or is_lazy(b) or ((a.is_meta or b.is_meta) and a.shape == b.shape)


def _difference(name: str, first: NamedTensor, second: NamedTensor) -> Difference | None:
    a, b = first.tensor, second.tensor
    if a.shape != b.shape:
        return Difference(name, "shape", describe(a), describe(b))
    if a.dtype != b.dtype:
        return Difference(name, "dtype", describe(a), describe(b))
    if a.layout != b.layout:
        return Difference(name, "layout", str(a.layout), str(b.layout))
    a_values, b_values = _values(a), _values(b)
    same = (a_values == b_values) | ((a_values != a_values) & (b_values != b_values))
    if not bool(same.all()):
        wide = torch.complex128 if a.is_complex() else torch.float64
        if wide is torch.float64 and a_values.dtype == torch.int64:  # which has more digits
            wide = torch.int64
        gaps = (a_values.to(wide) - b_values.to(wide)).abs()[~same]
        return Difference(name, "value", describe(a), describe(b), gaps.max().item())
    if a.requires_grad != b.requires_grad:
        word = {True: "trainable", False: "frozen"}
        return Difference(name, "requires_grad", word[a.requires_grad], word[b.requires_grad])
    if first.names != second.names:
        return Difference(name, "tie", " = ".join(first.names), " = ".join(second.names))
    return None


def _values(tensor: Tensor) -> Tensor:
    values = tensor.detach().cpu()
    if values.is_quantized:
        return values.dequantize()
    return values if values.layout in (torch.strided, torch.jagged) else values.to_dense()
