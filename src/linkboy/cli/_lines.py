"""The lines that `linkboy predict` reads and writes."""

import math
import sys
from collections.abc import Iterator
from json.encoder import encode_basestring as quoted  # twice as fast as an encoder called for each record
from pathlib import Path
from typing import TYPE_CHECKING

from linkboy._reading import codec_of, decoded_lines
from linkboy._report import visible

if TYPE_CHECKING:  # importing a room costs time that --help must not pay
    from linkboy.classify import Predictions


def lines_of(file: Path, encoding: str) -> Iterator[str]:
    """Yield the lines of a file, or for `-` of standard input, as they come; only a line feed ends a line."""
    from_stdin = file == Path("-")
    name = "standard input" if from_stdin else str(file)

    def refuse(number: int, error: UnicodeDecodeError, raw: bytes) -> None:
        raise ValueError(
            f"{name} line {number}: byte {error.start + 1} is not {encoding.upper()}; correct the line or pass --encoding"
        ) from None

    codec_of(encoding)  # before the file, which may be standard input, is opened
    with sys.stdin.buffer if from_stdin else file.open("rb") as stream:
        for _, line in decoded_lines(name, stream, encoding, refuse):
            yield (line or "").rstrip("\r")


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
