"""What separates the word and the numbers of a row of text."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from linkboy.embeddings._numbers import is_number

PADDING = b" \r\n"  # at the right end of a line only; U+3000 and other spaces belong to the word
HEADER = re.compile(rb" *(\d{1,18})[ \t,;]+(\d{1,18})[ \t\r,;]*")
RUNS = b""  # stands for any run of spaces and tabs
_NAMES = {
    b" ": "single spaces",
    b"\t": "tabs",
    b",": "commas",
    b";": "semicolons",
    b"|": "bars",
    RUNS: "spaces and tabs",
    b":": "a colon",
    b"=": "an equals sign",
}
# What may follow a word where numbers have another separator; a word that ends in one of these is one word in a thousand.
AFTER_WORD = (b":", b"=", b",", b";", b"|")


class Separators(NamedTuple):
    r"""What separates the fields of a row.

    Args:
        separator: what stands between two numbers; `b""` is any run of spaces and tabs.
        after_word: what stands between the word and its first number, where that is something else.
        decimal_comma: numbers are written like `0,5`.

    Examples:
        >>> dialect = Separators(b"\t")
        >>> dialect.count(b"new york\t0.1\t0.2"), dialect.cut(b"new york\t0.1\t0.2", 2)
        (2, (b'new york', [b'0.1', b'0.2']))
        >>> Separators(b"", decimal_comma=True).cut(b"Katze  0,1  0,2", 2)
        (b'Katze', [b'0.1', b'0.2'])
    """

    separator: bytes = b" "
    after_word: bytes | None = None
    decimal_comma: bool = False

    def trimmed(self, line: bytes) -> bytes:
        """Return a line without what stands behind its last number."""
        return line.rstrip(PADDING + (self.separator or b"\t"))

    def count(self, text: bytes) -> int:
        """Count the numbers at the end of a trimmed line; its first field is a word even if it is a number."""
        fields = text.split(self.separator or None)
        popped: list[bytes] = []
        while len(fields) > 1 and is_number(self.number(fields[-1])):
            popped.append(fields.pop())
        if self.decimal_comma and not any(b"," in field for field in popped):
            return 0
        if self.after_word is None or not fields:
            return len(popped)
        return self._count_first(fields, len(popped))

    def _count_first(self, fields: list[bytes], count: int) -> int:
        """Count the number that stands in one field with the word, if it does; 0 where another dialect fits better."""
        *before, last = fields
        between_is_blank = self.separator == RUNS
        after = self.after_word or RUNS
        if after != RUNS:
            if any(after in field for field in before) or after not in last:
                return 0
            if not (between_is_blank or count):
                return 0
        if before and not between_is_blank:
            return 0
        word, first = self._halves(last)
        if not first:
            return count if word else 0
        if not word or (before and word.isdigit()) or not is_number(self.number(first)):
            return 0  # `1:0.5` is an element of a sparse vector
        return count + 1

    def cut(self, text: bytes, dim: int) -> tuple[bytes, list[bytes]]:
        """Return the word of a trimmed line and the last `dim` fields behind it, fewer where there are fewer."""
        word, *numbers = text.rsplit(self.separator or None, dim)
        if self.after_word is not None and numbers:
            if len(numbers) == dim and word.endswith(self.after_word or b" "):
                word = word[: len(word) - len(self.after_word)]
            else:
                head = text.rsplit(self.separator or None, dim - 1)[0] if len(numbers) == dim else word
                word, first = self._halves(head)
                numbers = [first, *numbers[-(dim - 1) :]] if dim > 1 else [first]
        if self.separator not in (b" ", b"\t"):
            word = word.strip(b" \t") or word
        return word, [self.number(number) for number in numbers]

    def _halves(self, head: bytes) -> tuple[bytes, bytes]:
        """Return the word and the first number of the field that holds both."""
        if self.after_word == RUNS:
            parts = head.rsplit(None, 1)
            return (parts[0], parts[1]) if len(parts) == 2 else (b"", b"")
        word, _, first = head.rpartition(self.after_word or b"")
        return word, first.strip(b" \t")

    def number(self, field: bytes) -> bytes:
        """Return a field as a number with a decimal point, if it is a number."""
        if self.decimal_comma:
            return field.strip(b" \t").replace(b",", b".") if b"." not in field else b""
        return field if self.separator == b" " else field.strip(b" \t")

    def __str__(self) -> str:
        """Return the dialect in words."""
        if self.after_word is None:
            text = f"separated by {_NAMES[self.separator]}"
        else:
            text = f"separated by {_NAMES[self.separator]}, with {_NAMES[self.after_word]} after the word"
        return text + ", with decimal commas" * self.decimal_comma


PLAIN = Separators()
# The order decides where two dialects find as many numbers: a decimal comma is tried before lists of whole numbers.
DIALECTS = (
    PLAIN,
    *(Separators(separator, decimal_comma=True) for separator in (b"\t", b";", b"|", RUNS)),
    *(Separators(separator) for separator in (b"\t", b",", b";", b"|", RUNS)),
    *(Separators(separator, RUNS) for separator in (b",", b";", b"|")),
    *(Separators(RUNS, after) for after in AFTER_WORD),
    *(Separators(b",", after) for after in (b":", b"=")),
)


def vote(dialect: Separators, rows: Sequence[bytes], dim: int | None) -> tuple[int, int]:
    """Return how many numbers most rows hold, or `dim` where any does, and how many rows hold so many."""
    counts = [dialect.count(dialect.trimmed(row)) for row in rows]
    voted = dim if dim in counts else _most_common(counts)
    return voted or 0, sum(1 for count in counts if count >= (voted or 0) > 0)


def _most_common(counts: Sequence[int]) -> int:
    with_numbers = Counter(count for count in counts if count)
    return with_numbers.most_common(1)[0][0] if with_numbers else 0


def member_dim(head: bytes) -> int:
    """Return the numbers per row that the first bytes of a text file show, 0 where they show none."""
    lines = head.split(b"\n")[:8]
    if matched := HEADER.fullmatch(lines[0]):
        return int(matched[2])
    lines = lines[:-1] or lines
    votes = [vote(Separators(separator), lines, None) for separator in (b" ", b"\t", b",")]
    return max(dim for dim, alike in votes if 2 * alike >= len(lines) or not dim) if lines else 0
