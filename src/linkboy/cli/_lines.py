"""The lines that `linkboy predict` writes."""

import math
from json.encoder import encode_basestring as quoted  # twice as fast as an encoder called for each record
from typing import TYPE_CHECKING

from linkboy._report import visible

if TYPE_CHECKING:  # importing a room costs time that --help must not pay
    from linkboy.classify import Predictions


def tab_lines(predictions: "Predictions") -> str:
    """Return one line for each text: label, probability and text, with tabs between."""
    from linkboy.classify.saved.predictions import label_text, share_text

    lines = []
    rows = zip(predictions.texts, predictions.top, predictions.labels, predictions.probabilities, strict=True)
    for text, top, label, share in rows:
        if not text.isprintable():  # which is quick to ask; each text gets one line and one field
            text = visible(" ".join(text.splitlines()).replace("\t", " "))
        if len(top) > 1:
            pairs = "\t".join(f"{visible(name)}\t{probability:.2%}" for name, probability in top)
        else:
            pairs = f"{visible(label_text(label))}\t{share_text(share)}"
        lines.append(f"{pairs}\t{text}\n")
    return "".join(lines)


def json_lines(predictions: "Predictions") -> str:
    """Return one JSON object for each text, one a line."""

    def pair(label: str | None, share: float) -> str:
        # JSON has no NaN, which a model whose training diverged may give.
        name = "null" if label is None else quoted(label)
        return f'"label": {name}, "probability": {share if math.isfinite(share) else "null"}'

    lines = []
    rows = zip(predictions.texts, predictions.top, predictions.labels, predictions.probabilities, strict=True)
    for text, top, label, share in rows:
        ranked = ", ".join(f"{{{pair(*entry)}}}" for entry in top) if len(top) > 1 else ""
        more = f', "top": [{ranked}]' if ranked else ""
        if isinstance(label, tuple):
            names, shares = ", ".join(map(quoted, label)), ", ".join(map(str, share))
            lines.append(f'{{"text": {quoted(text)}, "labels": [{names}], "probabilities": [{shares}]{more}}}\n')
            continue
        lines.append(f'{{"text": {quoted(text)}, {pair(label, share)}{more}}}\n')
    return "".join(lines)
