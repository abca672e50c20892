"""What every way to make a model takes: the data before and after encoding, and where and until when to train."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from linkboy.classify.encoding._dataset import EncodedTexts, Encoder
from linkboy.classify.learning.search import Show
from linkboy.classify.reading._parts import Parts
from linkboy.classify.recipe import TrainingOptions


@dataclasses.dataclass(frozen=True)
class TrainingInputs:
    """What every way to make a model takes.

    Args:
        options: what was asked for.
        parts: the data.
        encoder: what the texts were encoded by.
        data: the encoded parts.
        checkpoints: a directory for a model that is trained in epochs.
        deadline: when all training must be over, on the clock of `time.perf_counter`; `None` without a budget.
        show: called with each result as soon as it is available.
    """

    options: TrainingOptions
    parts: Parts
    encoder: Encoder
    data: Mapping[str, EncodedTexts]
    checkpoints: Path
    deadline: float | None
    show: Show
