"""The lines that `linkboy predict` reads and writes."""

import codecs
import io
import math
import sys
from collections.abc import Iterator
from json.encoder import encode_basestring as quoted  # twice as fast as an encoder called for each record
from pathlib import Path
from typing import TYPE_CHECKING

from linkboy._report import visible

if TYPE_CHECKING:  # importing a room costs time that --help must not pay
    from linkboy.classify import Predictions


def lines_of(file: Path, encoding: str) -> Iterator[str]:
    """Yield the lines of a file, or for `-` of standard input, as they come; only a line feed ends a line."""
    from_stdin = file == Path("-")
    name = "standard input" if from_stdin else str(file)
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise ValueError(
            f"encoding must be one that Python knows, such as 'utf-8' or 'gb18030', got {encoding!r}"
        ) from None
    stream = sys.stdin.buffer if from_stdin else file.open("rb")
    number = 0
    try:
        with stream:
            if len("\n".encode(encoding)) == 1:  # a line feed is one byte, so each line stands for itself
                for number, raw in enumerate(stream, 1):
                    yield _ended(raw.decode(encoding), number)
            else:
                with io.TextIOWrapper(stream, encoding, newline="\n") as lines:
                    for number, line in enumerate(lines, 1):
                        yield _ended(line, number)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} line {number}: byte {error.start + 1} is not {encoding.upper()}; correct the line or pass --encoding"
        ) from None


def _ended(line: str, number: int) -> str:
    return (line.removeprefix("\ufeff") if number == 1 else line).rstrip("\r\n")


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
