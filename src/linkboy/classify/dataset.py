"""Encoded texts as a dataset whose batches are cut from flat arrays, without any work per text."""

from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from linkboy.classify.features import FlatFeatures

Batch = tuple[tuple[Tensor, ...], Tensor, Tensor]  # what the model takes, target (B,), weight (B,)


class Encoder(Protocol):
    """What stands between texts and a model: learned from the training texts, saved with the classifier."""

    def __len__(self) -> int:
        """Return how many ids there are."""
        ...

    def encode(self, texts: Sequence[str]) -> FlatFeatures:
        """Turn texts into rows of ids."""
        ...

    def collate(self, rows: FlatFeatures) -> tuple[Tensor, ...]:
        """Return what the model takes."""
        ...

    def settings(self) -> dict[str, Any]:
        """Return what JSON can hold of the encoder."""
        ...

    def arrays(self) -> dict[str, Tensor]:
        """Return the tensors of the encoder."""
        ...

    @classmethod
    def restore(cls, settings: dict[str, Any], arrays: dict[str, Tensor]) -> Self:
        """Build the encoder that `settings` and `arrays` were taken from."""
        ...


class EncodedTexts(Dataset[Batch]):
    """Rows of an encoder's features with their targets and weights; a list of indices gives one ready batch.

    Args:
        encoder: collates rows into what the model takes.
        features: the encoded texts.
        targets: `(rows,)` class indices.
        weights: `(rows,)` non-negative; all 1 by default.
    """

    def __init__(
        self,
        encoder: Encoder,
        features: FlatFeatures,
        targets: NDArray[np.int64],
        weights: NDArray[np.float32] | None = None,
    ) -> None:
        self.encoder, self.features, self.targets = encoder, features, torch.from_numpy(targets)
        self.weights = torch.ones(len(targets)) if weights is None else torch.from_numpy(weights)

    def __len__(self) -> int:
        return len(self.features)

    def __add__(self, other: "EncodedTexts") -> "EncodedTexts":  # type: ignore[override]  # a list of batches is of no use
        """Return the rows of both."""
        one, two = self.features, other.features
        both = FlatFeatures(
            np.concatenate((one.ids, two.ids)),
            None if one.weights is None or two.weights is None else np.concatenate((one.weights, two.weights)),
            np.concatenate((one.offsets, two.offsets[1:] + one.offsets[-1])),
        )
        targets, weights = torch.cat((self.targets, other.targets)), torch.cat((self.weights, other.weights))
        return EncodedTexts(self.encoder, both, targets.numpy(), weights.numpy())

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        rows = np.asarray(indices, np.int64)
        where = torch.from_numpy(rows)
        return self.encoder.collate(self.features.gather(rows)), self.targets[where], self.weights[where]

    def loader(self, batch_size: int, *, shuffle: bool = False) -> DataLoader[Batch]:
        """Return a loader of whole batches."""
        return DataLoader(self, batch_size=batch_size, shuffle=shuffle, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> Any:
    return batch
