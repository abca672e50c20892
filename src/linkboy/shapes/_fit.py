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


FittedShape = tuple[Fit | None, ...]  # None: a size that depends on the values, not only on the batch size


def fit_shape(first: Sequence[Shape], second: Sequence[Shape], probe: tuple[int, int]) -> FittedShape | None:
    """Fit each dim of a tensor from its shapes at `probe[0]` and at `probe[1]`, one shape for each draw of values.

    Returns:
        A fit for each dim, `None` for a dim whose size differs between draws; `None` where the numbers of dims differ or
        a size is not a number.

    Examples:
        >>> shape_text(fit_shape([(5, 6), (5, 4)], [(7, 6), (7, 6)], (5, 7)))
        '(B, ?)'
    """
    shapes = [*first, *second]
    if len({len(shape) for shape in shapes}) != 1 or not all(
        isinstance(size, int) for shape in shapes for size in shape
    ):
        return None
    steady = [len(set(sizes)) == 1 for sizes in zip(*first, strict=True)]
    steady = [known and len(set(sizes)) == 1 for known, sizes in zip(steady, zip(*second, strict=True), strict=True)]
    pairs = zip(steady, first[0], second[0], strict=True)
    return tuple(fit_size(a, b, probe) if known else None for known, a, b in pairs)


def fit_shapes(
    first: Sequence[Sequence[Shape]], second: Sequence[Sequence[Shape]], probe: tuple[int, int]
) -> list[FittedShape | None]:
    """Fit the shapes of several tensors, given for each draw; tensors that not every run has get no fit."""
    counts = [len(shapes) for shapes in (*first, *second)]
    fits = [
        fit_shape([shapes[n] for shapes in first], [shapes[n] for shapes in second], probe) for n in range(min(counts))
    ]
    return fits + [None] * (max(counts) - len(fits))


def shape_text(shape: FittedShape | None) -> str:
    """Return a fitted shape as text: `(B, 3, 2*B)`; `?` stands for a size that depends on the values."""
    if shape is None:
        return "(?)"
    sizes = ", ".join("?" if fit is None else str(fit) for fit in shape)
    return f"({sizes}{',' if len(shape) == 1 else ''})"


def batch_dims(shape: FittedShape | None) -> list[int]:
    """Return the dims that are the batch."""
    return [dim for dim, fit in enumerate(shape or ()) if fit is not None and fit.is_batch]


def follows_batch(shape: FittedShape | None) -> bool:
    """Return whether some dim changes with the batch size."""
    return any(fit is not None and fit.power for fit in shape or ())
