"""A running average of the weights."""

from collections.abc import Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from linkboy.training._placement import local_part


class MovingAverage:
    """Exponential moving average of the parameters: `average += (1 - d) * (weight - average)` after every step.

    `d = min(decay, (1 + n) / (10 + n))` at the n-th step, so that the first weights fade in short runs too (the `num_updates`
    form of TensorFlow's `ExponentialMovingAverage`). Buffers are not averaged.
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        self.decay, self.updates = decay, 0
        self._owners: list[Tensor] = []
        self.average: list[Tensor] = []
        self.follow(parameters)

    def follow(self, parameters: Iterable[Tensor]) -> None:
        """Average these parameters from now on; a new one begins with its present value."""
        known = dict(zip(map(id, self._owners), self.average, strict=True))
        self._owners = list(parameters)
        self.parameters = [local_part(parameter.detach()) for parameter in self._owners]
        self.average = [
            known[id(owner)] if id(owner) in known else parameter.clone()
            for owner, parameter in zip(self._owners, self.parameters, strict=True)
        ]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights after a step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.average, self.parameters, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def use(self) -> None:
        """Leave the average in the model."""
        torch._foreach_copy_(self.parameters, self.average)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def in_model(self) -> Any:
        """Have the average in the model for the block, and the last weights, bit for bit, after it."""
        kept = [parameter.clone() for parameter in self.parameters]
        self.use()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, kept)  # pyright: ignore[reportPrivateImportUsage]
