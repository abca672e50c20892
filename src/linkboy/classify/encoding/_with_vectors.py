"""N-grams and the vectors of a pretrained encoder side by side: what a text becomes."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linkboy.classify.encoding._features import FlatFeatures, NgramEncoder
from linkboy.classify.encoding._pretrained import OWNED, PretrainedEncoder

SETTINGS = "pretrained"  # where the settings of the encoder are among those of the n-grams


@dataclasses.dataclass(frozen=True)
class FeaturesWithVectors(FlatFeatures):
    """Rows of n-grams, each with a vector.

    Args:
        vectors: `(rows, D)` float32.
    """

    vectors: Tensor

    def gather(self, rows: NDArray[np.int64]) -> "FeaturesWithVectors":
        """Return the given rows, in the given order."""
        flat = super().gather(rows)
        return FeaturesWithVectors(flat.ids, flat.weights, flat.offsets, self.vectors[torch.from_numpy(rows)])

    def part(self, start: int, stop: int) -> "FeaturesWithVectors":
        """Return the rows from `start` to `stop`, exclusive, or to the last, without a copy."""
        flat = super().part(start, stop)
        return FeaturesWithVectors(flat.ids, flat.weights, flat.offsets, self.vectors[start:stop])


@dataclasses.dataclass(frozen=True)
class NgramsAndVectors:
    """Encodes texts twice: as n-grams, and as the vectors of a pretrained encoder.

    Args:
        ngrams: the n-grams.
        pretrained: the encoder.
    """

    ngrams: NgramEncoder
    pretrained: PretrainedEncoder

    def __len__(self) -> int:
        return len(self.ngrams)

    def encode(self, texts: Sequence[str]) -> FeaturesWithVectors:
        """Turn texts into rows of n-grams with vectors."""
        flat = self.ngrams.encode(texts)
        return FeaturesWithVectors(flat.ids, flat.weights, flat.offsets, self.pretrained.vectors(texts))

    def collate(self, rows: FlatFeatures) -> tuple[Tensor, ...]:
        """Return ids, offsets and weights of the n-grams, and the vectors."""
        return (*self.ngrams.collate(rows), cast("FeaturesWithVectors", rows).vectors)

    def settings(self) -> dict[str, Any]:
        """Return what JSON can hold of both."""
        return {**self.ngrams.settings(), SETTINGS: self.pretrained.settings()}

    def arrays(self) -> dict[str, Tensor]:
        """Return the tensors of the n-grams; those of the encoder stay in its directory."""
        return self.ngrams.arrays()

    def files(self) -> dict[str, bytes]:
        """Return the files of an encoder that belongs to the classifier, by their names in its directory; none of another."""
        if not self.pretrained.owned:
            return {}
        directory = self.pretrained.files.directory
        found = sorted(path for path in directory.rglob("*") if path.is_file())
        return {f"{OWNED}/{path.relative_to(directory).as_posix()}": path.read_bytes() for path in found}


def restore_encoder(
    directory: Path,
    ngrams: NgramEncoder,
    settings: Mapping[str, Any],
    encoder: str | os.PathLike[str] | None,
    device: str,
) -> NgramsAndVectors:
    """Load the encoder that a classifier was trained with, from where it was or from where it is now.

    Args:
        directory: that of the classifier.
        ngrams: the other half.
        settings: what `PretrainedEncoder.settings` gave.
        encoder: the directory; `None` for the one of the training.
        device: where to compute.

    Raises:
        FileNotFoundError: it is not where it was.
        ValueError: it is another one.
    """
    path, name, lower = settings["path"], settings["name"], settings["bfloat16"]
    if not isinstance(path, str) or not isinstance(name, str) or not isinstance(lower, bool):
        raise TypeError("the encoder needs a path, a name and a precision")
    owned = path == OWNED
    if owned and encoder is not None:
        raise ValueError(f"{directory} has its encoder in it, which was trained with the classifier; leave encoder out")
    path = directory / path if owned else Path(path)
    if encoder is None and not path.is_dir():
        raise FileNotFoundError(
            f"the encoder {name!r} that the classifier was trained with is no longer in {path}; "
            + ("copy the whole directory" if owned else "pass encoder=... with its directory")
        )
    pretrained = PretrainedEncoder.load(encoder or path, device=device, lower_precision=lower)
    pretrained.owned, pretrained.name = owned, name
    if pretrained.fingerprint != settings["sha256"]:
        raise ValueError(
            f"encoder must be the one that the classifier was trained with, {name!r}, got another one in "
            f"{pretrained.files.directory} (its files have another hash); "
            + ("train the classifier again" if owned else "pass encoder=... with its directory")
        )
    return NgramsAndVectors(ngrams, pretrained)
