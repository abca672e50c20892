"""What the label cells of a row say: one label, or several in one of the ways that files write them."""

import ast
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from linkboy._report import plural
from linkboy.classify.reading._columns import Roles
from linkboy.classify.reading._dialect import FASTTEXT
from linkboy.classify.reading._findings import value_key
from linkboy.classify.reading._json import MISSING
from linkboy.classify.reading._sentences import say
from linkboy.classify.reading._tables import TextTable

Label = str | tuple[str, ...]
_TRUTH = {"0": False, "1": True, "false": False, "true": True}
_SIGNS = ("|", ",", ";", "，", "、", "；", "/", "+", "#", "&", "||")  # that people write between labels
_ZEROS_AND_ONES = frozenset(("0", "1", "0.0", "1.0", "True", "False"))
_LONGEST_LIST = 100_000  # characters of a cell that is read as a list


class LabelCells:
    """Takes the labels of a row out of its record.

    Args:
        table: the file.
        roles: its columns.
        separator: what stands between the labels of a cell, if that was asked for.
        as_string: turns a cell into text.

    Raises:
        ValueError: the labels are lists or columns, and a separator was given as well, or the lists are rows of 0 and 1.
    """

    def __init__(
        self, table: TextTable, roles: Roles, separator: str | None, as_string: Callable[[object], str]
    ) -> None:
        self.places, self.names = roles.label, [table.names[place] for place in roles.label]
        self._separator, self._as_string = separator, as_string
        self._getters = [table.getter(place) for place in self.places]
        lists = table.lists or (len(self.places) == 1 and _are_lists(table, self.places[0]))
        if lists:
            _check_names(table, self.places[0])
        self.kind = "columns" if len(self.places) > 1 else "lists" if lists else "separated" if separator else "one"
        prefixed = len(self.places) == 1 and self.kind == "one" and _have_prefix(table, self.places[0])
        self._prefix = FASTTEXT if prefixed else ""
        self._doubled = self._loose = self._split = 0
        if separator is not None and self.kind != "separated":
            written = "in columns of their own" if self.kind == "columns" else "as lists"
            raise ValueError(
                f"{table.path}: the labels of a row are written {written}, so label_separator has no meaning; leave "
                "label_separator out"
            )

    @property
    def several(self) -> bool:
        """Whether a row may have any number of labels."""
        return self.kind != "one"

    def read(self, record: Any) -> tuple[Label, str]:
        """Return the label of a row, or all its labels; and what is wrong with it, nothing where it can be read."""
        if self.kind == "columns":
            return self._from_columns(record)
        raw = self._getters[0](record)
        if self.kind == "one":
            label = self._as_string(raw).removeprefix(self._prefix)
            return label, cell_problem("label", label, raw)
        if raw is MISSING:
            return (), "the label is missing"
        pieces, problem = self._from_list(raw) if self.kind == "lists" else self._cut(raw)
        labels = tuple(dict.fromkeys(pieces))
        self._doubled += len(labels) < len(pieces)
        return labels, problem or next((found for each in labels if (found := cell_problem("label", each, each))), "")

    def _cut(self, raw: object) -> tuple[list[str], str]:
        text = self._as_string(raw)
        if not text and (problem := cell_problem("label", text, raw)) != "the label is empty":
            return [], problem
        pieces = [piece.strip() for piece in text.split(self._separator)]
        filled = [piece for piece in pieces if piece]
        self._split += len(pieces) > 1
        self._loose += len(filled) < len(pieces) and len(pieces) > 1
        return filled, ""

    def _from_list(self, raw: object) -> tuple[list[str], str]:
        values = raw if isinstance(raw, (list, tuple)) else None if raw is None else listed_in(raw)
        if values is None:
            text = self._as_string(raw)
            return [text] if text else [], "" if text or raw is None or raw == "" else cell_problem("label", text, raw)
        labels = [self._as_string(value) for value in values]
        wrong = next(
            (v for v, label in zip(values, labels, strict=True) if not label and v is not None and v != ""), None
        )
        problem = "" if wrong is None else f"the labels must be text or numbers, got {type(wrong).__name__} in the list"
        return [label for label in labels if label], problem

    def _from_columns(self, record: Any) -> tuple[Label, str]:
        labels = []
        for name, get in zip(self.names, self._getters, strict=True):
            raw = get(record)
            held = _TRUTH.get(value_key(self._as_string(raw).lower()))
            if held is None:
                return (), f"the label column {name!r} must hold 0 or 1, got {None if raw is MISSING else raw!r}"
            if held:
                labels.append(name)
        return tuple(labels), ""

    def findings(self, labels: Sequence[Label], counts: Mapping[str, int]) -> Iterator[str]:
        """Yield what to know about how the labels of a row are written."""
        if self.kind == "one":
            yield from _made_of_others(counts)
            return
        without = sum(not each for each in labels)
        if without:
            yield say("no label", rows=plural(without, "row") + (" has" if without == 1 else " have"))
        if self.kind == "separated" and not self._split:
            yield say("unused separator", separator=self._separator)
        if self._loose:
            yield say("loose separator", rows=plural(self._loose, "row") + (" has" if self._loose == 1 else " have"))
        if self._doubled:
            yield say(
                "doubled label", rows=plural(self._doubled, "row") + (" names" if self._doubled == 1 else " name")
            )
        unused = [name for name in self.names if name not in counts] if self.kind == "columns" else []
        if unused:
            yield say("unused columns", names=", ".join(map(repr, unused)))

    @property
    def written(self) -> str:
        """How the labels of a row are written, in a few words."""
        return {
            "columns": "columns of 0 and 1",
            "lists": "lists",
            "separated": f"separated by {self._separator!r}",
        }.get(self.kind, "")


def _made_of_others(counts: Mapping[str, int]) -> Iterator[str]:
    """Yield a sentence where a label is other labels with a sign between them, as where a cell holds all labels of a text."""
    for sign in _SIGNS:
        whole = (label for label in counts if sign in label)
        example = next((label for label in whole if all(part.strip() in counts for part in label.split(sign))), None)
        if example is not None:
            yield say("made of others", example=example, between=sign, separator=sign)
            return


def _have_prefix(table: TextTable, place: int) -> bool:
    """Return whether the first cells of a column are each one label as fastText writes it."""
    cells = [row[place].strip() for row in table.head if place < len(row) and row[place].strip()]
    return bool(cells) and all(cell.startswith(FASTTEXT) and cell.count(FASTTEXT) == 1 for cell in cells)


def _are_lists(table: TextTable, place: int) -> bool:
    """Return whether the first cells of a column are lists: all of them, or in JSON most of them."""
    cells = [row[place].strip() for row in table.head if place < len(row) and row[place].strip()]
    if any(_choices_in(cell) is not None for cell in cells):  # where one of them was chosen, it stands there alone
        return True
    lists = sum(listed_in(cell) is not None for cell in cells)
    return 2 * lists > len(cells) if table.keyed else 0 < lists == len(cells)


def _check_names(table: TextTable, place: int) -> None:
    """Raise if the lists of a column are as long as each other and hold 0 and 1 alone: places, not names.

    Read as names, every text would have the labels `0` and `1`.
    """
    lists = [values for row in table.head if place < len(row) and (values := listed_in(row[place].strip())) is not None]
    long = len(lists[0]) if lists else 0
    if long < 2 or any(len(each) != long or not {*map(str, each)} <= _ZEROS_AND_ONES for each in lists):
        return
    raise ValueError(
        f"{table.path}: the lists of labels must hold names, got rows of 0 and 1 such as {lists[0]}: write the names of the "
        "labels that hold, or, where exactly one does, its number alone, as argmax(1) gives it"
    )


def listed_in(cell: object) -> list[object] | None:
    """Return the values of a list that is written in a cell, as JSON or as Python writes it; `None` where there is none.

    Examples:
        >>> listed_in("['a', 'b']"), listed_in('["a"]'), listed_in("[]"), listed_in("[a]")
        (['a', 'b'], ['a'], [], None)
    """
    if (choices := _choices_in(cell)) is not None:
        return choices
    if not isinstance(cell, str) or len(cell) > _LONGEST_LIST or not (cell.startswith("[") and cell.endswith("]")):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return found if isinstance(found, list) else None
    return None


def _choices_in(cell: object) -> list[object] | None:
    """Return what was chosen in a cell as Label Studio writes it, `None` where it is another cell.

    Examples:
        >>> _choices_in('{"choices": ["a", "b"]}'), _choices_in({"choices": ["a"]}), _choices_in("a")
        (['a', 'b'], ['a'], None)
    """
    if isinstance(cell, str) and cell.startswith("{") and len(cell) <= _LONGEST_LIST:
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            return None
    found = cell.get("choices") if isinstance(cell, dict) and len(cell) == 1 else None
    return found if isinstance(found, list) else None


def cell_problem(role: str, value: str, raw: object) -> str:
    """Return what is wrong with a cell that should be a text or a label, nothing where it can be read."""
    if not value:
        wrong_type = not (raw is None or isinstance(raw, (str, float)))
        return (
            f"the {role} must be text or a number, got {type(raw).__name__}" if wrong_type else f"the {role} is empty"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        return f"the {role} holds half of a surrogate pair, which no file can store"
    return ""
