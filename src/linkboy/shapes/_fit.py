"""A size as a function of the batch size, fitted to two runs with prime batch sizes."""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction

from linkboy.shapes._calls import Shape


@dataclasses.dataclass(frozen=True)
class Fit:
    """A size `factor * B**power + offset`.

    Examples:
        >>> fit_size(10, 14, (5, 7)), str(fit_size(25, 49, (5, 7))), str(fit_size(8, 8, (5, 7)))
        (Fit(factor=Fraction(2, 1), power=1, offset=Fraction(0, 1)), 'B**2', '8')
    """

    factor: Fraction
    power: int
    offset: Fraction

    def at(self, batch: int) -> int | None:
        """Return the size for a batch, or `None` where the fit gives no whole number and so predicts nothing."""
        value = self.factor * batch**self.power + self.offset
        return int(value) if value.denominator == 1 and value >= 0 else None

    @property
    def is_batch(self) -> bool:
        """Whether the size is the batch size itself."""
        return self == Fit(Fraction(1), 1, Fraction(0))

    @property
    def per_sample(self) -> int:
        """How many entries each sample has along the dim, or 0 where that is not a whole number."""
        whole = self.power == 1 and self.offset == 0 and self.factor.denominator == 1
        return int(self.factor) if whole else 0

    def __str__(self) -> str:
        if self.power == 0:
            return str(self.factor)
        text = "B" if self.power == 1 else f"B**{self.power}"
        text = text if self.factor == 1 else f"{self.factor}*{text}"
        return text if self.offset == 0 else f"{text} {'+' if self.offset > 0 else '-'} {abs(self.offset)}"


def fit_size(first: int, second: int, probe: tuple[int, int]) -> Fit:
    """Fit a size that is `first` at batch `probe[0]` and `second` at `probe[1]`.

    A multiple of a power of the batch is tried before a straight line: a feature size is rarely a multiple of both primes.
    """
    for power in range(4):
        factor, rest = divmod(first, probe[0] ** power)
        if rest == 0 and factor * probe[1] ** power == second:
            return Fit(Fraction(factor), power, Fraction(0))
    slope = Fraction(second - first, probe[1] - probe[0])
    return Fit(slope, 1, first - slope * probe[0])


FittedShape = tuple[Fit, ...]


def fit_shape(first: Shape, second: Shape, probe: tuple[int, int]) -> FittedShape | None:
    """Fit each dim; return `None` where the numbers of dims differ or a size is not a number."""
    if len(first) != len(second) or not all(isinstance(size, int) for size in (*first, *second)):
        return None
    return tuple(fit_size(a, b, probe) for a, b in zip(first, second, strict=True))


def fit_shapes(first: Sequence[Shape], second: Sequence[Shape], probe: tuple[int, int]) -> list[FittedShape | None]:
    """Fit shapes pairwise; where one run gave more of them, the rest have no fit."""
    pairs = [fit_shape(a, b, probe) for a, b in zip(first, second, strict=False)]
    return pairs + [None] * (max(len(first), len(second)) - len(pairs))


def shape_text(shape: FittedShape | None) -> str:
    """Return a fitted shape as text: `(B, 3, 2*B)`."""
    if shape is None:
        return "(?)"
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def batch_dim(shape: FittedShape | None) -> int | None:
    """Return the first dim that is the batch, if there is one."""
    return next((dim for dim, fit in enumerate(shape or ()) if fit.is_batch), None)
