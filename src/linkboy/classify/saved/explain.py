"""Why a classifier decided as it did: what each piece of a text adds to the log-odds of one class against another."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from linkboy._report import Block, Report, Table, format_percent, plural
from linkboy.classify.encoding._dataset import Encoder
from linkboy.classify.encoding._features import END, START, Ngram, NgramEncoder, is_word_character
from linkboy.classify.models._centroids import CentroidClassifier
from linkboy.classify.models._models import NgramClassifier
from linkboy.classify.reading._columns import FIELD
from linkboy.text._scripts import is_unspaced

Logits = Callable[[Sequence[str]], Tensor]

MOST_PIECES = 256
SHOWN = 10
_SHOWN_AS = {START: "^", END: "$", FIELD: "␁", " ": "␣", "\n": "⏎", "\t": "⇥"}


@dataclasses.dataclass(frozen=True)
class Contribution:
    """A piece of a text, and what it adds to the log-odds.

    Attributes:
        piece: the piece; in n-grams `^` and `$` are the borders of the text and `␣` is a space.
        kind: `"characters"`, `"word"` or `"word pair"` for n-grams, `"left out"` for a piece that was removed.
        log_odds: above 0 it speaks for the label, below 0 for the class that the label is compared with.
        spans: where it occurs in the text, each from a start to before an end.
    """

    piece: str
    kind: str
    log_odds: float
    spans: Sequence[tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Explanation(Report):
    """Why one text was given one class and not another.

    Attributes:
        text: the text as the classifier sees it: without surrounding space, and for n-grams with one space for white space.
        label: the class that is explained.
        probability: the probability of that class.
        against: the class that it is compared with; where a text may have several labels, `"not x"` for the label x.
        against_probability: the probability of that class.
        log_odds: the logarithm of the ratio of the two probabilities.
        exact: whether the pieces add up: `log_odds = base + sum(piece.log_odds)`.
        base: the log-odds without any piece, or, where the logits have a cap, what the bias adds beside the pieces; `None` where
            the pieces do not add up.
        pieces: the pieces with the largest effect first, whichever class they speak for.
        scale: what the weight of each n-gram is multiplied by, where the logits have a cap; else 1.

    Examples:
        >>> import tempfile, linkboy as lb
        >>> texts = [f"{word} {n}" for n in range(20) for word in ("好吃", "难吃")]
        >>> data = lb.LabelledTexts("by hand", texts, ["good", "bad"] * 20, range(1, 41))
        >>> report = lb.train_classifier(data, tempfile.mkdtemp())
        >>> explanation = lb.load_classifier(report.directory).explain(["真好"]).explanations[0]
        >>> explanation.label, explanation.against, explanation.pieces[0].piece
        ('good', 'bad', '好')
    """

    text: str
    label: str
    probability: float
    against: str
    against_probability: float
    log_odds: float
    exact: bool
    base: float | None
    pieces: Sequence[Contribution]
    scale: float = 1.0

    def by_character(self) -> list[float]:
        """Return one number per character of the text: the log-odds of each piece, spread evenly over its characters."""
        share = np.zeros(len(self.text))
        for piece in self.pieces:
            length = sum(end - start for start, end in piece.spans)
            for start, end in piece.spans:
                share[start:end] += piece.log_odds / length
        return share.tolist()

    def _blocks(self, shown: int = SHOWN) -> Iterator[Block]:
        yield self.text
        yield (
            f"{self.label} {format_percent(self.probability)} against {self.against} "
            f"{format_percent(self.against_probability)}: log-odds {self.log_odds:+.2f}"
        )
        rows = [
            (p.piece, p.kind, self.label if p.log_odds > 0 else self.against, f"{p.log_odds:+.3f}") for p in self.pieces
        ]
        rest = self.pieces[shown:]
        rows = rows[:shown]
        if rest and self.exact:
            rows.append((plural(len(rest), "other"), "", "", f"{sum(p.log_odds for p in rest):+.3f}"))
        if self.base is not None:
            rows.append(("no piece (bias)", "", "", f"{self.base:+.3f}"))
        yield Table(("piece", "kind", "speaks for", "log-odds"), rows)
        yield (
            "the pieces are exact and add up to the log-odds" if self.exact else
            "log-odds lost when the piece is left out of the text; such figures do not add up"
        ) + (f"; under the cap of the logits each counts {self.scale:.2f} of its weight" if self.scale != 1 else "")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Explanations(Report):
    """One explanation per text.

    Attributes:
        explanations: one for each text, in the order of the texts.
    """

    explanations: Sequence[Explanation]

    def _blocks(self) -> Iterator[Block]:
        for explanation in self.explanations:
            yield from explanation._blocks()


def explain_text(
    text: str,
    *,
    model: nn.Module,
    encoder: Encoder,
    names: list[str],
    logits_of: Logits,
    label: str | None = None,
    against: str | None = None,
    alone: bool = False,
) -> Explanation:
    """Explain one text: by default its likeliest class against the runner-up.

    Where a text may have several labels, its likeliest label against not having it.

    Args:
        text: the text.
        model: the model that decided.
        encoder: turns texts into what the model takes.
        names: the names of the classes.
        logits_of: gives the logits `(B, C)` of texts.
        label: the class to explain; by default the likeliest one other than `against`.
        against: the class to compare it with; by default the likeliest one other than `label`.
        alone: whether each label is decided by itself, so that a text may have several.
    """
    text = encoder.normalized(text) if isinstance(encoder, NgramEncoder) else text.strip()
    logits = logits_of([text])[0].double()
    ranked = [names[number] for number in logits.argsort(descending=True, stable=True).tolist()]
    label = label or next(name for name in ranked if name != against)
    first, second = names.index(label), None
    if alone:
        against, log_odds = f"not {label}", float(logits[first])
        shares = logits.new_tensor([log_odds, -log_odds]).sigmoid().tolist()
    else:
        against = against or next(name for name in ranked if name != label)
        second = names.index(against)
        log_odds = float(logits[first] - logits[second])
        shares = logits.softmax(0)[[first, second]].tolist()
    pair = first, second
    if isinstance(model, (NgramClassifier, CentroidClassifier)) and isinstance(encoder, NgramEncoder):
        exact, (pieces, scale) = True, _contributions(model, encoder, text, pair)
    else:
        exact, pieces, scale = False, _left_out(logits_of, text, pair, log_odds), 1.0
    return Explanation(
        text=text,
        label=label,
        probability=shares[0],
        against=against,
        against_probability=shares[1],
        log_odds=log_odds,
        exact=exact,
        base=log_odds - sum(piece.log_odds for piece in pieces) if exact else None,
        pieces=sorted(pieces, key=lambda piece: -abs(piece.log_odds)),
        scale=scale,
    )


def _contributions(
    model: NgramClassifier | CentroidClassifier, encoder: NgramEncoder, text: str, pair: tuple[int, int | None]
) -> tuple[list[Contribution], float]:
    """Return each n-gram's term of the sum that the linear model takes: weight in the text times weight of the class.

    The second is what the terms are multiplied by: a cap makes the difference of two sums smaller, and each term as much.
    """
    found: dict[int, list[Ngram]] = {}
    for ngram in encoder.ngrams_of(text):
        found.setdefault(ngram.number, []).append(ngram)
    features = encoder.encode([text])
    first, second = pair[0], pair[0] if pair[1] is None else pair[1]
    of_class = model.of_classes(torch.from_numpy(features.ids), (first, second)).double().cpu()
    weighted = torch.from_numpy(features.weights).double()[:, None] * of_class
    scale = 1.0
    if isinstance(model, NgramClassifier) and model.soft_cap is not None:
        sums = weighted.sum(0) + model.bias.detach().double().cpu()[[first, second]]
        scale = model.soft_cap.slope(*sums.tolist())
    terms = scale * (weighted[:, 0] - (0.0 if pair[1] is None else weighted[:, 1]))
    return [
        Contribution(_shown(found[number][0].text), found[number][0].kind, term, tuple(n.span for n in found[number]))
        for number, term in zip(features.ids.tolist(), terms.tolist(), strict=True)
    ], scale


def _left_out(logits_of: Logits, text: str, pair: tuple[int, int | None], log_odds: float) -> list[Contribution]:
    """Return what the log-odds lose when a word, or a character where words are not spaced, is removed from the text."""
    spans = _words(text)
    size = math.ceil(len(spans) / MOST_PIECES)
    groups = [spans[start : start + size] for start in range(0, len(spans), size)] if spans else []
    without = [text[: group[0][0]] + text[group[-1][1] :] for group in groups]
    logits = logits_of(without).double()
    beside = 0.0 if pair[1] is None else logits[:, pair[1]]
    changes = (log_odds - (logits[:, pair[0]] - beside)).tolist()
    return [
        Contribution(_shown(text[group[0][0] : group[-1][1]]), "left out", change, ((group[0][0], group[-1][1]),))
        for group, change in zip(groups, changes, strict=True)
    ]


def _words(text: str) -> list[tuple[int, int]]:
    """Return where words begin and end; a character of a script without spaces, or a sign, stands for itself."""
    spans: list[tuple[int, int]] = []
    in_word = False
    for place, character in enumerate(text):
        goes_on = is_word_character(character) and not is_unspaced(character)
        if goes_on and in_word:
            spans[-1] = (spans[-1][0], place + 1)
        elif not character.isspace():
            spans.append((place, place + 1))
        in_word = goes_on
    return spans


def _shown(piece: str) -> str:
    return "".join(_SHOWN_AS.get(character, character) for character in piece)
