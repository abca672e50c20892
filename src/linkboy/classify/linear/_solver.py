"""Linear models of n-grams: rows that multiply both ways, scales of the weights, and a solver that stops on purpose.

The rows are those of a binary encoder: every n-gram of a text weighs the same, and a text has length 1. The last row of
all weights `(V + 1, K)` is the bias.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from linkboy.classify.encoding._features import FlatFeatures, log_odds_of

Scale = Literal["presence", "idf", "log-odds", "idf x log-odds", "vectors", "fine-tuned"]
MemberLoss = Literal["squared-hinge", "cross-entropy"]
SCALES: tuple[Scale, ...] = ("idf", "presence", "log-odds", "idf x log-odds")
FEWEST_ROWS = 2  # in which an n-gram must occur, to have a weight
UNSEEN = 0.3  # what an n-gram counts more than it was seen, for its log-odds
NEWTON_STEPS, CLOSE_ENOUGH = 5, 1e-3  # for the step along a direction, and when fewer do
BLOCK = 2**25  # numbers in one working array of the solver
TILE = 2**17  # of them at once, which stay in the cache
Line = Callable[[Tensor], tuple[Tensor, Tensor]]


class SparseRows:
    """Rows of n-grams that multiply weights from either side.

    Args:
        features: ids that are distinct within a row; their weights are those of a binary encoder.
        vocabulary: how many n-grams there are.
    """

    def __init__(self, features: FlatFeatures, vocabulary: int) -> None:
        self.features, self.vocabulary = features, vocabulary
        lengths = np.diff(features.offsets)
        self.norms = torch.from_numpy((1 / np.sqrt(np.maximum(lengths, 1))).astype(np.float32))[:, None]
        self.ids = torch.from_numpy(features.ids.astype(np.int32))
        self.offsets = torch.from_numpy(features.offsets.astype(np.int32))

    def __len__(self) -> int:
        return len(self.norms)

    def times(self, weights: Tensor) -> Tensor:
        """Return `(rows, K)`: the rows times weights `(V + 1, K)`."""
        bags = F.embedding_bag(self.ids, weights, self.offsets, mode="sum", include_last_offset=True)
        return bags.mul_(self.norms).add_(weights[-1])

    def transposed_times(self, values: Tensor) -> Tensor:
        """Return `(V + 1, K)`: for each n-gram, and the bias, the sum of values `(rows, K)` over the rows that hold it."""
        sums = self.counts(values * self.norms)
        sums[-1] = values.sum(0)
        return sums

    def squared_times(self, values: Tensor) -> Tensor:
        """Return the same with the squares of the rows."""
        sums = self.counts(values * self.norms.square())
        sums[-1] = values.sum(0)
        return sums

    def counts(self, values: Tensor) -> Tensor:
        """Return `(V + 1, K)`: for each n-gram the sum of values over its rows, as if each row had length 1 times itself."""
        rows, starts = self._columns
        return F.embedding_bag(rows, values, starts, mode="sum", include_last_offset=True)

    @cached_property
    def _columns(self) -> tuple[Tensor, Tensor]:
        """The rows that hold each n-gram one after the other, and where those of each begin."""
        lengths = np.diff(self.features.offsets)
        bits = np.int64(max(len(lengths), 1).bit_length())
        keys = np.sort((self.features.ids.astype(np.int64) << bits) | np.repeat(np.arange(len(lengths)), lengths))
        rows = (keys & ((np.int64(1) << bits) - 1)).astype(np.int32)
        # One more bag than n-grams, which is empty: the place of the bias.
        starts = np.searchsorted(keys >> bits, np.arange(self.vocabulary + 2))
        return torch.from_numpy(rows), torch.from_numpy(starts.astype(np.int32))


class DenseRows:
    """Rows of vectors that multiply weights from either side, as `SparseRows` does.

    Args:
        vectors: `(rows, D)`.
    """

    def __init__(self, vectors: Tensor) -> None:
        self.vectors, self.vocabulary = vectors, vectors.shape[1]

    def __len__(self) -> int:
        return len(self.vectors)

    def times(self, weights: Tensor) -> Tensor:
        """Return `(rows, K)`: the rows times weights `(D + 1, K)`."""
        return (self.vectors @ weights[:-1]).add_(weights[-1])

    def transposed_times(self, values: Tensor) -> Tensor:
        """Return `(D + 1, K)`: the transposed rows, with a column of ones for the bias, times values `(rows, K)`."""
        return torch.cat((self.vectors.T @ values, values.sum(0, keepdim=True)))

    def squared_times(self, values: Tensor) -> Tensor:
        """Return the same with the squares of the rows."""
        return torch.cat((self.vectors.square().T @ values, values.sum(0, keepdim=True)))


@dataclass(frozen=True)
class Problem:
    """Rows to learn from.

    Args:
        rows: of n-grams, or of vectors, for which there is one scale, `"vectors"`, that changes nothing.
        targets: `(rows,)` class indices; or `(rows, C)`, whether a row has a label, of which it may have several.
        classes: how many there are.
        weights: `(rows, 1)` non-negative, 1 in the mean.
        sizes: of the scales, computed once.
    """

    rows: SparseRows | DenseRows
    targets: Tensor
    classes: int
    weights: Tensor
    sizes: dict[Scale, Tensor] = field(default_factory=dict)

    @property
    def several(self) -> bool:
        """Whether a row may have several labels."""
        return self.targets.ndim == 2

    def one_of(self, first: int, last: int) -> Tensor:
        """Return `(rows, last - first)`: 1 where a row is of one of the classes from `first` up to `last`."""
        if self.several:
            return self.targets[:, first:last].float()
        return (self.targets[:, None] == torch.arange(first, last)).float()

    def scale(self, kind: Scale, first: int, last: int) -> Tensor:
        """Return what the weights of the classes from `first` up to `last` are multiplied by: `(V + 1, 1 or K)`.

        An n-gram of fewer than two rows gets 0. All kinds are brought to one size, so that a strength means the same for each:
        the squared lengths of the scaled rows are 1 in the mean over rows and classes.
        """
        if isinstance(self.rows, DenseRows):
            return torch.ones(self.rows.vocabulary + 1, 1)
        scale = self._unsized(kind, first, last) / self._size(kind)
        scale[-1] = 1
        return scale

    def _unsized(self, kind: Scale, first: int, last: int) -> Tensor:
        frequency = cast("SparseRows", self.rows).counts(torch.ones(len(self.rows), 1))
        scale = torch.ones_like(frequency)
        if "idf" in kind:
            scale = ((1 + len(self.rows)) / (1 + frequency)).log() + 1
        if "log-odds" in kind:
            scale = scale * self._log_odds(first, last)
        scale = scale * (frequency >= FEWEST_ROWS)
        scale[-1] = 0
        return scale

    def _size(self, kind: Scale) -> Tensor:
        """Return the root of the mean squared length of a row times the scale, over rows and all classes."""
        if kind not in self.sizes:
            squares = self.rows.squared_times(torch.ones(len(self.rows), 1))
            blocks = self._blocks() if "log-odds" in kind else [(0, self.classes)]
            sums = [(squares * self._unsized(kind, *block).square()).sum(0) for block in blocks]
            mean = torch.cat(sums).mean() / max(len(self.rows), 1)
            self.sizes[kind] = mean.clamp_min(1e-12).sqrt()
        return self.sizes[kind]

    def _blocks(self) -> list[tuple[int, int]]:
        """Return the classes in runs that bound the memory of what is computed for one."""
        width = max(1, BLOCK // max(self.rows.vocabulary, len(self.rows), 1))
        return [(first, min(first + width, self.classes)) for first in range(0, self.classes, width)]

    def _log_odds(self, first: int, last: int) -> Tensor:
        rows = cast("SparseRows", self.rows)
        inside = rows.counts(self.one_of(first, last))
        outside = rows.counts(torch.ones(len(rows), 1)) - inside
        return F.pad(log_odds_of(inside[:-1], outside[:-1], UNSEEN), (0, 0, 0, 1))  # the bias, which is scaled by 1

    def solve(self, loss: MemberLoss, scale: Scale, strength: float, steps: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield the columns of some classes and their weights `(V + 1, columns)`, until all classes are done.

        The weights of one class against all others do not depend on the other classes, so a block of classes at a time
        bounds the memory; a cross-entropy is solved for all classes at once. Two classes are one column for the hinge. Where
        a row may have several labels, each is a problem of its own for both losses.
        """
        if self.several:
            alone = self._logistic if loss == "cross-entropy" else self._squared_hinge
            for first, last in self._blocks():
                yield slice(first, last), alone(scale, strength, steps, first, last)
        elif loss == "cross-entropy":
            yield slice(0, self.classes), self._cross_entropy(scale, strength, steps)
        elif self.classes == 2:
            half = self._squared_hinge(scale, strength, steps, 1, 2) / 2
            yield slice(0, 2), torch.cat((-half, half), 1)
        else:
            for first, last in self._blocks():
                yield slice(first, last), self._squared_hinge(scale, strength, steps, first, last)

    def _squared_hinge(self, kind: Scale, strength: float, steps: int, first: int, last: int) -> Tensor:
        """One class against all others: `|u|^2 / 2 + C * sum(w * max(0, 1 - y z)^2)` with `z` the rows times `scale * u`."""
        scale, sides = self.scale(kind, first, last), self.one_of(first, last) * 2 - 1
        cost = 2 * strength * self.weights

        def slopes(margins: Tensor) -> Tensor:
            return -cost * sides * (1 - sides * margins).clamp_min_(0)

        def line(margins: Tensor, moved: Tensor) -> Line:
            short, ahead = 1 - sides * margins, sides * moved
            first, second = cost * ahead, cost * ahead.square()

            def at(step: Tensor) -> tuple[Tensor, Tensor]:
                left = (short - step * ahead).clamp_min_(0)
                return -torch.linalg.vecdot(first, left, dim=0), (second * (left > 0)).sum(0)

            return at

        curvature = 1 + scale.square() * self.rows.squared_times(cost)
        return scale * self._descend(scale, curvature, slopes, line, steps, (last - first,))

    def _logistic(self, kind: Scale, strength: float, steps: int, first: int, last: int) -> Tensor:
        """Each label by itself: `|u|^2 / 2 + C * sum(w * binary cross-entropy)` with `z` the rows times `scale * u`."""
        scale, own = self.scale(kind, first, last), self.one_of(first, last)
        cost = strength * self.weights

        def slopes(margins: Tensor) -> Tensor:
            return cost * (margins.sigmoid() - own)

        def line(margins: Tensor, moved: Tensor) -> Line:
            # Where the margins are far out, the second derivative is tiny and a step of Newton's would go anywhere. The
            # parabola that touches the loss and lies above it (Jaakkola & Jordan 2000) cannot overshoot.
            def at(step: Tensor) -> tuple[Tensor, Tensor]:
                ahead = margins + step * moved
                shares = ahead.sigmoid()
                bend = torch.where(ahead.abs() > 1e-3, (shares - 0.5) / ahead, 0.25)
                return (cost * (shares - own) * moved).sum(0), (cost * bend * moved.square()).sum(0)

            return at

        curvature = 1 + scale.square() * self.rows.squared_times(cost) / 4
        return scale * self._descend(scale, curvature, slopes, line, steps, (last - first,))

    def _cross_entropy(self, kind: Scale, strength: float, steps: int) -> Tensor:
        """All classes at once: `|u|^2 / 2 + C * sum(w * cross-entropy)`."""
        scale, own = self.scale(kind, 0, self.classes), self.one_of(0, self.classes)
        cost = strength * self.weights

        def slopes(margins: Tensor) -> Tensor:
            return cost * (_softmax(margins) - own)

        def line(margins: Tensor, moved: Tensor) -> Line:
            squares, of_own = moved.square(), (own * moved).sum(1, keepdim=True)

            def at(step: Tensor) -> tuple[Tensor, Tensor]:
                shares = _softmax(margins + step * moved)
                mean = (shares * moved).sum(1, keepdim=True)
                second = (shares * squares).sum(1, keepdim=True) - mean.square()
                return (cost * (mean - of_own)).sum(), (cost * second).sum()

            return at

        # The loss bends by p (1 - p), at the start by `share`. For the class of a row, whose p rises from there, the diagonal of
        # the matrix that bounds the curvature whatever p is (Böhning 1992) leads nearer to the minimum in as many steps.
        share, bound = (self.classes - 1) / self.classes**2, (self.classes - 1) / (2 * self.classes)
        bends = self.rows.squared_times(cost * (share + (bound - share) * own))
        curvature = bends.mul_(scale.square()).add_(1)
        return scale * self._descend(scale, curvature, slopes, line, steps, (1, self.classes))

    def _descend(
        self,
        scale: Tensor,
        curvature: Tensor,
        slopes: Callable[[Tensor], Tensor],
        line: Callable[[Tensor, Tensor], Line],
        steps: int,
        shape: tuple[int, ...],
    ) -> Tensor:
        """Nonlinear conjugate gradients from zero, preconditioned by a diagonal, with an exact step along each direction.

        Args:
            scale: what the weights are multiplied by.
            curvature: the diagonal.
            slopes: from margins `(rows, K)` to the derivative of the losses by them.
            line: from margins and their movement to a function from a step to slope and curvature of the losses along it.
            steps: how many; stopping early is a part of the strength.
            shape: `(K,)` where the columns do not depend on each other, `(1, K)` where they are one problem.
        """
        independent, columns = len(shape) == 1, shape[-1]

        def dot(one: Tensor, two: Tensor) -> Tensor:
            return (one * two).sum(0) if independent else one.flatten() @ two.flatten()

        weights = torch.zeros(self.rows.vocabulary + 1, columns)
        margins = torch.zeros(len(self.rows), columns)
        direction, former, ahead, scaled = (torch.zeros_like(weights) for _ in range(4))
        zero = torch.zeros(columns if independent else ())
        former_size = zero + torch.inf  # so that the first direction is along the gradient
        tiles = _tiles(*weights.shape)
        for _ in range(steps):
            gradient = self.rows.transposed_times(slopes(margins))
            size, aside, along, length = zero, zero, zero, zero
            for tile in tiles:
                here = gradient[tile].mul_(scale[tile]).add_(weights[tile])
                torch.div(here, curvature[tile], out=ahead[tile])
                size = size + dot(here, ahead[tile])
                aside = aside + dot(former[tile], ahead[tile])
            turn = ((size - aside) / former_size.clamp_min(1e-30)).clamp_min_(0)
            former, former_size = gradient, size
            for tile in tiles:
                here = direction[tile].mul_(turn).sub_(ahead[tile])
                torch.mul(here, scale[tile], out=scaled[tile])
                along = along + dot(weights[tile], here)
                length = length + dot(here, here)
            moved = self.rows.times(scaled)
            step = _step(line(margins, moved), along, length)
            weights.addcmul_(step, direction)
            margins.addcmul_(step, moved)
        return weights


def _step(losses: Line, along: Tensor, length: Tensor) -> Tensor:
    """Return the step along a direction to the minimum, by Newton's method within what is known to hold the minimum.

    Where a cross-entropy is nearly flat, a step of Newton's alone goes far beyond the minimum, back, and farther.

    Args:
        losses: from a step to slope and curvature of the losses.
        along: the weights times the direction.
        length: the squared length of the direction.
    """
    step, low, high = torch.zeros_like(along), torch.full_like(along, -torch.inf), torch.full_like(along, torch.inf)
    for _ in range(NEWTON_STEPS):
        slope, bend = losses(step)
        slope = along + step * length + slope
        low, high = torch.where(slope < 0, step, low), torch.where(slope < 0, high, step)
        former, step = step, step - slope / (length + bend).clamp_min(1e-30)
        step = torch.where((low <= step) & (step <= high), step, (low + high) / 2)
        if ((step - former).abs() <= CLOSE_ENOUGH * step.abs()).all():
            break
    return step


def _tiles(rows: int, columns: int) -> list[slice]:
    """Return runs of rows with so many numbers that all that is done to them is done in the cache."""
    size = max(1, TILE // columns)
    return [slice(start, start + size) for start in range(0, rows, size)]


def _softmax(margins: Tensor) -> Tensor:
    """Return the softmax of each row; torch's own takes several times as long where there are few classes."""
    shares = (margins - margins.amax(1, keepdim=True)).exp_()
    return shares.div_(shares.sum(1, keepdim=True))


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: sums then have the same bits everywhere, and small products do not wait for other threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def rows_of(pieces: Iterator[tuple[FlatFeatures, NDArray[np.int64], NDArray[np.float32]]]) -> FlatFeatures:
    """Return the features of all pieces in one, with ids of 32 bits and no weights."""
    ids, lengths = [], []
    for features, _, _ in pieces:
        ids.append(features.ids.astype(np.int32))
        lengths.append(np.diff(features.offsets))
    offsets = np.concatenate(([0], np.cumsum(np.concatenate(lengths)))) if lengths else np.zeros(1, np.int64)
    return FlatFeatures(np.concatenate(ids) if ids else np.zeros(0, np.int32), None, offsets)  # type: ignore[arg-type]
