"""The sum of many long rows by the compiled core, as one operation of a graph that torch.compile makes.

The core takes one exponential of a logit for value and gradient together, the loops of `_traced.py` take two. To call an
operation that torch.compile does not know costs some fifteen microseconds, which many logits make up for.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from linkboy._tensors import transforms_active
from linkboy.losses import _small
from linkboy.losses._arguments import SampleRows, bounds, is_learned
from linkboy.losses._fused import LabelBatch, of_chunks

# Logits, and classes, from which the core takes less time on one thread: measured equal at 128x512, 6 in 100 more at 1024x128.
_MANY, _LONG = 100_000, 256

_library = torch.library.Library("linkboy", "FRAGMENT")
_library.define(
    "label_sum(Tensor logits, Tensor target, Tensor? weight, Tensor? class_weight, Tensor? shift, float gamma, bool wanted)"
    " -> (Tensor, Tensor)"
)
_library.define("number_beside(Tensor number, Tensor logits) -> Tensor")


def core_takes(rows: SampleRows) -> bool:
    """Return whether the core computes the sum of a batch of which torch.compile makes a graph."""
    logits = rows.logits
    size = logits.numel()
    return (
        isinstance(size, int)  # and no symbol, of which nothing can be asked without a graph for each answer
        and size >= _MANY
        and logits.dim() == 2
        and logits.shape[1] >= _LONG
        and logits.device.type == "cpu"
        and logits.dtype in (torch.float32, torch.float64)
        and _small.CORE is not None
        and torch.get_num_threads() == 1  # the core has one, inductor's loops have all
        and not (is_learned(rows.weight) or is_learned(rows.class_weight) or is_learned(rows.shift))
        and not transforms_active()
        and not torch.compiler.is_exporting()  # an exported program may be run where there is no linkboy
        and not is_traceable_wrapper_subclass(logits)
    )


def core_sum(rows: SampleRows, gamma: float) -> Tensor:
    """Return the sum of `margin_loss` in float64."""
    if rows.logits.requires_grad and torch.is_grad_enabled():
        return _CoreSum.apply(*rows, gamma)
    return _label_sum(*_tensors(rows), gamma, False)[0]


def _tensors(rows: SampleRows) -> tuple[Tensor | None, ...]:
    return rows.logits, rows.target, rows.weight, rows.class_weight, rows.shift


class _CoreSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        rows, gamma = SampleRows(*given[:-1]), given[-1]
        total, gradient = _label_sum(*_tensors(rows), gamma, True)
        ctx.save_for_backward(rows.logits, gradient)
        ctx.rest, ctx.gamma = rows[1:], gamma
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, gradient = ctx.saved_tensors
        (grad,) = grads
        if torch.is_grad_enabled():
            rows = SampleRows(logits, *ctx.rest)
            total = LabelBatch(*rows, 1.0, ctx.gamma).plain_sum(logits)
            (result,) = torch.autograd.grad(total, logits, grad, create_graph=True)
        else:
            result = gradient * _number_beside(grad, logits).to(gradient.dtype)
        return result, *[None] * 7


def _label_sum_on_cpu(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    class_weight: Tensor | None,
    shift: Tensor | None,
    gamma: float,
    wanted: bool,
) -> tuple[Tensor, Tensor]:
    """Return the sum in float64 and, if that is `wanted`, its derivative by the logits."""
    low, high = bounds(target)
    if not 0 <= low <= high < logits.shape[1]:
        wrong = low if low < 0 else high
        raise ValueError(f"target must hold labels from 0 to {logits.shape[1] - 1} or ignore_index, got {wrong:.0f}")
    total, gradient = math.nan, None
    if _small.core_may_be_used():
        weights = weight, class_weight
        total, gradient = _small.label_sum_by_core(logits, target, weights, shift, 1.0, gamma, wanted=wanted)
    if not math.isfinite(total):  # not by plain operations, as elsewhere: torch has no autograd inside of an operation
        rows = SampleRows(logits, target, weight, class_weight, None, True, shift).by_class_of_target().shifted()
        total, gradient = of_chunks(rows, 1.0, gamma, wanted=wanted)
    if not isinstance(total, Tensor):
        total = torch.scalar_tensor(total, dtype=torch.float64)
    return total, logits.new_empty(0) if gradient is None else gradient


def _label_sum_of_shapes(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    class_weight: Tensor | None,
    shift: Tensor | None,
    gamma: float,
    wanted: bool,
) -> tuple[Tensor, Tensor]:
    return logits.new_empty((), dtype=torch.float64), logits.new_empty(logits.shape if wanted else 0)


def _number_beside_logits(number: Tensor, logits: Tensor) -> Tensor:
    """Return the number: backward then takes the logits, and refuses a second derivative by them, as it does of other graphs.

    Otherwise torch would take the gradient for one that does not depend on them.
    """
    return number.clone()


_library.impl("label_sum", _label_sum_on_cpu, "CPU")
_library.impl("number_beside", _number_beside_logits, "CPU")
torch.library.register_fake("linkboy::label_sum", _label_sum_of_shapes, lib=_library)
torch.library.register_fake("linkboy::number_beside", lambda number, logits: torch.empty_like(number), lib=_library)
_label_sum = torch.ops.linkboy.label_sum.default
_number_beside = torch.ops.linkboy.number_beside.default
