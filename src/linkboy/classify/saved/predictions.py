"""What a classifier answers: the likeliest classes of each text, or all its labels."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from linkboy._report import Block, Report, Table, format_count, format_percent, plural
from linkboy.classify.saved._thresholds import Threshold, chosen_classes

NONE = "none of these"  # what is printed where no class or label is given


@dataclasses.dataclass(frozen=True)
class Predictions(Report):
    """The likeliest classes of each text.

    Attributes:
        texts: the texts.
        labels: the likeliest class of each text, or that of which it reaches the threshold, `None` where it is below the one
            that was asked for; where a text may have several labels, a tuple of those that it is given, the likeliest first.
        probabilities: the probability of that class; or a tuple of those of the labels.
        top: for each text, its likeliest classes with their probabilities, the likeliest first.
        known: whether there is any n-gram or token of the classifier's in the text; where there is none, as in a blank text,
            the answer is that for an empty one.
    """

    texts: Sequence[str]
    labels: Sequence[Any]
    probabilities: Sequence[Any]
    top: Sequence[Sequence[tuple[str, float]]]
    known: Sequence[bool]

    def _blocks(self) -> Iterator[Block]:
        yield Table(
            ("label", "probability", "text"),
            [
                (label_text(l), share_text(p), t)
                for l, p, t in zip(self.labels, self.probabilities, self.texts, strict=True)
            ],
        )
        yield unknown_texts(len(self.known) - sum(self.known))

    def part(self, start: int, stop: int) -> "Predictions":
        """Return those of the texts from `start` to `stop`, exclusive."""
        return Predictions(*(getattr(self, field.name)[start:stop] for field in dataclasses.fields(self)))

    @property
    def summary(self) -> str:
        """How many texts were predicted."""
        return f"{plural(len(self.texts), 'text')} predicted"


def unknown_texts(count: int) -> str:
    """Return what to know about so many texts in which the classifier knows nothing."""
    if not count:
        return ""
    which = "text holds nothing" if count == 1 else "texts hold nothing"
    return f"{format_count(count)} {which} that the classifier knows, and got the answer for an empty one"


def label_text(label: str | tuple[str, ...] | None) -> str:
    """Return a predicted label, or several, as they are printed."""
    return label if isinstance(label, str) else ", ".join(label or ()) or NONE


def share_text(share: float | tuple[float, ...]) -> str:
    """Return the probability of a predicted label, or those of several, as they are printed."""
    return ", ".join(map(format_percent, share)) or "-" if isinstance(share, tuple) else format_percent(share)


def predicted_classes(
    texts: Sequence[str], known: Sequence[bool], logits: Tensor, names: list[str], top: int, least: Threshold | None
) -> Predictions:
    """Give each text its likeliest class, or none where that is less likely than `least`, or that whose threshold it reaches.

    Args:
        texts: the texts.
        known: whether there is anything in each that the classifier knows.
        logits: `(B, C)` of them.
        names: the C classes.
        top: how many classes to return in `top` for each text, at most as many as there are.
        least: the least probability of a class that is given, or those of some classes; `None` gives every text the likeliest.
    """
    kept, shares = min(top, len(names)), logits.softmax(1)
    best = shares.topk(kept)
    # Flat lists cut at the end: a list of tuples per text, made one by one, would take longer than the model.
    labels = [names[number] for number in best.indices.flatten().tolist()]
    probabilities = best.values.flatten().tolist()
    pairs = list(zip(labels, probabilities, strict=True))
    rows = [pairs[start : start + kept] for start in range(0, len(pairs), kept)]
    first: list[Any] = labels[::kept]
    firsts = probabilities[::kept]
    if isinstance(least, Mapping):
        chosen = chosen_classes(shares.numpy(), names, least)
        first, firsts = [names[number] for number in chosen], shares[range(len(chosen)), chosen].tolist()
    elif least is not None:
        first = [label if share >= least else None for label, share in zip(first, firsts, strict=True)]
    return Predictions(list(texts), first, firsts, rows, known)


def predicted_labels(
    texts: Sequence[str],
    known: Sequence[bool],
    logits: Tensor,
    names: list[str],
    top: int,
    thresholds: Sequence[float],
) -> Predictions:
    """Give each text the labels that are likely enough, each by itself.

    Args:
        texts: the texts.
        known: whether there is anything in each that the classifier knows.
        logits: `(B, C)` of them.
        names: the C labels.
        top: how many labels to return in `top` for each text, at most as many as there are.
        thresholds: from which probability on each label is given.
    """
    shares = logits.double().sigmoid().numpy()
    given = shares >= np.array(thresholds)
    order = np.argsort(-shares, axis=1, kind="stable")
    labels, probabilities, ranked = [], [], []
    for row, numbers in enumerate(order.tolist()):
        kept = [number for number in numbers if given[row, number]]
        labels.append(tuple(names[number] for number in kept))
        probabilities.append(tuple(shares[row, kept].tolist()))
        ranked.append([(names[number], float(shares[row, number])) for number in numbers[:top]])
    return Predictions(list(texts), labels, probabilities, ranked, known)
