"""The losses as modules: the arguments of the functions in their order, kept as attributes that every call reads."""

import functools
import inspect
from collections.abc import Callable
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from linkboy._checks import describe
from linkboy.losses._arguments import Normalizer, PerClass, Reduction, to_numbers
from linkboy.losses._functions import refuse_other_names
from linkboy.losses.binary import binary_focal_loss
from linkboy.losses.focal import focal_loss
from linkboy.losses.imbalance import logit_adjusted_loss
from linkboy.losses.linear import linear_focal_loss
from linkboy.losses.overlap import Over, tversky_loss
from linkboy.losses.regression import huber_loss, mae_loss, mse_loss, msle_loss, quantile_loss, rmse_loss, rmsle_loss

_NUMBERS_SHOWN = 8


class _Loss(nn.Module):
    """A loss function whose options are attributes; those that hold numbers per class are buffers.

    The function checks the options: of a small example when the module is made, and at every call.
    """

    _function: ClassVar[Callable[..., Tensor]]
    _buffer_names: ClassVar[tuple[str, ...]] = ()
    _option_names: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._option_names = tuple(inspect.signature(cls.__init__).parameters)[1:]
        make, names = cls.__init__, getattr(cls._function, "other_names", {})

        @functools.wraps(make)
        def checked(self: Self, *args: object, **options: object) -> None:
            refuse_other_names(cls.__name__, options, names)
            make(self, *args, **options)
            with torch.no_grad():
                self(*self._example())

        cls.__init__ = checked

    def __init__(self, **options: object) -> None:
        super().__init__()
        for name in self._buffer_names:
            self.register_buffer(name, None)
        for name, value in options.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        if name in self._buffer_names and value is not None:
            value = to_numbers(name, value, torch.get_default_dtype()).detach().clone()  # type: ignore[arg-type]
        super().__setattr__(name, value)  # type: ignore[arg-type]

    def _example(self) -> tuple[Tensor, ...]:
        """Return the smallest arguments that the options allow."""
        return torch.zeros(1, device="cpu"), torch.zeros(1, device="cpu")

    def _options(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self._option_names}

    def forward(self, input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        """Return the loss.

        Args:
            input: as for the function.
            target: as for the function.
            sample_weight: as for the function.

        Returns:
            The loss, as the function returns it.
        """
        return type(self)._function(input, target, sample_weight=sample_weight, **self._options())

    def extra_repr(self) -> str:
        """Return the options, for `print`; of many numbers per class only their dtype and shape."""
        return ", ".join(f"{name}={_shown(value)}" for name, value in self._options().items())


def _class_example(numbers: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return one row of logits and a label for as many classes as there are numbers."""
    classes = 2 if numbers is None or numbers.dim() != 1 else max(len(numbers), 2)
    device = torch.device("cpu") if numbers is None else numbers.device
    return torch.zeros(1, classes, device=device), torch.zeros(1, dtype=torch.int64, device=device)


def _shown(value: object) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    few = value.numel() <= _NUMBERS_SHOWN and value.device.type != "meta"
    return repr(value.tolist()) if few else describe(value)


class FocalLoss(_Loss):
    """`focal_loss` as a module; `alpha` is a buffer.

    Examples:
        >>> import torch
        >>> from linkboy import FocalLoss
        >>> loss = FocalLoss(gamma=1.0, alpha=[1.0, 2.0])
        >>> loss(torch.zeros(2, 2), torch.tensor([0, 1]))
        tensor(0.3466)
        >>> loss.gamma = 0.0  # from the next call on
        >>> loss(torch.zeros(2, 2), torch.tensor([0, 1]))
        tensor(0.6931)
    """

    _function = staticmethod(focal_loss)
    _buffer_names = ("alpha",)
    alpha: Tensor | None

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        alpha: PerClass | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        normalizer: Normalizer = "weights",
    ) -> None:
        super().__init__(
            gamma=gamma,
            alpha=alpha,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            reduction=reduction,
            normalizer=normalizer,
        )

    def _example(self) -> tuple[Tensor, ...]:
        return _class_example(self.alpha)


class BinaryFocalLoss(_Loss):
    """`binary_focal_loss` as a module; `alpha` and `pos_weight` are buffers.

    Examples:
        >>> import torch
        >>> from linkboy import BinaryFocalLoss
        >>> BinaryFocalLoss(alpha=0.25)(torch.zeros(2), torch.tensor([0, 1]))
        tensor(0.0866)
    """

    _function = staticmethod(binary_focal_loss)
    _buffer_names = ("alpha", "pos_weight")
    alpha: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        gamma_positive: float | None = None,
        gamma_negative: float | None = None,
        margin: float = 0.0,
        alpha: float | PerClass | None = None,
        pos_weight: float | PerClass | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
        reduction: Reduction = "mean",
        normalizer: Normalizer = "count",
    ) -> None:
        super().__init__(
            gamma=gamma,
            gamma_positive=gamma_positive,
            gamma_negative=gamma_negative,
            margin=margin,
            alpha=alpha,
            pos_weight=pos_weight,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            reduction=reduction,
            normalizer=normalizer,
        )

    def _example(self) -> tuple[Tensor, ...]:
        factors = [factor for factor in (self.alpha, self.pos_weight) if factor is not None]
        shape = max(((1,), *(tuple(factor.shape) for factor in factors)), key=lambda s: (len(s), s))
        example = torch.zeros(shape, device=factors[0].device if factors else "cpu")
        return example, example


class LinearFocalLoss(_Loss):
    """`linear_focal_loss` as a module, called with hidden states, the weight of the last layer and the target.

    Examples:
        >>> import torch
        >>> from linkboy import LinearFocalLoss
        >>> layer = torch.nn.Linear(4, 9, bias=False)
        >>> LinearFocalLoss(gamma=0)(torch.zeros(2, 4), layer.weight, torch.tensor([0, 8]))
        tensor(2.1972, grad_fn=<ToCopyBackward0>)
    """

    _function = staticmethod(linear_focal_loss)
    _buffer_names = ("alpha",)
    alpha: Tensor | None

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        alpha: PerClass | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        normalizer: Normalizer = "weights",
        chunk: int | Literal["auto"] = "auto",
    ) -> None:
        super().__init__(
            gamma=gamma, alpha=alpha, ignore_index=ignore_index, reduction=reduction, normalizer=normalizer, chunk=chunk
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
        """Return the loss of hidden states under the last linear layer.

        Args:
            input: as for the function.
            linear_weight: as for the function.
            target: as for the function.
            linear_bias: as for the function.
            sample_weight: as for the function.

        Returns:
            The loss, as the function returns it.
        """
        tensors = {"linear_bias": linear_bias, "sample_weight": sample_weight}
        return linear_focal_loss(input, linear_weight, target, **tensors, **self._options())  # type: ignore[arg-type]

    def _example(self) -> tuple[Tensor, ...]:
        logits, target = _class_example(self.alpha)
        return logits[:, :1], logits.t(), target


class LogitAdjustedLoss(_Loss):
    """`logit_adjusted_loss` as a module, for training only; `priors` is a buffer.

    Examples:
        >>> import torch
        >>> from linkboy import LogitAdjustedLoss
        >>> LogitAdjustedLoss(priors=[99, 1])(torch.zeros(1, 2), torch.tensor([1]))
        tensor(4.6052)
    """

    _function = staticmethod(logit_adjusted_loss)
    _buffer_names = ("priors",)
    priors: Tensor

    def __init__(
        self,
        *,
        priors: PerClass,
        tau: float = 1.0,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        normalizer: Normalizer = "weights",
    ) -> None:
        super().__init__(
            priors=priors,
            tau=tau,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            reduction=reduction,
            normalizer=normalizer,
        )

    def _example(self) -> tuple[Tensor, ...]:
        return _class_example(self.priors)


class MSELoss(_Loss):
    """`mse_loss` as a module.

    Examples:
        >>> import torch
        >>> from linkboy import MSELoss
        >>> MSELoss()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))
        tensor(2.)
    """

    _function = staticmethod(mse_loss)

    def __init__(
        self,
        *,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)


class MAELoss(_Loss):
    """`mae_loss` as a module.

    Examples:
        >>> import torch
        >>> from linkboy import MAELoss
        >>> MAELoss()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))
        tensor(1.)
    """

    _function = staticmethod(mae_loss)

    def __init__(
        self,
        *,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)


class RMSELoss(_Loss):
    """`rmse_loss` as a module.

    Examples:
        >>> import torch
        >>> from linkboy import RMSELoss
        >>> RMSELoss()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))
        tensor(1.4142)
    """

    _function = staticmethod(rmse_loss)

    def __init__(self) -> None:
        super().__init__()


class MSLELoss(_Loss):
    """`msle_loss` as a module.

    Examples:
        >>> import torch
        >>> from linkboy import MSLELoss
        >>> MSLELoss()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))
        tensor(0.6035)
    """

    _function = staticmethod(msle_loss)

    def __init__(
        self,
        *,
        log_input: bool = False,
        log_target: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(log_input=log_input, log_target=log_target, reduction=reduction)


class RMSLELoss(_Loss):
    """`rmsle_loss` as a module.

    Examples:
        >>> import torch
        >>> from linkboy import RMSLELoss
        >>> RMSLELoss()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))
        tensor(0.7768)
    """

    _function = staticmethod(rmsle_loss)

    def __init__(
        self,
        *,
        log_input: bool = False,
        log_target: bool = False,
    ) -> None:
        super().__init__(log_input=log_input, log_target=log_target)


class QuantileLoss(_Loss):
    """`quantile_loss` as a module.

    Examples:
        >>> import torch
        >>> from linkboy import QuantileLoss
        >>> QuantileLoss()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))
        tensor(0.5000)
    """

    _function = staticmethod(quantile_loss)

    def __init__(
        self,
        *,
        quantile: float | PerClass = 0.5,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(quantile=quantile, reduction=reduction)

    def _example(self) -> tuple[Tensor, ...]:
        count = int(np.size(self.quantile))  # type: ignore[arg-type]  # a number, a sequence or a tensor
        return torch.zeros(count, device="cpu"), torch.zeros(count, device="cpu")


class HuberLoss(_Loss):
    """`huber_loss` as a module.

    Examples:
        >>> import torch
        >>> from linkboy import HuberLoss
        >>> HuberLoss()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))
        tensor(0.7500)
    """

    _function = staticmethod(huber_loss)

    def __init__(
        self,
        *,
        delta: float = 1.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(delta=delta, reduction=reduction)


class TverskyLoss(_Loss):
    """`tversky_loss` as a module; `alpha` is a buffer.

    Examples:
        >>> import torch
        >>> from linkboy import TverskyLoss
        >>> TverskyLoss(smooth=0.0)(torch.zeros(1, 2, 4), torch.zeros(1, 4, dtype=torch.long))
        tensor(0.6667)
    """

    _function = staticmethod(tversky_loss)
    _buffer_names = ("alpha",)
    alpha: Tensor | None

    def __init__(
        self,
        *,
        false_positive: float = 0.5,
        false_negative: float = 0.5,
        gamma: float = 1.0,
        alpha: PerClass | None = None,
        smooth: float = 1.0,
        over: Over = "sample",
        multi_label: bool = False,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(
            false_positive=false_positive,
            false_negative=false_negative,
            gamma=gamma,
            alpha=alpha,
            smooth=smooth,
            over=over,
            multi_label=multi_label,
            ignore_index=ignore_index,
            reduction=reduction,
        )

    def _example(self) -> tuple[Tensor, ...]:
        logits, target = _class_example(self.alpha)
        return logits, torch.zeros_like(logits) if self.multi_label is True else target
