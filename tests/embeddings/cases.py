"""Words that readers of vectors stumble over, and writers of files with them."""

import struct
from pathlib import Path

# What the word is, and the bytes of it in the file.
AWKWARD = {
    "plain": "plain",
    "no-break space inside": "a\u00a0b",
    "ideographic space inside": "a\u3000b",
    "ideographic space alone": "\u3000",
    "space inside": "new york",
    "quote": '"',
    "unbalanced quote": '"abc',
    "hash": "#tag",
    "comma": ",",
    "nan": "nan",
    "NULL": "NULL",
    "a number": "2019",
    "line separator": "a\u2028b",
    "next line": "a\u0085b",
    "carriage return inside": "a\rb",
    "single space": " ",
    "emoji": "🙂",
    "dots with spaces": ". . .",
    "an address": "at name@domain.com",
}
DIM = 6


def vector(number: int, dim: int = DIM) -> list[float]:
    """Numbers that float32 holds exactly, different for each word."""
    return [(number + 1) * 0.25 + column for column in range(dim)]


def text_row(word: bytes, numbers: list[float], end: bytes = b"\n") -> bytes:
    return word + b" " + b" ".join(b"%r" % number for number in numbers) + end


def write_text(path: Path, words: list[str | bytes], *, header: bool = False, end: bytes = b"\n") -> Path:
    rows = [text_row(as_bytes(word), vector(number), end) for number, word in enumerate(words)]
    first = [b"%d %d" % (len(words), DIM) + end] if header else []
    path.write_bytes(b"".join(first + rows))
    return path


def write_binary(path: Path, words: list[str | bytes], *, newline: bool) -> Path:
    records = [
        as_bytes(word) + b" " + struct.pack(f"<{DIM}f", *vector(number)) + b"\n" * newline
        for number, word in enumerate(words)
    ]
    path.write_bytes(b"%d %d\n" % (len(words), DIM) + b"".join(records))
    return path


def as_bytes(word: str | bytes) -> bytes:
    return word if isinstance(word, bytes) else word.encode()
