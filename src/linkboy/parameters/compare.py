"""Say what differs between two models, by name, shape, dtype and value."""

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from linkboy._checks import describe
from linkboy._report import Block, Report, Table
from linkboy._tensors import check_module
from linkboy.parameters._held import is_uninitialized
from linkboy.parameters.count import listed


@dataclasses.dataclass(frozen=True)
class Difference:
    """One tensor that two models hold differently; `largest` is the greatest absolute difference of values.

    Examples:
        >>> import torch
        >>> from linkboy import compare
        >>> compare(torch.nn.Linear(3, 2), torch.nn.Linear(4, 2)).differences[0].what
        'shape'
    """

    name: str
    what: str
    first: str
    second: str
    largest: float | None = None


@dataclasses.dataclass(frozen=True)
class ModelComparison(Report):
    """What differs between two models; see `compare`.

    Examples:
        >>> import torch
        >>> from linkboy import compare
        >>> model = torch.nn.Linear(3, 2)
        >>> print(compare(model, model))
        the models are identical: 2 tensors
    """

    identical: bool
    equal: int
    only_in_first: tuple[str, ...]
    only_in_second: tuple[str, ...]
    differences: tuple[Difference, ...]
    not_compared: tuple[str, ...] = ()

    def _blocks(self) -> Iterable[Block]:
        if self.identical:
            yield f"the models are identical: {self.equal} tensors"
            return
        lines = [f"equal tensors: {self.equal}, different: {len(self.differences)}"]
        if self.only_in_first:
            lines.append(f"only in the first: {listed(self.only_in_first)}")
        if self.only_in_second:
            lines.append(f"only in the second: {listed(self.only_in_second)}")
        if self.not_compared:
            lines.append(f"values that are not there to compare: {listed(self.not_compared)}")
        yield "\n".join(lines)
        if self.differences:
            rows = [
                (d.name, d.what, d.first, d.second, "-" if d.largest is None else f"{d.largest:.3g}")
                for d in self.differences
            ]
            yield Table(("name", "differs in", "first", "second", "largest difference"), rows)


def compare(model_a: nn.Module, model_b: nn.Module) -> ModelComparison:
    """Say what differs between two models: names, shapes, dtypes, values, ties and what is trainable.

    Parameters and buffers are compared under every name they have, aliases included. Two NaN are equal, 0.0 and -0.0
    too. Values are compared on the CPU, one tensor at a time.

    Args:
        model_a: the first model.
        model_b: the second.

    Returns:
        `identical`; the number of `equal` tensors; names `only_in_first` and `only_in_second`; `differences`, each with
        what differs (`"shape"`, `"dtype"`, `"value"`, `"tie"` or `"requires_grad"`); `not_compared`: names
        whose values do not exist (meta device, lazy), with which the models do not count as identical.

    Raises:
        TypeError: an argument is no module.

    Examples:
        >>> import torch
        >>> from linkboy import compare
        >>> first = torch.nn.Linear(2, 1)
        >>> second = torch.nn.Linear(2, 1)
        >>> _ = second.load_state_dict(first.state_dict())
        >>> with torch.no_grad():
        ...     second.bias += 0.5
        >>> print(compare(first, second))
        equal tensors: 1, different: 1
        <BLANKLINE>
        name  differs in  first   second  largest difference
        bias  value       f32[1]  f32[1]                 0.5
    """
    check_module("model_a", model_a)
    check_module("model_b", model_b)
    first, second = _tensors(model_a), _tensors(model_b)
    ties_a, ties_b = _ties(first), _ties(second)
    differences: list[Difference] = []
    not_compared: list[str] = []
    equal = 0
    for name in (name for name in first if name in second):
        a, b = first[name], second[name]
        if is_uninitialized(a) or is_uninitialized(b) or ((a.is_meta or b.is_meta) and a.shape == b.shape):
            not_compared.append(name)
            continue
        found = _difference(name, a, b)
        if found is None and ties_a[name] != ties_b[name]:
            found = Difference(name, "tie", " = ".join(ties_a[name]), " = ".join(ties_b[name]))
        if found is None:
            equal += 1
        else:
            differences.append(found)
    only_a = tuple(name for name in first if name not in second)
    only_b = tuple(name for name in second if name not in first)
    identical = not (differences or only_a or only_b or not_compared)
    return ModelComparison(identical, equal, only_a, only_b, tuple(differences), tuple(not_compared))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


def _ties(tensors: dict[str, Tensor]) -> dict[str, tuple[str, ...]]:
    names: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    return {name: tuple(names[id(tensor)]) for name, tensor in tensors.items()}


def _difference(name: str, a: Tensor, b: Tensor) -> Difference | None:
    if a.shape != b.shape:
        return Difference(name, "shape", describe(a), describe(b))
    if a.dtype != b.dtype:
        return Difference(name, "dtype", describe(a), describe(b))
    a_values, b_values = a.detach().cpu(), b.detach().cpu()
    same = (a_values == b_values) | ((a_values != a_values) & (b_values != b_values))
    if not bool(same.all()):
        wide = torch.complex128 if a.is_complex() else torch.float64
        gaps = (a_values.to(wide) - b_values.to(wide)).abs()[~same]
        return Difference(name, "value", describe(a), describe(b), gaps.max().item())
    if a.requires_grad != b.requires_grad:
        word = {True: "trainable", False: "frozen"}
        return Difference(name, "requires_grad", word[a.requires_grad], word[b.requires_grad])
    return None
