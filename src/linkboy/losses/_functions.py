"""The losses, as functions without what `loss_function` puts around them."""

from collections.abc import Callable

from torch import Tensor

loss_functions: list[Callable[..., Tensor]] = []
