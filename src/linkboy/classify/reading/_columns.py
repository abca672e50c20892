"""Which column of a table is the text and which the label: by the names of the columns, then by what is in them."""

import dataclasses
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

from linkboy._checks import did_you_mean
from linkboy._report import plural
from linkboy.classify.reading._sentences import say
from linkboy.text._scripts import is_unspaced

# The first of these that a file has is its column, so a general name stands behind a special one.
# Those of whole texts before those of titles, which often stand beside one.
TEXT_NAMES = (
    "text", "sentence", "content", "review", "comment", "query", "question", "tweet", "document", "review_text",
    "文本", "内容", "句子", "评论", "message", "utterance", "comment_text", "review_body", "body", "正文", "title",
    "headline", "description", "phrase", "post", "sms", "abstract", "标题", "评价", "评论内容", "文本内容", "留言", "问题",
    "短信",
)  # fmt: skip
LABEL_NAMES = (
    "label", "class", "category", "target", "intent", "sentiment", "stars", "polarity", "标签", "类别", "分类", "labels",
    "topic", "emotion", "rating", "score", "class_index", "label_name", "情感", "星级", "评分", "类目", "意图", "主题",
    "情感倾向",
    "tags", "categories", "topics", "genres", "emotions",
)  # fmt: skip

FIELD = "\x01"  # stands between the columns of a text
FEWEST = 4  # rows from which on a value that occurs again says that a row is none of names
ENOUGH = 10  # rows from which on what is in a column says what it is
MANY = 20  # rows from which on a label should occur twice
LONGEST_LABEL = 60  # characters
_NOT_PROSE = re.compile(r"https?://|[\[{].*[\]}]$|\d{1,4}[-/.:]\d{1,2}[-/.:]\d{1,4}|\S+@\S+$", re.DOTALL)
_DATE = re.compile(r"(19|20)\d\d[-/.年]\d{1,2}([-/.月]|$)|\d{1,2}[-/.]\d{1,2}[-/.](19|20)\d\d")
_MONTH = "(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_CLOCK = r"\d\d?:\d\d(:\d\d)?( ?[ap]m)?( ([a-z]{2,5}|[+-]\d{4}))?"
_WRITTEN_DATE = re.compile(
    rf"((mon|tue|wed|thu|fri|sat|sun)[a-z]*,? )?(\d{{1,2}}(st|nd|rd|th)?[ -]{_MONTH},?[ -]\d{{2,4}}"
    rf"|{_MONTH} \d{{1,2}}(st|nd|rd|th)?,?( {_CLOCK})? \d{{4}})(,? {_CLOCK})?",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_ROW_NAME = re.compile(r"[\w\-:/.?=&]*\d[\w\-:/.?=&]*")  # such as `test_17`, or an address
_TRUTH = {"0", "1", "0.0", "1.0", "false", "true"}
_NAME = re.compile(r"[^\W\d][\w.\-/()]{0,30}(?: [\w.\-/()]{1,30}){0,2}")  # as people call a column

ColumnName = str | int
Header = bool | Literal["row"]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The columns that were asked for: names, or numbers from 0; `None` where the table has to show it."""

    text: tuple[ColumnName, ...] | None = None
    label: tuple[ColumnName, ...] | None = None
    weight: ColumnName | None = None
    needs_label: bool = True
    known: tuple[str, ...] = ()  # columns of the text that a classifier was trained on
    known_label: tuple[str, ...] = ()  # and of the label

    @property
    def all(self) -> tuple[ColumnName, ...]:
        """Everything that was asked for."""
        return (*(self.text or ()), *(self.label or ()), *(() if self.weight is None else (self.weight,)))


def wanted_columns(
    text: ColumnName | Sequence[ColumnName] | None,
    label: ColumnName | Sequence[ColumnName] | None,
    weight: ColumnName | None,
    *,
    needs_label: bool = True,
    known: Sequence[str] = (),
    known_label: Sequence[str] = (),
) -> Wanted:
    """Check what was asked for.

    Raises:
        TypeError: a column is neither a name nor a number.
        ValueError: a number is negative, or no column is named.
    """
    texts, labels = (
        None
        if names is None
        else tuple(names)
        if isinstance(names, Sequence) and not isinstance(names, str)
        else (names,)
        for names in (text, label)
    )
    for argument, columns in (("text_column", texts), ("label_column", labels)):
        if columns is not None and not columns:
            raise ValueError(f"{argument} must name at least one column, got none")
    given = (("text_column", texts or ()), ("label_column", labels or ()), ("weight_column", (weight,)))
    for argument, columns in given:
        for column in columns:
            if column is not None and (isinstance(column, bool) or not isinstance(column, (str, int))):
                raise TypeError(f"{argument} must be the name of a column or its number from 0, got {column!r}")
            if isinstance(column, int) and column < 0:
                raise ValueError(f"{argument} must be the name of a column or its number from 0, got {column}")
    return Wanted(texts, labels, weight, needs_label, tuple(known), tuple(known_label))


@dataclasses.dataclass(frozen=True)
class Roles:
    """Positions of the columns.

    Args:
        text: of the text; several are joined.
        label: of the label, none where none is needed and none was found; several hold 0 or 1 each.
        weight: of the weight, `None` without one.
        notes: what else the columns could be.
    """

    text: tuple[int, ...]
    label: tuple[int, ...]
    weight: int | None
    notes: tuple[str, ...] = ()


class ColumnTraits:
    """What is in the first rows of a column.

    Args:
        cells: its cells, as text.
    """

    def __init__(self, cells: Sequence[str]) -> None:
        self.cells = [cell.strip() for cell in cells]
        self.filled = [cell for cell in self.cells if cell]

    @cached_property
    def distinct(self) -> int:
        """How many different cells there are."""
        return len(set(self.filled))

    @cached_property
    def numeric(self) -> bool:
        """Whether nearly all cells are numbers."""
        return self._share(lambda cell: _NUMBER.fullmatch(cell) is not None) > 0.9

    @cached_property
    def dated(self) -> bool:
        """Whether nearly all cells are days, which many rows share as they would a label."""
        return self._share(lambda cell: (_DATE.match(cell) or _WRITTEN_DATE.fullmatch(cell)) is not None) > 0.9

    @cached_property
    def prose(self) -> bool:
        """Whether the cells read like texts, and mostly differ."""
        return (
            not self.numeric
            and self.distinct > 0.3 * len(self.filled)
            and len(self.filled) > 0.5 * len(self.cells)
            and self._share(_is_prose) > 0.5
        )

    @cached_property
    def repeats(self) -> bool:
        """Whether a few short values are repeated, as labels are."""
        return (
            len(self.filled) >= max(FEWEST, 0.95 * len(self.cells))
            and 2 <= self.distinct <= len(self.filled) / 2
            and max(map(len, self.filled)) <= LONGEST_LABEL
            and not self.nested
        )

    @cached_property
    def nested(self) -> bool:
        """Whether there are lists of objects, as of JSON."""
        return any(cell.startswith("[{") for cell in self.filled)

    @cached_property
    def differs(self) -> bool:
        """Whether the cells mostly differ, and are something else than numbers, as even short texts are."""
        return len(self.filled) >= ENOUGH and not self.numeric and self.distinct > len(self.filled) / 2

    @cached_property
    def why_no_label(self) -> str:
        """Why the column can hardly be the label, in a few words, nothing where it can."""
        if len(self.filled) < MANY:
            return ""
        if self.dated:
            return "holds days"
        unlike = self.distinct == len(self.filled)
        odd = self.numeric or self.prose or self._share(lambda cell: _ROW_NAME.fullmatch(cell) is not None) > 0.9
        return "has another value in each row" if unlike and odd else ""

    @cached_property
    def truth(self) -> bool:
        """Whether every cell is 0 or 1."""
        return bool(self.filled) and set(map(str.lower, self.filled)) <= _TRUTH

    @property
    def shown(self) -> str:
        """Return the number of different cells, and the first of them."""
        values = list(dict.fromkeys(self.filled))
        return f"{plural(len(values), 'value')}: {', '.join(repr(value[:20]) for value in values[:3])}"

    def _share(self, test) -> float:
        return sum(map(test, self.filled)) / len(self.filled) if self.filled else 0.0


def _is_prose(cell: str) -> bool:
    if _NOT_PROSE.match(cell) or _WRITTEN_DATE.fullmatch(cell):
        return False
    words = [word for word in cell.split() if any(character.isalpha() for character in word)]
    return len(words) > 1 or sum(map(is_unspaced, cell)) >= 4


def looks_like_header(names: Sequence[str]) -> bool:
    """Return whether a row names a text and a label column by usual words."""
    keys = set(map(name_key, names))
    return bool(keys & set(TEXT_NAMES)) and bool(keys & set(LABEL_NAMES))


def names_columns(names: Sequence[str], wanted: Wanted) -> bool:
    """Return whether a row names columns that are usual, that were asked for by name, or that a classifier knows."""
    given = [name for name in wanted.all if isinstance(name, str) and not name.replace(",", "").isdecimal()]
    asked = bool(given) and all(
        name in names or {part.strip() for part in name.split(",")} <= set(names) for name in given
    )
    known = bool(wanted.known) and {*wanted.known, *wanted.known_label} <= set(names)
    return len(names) > 1 and (looks_like_header(names) or asked or known)


FirstRow = Literal["row", "header", "both", "unknown"]


def first_row(first: Sequence[str], rest: Sequence[Sequence[str]]) -> FirstRow:
    """Return what the first row is, judged by those below it.

    A row: it occurs again, or one of its cells is in a column that repeats a few values, and is one of them. A header: a
    word above a column of numbers. Both are possible where it looks like names above a column of labels, each of which
    occurs again and again.
    """
    if list(first) in [list(row) for row in rest]:
        return "row"
    if len(rest) < FEWEST:
        return "unknown"
    names = [cell.strip() for cell in first]
    columns = [ColumnTraits(cells) for cells in zip(*rest, strict=True)]
    repeating = [(name, column) for name, column in zip(names, columns, strict=True) if column.repeats]
    if any(name in column.filled for name, column in repeating):
        return "row"
    name_like = all(_NAME.fullmatch(name) for name in names if name) and len(set(names)) == len(names)
    if len(rest) < 10 or not name_like:
        return "unknown"
    if any(name and column.numeric for name, column in zip(names, columns, strict=True)):
        return "header"
    return "both" if repeating and len(rest) >= 20 else "unknown"


def label_comes_first(rows: Sequence[Sequence[str]]) -> bool | None:
    """Return whether two columns are label and text (`True`), text and label (`False`), or could be both (`None`).

    A label belongs to a text, so there are no more labels than texts.
    """
    first, last = (ColumnTraits([row[place] for row in rows]) for place in (0, -1))
    if len(rows) < 10 or first.distinct >= last.distinct:
        return False
    if first.distinct <= last.distinct / 2 and max(map(len, first.filled), default=0) <= LONGEST_LABEL:
        return True
    return None


def choose_columns(
    path: object, names: Sequence[str], rows: Sequence[Sequence[str]], wanted: Wanted, *, header: Header
) -> Roles:
    """Decide which column is what.

    Args:
        path: the file, for messages.
        names: the columns: their names, or their numbers where the file has no header.
        rows: the first rows.
        wanted: what was asked for.
        header: whether the names are from the file, `"row"` where its first row was taken for them.

    Raises:
        ValueError: a column that was asked for is not there, or the roles cannot be told; the message lists what they
            could be.
    """
    columns = [ColumnTraits([row[place] for row in rows if place < len(row)]) for place in range(len(names))]
    text, label, weight = _asked_for(path, names, wanted)
    asked_text, asked_label = text is not None, bool(label)
    text, label = _by_name(names, columns, text, label, _places(text, label, weight), header=header)
    if text is None or (not label and wanted.needs_label):
        taken = _places(text, label, weight)
        text, label = _by_content(path, names, columns, text, label, taken, wanted, header=header)
    for place in _places(text, label, weight) if header else ():
        if not names[place] and names.count("") > 1:
            raise ValueError(
                f"{path} has {names.count('')} columns without a name in its first row; write the names there, or if they are "
                "in a later line, delete the lines above it"
            )
        if names.count(names[place]) > 1:
            raise ValueError(
                f"{path} has {names.count(names[place])} columns named {names[place]!r}; rename all but one"
            )
    notes = () if asked_text else _other_texts(names, columns, text, label)
    if header and wanted.needs_label and not asked_label:
        notes += _other_labels(names, columns, _places(text, label, weight))
    return Roles(text, label, weight, notes)


def _places(text: tuple[int, ...] | None, label: tuple[int, ...], weight: int | None) -> set[int]:
    return {*(text or ()), *label, *(() if weight is None else (weight,))}


def _asked_for(
    path: object, names: Sequence[str], wanted: Wanted
) -> tuple[tuple[int, ...] | None, tuple[int, ...], int | None]:
    """Return where the columns are that were asked for, and those that a classifier was trained on."""
    text = None if wanted.text is None else _positions(path, wanted.text, names)
    label = () if wanted.label is None else _positions(path, wanted.label, names)
    weight = None if wanted.weight is None else _position(path, wanted.weight, names)
    if text is None and wanted.known and set(wanted.known) <= set(names):
        text = tuple(names.index(name) for name in wanted.known)
    if not label and wanted.needs_label and wanted.known_label and set(wanted.known_label) <= set(names):
        label = tuple(names.index(name) for name in wanted.known_label)
    _check_distinct(path, text, label, weight, names)
    return text, label, weight


def _check_distinct(
    path: object, text: tuple[int, ...] | None, label: tuple[int, ...], weight: int | None, names: Sequence[str]
) -> None:
    chosen = [*(text or ()), *label, *(() if weight is None else (weight,))]
    twice = next((place for place in chosen if chosen.count(place) > 1), None)
    if twice is not None:
        raise ValueError(
            f"{path}: text_column, label_column and weight_column must be different columns, got {names[twice]!r} twice"
        )


def _positions(path: object, wanted: Sequence[ColumnName], names: Sequence[str]) -> tuple[int, ...]:
    """Return where columns are; one name with commas stands for several, unless a column has it."""
    if len(wanted) == 1 and isinstance(wanted[0], str) and wanted[0] not in names and "," in wanted[0]:
        wanted = [name.strip() for name in wanted[0].split(",")]
    return tuple(_position(path, name, names) for name in wanted)


def _position(path: object, name: ColumnName, names: Sequence[str]) -> int:
    if name in names:
        return names.index(str(name))
    if isinstance(name, int) or name.isdecimal():
        if int(name) < len(names):
            return int(name)
        raise ValueError(f"{path} has no column {int(name)}; it has {plural(len(names), 'column')}, counted from 0")
    raise ValueError(
        f"{path} has no column {name!r}{did_you_mean(name, names)}; it has the columns {', '.join(map(repr, names))}"
    )


def join_columns(parts: Sequence[str]) -> str:
    """Return the text that several columns are read as; blank ones alone are an empty text."""
    return f" {FIELD} ".join(parts) if any(parts) else ""


def name_key(name: str) -> str:
    """Return a name as the lists of usual names have it."""
    return re.sub(r"[\s_\-]+", "_", name.strip().lower())


def _by_name(
    names: Sequence[str],
    columns: Sequence[ColumnTraits],
    text: tuple[int, ...] | None,
    label: tuple[int, ...],
    taken: set[int],
    *,
    header: Header,
) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
    """Find columns by their usual names, then the one that is left of two."""
    keys = [name_key(name) for name in names] if header else []

    def usual(words: Sequence[str]) -> int | None:
        return next((keys.index(word) for word in words if word in keys and keys.index(word) not in taken), None)

    if text is None and (place := usual(TEXT_NAMES)) is not None:
        text = (place,)
        taken = taken | {place}
    if not label and (place := usual(LABEL_NAMES)) is not None:
        label = (place,)
    chosen = taken | {*(text or ()), *label}
    left = [place for place in range(len(names)) if place not in chosen]
    if len(left) == 1 and text is not None and columns[left[0]].why_no_label:
        return text, label
    if len(left) == 1 and (text is None) == bool(label):
        text, label = text or (left[0],), label or (left[0],)
    return text, label


def _by_content(
    path: object,
    names: Sequence[str],
    columns: Sequence[ColumnTraits],
    text: tuple[int, ...] | None,
    label: tuple[int, ...],
    taken: set[int],
    wanted: Wanted,
    *,
    header: Header,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Find columns by what is in them; where two could be it, refuse and name both."""
    left = [place for place, column in enumerate(columns) if place not in taken and column.filled]
    if text is None:
        prose = [place for place in left if columns[place].prose]
        if not prose:  # short texts: what neither repeats nor counts
            prose = [place for place in left if columns[place].differs]
            prose = prose if len(prose) == 1 else []
        if len(left) == 1 and not wanted.needs_label:
            prose = left
        text = (_only(path, "text", prose, left, names, columns, header=header),)
        left = [place for place in left if place not in text]
    if not label and wanted.needs_label:
        repeating = [
            place
            for place in left
            if columns[place].repeats and not columns[place].dated and len(columns[place].filled) >= ENOUGH
        ]
        label = (_only(path, "label", repeating, left, names, columns, header=header),)
    return text, label


def _only(
    path: object,
    role: str,
    found: Sequence[int],
    left: Sequence[int],
    names: Sequence[str],
    columns: Sequence[ColumnTraits],
    *,
    header: Header,
) -> int:
    """Return the one column that can have a role.

    Raises:
        ValueError: none can, or several.
    """
    if len(found) == 1:
        return found[0]

    def option(place: int) -> str:
        return f"{role}_column={names[place]!r}" if header else f"{role}_column={place}"

    if found:
        choices = "; ".join(f"{names[place]!r} ({columns[place].shown})" for place in found[:4])
        several = [str(names[place] if header else place) for place in found]
        joined = role == "text" and len(found) == 2 and not any("," in name for name in several)
        both = f", or read both: text_column={','.join(several)!r}" if joined else ""
        if role == "label" and all(columns[place].truth for place in found):
            flags = [str(names[place] if header else place) for place in left if columns[place].truth]
            if not any("," in name for name in flags):
                both = f", or where a text may have any of these labels, all: label_column={','.join(flags)!r}"
        one = " or ".join(map(option, found[:4]))
        raise ValueError(f"{path}: {len(found)} columns could be the {role}: {choices}; choose one: {one}{both}")
    possible = [place for place in left if not columns[place].why_no_label]
    first = (possible or left or [0])[0]
    if role == "label" and left and not possible:
        name = repr(names[first]) if header else f"column {first}"
        raise no_label(path, name, columns[first].why_no_label, option(first))
    if header:
        it_has = f"it has the columns {', '.join(map(repr, names))}"
        row = "" if header != "row" else _split_by(names, columns) or ", or if that is a row, pass header=False"
    else:
        cells = ", ".join(f"{place} {column.cells[0][:20]!r}" for place, column in enumerate(columns) if column.cells)
        it_has, row = f"it has no header, and its columns begin with {cells}", ", or write a header above it"
    nested = [place for place in left if columns[place].nested]
    if nested:
        raise ValueError(
            f"{path}: cannot tell which column is the {role}; {it_has}, and lists of objects, as in {names[nested[0]]!r}, are "
            f"not looked into: write the {role} as a value of its own beside the others, as Label Studio does as JSON-MIN or CSV"
        )
    raise ValueError(
        f"{path}: cannot tell which column is the {role}; {it_has}: name one, such as {option(first)}{row}"
    )


def no_label(path: object, name: str, why: str, option: str) -> ValueError:
    """Return the refusal of a file without labels, whose one other column would be taken for them."""
    return ValueError(
        f"{path} has no column that could be the label: {name} {why}; name a file with labels, or if that is the label, pass "
        f"{option}"
    )


def _split_by(names: Sequence[str], columns: Sequence[ColumnTraits]) -> str:
    """Return what to say where another character than a usual separator stands in the header and as often in each row."""
    if len(names) > 1:
        return ""
    signs = (sign for sign in dict.fromkeys(names[0]) if not (sign.isalnum() or sign.isspace() or sign in "_\"'"))
    for sign in signs:
        cells = columns[0].filled
        if cells and all(cell.count(sign) == names[0].count(sign) for cell in cells):
            return f"; or, as {sign!r} seems to stand between columns, pass separator={sign!r}"
    return "; or name what stands between the columns with separator=, or if that is a row, pass header=False"


def _other_texts(
    names: Sequence[str], columns: Sequence[ColumnTraits], text: tuple[int, ...], label: tuple[int, ...]
) -> tuple[str, ...]:
    """Return what to say about columns that hold texts too and are not read."""
    others = [place for place, column in enumerate(columns) if place not in (*text, *label) and column.prose]
    if not others:
        return ()
    shown = ", ".join(repr(names[place]) for place in others)
    together = ",".join(names[place] for place in sorted({*text, *others}))
    return (say("also text (one)" if len(others) == 1 else "also text", names=shown, all=together),)


def _other_labels(names: Sequence[str], columns: Sequence[ColumnTraits], taken: set[int]) -> tuple[str, ...]:
    """Return what to say about columns that are named and look like a label too."""
    others = [
        place
        for place, column in enumerate(columns)
        if place not in taken and name_key(names[place]) in LABEL_NAMES and column.repeats
    ]
    if not others:
        return ()
    shown = " and ".join(f"{names[place]!r} ({columns[place].shown})" for place in others)
    return (say("also label", names=shown, one=names[others[0]]),)
