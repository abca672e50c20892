"""What every classification loss requires of its arguments, and the weights and divisor that follow from them."""

import functools
import inspect
import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, ParamSpec, get_args

import numpy as np
import torch
from torch import Tensor

from linkboy._checks import check_choice, check_number, describe
from linkboy._compat import SAYS_WHEN_IT_COMPILES
from linkboy._tensors import check_floating, in_work_dtype, transforms_active, values_visible, wide_dtype
from linkboy.losses import _small
from linkboy.losses._functions import loss_functions, names_elsewhere, refuse_other_names

Reduction = Literal["none", "mean", "sum"]
Normalizer = Literal["weights", "count", "positives"] | float | Tensor
PerClass = Tensor | Sequence[float]
P = ParamSpec("P")
_compiling = torch.compiler.is_compiling if SAYS_WHEN_IT_COMPILES else lambda: False
REDUCTIONS, NORMALIZERS = get_args(Reduction), ("weights", "count", "positives")
# Rows that must all sum to 1 before they count as probabilities: so many do by chance in one of 10**9 batches.
_TELLING_ROWS, _TELLING_ROWS_HALF = 2, 4
# The first calls of a process look for a softmax before the loss, and one of 16 later: it takes a twentieth of the time of
# a small batch.
_calls, _FIRST_CALLS = itertools.count(), 256
# Numbers that Python compares sooner than torch starts an operation.
_FEW = 64
_ONE_NUMBER = "; one number for all changes nothing: for two classes pass [1 - w, w], w the weight of class 1"
_USUAL_IGNORED = (-100, -1, 255)
_INDEX_DTYPES = (torch.int64, torch.uint8, torch.int32, torch.int16, torch.int8)


class SampleRows(NamedTuple):
    """A checked batch.

    Attributes:
        logits: `(N, C, ...)`.
        target: `(N, ...)` class indices, 0 where ignored, or `(N, C, ...)` soft targets.
        weight: `(N, ...)` weight of each sample, 0 where it is ignored; `None` where all weigh 1.
        class_weight: `(C,)`; `None` where all classes weigh 1.
        zeros: whether a sample may weigh 0, by its own weight or that of its class; `None` where nobody has looked.
        visible: whether looking at values is free.
        shift: `(C,)`, to be added to the logits, in their dtype or in float32 for half precision; `None` for nothing.
    """

    logits: Tensor
    target: Tensor
    weight: Tensor | None
    class_weight: Tensor | None
    zeros: bool | None
    visible: bool
    shift: Tensor | None = None

    # Methods, where a property and `_replace` would read better: torch.compile follows them from torch 2.6 on.
    def soft(self) -> bool:
        return self.target.is_floating_point()

    def with_logits(self, logits: Tensor) -> "SampleRows":
        return SampleRows(logits, self.target, self.weight, self.class_weight, self.zeros, self.visible, self.shift)

    def with_shift(self, shift: Tensor) -> "SampleRows":
        return SampleRows(self.logits, self.target, self.weight, self.class_weight, self.zeros, self.visible, shift)

    def shifted(self) -> "SampleRows":
        """Return the rows with the shift in the logits."""
        if self.shift is None:
            return self
        logits = in_work_dtype(self.logits)
        logits = logits + along_classes(self.shift, logits)
        return SampleRows(logits, self.target, self.weight, self.class_weight, self.zeros, self.visible)

    def by_class_of_target(self) -> "SampleRows":
        """Return the rows with the weight of each target's class in that of the sample; a soft target has no single class."""
        if self.class_weight is None or self.soft():
            return self
        target = self.target
        weight = self.class_weight.index_select(0, target) if target.dim() == 1 else self.class_weight[target]
        if self.weight is not None:
            weight = weight * self.weight
        return SampleRows(self.logits, target, weight, None, self.zeros, self.visible, self.shift)

    def masked(self) -> Tensor | None:
        """Return where the weight is 0, `(N, ...)`, `None` where that is known to be nowhere."""
        return None if self.weight is None or self.zeros is False else self.weight == 0


def loss_function(**other_names: str) -> Callable[[Callable[P, Tensor]], Callable[P, Tensor]]:
    """Decorate a loss: one operation for torch.compile, and a keyword of other libraries is refused with its name here."""

    def decorate(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
        name = function.__name__
        names = {**names_elsewhere(inspect.signature(function).parameters), **other_names}

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            if (
                _compiling()
            ):  # first, and in few names: torch.compile looks at every call whether they are still the same
                from linkboy.losses import _in_graph

                return getattr(_in_graph, name)(*args, **kwargs)
            if kwargs:
                refuse_other_names(name, kwargs, names)
            return function(*args, **kwargs)

        call.other_names = names  # type: ignore[attr-defined]
        loss_functions.append(call)
        return call

    return decorate


def is_learned(factor: object) -> bool:
    """Return whether a factor is a tensor that requires a gradient."""
    return isinstance(factor, Tensor) and factor.requires_grad


def plain_operations_needed() -> bool:
    """Return whether only operations that torch differentiates itself will do: in `torch.compile` and `torch.func`."""
    return torch.compiler.is_compiling() or transforms_active()


def along_classes(numbers: Tensor, like: Tensor) -> Tensor:
    """Return one number per class, `(C,)`, in a shape that broadcasts along dimension 1 of `like`."""
    return numbers.view(-1, *[1] * (like.dim() - 2))


def number(
    argument: str,
    value: object,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
) -> float:
    """Return a number as a Python number, or raise; a NumPy scalar and a 0-dim tensor on a CPU are accepted."""
    if type(value) is float and minimum == 0 and maximum is None and 0 <= value < math.inf:
        return value  # the usual case, on the way of every call
    if (
        isinstance(value, (np.number, Tensor))
        and value.ndim == 0
        and not (isinstance(value, Tensor) and _stays_a_tensor(value))
    ):
        value = value.item()
    check_number(argument, value, minimum=minimum, maximum=maximum, above=above)
    return value  # type: ignore[return-value]  # checked


def check_share(argument: str, value: object, *, below_1: bool = False) -> float:
    """Return a number from 0 to 1, or `below_1`, or raise."""
    if type(value) is float and 0 <= value < 1:
        return value
    if not below_1:
        return number(argument, value, minimum=0, maximum=1)
    share = number(argument, value)
    if not 0 <= share < 1:
        raise ValueError(f"{argument} must be a number from 0 up to, not including, 1, got {value!r}")
    return share


def _stays_a_tensor(value: Tensor) -> bool:
    """Return whether reading a number would lose its gradient or wait for the device."""
    return value.requires_grad or not values_visible(value)


def check_reduction(reduction: str, normalizer: object, default: Literal["weights", "count"]) -> Normalizer:
    """Return the normalizer; raise unless both are known, and unless it is the default where nothing is divided."""
    if reduction == "mean" and normalizer == default:
        return default
    check_choice("reduction", reduction, REDUCTIONS)
    if isinstance(normalizer, str):
        check_choice("normalizer", normalizer, NORMALIZERS)
    elif isinstance(normalizer, Tensor) and normalizer.dim() == 0 and _stays_a_tensor(normalizer):
        check_real("normalizer", normalizer)
    else:
        normalizer = number("normalizer", normalizer, above=0)
    if reduction != "mean" and not (isinstance(normalizer, str) and normalizer == default):
        raise ValueError(
            f"normalizer divides only under reduction='mean', got normalizer={normalizer!r} "
            f"with reduction={reduction!r}; leave one of them out"
        )
    return normalizer  # type: ignore[return-value]  # checked


def check_input(argument: str, value: object) -> Tensor:
    """Return `value` if it is a dense tensor of floating point numbers that torch can compute with, else raise."""
    value = check_floating(argument, value)
    if value.dtype.itemsize < 2:
        raise TypeError(
            f"{argument} must have at least 16 bits a number, got {describe(value)}; convert it with .float()"
        )
    return _check_dense(argument, value)


def _check_dense(argument: str, value: Tensor) -> Tensor:
    if value.is_nested:
        raise TypeError(
            f"{argument} must be a dense tensor, got a nested one; pad it with torch.nested.to_padded_tensor"
        )
    if value.layout is not torch.strided:
        raise TypeError(
            f"{argument} must be a dense tensor, got the layout {value.layout}; convert it with .to_dense()"
        )
    return value


def check_tensor(argument: str, value: object, what: str = "a tensor") -> Tensor:
    """Return `value` if it is a dense tensor, else raise."""
    if isinstance(value, Tensor):
        return _check_dense(argument, value)
    if isinstance(value, np.ndarray):
        array = f"a NumPy array {describe(value)}"
        raise TypeError(f"{argument} must be {what}, got {array}; convert it with torch.from_numpy({argument})")
    raise TypeError(f"{argument} must be {what}, got {describe(value)}; convert it with torch.as_tensor({argument})")


def proposed_expansion(argument: str, shape: Sequence[int], other: str | None, whole: Sequence[int]) -> str:
    """Return `"; ..."` with code that brings numbers along some dimensions of `whole` to its shape, `""` where none does.

    `other` is the name of a tensor of that shape, if there is one.
    """
    if not 0 < len(shape) < len(whole):
        return ""
    rest = len(whole) - len(shape)
    for first in range(rest + 1):
        if tuple(shape) == tuple(whole[first : first + len(shape)]):
            axes = ", ".join(["None"] * first + [":"] * len(shape) + ["None"] * (rest - first))
            expand = f"expand_as({other})" if other else f"expand{tuple(whole)}"
            return f"; say which dimensions they belong to, for example {argument}[{axes}].{expand}"
    return ""


def proposed_shape(argument: str, shape: Sequence[int], other: str, wanted: Sequence[int]) -> str:
    """Return `"; ..."` with code that brings a tensor to the shape of another with each number in its place, or `""`.

    A reshape does where dimensions are only merged or split; where they stand in another order it would mix the numbers up.
    """
    if math.prod(shape) != math.prod(wanted) or not shape or not wanted:
        return ""
    ends, wanted_ends = (set(itertools.accumulate(sizes, operator.mul)) for sizes in (shape, wanted))
    if ends <= wanted_ends or wanted_ends <= ends:
        return f"; bring it to that shape with {argument}.reshape({other}.shape)"
    for source, destination in itertools.permutations(range(len(shape)), 2):
        moved = [*shape[:source], *shape[source + 1 :]]
        moved.insert(destination, shape[source])
        if tuple(moved) == tuple(wanted):
            last = {source, destination} == {len(shape) - 1, len(shape) - 2}
            code = "mT" if last else f"movedim({source}, {destination})"
            return f"; its dimensions stand in another order: pass {argument}.{code}"
    return ""


def check_device(argument: str, value: Tensor, reference: Tensor, other: str = "input") -> None:
    """Raise unless `value` is on the device of `reference`."""
    if value.device != reference.device:
        raise ValueError(
            f"{argument} must be on the device of {other} ({reference.device}), got {value.device}; move it with .to()"
        )


def check_real(argument: str, value: Tensor) -> None:
    """Raise if a tensor holds complex numbers."""
    if value.is_complex():
        raise TypeError(f"{argument} must hold real numbers, got {describe(value)}")


def bounds(values: Tensor) -> tuple[float, float]:
    """Return the lowest and the highest number, NaN if one is; without the core a few numbers are Python's own."""
    if _small.CORE is not None and values.dtype in _small.KINDS:
        return _small.bounds_by_core(values)
    if values.dim() == 1 and values.numel() <= _FEW:
        numbers = values.tolist()
        total = sum(numbers)
        if total == total:
            return min(numbers), max(numbers)
    low, high = values.detach().aminmax()
    return low.item(), high.item()


def check_weight_values(argument: str, value: Tensor) -> float | None:
    """Return the lowest weight, `None` where it cannot be read for free; raise if one is complex, negative or not finite."""
    if value.is_complex():
        check_real(argument, value)
    if not values_visible(value) or not value.numel():
        return None
    low, high = bounds(value)
    if not low >= 0:
        raise ValueError(f"{argument} must not be negative or NaN, got {low:.6g}")
    if high == math.inf:
        raise ValueError(f"{argument} must be finite, got inf")
    return low


def to_numbers(argument: str, value: float | Tensor | Sequence[float], dtype: torch.dtype | None) -> Tensor:
    """Return a number, a sequence of them, an array or a tensor as a tensor, or raise."""
    if isinstance(value, Tensor):
        return value
    try:
        return torch.tensor(value, dtype=dtype)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{argument} must be a tensor or hold numbers, got {_holder(value)}{_by_class(argument, value)}"
        ) from error


def _holder(value: object) -> str:
    """Describe what holds no numbers, or holds them under names."""
    if hasattr(value, "index") and hasattr(value, "iloc"):
        return f"a {type(value).__name__} with an index of its own"
    first = next(iter(value), None) if isinstance(value, (list, tuple)) else None
    return f"{describe(value)} of {type(first).__name__}" if isinstance(first, str) else describe(value)


def _by_class(argument: str, value: object) -> str:
    """Return `"; ..."` with code that lists numbers held under the names of classes, `""` where there are none."""
    if not isinstance(value, Mapping) and not hasattr(value, "iloc"):
        return ""
    return f"; list them in the order of the classes: [{argument}[name] for name in names]"


def class_numbers(argument: str, value: Tensor | Sequence[float], input: Tensor) -> tuple[Tensor, float | None]:
    """Return one number per class of `input` in the wide dtype, and the lowest if it can be read for free; or raise."""
    if not isinstance(value, Tensor):
        value = to_numbers(argument, value, torch.float64).to(input.device)
    classes = input.shape[1]
    if value.shape != (classes,):
        raise ValueError(
            f"{argument} needs one number per class: input has {classes} classes (shape {tuple(input.shape)}), "
            f"{argument} has shape {tuple(value.shape)}" + ("" if value.dim() else _ONE_NUMBER)
        )
    check_device(argument, value, input)
    low = check_weight_values(argument, value)
    return value.to(wide_dtype(input.device)), low


def check_logits(input: object, target: object) -> Tensor:
    """Return `input` if it can hold a batch of logits, else raise."""
    if (
        isinstance(input, Tensor)
        and not input.is_floating_point()
        and isinstance(target, Tensor)
        and target.is_floating_point()
        and target.dim() == input.dim() + 1
    ):
        raise TypeError(
            f"input must hold logits and target labels, got {describe(input)} and {describe(target)}; pass them the other way "
            "round"
        )
    logits = check_input("input", input)
    if logits.dim() < 2:
        alike = isinstance(target, Tensor) and target.shape == logits.shape and logits.dim() == 1
        fix = "for one logit per label use binary_focal_loss" if alike else "add the batch dimension with input[None]"
        raise ValueError(f"input must have shape (N, C) or (N, C, d1, ...), got {tuple(logits.shape)}; {fix}")
    if logits.shape[1] < 2:
        raise ValueError(
            f"input must have at least two classes in dimension 1, got shape {tuple(logits.shape)}; "
            "for one logit per label use binary_focal_loss"
        )
    return logits


def check_class_target(input: Tensor, target: object, *, allow_soft: bool) -> Tensor:
    """Return `target` as int64 class indices, or unchanged where it is soft, else raise."""
    target = check_tensor("target", target, "a tensor of class indices")
    check_device("target", target, input)
    shape = input.shape[:1] if input.dim() == 2 else input.shape[:1] + input.shape[2:]
    if allow_soft and target.is_floating_point():
        if target.shape == input.shape:
            _check_shares(target)
            return target
        raise ValueError(
            f"soft targets must have the shape of input {tuple(input.shape)}, got {describe(target)}; "
            "class indices must be integers: convert them with .long()"
        )
    if target.dtype is not torch.int64 and target.dtype not in _INDEX_DTYPES:
        one_hot = _proposed_shapes(input, target, shape, allow_soft) if target.shape == input.shape else ""
        raise TypeError(
            f"target must hold integer class indices, got {describe(target)}{one_hot or '; convert them with .long()'}"
        )
    if target.shape != shape:
        raise ValueError(
            f"target must have shape {tuple(shape)} for input of shape {tuple(input.shape)}, got {tuple(target.shape)}"
            + _proposed_shapes(input, target, shape, allow_soft)
        )
    return target if target.dtype is torch.int64 else target.long()


def _proposed_shapes(input: Tensor, target: Tensor, shape: tuple[int, ...], allow_soft: bool) -> str:
    """Return `"; ..."` with code that makes input and target fit together, `""` if none is known."""
    if target.shape == input.shape:
        soft = ", or pass class probabilities with target.float()" if allow_soft else ""
        ordered = "target.int()" if target.dtype is torch.bool else "target"  # torch orders no truth values
        return f"; turn one-hot labels into class indices with {ordered}.argmax(1){soft}"
    if target.shape == (shape[0], 1, *shape[1:]):
        return "; drop the class dimension with target.squeeze(1)"
    if input.dim() > 2 and target.shape == input.shape[:-1]:
        return "; classes belong to dimension 1: pass input.movedim(-1, 1)"
    return ""


def _check_shares(target: Tensor) -> None:
    if values_visible(target) and target.numel():
        lowest = target.detach().nan_to_num().amin().item()  # a masked sample may be NaN
        if lowest < 0:
            raise ValueError(f"soft targets must not be negative, got {lowest:.6g}")


def check_labels(label: Tensor) -> None:
    """Raise unless labels are from 0 to 1; values are checked only where looking at them is free."""
    if values_visible(label) and label.numel() and label.dtype != torch.bool:
        low, high = bounds(label)
        if not (low >= 0 and high <= 1):
            wrong = high if low >= 0 else low
            raise ValueError(f"target must hold labels from 0 to 1, got {wrong:.6g}{fix_of_labels(label, wrong, 2)}")


def fix_of_labels(label: Tensor, wrong: float, classes: int, argument: str = "target") -> str:
    """Return `"; ..."` with what labels outside of the classes may mean, and what to do then; `""` where nothing is known."""
    found = set(label.detach().unique().tolist())
    ignored = f"if it marks what is ignored, pass ignore_index={wrong:.0f}" if wrong in _USUAL_IGNORED else ""
    meant, divide = "", "/" if label.is_floating_point() else "//"
    if classes == 2 and found <= {0, 255} and 255 in found:  # a mask of eight bits, as a picture holds it
        meant = f"if 255 stands for label 1, as in a picture, pass {argument} {divide} 255"
    elif classes == 2 and found == {-1, 1}:
        meant = f"if -1 stands for label 0, pass ({argument} + 1) {divide} 2"
    elif classes > 1 and min(found) >= 1 and max(found) == classes:
        meant = f"if they count from 1, pass {argument} - 1"
    return "".join(f"; {part}" for part in (meant, ignored) if part)


def check_sample_weight(sample_weight: object, shape: tuple[int, ...], input: Tensor) -> tuple[Tensor, float | None]:
    """Return one number per sample in the wide dtype, and the lowest if it can be read for free; or raise."""
    sample_weight = check_tensor("sample_weight", sample_weight)
    if sample_weight.shape != shape:
        given = tuple(sample_weight.shape)
        fix = proposed_expansion("sample_weight", given, None, shape)
        if not fix and [size for size in given if size != 1] == [size for size in shape if size != 1]:
            fix = f"; bring it to that shape with sample_weight.reshape{shape}"
        raise ValueError(f"sample_weight must have one number per sample, shape {shape}, got {given}{fix}")
    check_device("sample_weight", sample_weight, input)
    low = check_weight_values("sample_weight", sample_weight)
    return sample_weight.to(wide_dtype(input.device)), low


def _looks_for_probabilities() -> bool:
    call = next(_calls)
    return call < _FIRST_CALLS or call % 16 == 0


def check_not_probabilities(rows: Tensor) -> None:
    """Raise if the logits `(N, C, ...)` are clearly the output of a softmax.

    This requires that every entry lies in [0, 1] and every row sums to 1. Constant rows, and rows of zeros and ones, are
    not evidence, since somebody may have written such logits by hand; neither are a few rows, whose sums may be 1 by
    chance: one of 250 random pairs in bfloat16 has such a sum.
    """
    if rows.numel() == 0:
        return
    rows = rows.detach()
    # Nearly every batch of logits pays for this test only; `select` is the fastest way to one row.
    first = rows.select(0, 0)
    if not abs((first if rows.dim() == 2 else first.flatten(1).select(1, 0)).sum().item() - 1) < 1e-2:
        return
    half = rows.dtype.itemsize < 4
    rows = rows.flatten(2) if rows.dim() > 2 else rows.unsqueeze(2)
    sample = rows[:16, :, :16].double()
    sums_to_one = (sample.sum(1) - 1).abs().max().item() < (1e-2 if half else 1e-5)
    in_range = sample.min().item() >= 0 and sample.max().item() <= 1
    telling = ((sample != sample[:, :1]).any() & ((sample > 0) & (sample < 1)).any()).item()
    enough = rows.shape[0] * rows.shape[2] >= (_TELLING_ROWS_HALF if half else _TELLING_ROWS)
    if enough and sums_to_one and in_range and telling:
        raise ValueError("input must be logits, got rows that sum to 1; leave out the softmax before the loss")


def class_rows(
    input: Tensor,
    target: Tensor,
    *,
    alpha: Tensor | Sequence[float] | None = None,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
    allow_soft: bool = True,
) -> SampleRows:
    """Check the tensors of a multi-class loss and bring them into one shape."""
    check_logits(input, target)
    target = check_class_target(input, target, allow_soft=allow_soft)
    if type(ignore_index) is not int:
        check_number("ignore_index", ignore_index, integer=True)
    visible = values_visible(input)
    class_weight, weight, zeros = None, None, False
    if alpha is not None:
        class_weight, low = class_numbers("alpha", alpha, input)
        zeros = None if low is None else low == 0
    if sample_weight is not None:
        weight, low = check_sample_weight(sample_weight, (input.shape[0], *input.shape[2:]), input)
        zeros = None if low is None or zeros is None else zeros or low == 0
    if visible and _looks_for_probabilities():
        check_not_probabilities(input)
    if target.is_floating_point():
        if ignore_index != -100:
            raise ValueError(
                f"ignore_index needs class indices as target, got ignore_index={ignore_index} with soft targets "
                f"{describe(target)}; give those samples a sample_weight of 0"
            )
        return SampleRows(input, target, weight, class_weight, zeros, visible)
    kept = kept_positions(target, input.shape[1], ignore_index, visible=visible)
    if kept is not None:
        target = target.where(kept, 0)  # inductor has no vectors for a product of int64
        weight = kept.to(wide_dtype(input.device)) if weight is None else weight.masked_fill(~kept, 0)
        zeros = True
    return SampleRows(input, target, weight, class_weight, zeros, visible)


def kept_positions(target: Tensor, classes: int, ignore_index: int, *, visible: bool) -> Tensor | None:
    """Return where `target` is not `ignore_index`, `None` if that is known to be everywhere; refuse impossible labels."""
    if not (visible and type(target) is Tensor):
        return target != ignore_index  # a label outside the classes is left to the indexing kernel
    if target.numel() == 0 or (_within(target, classes) and not 0 <= ignore_index < classes):
        return None
    kept = target != ignore_index
    if not _within(target * kept, classes):
        wrong = target[kept & ((target < 0) | (target >= classes))]
        first = wrong[0].item()
        raise ValueError(
            f"target must hold labels from 0 to {classes - 1} or ignore_index ({ignore_index}), got {first}"
            + fix_of_labels(target[kept], first, classes)
        )
    return kept


def _within(target: Tensor, classes: int) -> bool:
    low, high = bounds(target)
    return low >= 0 and high < classes


def denominator(rows: SampleRows, normalizer: Normalizer) -> Tensor | float:
    """Return what a mean divides by, never 0, so that an empty batch has the value 0; a number where that can be read."""
    if not isinstance(normalizer, str):
        return normalizer
    weight, target = rows.weight, rows.target
    if normalizer == "weights" and rows.class_weight is not None and not rows.soft():
        if rows.visible and _small.core_may_be_used() and not (is_learned(weight) or is_learned(rows.class_weight)):
            return _small.weight_sum_by_core(target, weight, rows.class_weight) or 1.0
        weight = rows.by_class_of_target().weight
    if normalizer == "positives":
        if rows.soft():
            raise ValueError(
                "normalizer='positives' counts labels other than 0, the background; it needs class indices as target, "
                "got soft targets"
            )
        positive = target > 0 if weight is None else (target > 0) & (weight != 0)
        total = positive.sum().clamp(min=1).to(wide_dtype(target.device))
    elif weight is None or (normalizer == "count" and rows.zeros is False):
        return float(max(math.prod(rows.logits.shape) // rows.logits.shape[1], 1))
    else:
        total = weight.sum() if normalizer == "weights" else weight.count_nonzero().to(weight.dtype)
    if rows.visible and values_visible(total) and not total.requires_grad:
        return float(total.item()) or 1.0
    return torch.where(total == 0, 1.0, total)
