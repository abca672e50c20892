"""What the page and the files need of the logits of a part; the logits of many classes are too large to be kept."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linkboy.classify.judging._reliability import Reliability, reliability

MOST_LOGITS, MOST_ROWS = 2**22, 20_000  # at once; the features of long texts are as large as the logits of many classes


@dataclasses.dataclass(frozen=True)
class Scored:
    """The rows of a part under a classifier.

    Args:
        predicted: `(rows,)`, the likeliest class.
        confidence: `(rows,)`, its probability.
        own: `(rows,)`, the probability of the class that the row is labelled with.
        right: `(rows,)`, whether the likeliest class is that of the label.
    """

    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    own: NDArray[np.float64]
    right: NDArray[np.bool_]

    @classmethod
    def of(cls, logits: Tensor, target: NDArray[np.int64]) -> Self:
        """Score logits `(rows, C)`."""
        scored = cls.unfilled(len(target))
        scored.fill(slice(None), logits, target)
        return scored

    @classmethod
    def unfilled(cls, rows: int) -> Self:
        """Return room for so many rows.

        It is made before the logits of many pieces: small results between them would keep the memory of each from the next.
        """
        return cls(np.empty(rows, np.int64), np.empty(rows), np.empty(rows), np.empty(rows, np.bool_))

    def fill(self, where: slice, logits: Tensor, target: NDArray[np.int64]) -> None:
        """Score logits `(rows, C)` of some of the rows."""
        probabilities = logits.double().softmax(1)
        confidence, predicted = probabilities.max(1)
        self.predicted[where], self.confidence[where] = predicted.numpy(), confidence.numpy()
        self.own[where] = probabilities.gather(1, torch.from_numpy(target)[:, None])[:, 0].numpy()
        self.right[where] = self.predicted[where] == target

    @classmethod
    def joined(cls, pieces: Sequence["Scored"]) -> Self:
        """Return the rows of all pieces."""
        return cls(
            *(np.concatenate([getattr(piece, field.name) for piece in pieces]) for field in dataclasses.fields(cls))
        )

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Return the given rows, in the given order."""
        return type(self)(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))

    def reliability(self) -> Reliability:
        """Compare confidence and accuracy."""
        return reliability(self.confidence, self.right)


def in_pieces(
    rows: int, classes: int, logits_of: Callable[[NDArray[np.int64]], Tensor]
) -> Iterator[tuple[slice, Tensor]]:
    """Yield the logits of rows in pieces that fit the memory, with where they belong."""
    size = max(1, min(MOST_ROWS, MOST_LOGITS // classes))
    for start in range(0, max(rows, 1), size):
        where = slice(start, min(start + size, rows))
        yield where, logits_of(np.arange(where.start, where.stop))


def evenly(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return at most so many of the rows, evenly drawn, in their order."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64))]
