"""Encoded texts as a dataset whose batches are cut from flat arrays, without any work per text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from linkboy.classify.encoding._features import FlatFeatures

MOST_CHARACTERS = 10_000_000  # of texts that are encoded at once: some 400 MB of features
PIECE = 20_000  # rows
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


class LazyFeatures:
    """Features of texts that are encoded each time they are asked for: what takes the place of too large arrays.

    Args:
        encoder: encodes them.
        texts: any number.
    """

    def __init__(self, encoder: Encoder, texts: Sequence[str]) -> None:
        self.encoder, self.texts = encoder, texts

    def __len__(self) -> int:
        return len(self.texts)

    def gather(self, rows: NDArray[np.int64]) -> FlatFeatures:
        """Return the given rows, in the given order."""
        return self.encoder.encode([self.texts[int(row)] for row in rows])


Features = FlatFeatures | LazyFeatures


def features_of(encoder: Encoder, parts: Mapping[str, Sequence[str]]) -> dict[str, Features]:
    """Encode the texts of all parts, at once if they are few enough for the memory, else whenever a batch asks for them."""
    many = sum(len(text) for texts in parts.values() for text in texts) > MOST_CHARACTERS
    return {part: LazyFeatures(encoder, texts) if many else encoder.encode(texts) for part, texts in parts.items()}


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
        features: Features,
        targets: NDArray[np.int64],
        weights: NDArray[np.float32] | None = None,
    ) -> None:
        self.encoder, self.features, self.targets = encoder, features, torch.from_numpy(targets)
        self.weights = torch.ones(len(targets)) if weights is None else torch.from_numpy(weights)

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        rows = np.asarray(indices, np.int64)
        where = torch.from_numpy(rows)
        return self.encoder.collate(self.features.gather(rows)), self.targets[where], self.weights[where]

    def take(self, rows: NDArray[np.int64]) -> "EncodedTexts":
        """Return the given rows, in the given order."""
        features, where = self.features.gather(rows), torch.from_numpy(rows)
        return EncodedTexts(self.encoder, features, self.targets[where].numpy(), self.weights[where].numpy())

    def pieces(self) -> Iterator[tuple[FlatFeatures, NDArray[np.int64], NDArray[np.float32]]]:
        """Yield features, targets and weights of all rows, in order, in pieces of bounded size."""
        for start in range(0, len(self), PIECE):
            where = np.arange(start, min(start + PIECE, len(self)))
            yield self.features.gather(where), self.targets[where].numpy(), self.weights[where].numpy()

    def loader(self, batch_size: int, *, shuffle: bool = False) -> DataLoader[Batch]:
        """Return a loader of whole batches."""
        return DataLoader(self, batch_size=batch_size, shuffle=shuffle, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> Any:
    return batch
