"""Focal loss of a linear layer's output that never builds the output: for large vocabularies."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from linkboy._checks import check_number, describe
from linkboy._tensors import autocast_dtype, result_dtype, transforms_active, wide_dtype, work_dtype
from linkboy.losses._arguments import (
    Normalizer,
    PerClass,
    Reduction,
    SampleRows,
    check_device,
    check_input,
    check_reduction,
    check_sample_weight,
    check_tensor,
    class_rows,
    denominator,
    loss_function,
    number,
)
from linkboy.losses._fused import deficit_and_shares, flat_index, loss_and_slope, write_gradient
from linkboy.losses.focal import reduce_rows

_CHUNK_LOGITS = 2**23  # logits that exist at a time under chunk="auto": 32 MiB


@loss_function(
    weight="the weight of the layer is linear_weight, weights per class are alpha",
    bias="the bias of the layer is linear_bias",
)
def linear_focal_loss(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    gamma: float = 2.0,
    alpha: PerClass | None = None,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    normalizer: Normalizer = "weights",
    chunk: int | Literal["auto"] = "auto",
) -> Tensor:
    r"""`focal_loss(F.linear(input, linear_weight, linear_bias), target)` without the memory for the logits.

    For a few samples at a time the logits are computed, turned into their own gradient, multiplied into the gradients of
    `input` and `linear_weight`, and dropped. `gamma=0` is the fused cross-entropy of a language model.

    Args:
        input: hidden states `(..., D)`, floating point.
        linear_weight: `(C, D)`, the weight of the last `nn.Linear`.
        target: class indices `(...)`, each in `[0, C)` or `ignore_index`.
        linear_bias: `(C,)` or `None`.
        gamma: focusing exponent, at least 0; 0 is cross-entropy.
        alpha: weight per class, as in `focal_loss`.
        sample_weight: one non-negative number per sample, in the shape of `target`; 0 masks the sample.
        ignore_index: target value that gives neither loss nor gradient.
        reduction: `"none"` (its backward computes the logits a second time), `"mean"` or `"sum"`.
        normalizer: what a mean divides by, as in `focal_loss`.
        chunk: samples per step; `"auto"` takes as many as give 2**23 logits. It changes time and memory, not the value.

    Returns:
        The shape of `target` for `"none"`, else a scalar, in the dtype of `focal_loss`. Under `torch.compile` and
        `torch.func` the logits are built after all.

    Raises:
        TypeError: a tensor has the wrong kind of dtype.
        ValueError: a shape, a label, a weight or an option is impossible.
        RuntimeError: a second derivative is requested.

    Examples:
        >>> import torch
        >>> from linkboy import focal_loss, linear_focal_loss
        >>> hidden, layer = torch.randn(8, 16), torch.nn.Linear(16, 100)
        >>> target = torch.randint(100, (8,))
        >>> loss = linear_focal_loss(hidden, layer.weight, target, linear_bias=layer.bias, chunk=3)
        >>> torch.allclose(loss, focal_loss(layer(hidden), target))
        True

    Source: the chunking is that of Liger kernel and cut-cross-entropy, which need Triton and have no focal loss. Unlike
    `F.linear_cross_entropy` it also takes weights, and runs on every device.
    """
    gamma = number("gamma", gamma, minimum=0)
    normalizer = check_reduction(reduction, normalizer, "weights")
    if chunk != "auto":
        check_number("chunk", chunk, minimum=1, integer=True)
    _check_layer(input, linear_weight, linear_bias)
    target = check_tensor("target", target, "a tensor of class indices")
    if target.shape != input.shape[:-1]:
        raise ValueError(
            f"target must have the shape of input without its last dimension {tuple(input.shape[:-1])}, "
            f"got {describe(target)}"
        )
    if sample_weight is not None:
        sample_weight = check_sample_weight(sample_weight, tuple(target.shape), input)[0].reshape(-1)
    hidden = input.reshape(-1, input.shape[-1])
    # Carries the shape, dtype and device of the logits, and takes no memory.
    stand_in = hidden.detach().new_zeros(()).expand(hidden.shape[0], linear_weight.shape[0])
    rows = class_rows(
        stand_in,
        target.reshape(-1),
        alpha=alpha,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        allow_soft=False,
    )
    loss = _reduce(hidden, linear_weight, linear_bias, rows, gamma, reduction, normalizer, chunk)
    return (loss.reshape(target.shape) if reduction == "none" else loss).to(result_dtype(input))


def _check_layer(input: Tensor, linear_weight: Tensor, linear_bias: Tensor | None) -> None:
    check_input("input", input)
    check_input("linear_weight", linear_weight)
    if input.dim() < 2 or linear_weight.dim() != 2 or input.shape[-1] != linear_weight.shape[1]:
        raise ValueError(
            "linear_weight must have shape (C, D) for input of shape (..., D), "
            f"got {tuple(linear_weight.shape)} and {tuple(input.shape)}"
        )
    tensors = {"linear_weight": linear_weight}
    if linear_bias is not None:
        tensors["linear_bias"] = check_input("linear_bias", linear_bias)
        if linear_bias.shape != linear_weight.shape[:1]:
            raise ValueError(
                f"linear_bias must have one number per class, shape {tuple(linear_weight.shape[:1])}, "
                f"got {tuple(linear_bias.shape)}"
            )
    for name, tensor in tensors.items():
        check_device(name, tensor, input)
        if tensor.dtype != input.dtype and not autocast_dtype(input.device) is not None:
            raise TypeError(f"{name} must have the dtype of input {describe(input)}, got {describe(tensor)}")


def _reduce(
    hidden: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    rows: SampleRows,
    gamma: float,
    reduction: Reduction,
    normalizer: Normalizer,
    chunk: int | Literal["auto"],
) -> Tensor:
    """Return the loss in the wide dtype, `(N,)` or a scalar."""
    weighted = rows.by_class_of_target()
    weight = weighted.weight
    if weight is not None:  # the gradient of the layer is a product with the hidden states: 0 * NaN
        hidden = hidden.masked_fill((weight == 0).unsqueeze(1), 0)
    layer = [hidden, linear_weight, linear_bias]
    device, autocast = hidden.device.type, autocast_dtype(hidden.device)
    if autocast is not None:
        layer = [None if tensor is None else tensor.to(autocast) for tensor in layer]
    divisor = denominator(weighted if normalizer == "weights" else rows, normalizer) if reduction == "mean" else 1.0
    learned = any(isinstance(factor, Tensor) and factor.requires_grad for factor in (weight, divisor))
    with torch.autocast(device, enabled=False) if autocast is not None else nullcontext():
        if torch.compiler.is_compiling() or transforms_active():
            logits = F.linear(*layer)  # pyright: ignore[reportArgumentType]
            return reduce_rows(rows.with_logits(logits), gamma, 0.0, reduction, normalizer, wide_dtype(hidden.device))
        classes = linear_weight.shape[0]
        step = max(1, _CHUNK_LOGITS // classes) if isinstance(chunk, str) else chunk
        if reduction != "none" and not learned:
            return _LinearSum.apply(*layer, rows.target, weight, divisor, gamma, step)
        values = _LinearLoss.apply(*layer, rows.target, gamma, step)
        values = values if weight is None else torch.where(weight == 0, 0.0, values * weight)
        return values if reduction == "none" else values.sum() / divisor


class _Gradients:
    """The gradients of a linear layer, added up chunk by chunk; those not wanted are never made."""

    def __init__(self, wanted: Sequence[bool], hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        work = work_dtype(hidden)
        self.hidden = torch.empty_like(hidden) if wanted[0] else None
        self.weight = torch.zeros_like(weight, dtype=work) if wanted[1] else None
        self.bias = torch.zeros_like(bias, dtype=work) if bias is not None and wanted[2] else None

    @property
    def any(self) -> bool:
        return self.hidden is not None or self.weight is not None or self.bias is not None

    def add(self, n: slice, of_logits: Tensor, hidden: Tensor, weight: Tensor) -> None:
        cast = of_logits.to(hidden.dtype)
        if self.hidden is not None:
            torch.mm(cast, weight, out=self.hidden[n])
        if self.weight is not None and self.weight.dtype == hidden.dtype:
            self.weight.addmm_(cast.t(), hidden[n])
        elif self.weight is not None:  # half precision: the products are added up in float32
            self.weight += cast.t() @ hidden[n]
        if self.bias is not None:
            self.bias += of_logits.sum(0)

    def result(self, dtype: torch.dtype) -> tuple[Tensor | None, ...]:
        return tuple(None if x is None else x.to(dtype) for x in (self.hidden, self.weight, self.bias))


def _run_chunks(
    layer: tuple[Tensor, Tensor, Tensor | None],
    target: Tensor,
    factor: Tensor | float,
    gamma: float,
    step: int,
    gradients: _Gradients | None,
) -> Tensor:
    """Return the loss of every sample `(N,)`; add the gradients of `sum(factor * loss)`."""
    hidden, weight, bias = layer
    work = work_dtype(hidden)
    losses = torch.empty(target.shape, dtype=wide_dtype(hidden.device), device=hidden.device)
    for first in range(0, len(hidden), step):
        n = slice(first, first + step)
        logits = F.linear(hidden[n], weight, bias).to(work)
        index = flat_index(target[n], logits.shape[1])
        losses[n], slope = loss_and_slope(deficit_and_shares(logits, index), gamma)
        if gradients is not None:
            slope = slope * (factor[n] if isinstance(factor, Tensor) and factor.dim() else factor)
            write_gradient(logits, logits, index, slope)
            gradients.add(n, logits, hidden, weight)
    return losses


def _refuse_second_derivative() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "linear_focal_loss has no second derivative; use focal_loss(F.linear(input, linear_weight), target)"
        )


class _LinearLoss(torch.autograd.Function):
    """The loss of every sample; backward computes the logits again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        gamma: float,
        step: int,
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias, target)
        ctx.gamma, ctx.step = gamma, step
        return _run_chunks((hidden, weight, bias), target, 1.0, gamma, step, None)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        hidden, weight, bias, target = ctx.saved_tensors
        gradients = _Gradients(ctx.needs_input_grad, hidden, weight, bias)
        _run_chunks((hidden, weight, bias), target, grads[0], ctx.gamma, ctx.step, gradients)
        return *gradients.result(hidden.dtype), None, None, None


class _LinearSum(torch.autograd.Function):
    """The weighted sum over `divisor`; the gradients are made in forward, beside the loss."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        sample_weight: Tensor | None,
        divisor: Tensor | float,
        gamma: float,
        step: int,
    ) -> Tensor:
        gradients = _Gradients(ctx.needs_input_grad, hidden, weight, bias)
        factor = 1.0 if sample_weight is None else sample_weight
        wanted = gradients if gradients.any else None
        losses = _run_chunks((hidden, weight, bias), target, factor, gamma, step, wanted)
        ctx.save_for_backward(gradients.hidden, gradients.weight, gradients.bias)
        ctx.divisor, ctx.dtype = divisor, hidden.dtype
        weighted = losses if sample_weight is None else torch.where(sample_weight == 0, 0.0, losses * sample_weight)
        return weighted.sum() / divisor

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        scale = grads[0] / ctx.divisor  # not before: under loss scaling, float16 would have lost the small ones
        scaled = (None if saved is None else saved.mul(scale).to(ctx.dtype) for saved in ctx.saved_tensors)
        return *scaled, None, None, None, None, None
