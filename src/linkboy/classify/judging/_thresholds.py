"""From which probability on a text is given a label: chosen on rows that the model has not learned from."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

DRAWN = 20  # rows with a label, for which its own threshold counts as much as the one for all labels
SWEEPS = 2  # over the labels, each of which depends on the others
_FARTHEST = 30.0  # a logit


def choose_thresholds(logits: Floats, target: Flags, *, macro: bool = False) -> Floats:
    """Return `(C,)`, the probability from which on each label is given.

    The best one for all labels together comes first, by micro-F1; then each label in turn gets the one that is best for the
    micro-F1, or with `macro` for its own F1. A label of few rows says little, so its logit is drawn towards the common one.

    Args:
        logits: `(N, C)` of rows that the model has not learned from.
        target: `(N, C)`, whether a row has a label.
        macro: whether the labels count the same, however rare.
    """
    positives = target.sum(0)
    common = _best(logits.ravel(), target.ravel(), 0, 0)
    own = np.full(logits.shape[1], common)
    given = logits >= common
    right, taken = (given & target).sum(0), given.sum(0)
    for _ in range(1 if macro else SWEEPS):
        for label in np.flatnonzero(positives):
            others = right.sum() - right[label], taken.sum() - taken[label] + positives.sum() - positives[label]
            own[label] = _best(logits[:, label], target[:, label], *((0, 0) if macro else others))
            given = logits[:, label] >= own[label]
            right[label], taken[label] = (given & target[:, label]).sum(), given.sum()
    share = positives / (positives + DRAWN)
    drawn = share * own + (1 - share) * common
    return 1 / (1 + np.exp(-np.clip(drawn, -_FARTHEST, _FARTHEST)))


def _best(logits: Floats, target: Flags, right: int, size: int) -> float:
    """Return the logit from which on to say yes for the largest `2 (right + hits) / (size + said yes + positives)`.

    It lies in the middle between the last row that is in and the first that is out.
    """
    order = np.argsort(-logits, kind="stable")
    ranked, hits = np.clip(logits[order], -_FARTHEST, _FARTHEST), np.cumsum(target[order])
    score = 2 * (right + hits) / (size + np.arange(1, len(order) + 1) + hits[-1])
    score[:-1][ranked[1:] == ranked[:-1]] = -1.0  # equal rows are in or out together
    last = int(score.argmax())
    none = 2 * right / max(size + int(hits[-1]), 1)
    if none > score[last]:
        return _FARTHEST
    return float(ranked[last] - 1.0 if last + 1 == len(ranked) else (ranked[last] + ranked[last + 1]) / 2)
