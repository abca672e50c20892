"""A finished classifier of several labels a text: how its parts are measured, and which labels are doubtful."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from linkboy.classify.judging._reliability import Reliability, reliability
from linkboy.classify.judging.multilabel import MultilabelMetrics, multilabel_metrics
from linkboy.classify.judging.suspects import LISTED, SuspectedLabel, SuspectedLabels
from linkboy.classify.reading._parts import Parts

BETWEEN = "|"  # stands between the labels of a row where they are to be looked at


@dataclasses.dataclass(frozen=True)
class ScoredLabels:
    """The rows of a part under a classifier that gives any number of labels.

    Args:
        target: `(rows, C)`, whether a row has a label.
        shares: `(rows, C)`, its probability.
        given: `(rows, C)`, whether the row was given it.
    """

    target: NDArray[np.bool_]
    shares: NDArray[np.float32]
    given: NDArray[np.bool_]

    def metrics(self, names: Sequence[str], thresholds: Sequence[float]) -> MultilabelMetrics:
        """Measure the rows."""
        return multilabel_metrics(self.target, self.given, self.shares, names, thresholds=thresholds)

    def reliability(self) -> Reliability:
        """Compare the probabilities of all pairs of a row and a label with how often they hold."""
        return reliability(self.shares.ravel(), self.target.ravel())

    def wrong_pairs(self) -> list[tuple[int, int]]:
        """Return the pairs of a row and a label that are decided wrongly, the most confident first."""
        sure = np.where(self.given != self.target, np.abs(self.shares - self.target), -1.0).ravel()
        order = np.argsort(-sure, kind="stable")[: int((sure >= 0).sum())]
        return [divmod(int(place), self.target.shape[1]) for place in order]


def doubtful_labels(
    parts: Parts, scored: Mapping[str, ScoredLabels], rows: Mapping[str, NDArray[np.int64]]
) -> SuspectedLabels:
    """Find rows with a label that looks wrong or one that looks left out.

    A label is suspected to be missing where it has at least the mean probability that it has on the rows labelled with it, and
    to be wrong where it has at most the mean probability that it has on the others.

    Args:
        parts: the data.
        scored: each part to look at, none of which the classifier has learned from.
        rows: the rows of the part that were scored.

    Source: the confident joint of Northcutt et al. 2021, section 3.1, https://arxiv.org/abs/1911.00068, of each label by itself.
    """
    target = np.concatenate([each.target for each in scored.values()])
    shares = np.concatenate([each.shares for each in scored.values()])
    given = np.concatenate([each.given for each in scored.values()])
    with np.errstate(invalid="ignore"):
        inside = (shares * target).sum(0) / target.sum(0)
        outside = (shares * ~target).sum(0) / (~target).sum(0)
    odd = (given != target) & np.where(target, shares <= outside, shares >= inside)
    doubt = np.where(odd, np.abs(shares - target), 0.0).max(1)
    found = np.argsort(-doubt, kind="stable")[: int((doubt > 0).sum())]
    places = [(part, int(row)) for part in scored for row in rows[part]]
    suspects = []
    for number in found[:LISTED].tolist():
        part, row = places[number]
        texts, turned = parts.texts[part], target[number] ^ odd[number]
        label, suggested = (BETWEEN.join(held_names(parts.class_names, held)) for held in (target[number], turned))
        suspects.append(
            SuspectedLabel(part, texts.lines[row], label, suggested, float(doubt[number]), str(texts.texts[row]))
        )
    return SuspectedLabels(len(target), len(found), tuple(suspects))


def held_names(names: Sequence[str], held: NDArray[np.bool_]) -> list[str]:
    """Return the names of the labels that a row has."""
    return [names[int(number)] for number in np.flatnonzero(held)]
