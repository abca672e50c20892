"""The lines that `linkboy predict` writes."""

import math
from json.encoder import encode_basestring as quoted  # twice as fast as an encoder called for each record
from typing import TYPE_CHECKING

from linkboy._report import visible

if TYPE_CHECKING:  # importing a room costs time that --help must not pay
    from linkboy.classify import Predictions


def tab_lines(predictions: "Predictions") -> str:
    """Return one line for each text: label, probability and text, with tabs between."""
    lines = []
    for text, top in zip(predictions.texts, predictions.top, strict=True):
        if not text.isprintable():  # which is quick to ask; each text gets one line and one field
            text = visible(" ".join(text.splitlines()).replace("\t", " "))
        pairs = "\t".join(f"{visible(label)}\t{probability:.2%}" for label, probability in top)
        lines.append(f"{pairs}\t{text}\n")
    return "".join(lines)


def json_lines(predictions: "Predictions") -> str:
    """Return one JSON object for each text, one a line."""

    def pair(label: str, share: float) -> str:
        # JSON has no NaN, which a model whose training diverged may give.
        return f'"label": {quoted(label)}, "probability": {share if math.isfinite(share) else "null"}'

    lines = []
    for text, top in zip(predictions.texts, predictions.top, strict=True):
        ranked = ", ".join(f"{{{pair(*entry)}}}" for entry in top) if len(top) > 1 else ""
        more = f', "top": [{ranked}]' if ranked else ""
        lines.append(f'{{"text": {quoted(text)}, {pair(*top[0])}{more}}}\n')
    return "".join(lines)
