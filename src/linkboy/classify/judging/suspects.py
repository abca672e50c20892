"""Rows whose label looks wrong: another class is as probable as it usually is for the rows that belong to it."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from linkboy._report import Block, Report, Table, format_count, format_percent
from linkboy.classify.judging._scored import Scored
from linkboy.classify.reading._parts import Parts

LISTED = 1000


@dataclasses.dataclass(frozen=True)
class SuspectedLabel:
    """A row whose label may be wrong.

    Attributes:
        part: the part that it is in.
        line: the line of the file on which it begins.
        label: its label.
        suggested_label: the class that the classifier predicts with confidence.
        probability: the probability of that class.
        text: its text.
    """

    part: str
    line: int
    label: str
    suggested_label: str
    probability: float
    text: str


@dataclasses.dataclass(frozen=True)
class SuspectedLabels(Report):
    """Rows whose label may be wrong, each judged by a model that has not learned from its text.

    They are of the validation and test part, or, with folds, of the whole training file. Some are mistakes of the classifier:
    the count is an upper bound on what to look at, not an estimate of the noise.

    Attributes:
        row_count: the number of rows that were examined.
        suspect_count: the number of rows that are suspected.
        suspects: the suspected rows, the most confident suggestions first, at most a thousand.
        by_folds: whether all rows of the training file were examined, each by the model of a fold.
    """

    row_count: int
    suspect_count: int
    suspects: Sequence[SuspectedLabel]
    by_folds: bool = False

    def _blocks(self) -> Iterator[Block]:
        if not self.row_count:
            return
        what = "rows" if self.by_folds else "held-out rows"
        if not self.suspect_count:
            yield f"labels: none of {format_count(self.row_count)} {what} looks mislabelled"
            return
        share = format_percent(self.suspect_count / self.row_count)
        shown = [
            (s.part, s.line, s.label, s.suggested_label, format_percent(s.probability), shortened(s.text))
            for s in self.suspects[:5]
        ]
        yield Table(
            ("part", "line", "label", "suggested label", "probability", "text"),
            shown,
            f"{format_count(self.suspect_count)} of {format_count(self.row_count)} {what} ({share}) may be mislabelled, "
            "or the classifier is wrong; the most confident suggestions",
        )

    def as_csv(self) -> bytes:
        """Write the suspected rows as a table."""
        import polars as pl

        columns = {
            field.name: [getattr(s, field.name) for s in self.suspects] for field in dataclasses.fields(SuspectedLabel)
        }
        return pl.DataFrame(columns).write_csv(float_precision=6).encode()


def suspected_labels(
    parts: Parts, scored: Mapping[str, Scored], rows: Mapping[str, NDArray[np.int64]] | None = None
) -> SuspectedLabels:
    """Find held-out rows whose label looks wrong.

    A row is suspected if its likeliest class is not its label and has at least the mean probability that this class has
    on the rows that are labelled with it.

    Args:
        parts: the data.
        scored: each part to look at, none of which the classifier has learned from.
        rows: the rows of the part that were scored; all by default.

    Source: the confident joint of Northcutt et al. 2021, section 3.1, https://arxiv.org/abs/1911.00068.
    """
    names = list(scored)
    rows = rows or {name: np.arange(len(parts.targets[name])) for name in names}
    target = np.concatenate([parts.targets[name][rows[name]] for name in names])
    everyone = Scored.joined([scored[name] for name in names])
    starts = np.cumsum([0, *(len(rows[name]) for name in names)])
    found = suspected_rows(everyone, target, len(parts.class_names))
    suspects = []
    for number in map(int, found[:LISTED]):
        place = int(np.searchsorted(starts, number, "right")) - 1
        part = names[place]
        row = int(rows[part][number - int(starts[place])])
        texts, label = parts.texts[part], parts.class_names[int(target[number])]
        other, probability = parts.class_names[int(everyone.predicted[number])], float(everyone.confidence[number])
        suspects.append(SuspectedLabel(part, texts.lines[row], label, other, probability, texts.texts[row]))
    return SuspectedLabels(len(target), len(found), tuple(suspects))


def suspected_rows(scored: Scored, target: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Return the numbers of the suspected rows, the most confident first."""
    count = np.bincount(target, minlength=classes)
    usual = np.bincount(target, scored.own, minlength=classes) / np.maximum(count, 1)
    likeliest, sure = scored.predicted, scored.confidence
    suspected = np.flatnonzero((likeliest != target) & (sure >= usual[likeliest]) & (count[likeliest] > 0))
    margin = sure[suspected] - scored.own[suspected]
    return suspected[np.argsort(-margin, kind="stable")]


def shortened(text: str) -> str:
    """Return the beginning of a text for one line of a table."""
    text = " ".join(text.split())
    return text if len(text) <= 40 else text[:39] + "…"
