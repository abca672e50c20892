"""What every classification loss asks of its arguments, and the weights and divisor they amount to."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from linkboy._checks import check_choice, check_number, describe
from linkboy._tensors import check_floating as check_floating
from linkboy._tensors import transforms_active as transforms_active
from linkboy._tensors import values_visible as values_visible
from linkboy._tensors import wide_dtype as wide_dtype

REDUCTIONS = ("none", "mean", "sum")
NORMALIZERS = ("weights", "count", "positives")
_INDEX_DTYPES = (torch.int64, torch.uint8, torch.int32, torch.int16, torch.int8)


class Rows(NamedTuple):
    """A batch in the one shape that the arithmetic knows.

    Args:
        logits: `(N, C, S)`, a view of the input with its trailing dimensions flattened.
        target: `(N, S)` class indices, 0 where ignored, or `(N, C, S)` soft targets.
        weight: `(N, S)` weight of each sample, 0 where it is ignored; `None` where all weigh 1.
        class_weight: `(C,)`; `None` where all classes weigh 1.
    """

    logits: Tensor
    target: Tensor
    weight: Tensor | None
    class_weight: Tensor | None

    @property
    def soft(self) -> bool:
        return self.target.is_floating_point()

    def effective_weight(self) -> Tensor | None:
        """Return the weight of each sample times that of its class; soft targets have no one class."""
        if self.class_weight is None or self.soft:
            return self.weight
        by_class = self.class_weight[self.target]
        return by_class if self.weight is None else by_class * self.weight


def work_dtype(logits: Tensor) -> torch.dtype:
    """Return the dtype of arithmetic on whole logits: float32 for half precision, else their own."""
    return torch.float32 if logits.dtype.itemsize < 4 else logits.dtype


def autocast_enabled(device: torch.device) -> bool:
    """Say whether autocast is on for `device`; never for one that has none, such as `meta`."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def result_dtype(input: Tensor) -> torch.dtype:
    """Return the dtype that `F.cross_entropy` gives: the input's, but float32 for half precision under autocast."""
    half = input.dtype in (torch.float16, torch.bfloat16)
    return torch.float32 if half and autocast_enabled(input.device) else input.dtype


def check_reduction(reduction: str, normalizer: str | float, default: str) -> None:
    """Raise unless both are known and `normalizer` is left alone where nothing is divided."""
    check_choice("reduction", reduction, REDUCTIONS)
    if isinstance(normalizer, str):
        check_choice("normalizer", normalizer, NORMALIZERS)
    else:
        check_number("normalizer", normalizer, above=0)
    if reduction != "mean" and normalizer != default:
        raise ValueError(
            f"normalizer divides only under reduction='mean', got normalizer={normalizer!r} "
            f"with reduction={reduction!r}; leave one of them out"
        )


def check_device(argument: str, value: Tensor, reference: Tensor, other: str = "input") -> None:
    if value.device != reference.device:
        raise ValueError(
            f"{argument} must be on the device of {other} ({reference.device}), got {value.device}; move it with .to()"
        )


def check_real(argument: str, value: Tensor) -> None:
    if value.is_complex():
        raise TypeError(f"{argument} must hold real numbers, got {describe(value)}")


def check_weight_values(argument: str, value: Tensor) -> None:
    """Raise where a weight is complex, or negative or not finite; the values only on a CPU, where looking is free."""
    check_real(argument, value)
    if not values_visible(value) or not value.numel():
        return
    low, high = (bound.item() for bound in value.detach().aminmax())
    if not low >= 0:
        raise ValueError(f"{argument} must not be negative or NaN, got {low:.6g}")
    if high == math.inf:
        raise ValueError(f"{argument} must be finite, got inf")


def to_numbers(argument: str, value: float | Tensor | Sequence[float], dtype: torch.dtype | None) -> Tensor:
    """Return a number, a sequence of them or a tensor as a tensor, or raise."""
    if isinstance(value, Tensor):
        return value
    try:
        return torch.tensor(value, dtype=dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{argument} must be a tensor or hold numbers, got {describe(value)}") from error


def class_numbers(argument: str, value: Tensor | Sequence[float], input: Tensor) -> Tensor:
    """Return one number per class of `input` in the wide dtype, or raise."""
    if not isinstance(value, Tensor):
        value = to_numbers(argument, value, torch.float64).to(input.device)
    classes = input.shape[1]
    if value.shape != (classes,):
        raise ValueError(
            f"{argument} needs one number per class: input has {classes} classes (shape {tuple(input.shape)}), "
            f"{argument} has shape {tuple(value.shape)}"
        )
    check_device(argument, value, input)
    check_weight_values(argument, value)
    return value.to(wide_dtype(input.device))


def check_logits(input: object) -> Tensor:
    """Return `input` if it can hold a batch of logits, else raise."""
    logits = check_floating("input", input)
    if logits.dim() < 2:
        raise ValueError(
            f"input must have shape (N, C) or (N, C, d1, ...), got {tuple(logits.shape)}; "
            "add the batch dimension with input[None]"
        )
    if logits.shape[1] == 0:
        raise ValueError(f"input must have at least one class in dimension 1, got shape {tuple(logits.shape)}")
    return logits


def check_class_target(input: Tensor, target: object, *, allow_soft: bool) -> Tensor:
    """Return `target` as int64 class indices, or unchanged where it is soft, else raise."""
    if not isinstance(target, Tensor):
        raise TypeError(f"target must be a tensor of class indices, got {describe(target)}")
    check_device("target", target, input)
    shape = (input.shape[0], *input.shape[2:])
    if target.is_floating_point() and allow_soft:
        if target.shape == input.shape:
            _check_shares(target)
            return target
        raise ValueError(
            f"soft targets must have the shape of input {tuple(input.shape)}, got {describe(target)}; "
            "class indices must be integers: convert them with .long()"
        )
    if target.dtype not in _INDEX_DTYPES:
        raise TypeError(f"target must hold integer class indices, got {describe(target)}; convert them with .long()")
    if target.shape != shape:
        raise ValueError(
            f"target must have shape {shape} for input of shape {tuple(input.shape)}, got {tuple(target.shape)}"
            + ("; drop the class dimension with target.squeeze(1)" if target.shape == (shape[0], 1, *shape[1:]) else "")
        )
    return target.long()


def _check_shares(target: Tensor) -> None:
    if values_visible(target) and target.numel():
        lowest = target.detach().nan_to_num().amin().item()  # a masked sample may be NaN
        if lowest < 0:
            raise ValueError(f"soft targets must not be negative, got {lowest:.6g}")


def check_sample_weight(sample_weight: object, shape: tuple[int, ...], input: Tensor) -> Tensor:
    """Return `sample_weight` in the wide dtype if it holds one number per sample, else raise."""
    if not isinstance(sample_weight, Tensor):
        raise TypeError(f"sample_weight must be a tensor, got {describe(sample_weight)}")
    if sample_weight.shape != shape:
        raise ValueError(
            f"sample_weight must have one number per sample, shape {shape}, got {tuple(sample_weight.shape)}"
        )
    check_device("sample_weight", sample_weight, input)
    check_weight_values("sample_weight", sample_weight)
    return sample_weight.to(wide_dtype(input.device))


def check_not_probabilities(rows: Tensor) -> None:
    """Raise where the logits `(N, C, S)` are plainly the output of a softmax.

    Told only where every entry lies in [0, 1] and every row sums to 1; rows of zeros and ones and constant rows pass,
    since somebody may have written such logits by hand.
    """
    if rows.shape[1] < 2 or rows.numel() == 0 or not values_visible(rows):
        return
    rows = rows.detach()
    # The one test that nearly every batch of logits pays for; `select` is the quickest way to one row.
    if not abs(rows.select(0, 0).select(1, 0).sum().item() - 1) < 1e-2:
        return
    sample = rows[:16, :, :16].double()
    sums_to_one = (sample.sum(1) - 1).abs().max().item() < (1e-5 if rows.dtype.itemsize > 2 else 1e-2)
    in_range = sample.min().item() >= 0 and sample.max().item() <= 1
    telling = ((sample != sample[:, :1]).any() & ((sample > 0) & (sample < 1)).any()).item()
    if sums_to_one and in_range and telling:
        raise ValueError("input must be logits, got rows that sum to 1; leave out the softmax before the loss")


def class_rows(
    input: Tensor,
    target: Tensor,
    *,
    alpha: Tensor | Sequence[float] | None = None,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
    allow_soft: bool = True,
) -> Rows:
    """Check the tensors of a multi-class loss and bring them into one shape."""
    check_logits(input)
    target = check_class_target(input, target, allow_soft=allow_soft)
    check_number("ignore_index", ignore_index, integer=True)
    shape = (input.shape[0], *input.shape[2:])
    class_weight = None if alpha is None else class_numbers("alpha", alpha, input)
    weight = None if sample_weight is None else check_sample_weight(sample_weight, shape, input)
    batch, classes = input.shape[:2]
    positions = math.prod(input.shape[2:])
    logits = input.reshape(batch, classes, positions)
    check_not_probabilities(logits)
    weight = None if weight is None else weight.reshape(batch, positions)
    if target.is_floating_point():
        if ignore_index != -100:
            raise ValueError(
                f"ignore_index needs class indices as target, got ignore_index={ignore_index} with soft targets "
                f"{describe(target)}; give those samples a sample_weight of 0"
            )
        return Rows(logits, target.reshape(batch, classes, positions), weight, class_weight)
    target = target.reshape(batch, positions)
    ignored = ignored_positions(target, classes, ignore_index)
    if ignored is not None:
        target = target.masked_fill(ignored, 0)
        weight = (~ignored).to(wide_dtype(input.device)) if weight is None else weight.masked_fill(ignored, 0)
    return Rows(logits, target, weight, class_weight)


def ignored_positions(target: Tensor, classes: int, ignore_index: int) -> Tensor | None:
    """Return where `target` is `ignore_index`, `None` where it is known to be nowhere; refuse impossible labels."""
    if not values_visible(target):
        return target == ignore_index  # a label outside the classes is left to the indexing kernel
    if target.numel() == 0:
        return None
    low, high = (bound.item() for bound in target.aminmax())
    inside = low >= 0 and high < classes
    if inside and not low <= ignore_index <= high:
        return None
    ignored = target == ignore_index
    wrong = target[~ignored & ((target < 0) | (target >= classes))]
    if wrong.numel():
        raise ValueError(
            f"target must hold labels from 0 to {classes - 1} or ignore_index ({ignore_index}), got {wrong[0].item()}"
        )
    return ignored


def denominator(rows: Rows, normalizer: str | float, effective_weight: Tensor | None) -> Tensor | float:
    """Return what a mean divides by; never 0, so that an empty batch has the value 0."""
    if not isinstance(normalizer, str):
        return float(normalizer)
    weight, target = rows.weight, rows.target
    if normalizer == "positives":
        if rows.soft:
            raise ValueError(
                "normalizer='positives' counts labels other than 0, the background; it needs class indices as target, "
                "got soft targets"
            )
        positive = target > 0 if weight is None else (target > 0) & (weight != 0)
        return positive.sum().clamp(min=1).to(wide_dtype(target.device))
    if normalizer == "weights":
        weight = effective_weight
    if weight is None:
        return float(max(rows.logits.shape[0] * rows.logits.shape[2], 1))
    total = weight.sum() if normalizer == "weights" else (weight != 0).sum().to(weight.dtype)
    return torch.where(total == 0, 1.0, total)
