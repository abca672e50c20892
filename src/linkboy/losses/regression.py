"""Regression losses with a weight per element: squared, absolute, logarithmic, quantile and Huber."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from linkboy._checks import check_choice
from linkboy._tensors import values_visible, work_dtype
from linkboy.losses._arguments import (
    REDUCTIONS,
    PerClass,
    Reduction,
    check_device,
    check_input,
    check_real,
    check_tensor,
    check_weight_values,
    loss_function,
    number,
    proposed_expansion,
    proposed_shape,
    to_numbers,
)
from linkboy.losses._errors import ABSOLUTE, SQUARE, ErrorCost, error_sum, huber, masked, pinball


@loss_function(weight="weights per element are sample_weight")
def mse_loss(
    input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    r"""Weighted mean of squared errors, `sum(w * (input - target)**2) / sum(w)`.

    Args:
        input: predictions of any shape, floating point.
        target: true values in exactly that shape: nothing is broadcast, above all not `(N, 1)` against `(N,)`.
        sample_weight: non-negative, in the same shape; an element with weight 0 is masked, even if it is NaN.
        reduction: `"none"` (weighted errors), `"mean"` or `"sum"`.

    Returns:
        The shape of `input` for `"none"`, else a scalar; float32 for half precision, so that squares do not overflow. A
        mean over nothing is 0.

    Raises:
        TypeError: `input` is not floating point or `target` is not a tensor.
        ValueError: the shapes differ, a weight is negative, or `reduction` is unknown.

    Examples:
        >>> import torch
        >>> from linkboy import mse_loss
        >>> mse_loss(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.0]), sample_weight=torch.tensor([3.0, 1.0]))
        tensor(1.7500)

    The same as scikit-learn's `mean_squared_error(target, input, sample_weight=...)`. `F.mse_loss(weight=...)` broadcasts
    its weight.
    """
    return _reduce(*_prepare(input, target, sample_weight, reduction), SQUARE, reduction)


@loss_function(weight="weights per element are sample_weight")
def mae_loss(
    input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    r"""Weighted mean of absolute errors, `sum(w * |input - target|) / sum(w)`.

    The gradient is 0 at a perfect fit.

    Args:
        input: predictions of any shape, floating point.
        target: true values in exactly that shape.
        sample_weight: non-negative, in the same shape; 0 masks the element.
        reduction: `"none"` (weighted errors), `"mean"` or `"sum"`.

    Returns:
        The shape of `input` for `"none"`, else a scalar; float32 for half precision.

    Raises:
        TypeError: `input` is not floating point or `target` is not a tensor.
        ValueError: the shapes differ, a weight is negative, or `reduction` is unknown.

    Examples:
        >>> import torch
        >>> from linkboy import mae_loss
        >>> mae_loss(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.0]), sample_weight=torch.tensor([3.0, 1.0]))
        tensor(1.2500)
    """
    return _reduce(*_prepare(input, target, sample_weight, reduction), ABSOLUTE, reduction)


@loss_function(weight="weights per element are sample_weight")
def rmse_loss(input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
    r"""Root of the weighted mean of squared errors, with a gradient of 0 (not NaN) at a perfect fit.

    A root of a mean has no values per sample and does not add up over batches: under gradient accumulation or several
    processes train on `mse_loss`, which has the same minimum.

    Args:
        input: predictions of any shape, floating point.
        target: true values in exactly that shape.
        sample_weight: non-negative, in the same shape; 0 masks the element.

    Returns:
        A scalar; float32 for half precision.

    Raises:
        TypeError: `input` is not floating point or `target` is not a tensor.
        ValueError: the shapes differ or a weight is negative.

    Examples:
        >>> import torch
        >>> from linkboy import rmse_loss
        >>> rmse_loss(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.0]))
        tensor(1.5811)

    The same as scikit-learn's `root_mean_squared_error`. The snippet that people copy returns the mean square if no
    weights are given, and NaN gradients at a perfect fit.
    """
    return error_sum(*_prepare(input, target, sample_weight, "mean"), SQUARE, mean=True, root=True)


@loss_function(weight="weights per element are sample_weight")
def msle_loss(
    input: Tensor,
    target: Tensor,
    *,
    log_input: bool = False,
    log_target: bool = False,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Weighted mean of squared differences of `log(1 + x)`.

    Args:
        input: predictions above -1, of any shape, floating point.
        target: true values above -1, in exactly that shape.
        log_input: whether `input` is already `log(1 + prediction)`: the usual choice, since every output of a model is
            then in range.
        log_target: whether `target` is already `log(1 + value)`.
        sample_weight: non-negative, in the same shape; 0 masks the element.
        reduction: `"none"`, `"mean"` or `"sum"`.

    Returns:
        The shape of `input` for `"none"`, else a scalar; float32 for half precision.

    Raises:
        TypeError: `input` is not floating point or `target` is not a tensor.
        ValueError: a value is not above -1 (checked on a CPU only), the shapes differ, or a weight is negative.

    Examples:
        >>> import torch
        >>> from linkboy import msle_loss
        >>> msle_loss(torch.tensor([9.0, 0.0]), torch.tensor([99.0, 0.0]))
        tensor(2.6509)

    The same as scikit-learn's `mean_squared_log_error`.
    """
    output, truth, weight = _prepare(input, target, sample_weight, reduction)
    return _reduce(*_logs(output, truth, weight, log_input, log_target), weight, SQUARE, reduction)


@loss_function(weight="weights per element are sample_weight")
def rmsle_loss(
    input: Tensor,
    target: Tensor,
    *,
    log_input: bool = False,
    log_target: bool = False,
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Root of `msle_loss`; with weights it is the NWRMSLE of sales forecasting.

    The gradient is 0 at a perfect fit. Like `rmse_loss` it does not add up over batches: under gradient accumulation or
    several processes train on `msle_loss`.

    Args:
        input: predictions above -1, of any shape, floating point.
        target: true values above -1, in exactly that shape.
        log_input: whether `input` is already `log(1 + prediction)`.
        log_target: whether `target` is already `log(1 + value)`.
        sample_weight: non-negative, in the same shape; 0 masks the element.

    Returns:
        A scalar; float32 for half precision.

    Raises:
        TypeError: `input` is not floating point or `target` is not a tensor.
        ValueError: a value is not above -1 (checked on a CPU only), the shapes differ, or a weight is negative.

    Examples:
        >>> import torch
        >>> from linkboy import rmsle_loss
        >>> sales, weight = torch.tensor([99.0, 0.0]), torch.tensor([1.25, 1.0])
        >>> rmsle_loss(torch.tensor([9.0, 0.0]), sales, sample_weight=weight)
        tensor(1.7163)
    """
    output, truth, weight = _prepare(input, target, sample_weight, "mean")
    return error_sum(*_logs(output, truth, weight, log_input, log_target), weight, SQUARE, mean=True, root=True)


@loss_function(
    weight="weights per element are sample_weight",
    quantiles="one or several are quantile",
    q="one or several are quantile",
    tau="one or several are quantile",
    alpha="one or several are quantile",
)
def quantile_loss(
    input: Tensor,
    target: Tensor,
    *,
    quantile: float | PerClass = 0.5,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Weighted mean of the pinball loss, whose minimum is a quantile of the target instead of its mean.

    An error `d = target - input` costs `quantile * d` above the prediction and `(quantile - 1) * d` below it.

    Args:
        input: predictions of any shape, floating point; for several quantiles these are the last dimension.
        target: true values in exactly that shape; for several quantiles the last dimension may be left out or 1.
        quantile: above 0 and below 1; 0.5 is half of `mae_loss`. Several, as a sequence or a tensor, give the mean of
            their losses.
        sample_weight: non-negative, in the shape of `target`; 0 masks the element.
        reduction: `"none"`, `"mean"` or `"sum"`.

    Returns:
        The shape of `input` for `"none"`, else a scalar; float32 for half precision.

    Raises:
        TypeError: `input` is not floating point or `target` is not a tensor.
        ValueError: a `quantile` is not between 0 and 1, the shapes differ, or a weight is negative.

    Examples:
        >>> import torch
        >>> from linkboy import quantile_loss
        >>> quantile_loss(torch.tensor([1.0, 1.0]), torch.tensor([3.0, 0.0]), quantile=0.9)
        tensor(0.9500)
        >>> forecast = torch.tensor([[1.0, 2.0, 4.0], [0.0, 1.0, 1.5]])
        >>> quantile_loss(forecast, torch.tensor([3.0, 1.0]), quantile=[0.1, 0.5, 0.9])
        tensor(0.1583)

    The same as scikit-learn's `mean_pinball_loss`.
    """
    check_input("input", input)
    share = _quantiles(quantile, input)
    if isinstance(share, Tensor) and isinstance(target, Tensor) and _lacks_last(target, input):
        target = target.reshape(*input.shape[:-1], 1).expand_as(input)
        if isinstance(sample_weight, Tensor) and _lacks_last(sample_weight, input):
            sample_weight = sample_weight.reshape(*input.shape[:-1], 1).expand_as(input)
    return _reduce(*_prepare(input, target, sample_weight, reduction), pinball(share), reduction)


def _lacks_last(tensor: Tensor, input: Tensor) -> bool:
    """Return whether a tensor has the shape of `input` without its last dimension, or with 1 in its place."""
    return tensor.shape in (input.shape[:-1], (*input.shape[:-1], 1))


def _quantiles(quantile: float | PerClass, input: Tensor) -> float | Tensor:
    """Return one number, or several as a tensor along the last dimension of `input`, or raise."""
    several = isinstance(quantile, (Tensor, np.ndarray)) and quantile.ndim > 0
    if not several and not isinstance(quantile, Sequence):
        one = number("quantile", quantile, above=0)
        if one >= 1:
            raise ValueError(f"quantile must be a number above 0 and below 1, got {one!r}")
        return one
    shares = to_numbers("quantile", quantile, torch.float64).to(input.device, work_dtype(input))
    if input.dim() < 1 or shares.shape != input.shape[-1:]:
        raise ValueError(
            f"quantile must hold one number for each prediction in the last dimension of input {tuple(input.shape)}, "
            f"got shape {tuple(shares.shape)}"
        )
    if values_visible(shares) and not ((shares > 0) & (shares < 1)).all():
        wrong = shares[~((shares > 0) & (shares < 1))][0].item()
        raise ValueError(f"quantile must be a number above 0 and below 1, got {wrong:.6g}")
    return shares


@loss_function(
    weight="weights per element are sample_weight",
    beta="smooth_l1_loss(beta=b) of torch is huber_loss(delta=b) / b",
)
def huber_loss(
    input: Tensor,
    target: Tensor,
    *,
    delta: float = 1.0,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Weighted mean of errors that count squared (halved) up to `delta` and linearly beyond.

    Args:
        input: predictions of any shape, floating point.
        target: true values in exactly that shape.
        delta: error at which the loss becomes linear, above 0, in the unit of the target.
        sample_weight: non-negative, in the same shape; 0 masks the element.
        reduction: `"none"`, `"mean"` or `"sum"`.

    Returns:
        The shape of `input` for `"none"`, else a scalar; float32 for half precision.

    Raises:
        TypeError: `input` is not floating point or `target` is not a tensor.
        ValueError: `delta` is not above 0, the shapes differ, or a weight is negative.

    Examples:
        >>> import torch
        >>> from linkboy import huber_loss
        >>> huber_loss(torch.tensor([0.0, 0.0]), torch.tensor([0.5, 3.0]))
        tensor(1.3125)

    Without weights the same as `F.huber_loss`, whose `weight` broadcasts.
    """
    delta = number("delta", delta, above=0)
    return _reduce(*_prepare(input, target, sample_weight, reduction), huber(delta), reduction)


def _prepare(
    input: Tensor, target: Tensor, sample_weight: Tensor | None, reduction: Reduction
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Check the tensors and return them in the dtype of the arithmetic."""
    if reduction != "mean":
        check_choice("reduction", reduction, REDUCTIONS)
    check_input("input", input)
    target = check_tensor("target", target)
    if target.shape != input.shape:
        fix = proposed_shape("target", target.shape, "input", input.shape)
        if input.shape == (*target.shape, 1):
            fix = "; bring them to one shape with input.squeeze(-1) or target.reshape(input.shape)"
        raise ValueError(f"target must have the shape of input {tuple(input.shape)}, got {tuple(target.shape)}{fix}")
    check_device("target", target, input)
    check_real("target", target)
    weight = None if sample_weight is None else _check_weight(sample_weight, target)
    dtype = work_dtype(input)
    if target.dtype is not dtype and target.is_floating_point():
        dtype = torch.promote_types(dtype, work_dtype(target))
    return _in(dtype, input), _in(dtype, target), None if weight is None else _in(dtype, weight)


def _in(dtype: torch.dtype, tensor: Tensor) -> Tensor:
    # The question takes a tenth of the time in which `to` finds out that there is nothing to do.
    return tensor if tensor.dtype is dtype else tensor.to(dtype)


def _check_weight(sample_weight: Tensor, target: Tensor) -> Tensor:
    sample_weight = check_tensor("sample_weight", sample_weight)
    if sample_weight.shape != target.shape:
        fix = proposed_expansion("sample_weight", sample_weight.shape, "target", target.shape)
        raise ValueError(
            f"sample_weight must have the shape of target {tuple(target.shape)}, got {tuple(sample_weight.shape)}{fix}"
        )
    check_device("sample_weight", sample_weight, target, "target")
    check_weight_values("sample_weight", sample_weight)
    return sample_weight


def _reduce(output: Tensor, truth: Tensor, weight: Tensor | None, cost: ErrorCost, reduction: Reduction) -> Tensor:
    if weight is None and cost.kernel is not None and output.numel():  # of nothing torch's mean is NaN
        return cost.kernel(output, truth, REDUCTIONS.index(reduction))  # torch's numbers are in that order
    if reduction != "none":
        return error_sum(output, truth, weight, cost, mean=reduction == "mean")
    values = cost.values(*masked(output, truth, weight))
    return values if weight is None else values * weight


def _logs(
    output: Tensor, truth: Tensor, weight: Tensor | None, log_input: bool, log_target: bool
) -> tuple[Tensor, Tensor]:
    """Return both on the log scale, masked elements as 0."""
    output, truth = masked(output, truth, weight)
    return output if log_input else _log1p("input", output), truth if log_target else _log1p("target", truth)


def _log1p(argument: str, value: Tensor) -> Tensor:
    if values_visible(value) and value.numel() and not value.detach().amin().item() > -1:
        raise ValueError(
            f"{argument} must be above -1 for a logarithmic loss, got {value.detach().amin().item():.6g}; "
            f"pass what is already on the log scale with log_{argument}=True"
        )
    return value.log1p()
