"""The losses as modules: the same arguments, checked when they are used; numbers per class are buffers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from linkboy.losses._arguments import to_numbers
from linkboy.losses.binary import binary_focal_loss
from linkboy.losses.focal import focal_loss
from linkboy.losses.imbalance import logit_adjusted_loss
from linkboy.losses.linear import linear_focal_loss
from linkboy.losses.regression import (
    huber_loss,
    mae_loss,
    mse_loss,
    msle_loss,
    quantile_loss,
    rmse_loss,
    rmsle_loss,
)

PerClass = float | Tensor | Sequence[float] | None


class _Loss(nn.Module):
    """Keeps the options; those that are numbers per class become buffers, so that they move and are saved."""

    _compute: Callable[..., Tensor]

    def __init__(self, buffers: dict[str, PerClass], **options: object) -> None:
        super().__init__()
        for name, value in buffers.items():
            kept = None if value is None else to_numbers(name, value, torch.get_default_dtype()).detach().clone()
            self.register_buffer(name, kept)
        self.options: dict[str, Any] = options

    def forward(self, input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        """Return the loss."""
        return self._compute(input, target, sample_weight=sample_weight, **self._buffers, **self.options)

    def extra_repr(self) -> str:
        shown = {name: None if value is None else value.tolist() for name, value in self._buffers.items()}
        return ", ".join(f"{name}={value!r}" for name, value in (shown | self.options).items())


class FocalLoss(_Loss):
    """`focal_loss` as a module; `alpha` is a buffer.

    Examples:
        >>> import torch
        >>> from linkboy import FocalLoss
        >>> loss = FocalLoss(alpha=[1.0, 2.0], gamma=1.0)
        >>> loss(torch.zeros(2, 2), torch.tensor([0, 1]))
        tensor(0.3466)
        >>> list(loss.state_dict())
        ['alpha']
    """

    _compute = staticmethod(focal_loss)
    alpha: Tensor | None

    def __init__(
        self,
        *,
        alpha: Tensor | Sequence[float] | None = None,
        gamma: float = 2.0,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        normalizer: str | float = "weights",
    ) -> None:
        super().__init__(
            {"alpha": alpha},
            gamma=gamma,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            reduction=reduction,
            normalizer=normalizer,
        )


class BinaryFocalLoss(_Loss):
    """`binary_focal_loss` as a module; `alpha` and `pos_weight` are buffers.

    Examples:
        >>> import torch
        >>> from linkboy import BinaryFocalLoss
        >>> BinaryFocalLoss(alpha=0.25)(torch.zeros(2), torch.tensor([0, 1]))
        tensor(0.0866)
    """

    _compute = staticmethod(binary_focal_loss)
    alpha: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        *,
        alpha: float | Tensor | None = None,
        pos_weight: float | Tensor | Sequence[float] | None = None,
        gamma: float = 2.0,
        ignore_index: int | None = None,
        reduction: str = "mean",
        normalizer: str | float = "count",
    ) -> None:
        super().__init__(
            {"alpha": alpha, "pos_weight": pos_weight},
            gamma=gamma,
            ignore_index=ignore_index,
            reduction=reduction,
            normalizer=normalizer,
        )


class LinearFocalLoss(_Loss):
    """`linear_focal_loss` as a module; called with hidden states, the weight of the last layer and the target.

    Examples:
        >>> import torch
        >>> from linkboy import LinearFocalLoss
        >>> layer = torch.nn.Linear(4, 9, bias=False)
        >>> LinearFocalLoss(gamma=0)(torch.zeros(2, 4), layer.weight, torch.tensor([0, 8]))
        tensor(2.1972, grad_fn=<ToCopyBackward0>)
    """

    _compute = staticmethod(linear_focal_loss)
    alpha: Tensor | None

    def __init__(
        self,
        *,
        alpha: Tensor | Sequence[float] | None = None,
        gamma: float = 2.0,
        ignore_index: int = -100,
        reduction: str = "mean",
        normalizer: str | float = "weights",
        chunk: int | str = "auto",
    ) -> None:
        super().__init__(
            {"alpha": alpha},
            gamma=gamma,
            ignore_index=ignore_index,
            reduction=reduction,
            normalizer=normalizer,
            chunk=chunk,
        )

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input: Tensor,
        linear_weight: Tensor,
        target: Tensor,
        *,
        linear_bias: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of hidden states under the last linear layer."""
        tensors = {"linear_bias": linear_bias, "sample_weight": sample_weight}
        return self._compute(input, linear_weight, target, **tensors, **self._buffers, **self.options)


class LogitAdjustedLoss(_Loss):
    """`logit_adjusted_loss` as a module, for training only; `priors` is a buffer.

    Examples:
        >>> import torch
        >>> from linkboy import LogitAdjustedLoss
        >>> LogitAdjustedLoss(priors=[99, 1])(torch.zeros(1, 2), torch.tensor([1]))
        tensor(4.6052)
    """

    _compute = staticmethod(logit_adjusted_loss)
    priors: Tensor

    def __init__(
        self,
        *,
        priors: Tensor | Sequence[float],
        tau: float = 1.0,
        ignore_index: int = -100,
        reduction: str = "mean",
        normalizer: str | float = "weights",
    ) -> None:
        super().__init__(
            {"priors": priors}, tau=tau, ignore_index=ignore_index, reduction=reduction, normalizer=normalizer
        )


class MSELoss(_Loss):
    """`mse_loss` as a module.

    Examples:
        >>> import torch
        >>> from linkboy import MSELoss
        >>> MSELoss()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))
        tensor(2.0000)
    """

    _compute = staticmethod(mse_loss)

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__({}, reduction=reduction)


class MAELoss(_Loss):
    """`mae_loss` as a module.

    Examples:
        >>> import torch
        >>> from linkboy import MAELoss
        >>> MAELoss()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))
        tensor(1.0000)
    """

    _compute = staticmethod(mae_loss)

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__({}, reduction=reduction)


class RMSELoss(_Loss):
    """`rmse_loss` as a module.

    Examples:
        >>> import torch
        >>> from linkboy import RMSELoss
        >>> RMSELoss()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))
        tensor(1.4142)
    """

    _compute = staticmethod(rmse_loss)

    def __init__(self) -> None:
        super().__init__({})


class MSLELoss(_Loss):
    """`msle_loss` as a module.

    Examples:
        >>> import torch
        >>> from linkboy import MSLELoss
        >>> MSLELoss()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))
        tensor(0.6035)
    """

    _compute = staticmethod(msle_loss)

    def __init__(self, *, log_input: bool = False, log_target: bool = False, reduction: str = "mean") -> None:
        super().__init__({}, log_input=log_input, log_target=log_target, reduction=reduction)


class RMSLELoss(_Loss):
    """`rmsle_loss` as a module.

    Examples:
        >>> import torch
        >>> from linkboy import RMSLELoss
        >>> RMSLELoss()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))
        tensor(0.7768)
    """

    _compute = staticmethod(rmsle_loss)

    def __init__(self, *, log_input: bool = False, log_target: bool = False) -> None:
        super().__init__({}, log_input=log_input, log_target=log_target)


class QuantileLoss(_Loss):
    """`quantile_loss` as a module.

    Examples:
        >>> import torch
        >>> from linkboy import QuantileLoss
        >>> QuantileLoss()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))
        tensor(0.5000)
    """

    _compute = staticmethod(quantile_loss)

    def __init__(self, *, quantile: float = 0.5, reduction: str = "mean") -> None:
        super().__init__({}, quantile=quantile, reduction=reduction)


class HuberLoss(_Loss):
    """`huber_loss` as a module.

    Examples:
        >>> import torch
        >>> from linkboy import HuberLoss
        >>> HuberLoss()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))
        tensor(0.7500)
    """

    _compute = staticmethod(huber_loss)

    def __init__(self, *, delta: float = 1.0, reduction: str = "mean") -> None:
        super().__init__({}, delta=delta, reduction=reduction)
