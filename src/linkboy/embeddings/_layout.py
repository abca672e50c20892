"""How a text file of vectors is laid out, told by its first rows: header, separators, numbers per row."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from linkboy._report import plural
from linkboy.embeddings._dialect import AFTER_WORD, DIALECTS, HEADER, PADDING, PLAIN, RUNS, Separators, vote
from linkboy.embeddings._foreign import is_text
from linkboy.embeddings._numbers import is_number
from linkboy.embeddings._source import BUFFER, Source

MOST_NUMBERS = 1 << 20  # in one row
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SAMPLE = 16
_SHOWN_WORDS = 3
_LOOKED_AT = 1 << 16  # bytes behind a header, to tell text from numbers
_COLUMNS = (b"", b"word", b"token", b"words", b"index")  # beside those of the numbers
_WORD_LAST = re.compile(rb"[ \t]*([-+]?\d*\.\d+(e[-+]?\d+)?[ \t,;]+){2,}[^\d\s.+-]\S*\s*")
_BRACKETED = re.compile(rb"\[[ \t]*[-+]?(\d+\.|\.\d|nan\b)")
_MAY_STAND_AFTER_WORD = re.compile(rb"[:=,;|\t]")


class Layout(NamedTuple):
    """What the first lines say.

    Args:
        header: the count of rows and of numbers that the first line claims, where it is a header.
        dim: the numbers per row; 0 where no row has any.
        dialect: what separates them.
        skipped: how many lines stand before the first row.
        numbered: every row begins with its number, which is left out.
        quoted: every word is in quotes, which are left out.
        notes: what the report says about it.
        binary: what follows the header is not text.
        words: the first words, for messages.
    """

    header: tuple[int, int] | None
    dim: int
    dialect: Separators = PLAIN
    skipped: int = 0
    numbered: bool = False
    quoted: bool = False
    notes: tuple[str, ...] = ()
    binary: bool = False
    words: tuple[bytes, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Return whether one space or one tab separates all fields, so that a row may be cut at the first one."""
        return self.dialect in (PLAIN, Separators(b"\t")) and not self.numbered and not self.quoted

    def cut(self, line: bytes) -> tuple[bytes, list[bytes]]:
        """Return the word of a line and the numbers behind it, fewer than `dim` where there are fewer."""
        word, numbers = self.dialect.cut(self.dialect.trimmed(line), self.dim)
        return self.word(word), numbers

    def word(self, field: bytes) -> bytes:
        """Return the word of the field it stands in: without the number of its row, and unquoted as CSV quotes."""
        separator = self.dialect.separator
        if self.numbered:
            field = _behind_number(field, separator)
        if len(field) < 2 or not field[:1] == b'"' == field[-1:]:
            return field
        inside = field[1:-1]
        if self.quoted or (separator not in (b" ", RUNS) and (separator in inside or b'""' in inside)):
            return inside.replace(b'""', b'"')
        return field


def look_at(source: Source, *, format: str, dim: int | None) -> Layout:
    """Read the header, if there is one, and leave the stream at the first row.

    A single row may be bad, so the dimension is the most common one of the first rows. A line of two integers is a header
    unless the rows hold one number each and the second integer is not 1: then it is a row, whose word is a number.
    """
    start, lines = _first_lines(source)
    if len(lines) == 1 and b"\r" in lines[0].rstrip(b"\r"):
        raise ValueError(
            f"{str(source.path)!r} ends its lines with a carriage return alone; write them with line feeds, as "
            "tr '\\r' '\\n' does"
        )
    matched = HEADER.fullmatch(lines[0]) if format != "glove" else None
    if matched and matched.groups() == (b"0", b"1"):
        matched = None  # the numbers of two columns
    rows = lines[1:] if matched else lines
    if matched and _is_binary(start[len(lines[0]) + 1 :], format):
        source.stream.readline()
        return Layout((int(matched[1]), int(matched[2])), 0, skipped=1, binary=True)
    dialect, voted, alike = _choose(source, rows, dim, int(matched[2]) if matched else None)
    header = (int(matched[1]), int(matched[2])) if matched else None
    if header and voted == 1 and header[1] != 1:
        header, rows = None, lines
    skipped = 1 if header else 0
    if header:
        source.stream.readline()
    if not voted or 2 * alike < _filled(rows):
        return Layout(header, 0, skipped=skipped)
    layout = _details(source, rows, Layout(header, voted, dialect, skipped))
    if layout.skipped > skipped:
        source.stream.readline()
    return layout


def _first_lines(source: Source) -> tuple[bytes, list[bytes]]:
    """Return the start of the file, and its first lines as far as they are whole."""
    if source.stream.peek(BUFFER)[:3] == _BYTE_ORDER_MARK:
        source.stream.read(3)
    start = source.stream.peek(BUFFER)
    lines = start.split(b"\n", _SAMPLE + 1)
    if len(lines) > 1 and (len(lines) > _SAMPLE + 1 or not lines[-1] or len(start) >= BUFFER - 3):
        del lines[-1]  # cut off in its middle, or empty
    return start, lines


def _is_binary(rest: bytes, format: str) -> bool:
    if format == "auto":
        return bool(rest) and not is_text(rest[:_LOOKED_AT])
    return format == "word2vec-bin"


def _choose(source: Source, rows: Sequence[bytes], dim: int | None, claimed: int | None) -> tuple[Separators, int, int]:
    """Return the dialect in which the rows hold most numbers, how many a row holds, and how many rows hold so many."""
    wanted = claimed if dim is None else dim
    if wanted is not None and (held := _behind_numbered_words(rows, wanted)):
        if dim is None and set(held) == {wanted + 1}:
            raise ValueError(
                f"{str(source.path)!r} can be read in two ways: its header claims {plural(wanted, 'number')} per row, and "
                f"each row holds one more, a whole one, behind its word, got {_shown(rows[0])!r}; pass dim={wanted} "
                f"where that is part of the word, or dim={wanted + 1}"
            )
        return PLAIN, wanted, len(held)
    plain = vote(PLAIN, rows, dim)
    if _is_surely_plain(rows, *plain):
        return PLAIN, *plain
    if any(map(_BRACKETED.search, rows)):
        return PLAIN, 0, 0  # an array as NumPy prints it, over several lines where it is long
    fitting = _fitting(rows, dim, claimed)
    if not fitting:
        return PLAIN, *plain
    chosen = max(fitting, key=lambda dialect: fitting[dialect][0])  # of equals the first
    most = fitting[chosen][0]
    ends = [other for other in fitting if fitting[other][0] == most and _all_end_their_words(other, rows, most, chosen)]
    chosen = max(ends, key=lambda dialect: dialect.after_word in AFTER_WORD, default=chosen)
    rival = next((fitting[other][0] for other in fitting if other.decimal_comma and fitting[other][0] < most), None)
    if rival and b"," in (chosen.separator, chosen.after_word) and not any(b"." in row for row in rows):
        raise ValueError(
            f"{str(source.path)!r} can be read in two ways: rows of {plural(rival, 'number')} with decimal commas, or of "
            f"{plural(most, 'number')} separated by commas, got {_shown(rows[0])!r}; pass dim={rival} or dim={most}"
        )
    return chosen, *fitting[chosen]


def _behind_numbered_words(rows: Sequence[bytes], dim: int) -> list[int]:
    """Return how many numbers each row ends in, where what there is beyond `dim` are whole numbers that can end words.

    An empty list where no word can end in a number, or the numbers behind the words are whole too.
    """
    counts, whole, numbers = [], [], []
    for row in rows:
        fields = PLAIN.trimmed(row).split(b" ")
        count = PLAIN.count(PLAIN.trimmed(row))
        counts.append(count)
        whole += [field.isdigit() for field in fields[len(fields) - count : -dim]] if count >= dim else [False]
        numbers += [field.isdigit() for field in fields[-dim:]]
    return counts if whole and all(whole) and 2 * sum(numbers) < len(numbers) else []


def _fitting(rows: Sequence[bytes], dim: int | None, claimed: int | None) -> dict[Separators, tuple[int, int]]:
    """Return the votes of the dialects in which half of the rows agree, of those that have as many numbers as they should."""
    enough = _filled(rows) / 2
    votes = {dialect: vote(dialect, rows, dim) for dialect in DIALECTS}
    fitting = {dialect: voted for dialect, voted in votes.items() if voted[0] and voted[1] >= enough}
    for wanted in (dim, claimed):
        exactly = {dialect: voted for dialect, voted in fitting.items() if voted[0] == wanted}
        if exactly:
            return exactly
    return fitting


def _filled(rows: Sequence[bytes]) -> int:
    return sum(1 for row in rows if row.strip(PADDING))


def _is_surely_plain(rows: Sequence[bytes], dim: int, alike: int) -> bool:
    """Return whether every row is a word and numbers separated by single spaces, and no word ends in another separator."""
    if not dim or alike < len(rows):
        return False
    if any(row.rstrip(PADDING).count(b" ") != dim for row in rows):
        return False
    return not all(_MAY_STAND_AFTER_WORD.search(row.partition(b" ")[0]) for row in rows)


def _all_end_their_words(dialect: Separators, rows: Sequence[bytes], dim: int, otherwise: Separators) -> bool:
    """Return whether in every row the word is followed by what follows words in this dialect, which it would else end in."""
    rows = [row for row in rows if otherwise.count(otherwise.trimmed(row)) >= dim]  # no names of columns
    words = [otherwise.cut(otherwise.trimmed(row), dim)[0] for row in rows]
    if dialect == Separators(RUNS):
        indented = len(rows) > 1 and all(row[:1] in b" \t" for row in rows)
        padded = [word.strip() and word[-1:] in b" \t" for word in words]
        aligned = len(rows) > 2 and any(padded) and len(set(map(len, words))) == 1  # up to the longest word
        return indented or aligned or all(padded)
    if dialect.after_word not in AFTER_WORD or len(rows) < 2:
        return False
    words = [word.rstrip(b" \t") for word in words]
    return all(word.endswith(dialect.after_word) and word.rstrip(dialect.after_word) for word in words)


def _details(source: Source, rows: Sequence[bytes], layout: Layout) -> Layout:
    """Add what only several rows together show: names of columns, row numbers, quotes; refuse rows without words."""
    dialect, dim = layout.dialect, layout.dim
    notes = [] if dialect == PLAIN else [f"its fields are {dialect}"]
    separator = dialect.separator
    by_spaces = separator in (b" ", RUNS)
    if dialect.after_word is None and _names_columns(rows, dialect, dim):
        notes.append(f"line {layout.skipped + 1} names the columns and was left out")
        layout, rows = layout._replace(skipped=layout.skipped + 1), rows[1:]
    parts = [dialect.cut(dialect.trimmed(row), dim) for row in rows if row.strip(PADDING)]
    fields = [word for word, _ in parts]
    if dialect.after_word is None and _are_row_numbers(fields, separator, 3 if by_spaces else 2):
        notes.append("its first column numbers the rows and was left out")
        layout = layout._replace(numbered=True)
        fields = [_behind_number(field, separator) for field in fields]
    enough = 2 if by_spaces else 1  # one word in quotes may be a word of GloVe's
    if len(fields) >= enough and all(len(f) > 1 and f[:1] == b'"' == f[-1:] for f in fields):
        notes.append("its words are in quotes, which were left out")
        layout = layout._replace(quoted=True)
    if counted := _counts(parts):
        notes.append(
            f"the first number of each row is a whole one ({', '.join(counted)}), and no other is: leave it out of the file "
            "if it counts the words"
        )
    # The first one may be the number of a column.
    if len(fields) > 1 and all(b"." in field and is_number(field) for field in fields[int(len(fields) > 2) :]):
        raise ValueError(
            f"{str(source.path)!r} must begin each row with a word, got numbers alone, {_shown(rows[0])!r}; put the words "
            "in front, or save the numbers as .npy and pass words"
        )
    return layout._replace(notes=tuple(notes), words=tuple(fields[:_SHOWN_WORDS]))


def _names_columns(rows: Sequence[bytes], dialect: Separators, dim: int) -> bool:
    """Return whether the first line holds names of columns, or their numbers as pandas writes them."""
    if len(rows) < 2 or dim < 2:
        return False
    text = dialect.trimmed(rows[0])
    fields = text.split(dialect.separator or None)
    by_spaces = dialect.separator in (b" ", RUNS)
    if not dialect.count(text):
        # A line of prose has spaces, too: names stand for the numbers, the words, and the numbers of rows.
        enough = len(fields) >= dim and (not by_spaces or len(fields) <= dim + 2)
        return enough and dialect.count(dialect.trimmed(rows[1])) >= dim
    numbers = [field.strip(b'" ').lower() for field in fields]
    while numbers and numbers[0] in _COLUMNS:
        del numbers[0]
    # The column of the words may have a number, too, and no name.
    counted = [[b"%d" % (start + n) for n in range(length)] for start in (0, 1) for length in (dim, dim + 1)]
    if numbers not in counted:
        return False
    if not by_spaces and len(numbers) < len(fields):
        return True
    others = [dialect.cut(dialect.trimmed(row), dim)[1] for row in rows[1:] if row.strip(PADDING)]
    return all(any(b"." in number for number in row) for row in others)


def _are_row_numbers(fields: Sequence[bytes], separator: bytes, enough: int) -> bool:
    """Return whether the fields of all words begin with 0, 1, 2 ... or 1, 2, 3 ... and something follows each."""
    parts = [field.split(separator or None, 1) for field in fields]
    if len(parts) < enough or not all(len(part) == 2 and part[1] for part in parts):
        return False
    return any([part[0] for part in parts] == [b"%d" % (start + n) for n in range(len(parts))] for start in (0, 1))


def _behind_number(field: bytes, separator: bytes) -> bytes:
    """Return the word behind the number of a row."""
    return [*field.split(separator or None, 1), b""][1]


def _counts(parts: Sequence[tuple[bytes, list[bytes]]]) -> list[str]:
    """Return the first numbers of the first rows, where these may be counts: whole ones, among others that are not."""
    numbers = [row for _, row in parts]
    if len(numbers) < 3 or not all(len(row) > 1 and row[0].isdigit() and row[0] != b"0" for row in numbers):
        return []
    return (
        []
        if any(b"." not in number for row in numbers for number in row[1:])
        else [row[0].decode() for row in numbers[:_SHOWN_WORDS]]
    )


def check_layout(source: Source, layout: Layout, dim: int | None) -> None:
    """Raise a `ValueError` where there are no rows, or rows of another dimension than was asked for."""
    name = str(source.path)
    if not layout.dim:
        lines = bytes(source.stream.peek(BUFFER)[:4096]).split(b"\n")
        if not lines[0] and layout.header:
            raise ValueError(f"{name!r} holds a header and no rows; get the file again")
        hint = next(_guesses(lines), "; write a word and its numbers in each line")
        raise ValueError(
            f"{name!r} holds no vectors that can be read: its rows must be a word and numbers, most of its first rows are "
            f"not, got {_shown(lines[0])!r} in line {layout.skipped + 1}" + hint
        )
    if layout.dim > MOST_NUMBERS:
        raise ValueError(f"{name!r} claims {plural(layout.dim, 'number')} per row, at most {MOST_NUMBERS:,} are read")
    if dim is not None and layout.dim != dim:
        raise ValueError(f"dim must be that of the file, {layout.dim} in {name!r}, got {dim}; leave dim out")


def _guesses(lines: Sequence[bytes]) -> Iterator[str]:
    """Yield what rows that are not vectors may be, with what to do about it."""
    for line in lines[:_SAMPLE]:
        if re.search(rb"[ \t]\d+:-?\d", line):
            yield "; pairs of index and value are sparse vectors: write every number of a row"
        if re.search(rb"\[ *-?\d", line):
            yield "; write the numbers of a row in one line, without brackets and separated by spaces"
        if "\N{MINUS SIGN}".encode() in line:
            yield "; its minus signs are U+2212: replace them by hyphens"
        if re.search(rb'"[-+]?\d*\.\d+"', line):
            yield "; its numbers are in quotes: write them without"
        if _WORD_LAST.fullmatch(line):
            yield "; put each word in front of its numbers"
        if b"\0" in line:
            yield "; it holds bytes that text does not, so pass its format, or its encoding if it is UTF-16"


def _shown(line: bytes) -> str:
    return line[:40].strip(b"\r\n").decode("utf-8", "replace")
