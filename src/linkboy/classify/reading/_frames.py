"""Labelled texts that are in memory: a data frame, or texts and labels, as the table that a file of them would be."""

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from linkboy._report import plural
from linkboy.classify.reading._columns import ColumnTraits
from linkboy.classify.reading._content import HEAD_LINES
from linkboy.classify.reading._tables import Reading, Record, Roles, TextTable

ACCEPTED = "LabelledTexts, the path of a file, a polars or pandas frame, or (texts, labels)"


def is_frame(value: object) -> bool:
    """Return whether a value is a frame of polars or pandas; neither is imported for this."""
    kinds = [("polars", "DataFrame"), ("polars", "LazyFrame"), ("pandas", "DataFrame")]
    loaded = [(sys.modules[module], name) for module, name in kinds if module in sys.modules]
    return any(isinstance(value, getattr(module, name, ())) for module, name in loaded)


def is_pair(value: object) -> bool:
    """Return whether a value is a tuple of texts and labels.

    Examples:
        >>> is_pair((["good", "bad"], [1, 0])), is_pair(("good", "bad")), is_pair([["good", 1], ["bad", 0]])
        (True, False, False)
    """
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_column, value))


def _is_column(value: object) -> bool:
    return not isinstance(value, (str, bytes, dict, set)) and hasattr(value, "__len__") and hasattr(value, "__iter__")


def table_in_memory(value: Any, asked: Reading) -> TextTable:
    """Return a frame, or a tuple of texts and labels, as a table whose rows are numbered from 1.

    Args:
        value: one of them.
        asked: which columns to take.

    Raises:
        ValueError: something is asked for that is of files alone, there are not as many labels as texts, or they are series
            of pandas whose rows go together otherwise by their indexes than by their places.
    """
    pair = is_pair(value)
    what = "texts and labels" if pair else "data frame"
    of_files = {"encoding": asked.encoding, "separator": asked.separator, "header": asked.header}
    wrong = next((name for name, given in of_files.items() if given is not None), None)
    if pair and asked.wanted.all:
        wrong = next(
            f"{name}_column" for name in ("text", "label", "weight") if getattr(asked.wanted, name) is not None
        )
    if wrong is not None:
        raise ValueError(f"{wrong} has no meaning for {what if pair else 'a data frame'}; leave {wrong} out")
    names, columns = (("text", "label"), list(map(_values, value))) if pair else _columns_of(value)
    if pair and len(columns[0]) != len(columns[1]):
        raise ValueError(
            f"there must be as many labels as texts, got {len(columns[1])} for {plural(len(columns[0]), 'text')}"
        )
    if pair and all(hasattr(column, "iloc") for column in value) and not value[0].index.equals(value[1].index):
        raise ValueError(
            "texts and labels are series with different indexes, so they can be matched by index or by place; take both from one "
            "frame, or pass lists (texts.to_list(), labels.to_list()) to match them by place"
        )
    head = [[_shown(cell) for cell in row] for row in islice(zip(*columns, strict=True), HEAD_LINES)]
    if pair and head:
        texts, labels = (ColumnTraits(cells) for cells in zip(*head, strict=True))
        if texts.repeats and labels.why_no_label:
            raise ValueError(
                f"texts and labels seem to be the other way round: the text {texts.cells[0][:40]!r} occurs again and again, and "
                "no label does; pass (texts, labels)"
            )
    fixed = Roles((0,), (1,), None) if pair else None
    return TextTable(Path(what), "in memory", names, True, head, _rows(columns), fixed)


def _rows(columns: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Record]]:
    yield from enumerate(zip(*columns, strict=True), 1)


def _columns_of(frame: Any) -> tuple[list[str], list[list[Any]]]:
    if "polars" in type(frame).__module__:
        if hasattr(frame, "collect"):
            frame = frame.collect()
        return list(frame.columns), [column.to_list() for column in frame.get_columns()]
    places = range(frame.shape[1])
    return [str(name) for name in frame.columns], [_values(frame.iloc[:, place]) for place in places]


def _values(column: Any) -> list[Any]:
    """Return the values of a list, an array or a series, with `None` where pandas has nothing."""
    if getattr(column, "ndim", 1) == 2 and column.shape[1] == 1 and not hasattr(column, "columns"):
        column = column[:, 0]  # as `frame[["label"]].values` gives it
    if hasattr(column, "notna"):
        column = column.astype(object).where(column.notna(), None)
    values = column.to_list() if hasattr(column, "to_list") else list(column)
    return [value.tolist() if hasattr(value, "tolist") and hasattr(value, "dtype") else value for value in values]


def _shown(cell: object) -> str:
    if isinstance(cell, tuple):  # of labels, as a list is
        cell = list(cell)
    return cell[:500] if isinstance(cell, str) else "" if cell is None else str(cell)
