"""The n-gram model of thousands of classes: one centroid a class, sparse, since a dense matrix would not fit the memory."""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linkboy.classify.encoding._features import FlatFeatures
from linkboy.classify.models._models import TextModel

ROWS = 4096  # that are summed at a time
MOST_OF_CLASSES = 0.05  # share of the classes, in more than which an n-gram is left out


class CentroidClassifier(TextModel):
    """A linear model over n-grams whose matrix is sparse: row `j` is `values[starts[j]:starts[j + 1]]` of `classes` beside it.

    Args:
        vocabulary: number of n-grams.
        class_count: number of classes.
        entries: number of values that are not 0.

    Shape: ids `(K,)` int64, offsets `(B + 1,)` int64, weights `(K,)` floating point -> logits `(B, class_count)`.
    """

    starts: Tensor
    classes: Tensor

    def __init__(self, vocabulary: int, class_count: int, entries: int) -> None:
        super().__init__()
        self.register_buffer("starts", torch.zeros(vocabulary + 1, dtype=torch.int64))
        self.register_buffer("classes", torch.zeros(entries, dtype=torch.int32))
        self.values = torch.nn.Parameter(torch.zeros(entries))
        self.bias = torch.nn.Parameter(torch.zeros(class_count))

    def forward(self, ids: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        """Return logits `(B, class_count)`."""
        starts, lengths = self.starts[ids], self.starts[ids + 1] - self.starts[ids]
        logits = torch.zeros(len(offsets) - 1, len(self.bias), device=ids.device)
        for row, (first, last) in enumerate(pairwise(offsets.tolist())):
            # A text at a time: what it touches fits the cache, and all texts together may not fit the memory.
            own = lengths[first:last]
            before = torch.cumsum(own, 0) - own
            where = torch.arange(int(own.sum()), device=ids.device) + torch.repeat_interleave(
                starts[first:last] - before, own
            )
            scores = self.values[where] * torch.repeat_interleave(weights[first:last], own)
            logits[row].index_add_(0, self.classes[where], scores)
        return logits + self.bias

    def check(self) -> None:
        """Raise a `ValueError` unless the entries are where a matrix has them."""
        starts, classes = self.starts, self.classes
        if (
            starts[0] != 0
            or starts[-1] != len(classes)
            or (starts.diff() < 0).any()
            or len(classes) != len(self.values)
        ):
            raise ValueError("the rows of the sparse matrix do not follow each other")
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < len(self.bias):
            raise ValueError("the sparse matrix has an entry of a class that there is not")

    @torch.no_grad()
    def of_classes(self, ids: Tensor, pair: tuple[int, int]) -> Tensor:
        """Return `(len(ids), 2)`: the weights of n-grams for two classes."""
        found = torch.zeros(len(ids), 2)
        for place, number in enumerate(ids.tolist()):
            span = slice(int(self.starts[number]), int(self.starts[number + 1]))
            for column, label in enumerate(pair):
                found[place, column] = self.values[span][self.classes[span] == label].sum()
        return found

    @torch.no_grad()
    def adjust_(self, shift: Tensor, temperature: float) -> None:
        """Change the weights so that the logits are `(logits + shift) / temperature` from now on."""
        self.values /= temperature
        self.bias.add_(shift.to(self.bias)).div_(temperature)


def fit_centroids(
    features: FlatFeatures,
    targets: NDArray[np.int64],
    rows: NDArray[np.int64],
    idf: NDArray[np.float32],
    class_count: int,
) -> CentroidClassifier:
    """Return the model whose weights for a class are the unit sum of the unit TF-IDF rows of the class.

    N-grams that occur in more than a twentieth of the classes are left out: they tell few classes apart, and most of the
    time would go to them.

    Args:
        features: ids that are distinct within a row.
        targets: class indices, one per row of the features.
        rows: those to learn from.
        idf: `(V,)`.
        class_count: how many classes there are.
    """
    ids, classes, sums = _sums(features, targets, rows, idf)
    rare = np.bincount(ids, minlength=len(idf)) <= max(class_count * MOST_OF_CLASSES, 1)
    lengths_of_class = np.sqrt(np.bincount(classes, sums**2 * rare[ids], minlength=class_count))
    kept = np.flatnonzero(rare[ids])
    kept = kept[np.argsort(ids[kept], kind="stable")]
    ids, classes, sums = ids[kept], classes[kept], sums[kept]
    model = CentroidClassifier(len(idf), class_count, len(ids))
    model.starts.copy_(torch.from_numpy(np.searchsorted(ids, np.arange(len(idf) + 1))))
    model.classes.copy_(torch.from_numpy(classes))
    with torch.no_grad():  # the rows that are asked about weigh every n-gram the same: their idf is part of the model
        model.values.copy_(torch.from_numpy(sums / np.maximum(lengths_of_class[classes], 1e-12) * idf[ids]))
    return model


def _sums(
    features: FlatFeatures, targets: NDArray[np.int64], rows: NDArray[np.int64], idf: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """Return n-gram, class and sum of unit TF-IDF rows, for each n-gram of each class, by class and then by n-gram.

    Some thousand rows at a time, those of a class together: the keys of all rows take several times the memory of the result.
    """
    by_class = rows[np.argsort(targets[rows], kind="stable")]
    first_of_class = np.flatnonzero(np.diff(targets[by_class], prepend=-1))
    blocks = np.unique(np.searchsorted(first_of_class, np.arange(0, len(by_class), ROWS)))
    cuts = first_of_class[blocks[blocks < len(first_of_class)]].tolist()
    found = []
    for first, last in pairwise([*cuts, len(by_class)]):
        own = by_class[first:last]
        part = features.gather(own)
        lengths = np.diff(part.offsets)
        weights = idf[part.ids].astype(np.float64)
        norms = np.sqrt(np.bincount(np.repeat(np.arange(len(own)), lengths), weights**2, minlength=len(own)))
        weights /= np.repeat(np.maximum(norms, 1e-12), lengths)
        keys = np.repeat(targets[own] * len(idf), lengths) + part.ids
        order = np.argsort(keys, kind="stable")
        keys, weights = keys[order], weights[order]
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        classes, ids = np.divmod(keys[starts], len(idf))
        found.append((ids.astype(np.int32), classes.astype(np.int32), np.add.reduceat(weights, starts)))
    ids, classes, sums = (np.concatenate(column) for column in zip(*found, strict=True))
    return ids, classes, sums
