"""The thresholds that a caller asks for: one for whatever class is the likeliest, or those of named classes."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from linkboy._checks import check_number, did_you_mean
from linkboy.classify.judging.decisions import written_probability

Threshold = float | Mapping[str, float]


def check_threshold(threshold: Threshold | None, names: Sequence[str], *, several: bool) -> None:
    """Raise unless each threshold is a probability of a class that there is, and a class is left for the other texts.

    Args:
        threshold: what was asked for.
        names: the classes.
        several: whether a text may have several labels, or none.
    """
    if not isinstance(threshold, Mapping):
        if threshold is not None:
            check_number("threshold", threshold, minimum=0, maximum=1)
        return
    if not threshold:
        raise ValueError("threshold names no class; pass a number, name a class, or leave it out")
    for name, least in threshold.items():
        if name not in names:
            raise ValueError(
                f"threshold must name one of the {len(names)} classes, got {name!r}{did_you_mean(name, names)}"
            )
        check_number(f"threshold of {name!r}", least, minimum=0, maximum=1)
    if not several and len(threshold) == len(names):
        raise ValueError(
            "threshold names every class, so that a text that reaches none of them would get no class; leave out the class that "
            "such a text is to get"
        )


def chosen_classes(
    shares: NDArray[np.floating], names: Sequence[str], threshold: Mapping[str, float]
) -> NDArray[np.intp]:
    """Return the class of each text: the likeliest of the named ones that reach their threshold, or else of the others.

    Args:
        shares: `(B, C)` probabilities.
        names: the C classes.
        threshold: from which probability on a text is given each of some classes.
    """
    named = np.array([name in threshold for name in names])
    reached = shares >= np.array([threshold.get(name, 0.0) for name in names])
    return np.where(named, np.where(reached, 1 + shares, -1), shares).argmax(1)


def label_thresholds(chosen: Sequence[float], names: Sequence[str], threshold: Threshold | None) -> list[float]:
    """Return the threshold of each label, where a text may have several: that asked for, or that chosen in training."""
    if isinstance(threshold, Mapping):
        return [threshold.get(name, least) for name, least in zip(names, chosen, strict=True)]
    return list(chosen) if threshold is None else [threshold] * len(names)


def threshold_note(threshold: Threshold, *, several: bool) -> str:
    """Return in a sentence what the thresholds do."""
    if not isinstance(threshold, Mapping):
        return f"{'each label' if several else 'a class'} is given from a probability of {written_probability(threshold)} on"
    each = ", ".join(
        f"{name!r} is given from a probability of {written_probability(least)} on" for name, least in threshold.items()
    )
    return each if several else f"{each}; otherwise the likeliest of the other classes"
