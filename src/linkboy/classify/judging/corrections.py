"""Labels that were corrected by hand in a list of suspected ones, taken back into the data."""

import dataclasses
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from linkboy._checks import did_you_mean
from linkboy._encodings import decoded, encoding_of_mark, likely_encodings
from linkboy._report import Block, Report, Table, format_count, plural
from linkboy.classify.judging.suspects import shortened
from linkboy.classify.reading._columns import wanted_columns
from linkboy.classify.reading._content import Content, opened
from linkboy.classify.reading._parts import PARTS, numbers_of
from linkboy.classify.reading._tables import Reading, table_of
from linkboy.classify.reading.labelled import LabelledTexts, as_string, existing_file, label_counts

COLUMNS = ("line", "label", "suggested_label", "text")
SHOWN = 5


@dataclasses.dataclass(frozen=True)
class LabelCorrection:
    """A row whose label was replaced.

    Attributes:
        part: the part that its file was given as.
        line: the line of that file on which it begins.
        label: its label before.
        corrected_label: its label now.
        text: its text.
    """

    part: str
    line: int
    label: str
    corrected_label: str
    text: str


@dataclasses.dataclass(frozen=True)
class LabelCorrections(Report):
    """What a file of corrections changed.

    Attributes:
        source: the file.
        row_count: the number of its rows.
        changed_count: the number of labels that were replaced.
        changes: the rows whose label was replaced, in the order of the file.
        new_labels: labels that no row had before.
        notes: what each new label resembles.
    """

    source: str
    row_count: int
    changed_count: int
    changes: Sequence[LabelCorrection]
    new_labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def _blocks(self) -> Iterator[Block]:
        said = f"{self.source}: {plural(self.changed_count, 'label')} corrected"
        if not self.changes:
            yield f"{said}; its rows suggest no other label than the data have"
            return
        rows = [(c.part, c.line, c.label, c.corrected_label, shortened(c.text)) for c in self.changes[:SHOWN]]
        yield Table(("part", "line", "label", "corrected label", "text"), rows, said)
        if len(self.changes) > SHOWN:
            yield f"and {format_count(len(self.changes) - SHOWN)} more"
        yield "\n".join(self.notes)


@dataclasses.dataclass(frozen=True)
class _Row:
    """A row of the file of corrections; `place` is its own line, and `line` that of the row to correct."""

    place: int
    part: str
    line: int
    label: str
    suggested: str
    text: str


def corrected_labels(
    path: str | os.PathLike[str], given: Mapping[str, LabelledTexts | None], class_names: Sequence[str] | None
) -> tuple[dict[str, LabelledTexts | None], LabelCorrections]:
    """Return the data with the labels that a file suggests, and what changed.

    Args:
        path: `suspects.csv` of an earlier run, without the rows whose label is to stay.
        given: the data by the parts that they were given as; a part that is `None` is cut from `train`.
        class_names: names of the classes where the labels of the data are numbers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row of the file does not belong to the data, or contradicts another one; nothing is changed.
    """
    data = {part: rows for part, rows in given.items() if rows is not None}
    if any(rows.several for rows in data.values()):
        raise ValueError(
            "corrections are for texts of one class, and these may have several labels; correct the labels in their file"
        )
    path = existing_file(path)
    known = label_counts(label for rows in data.values() for label in rows.labels)
    same = _comparison(class_names or sorted(known), numbered=class_names is not None)
    found, places = list(_rows_of(path)), {part: _rows_by_line(rows) for part, rows in data.items()}
    wanted: dict[tuple[str, int], str] = {}
    replaced: dict[tuple[str, int], LabelCorrection] = {}
    for row in found:
        part = row.part if row.part in data else "train"
        rows, matching = data[part], _matching(path, row, data[part], places[part])
        if wanted.setdefault((part, row.line), row.suggested) != row.suggested:
            _refuse(
                path, row, f"the row of line {row.line} has another suggested label above; keep one of the two rows"
            )
        for number in matching:
            before = rows.labels[number]
            if _asks_for_another(path, row, rows.source, before, same):
                replaced[part, number] = LabelCorrection(part, row.line, before, row.suggested, rows.texts[number])
    new = Counter(
        change.corrected_label
        for change in replaced.values()
        if not any(same(change.corrected_label, label) for label in known)
    )
    notes = _about_new(new, list(known))
    made = LabelCorrections(str(path), len(found), len(replaced), tuple(replaced.values()), tuple(new), notes)
    return {**given, **{part: _relabelled(part, rows, replaced) for part, rows in data.items()}}, made


def _about_new(new: Mapping[str, int], known: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        f"new label {name!r} of {plural(count, 'row')}{did_you_mean(name, known)}" for name, count in new.items()
    )


def _relabelled(part: str, rows: LabelledTexts, replaced: Mapping[tuple[str, int], LabelCorrection]) -> LabelledTexts:
    labels = list(rows.labels)
    for (of, number), change in replaced.items():
        if of == part:
            labels[number] = change.corrected_label
    return dataclasses.replace(rows, labels=labels)


def _asks_for_another(path: Path, row: _Row, source: str, label: str, same: Callable[[str, str], bool]) -> bool:
    """Return whether a row of the file asks for another label than the data have."""
    if not row.suggested or same(row.suggested, row.label) or same(row.suggested, label):
        return False
    if not same(row.label, label):
        _refuse(
            path,
            row,
            f"the label is {row.label!r}, and {source} line {row.line} has {label!r}; make the list again with these data, or "
            "remove the row",
        )
    return True


def _comparison(class_names: Sequence[str], *, numbered: bool) -> Callable[[str, str], bool]:
    """Return whether two labels are the same class, however they are written."""
    number_of = numbers_of(class_names, numbered=numbered)

    def same(label: str, other: str) -> bool:
        return label == other or (number_of(label) is not None and number_of(label) == number_of(other))

    return same


def _rows_by_line(rows: LabelledTexts) -> Mapping[int, list[int]]:
    places: dict[int, list[int]] = defaultdict(list)
    for number, line in enumerate(rows.lines):
        places[line].append(number)
    return places


def _matching(path: Path, row: _Row, rows: LabelledTexts, places: Mapping[int, list[int]]) -> list[int]:
    """Return the rows of the data that a correction is about; programs for tables change spaces and ends of lines."""
    if row.line not in places:
        _refuse(
            path, row, f"{rows.source} has no row that begins at line {row.line}; name the file that the list is about"
        )
    text = row.text.split()
    matching = [number for number in places[row.line] if rows.texts[number].split() == text]
    if not matching:
        _refuse(
            path,
            row,
            f"the text {shortened(row.text)!r} is not that of {rows.source} line {row.line}, "
            f"{shortened(rows.texts[places[row.line][0]])!r}; make the list again with these data",
        )
    return matching


def _rows_of(path: Path) -> Iterator[_Row]:
    def bad_row(line: int, reason: str) -> None:
        raise ValueError(f"{path} line {line}: {reason}; correct the line")

    with opened(path) as content:
        header = True if content.kind == "text" else None
        guessed = _likely_encoding(content)
        table = table_of(
            content, Reading(wanted_columns("text", "suggested_label", None), guessed, header=header), bad_row
        )
        compared = guessed is None
        missing = [name for name in COLUMNS if name not in table.names]
        if missing:
            raise ValueError(
                f"{path} must have the columns {', '.join(map(repr, COLUMNS))}, as suspects.csv has, and lacks "
                f"{', '.join(map(repr, missing))}"
            )
        get = {name: table.getter(list(table.names).index(name)) for name in (*COLUMNS, "part") if name in table.names}
        for place, record in table.records:
            cells = {name: getter(record) for name, getter in get.items()}
            suggested = cells["suggested_label"]
            if isinstance(suggested, str) and suggested and not suggested.strip():
                bad_row(
                    place, "the suggested label is made of spaces only, which is no label; write one, or leave it empty"
                )
            line, part = as_string(cells["line"]), as_string(cells.get("part", "train"))
            if not (line.isascii() and line.isdigit() and len(line) < 19):
                bad_row(place, f"line must be the number of a line, got {line!r}")
            if part not in PARTS:
                bad_row(place, f"part must be one of {', '.join(PARTS)}, got {part!r}")
            row = _Row(
                place, part, int(line), as_string(cells["label"]), as_string(suggested), as_string(cells["text"])
            )
            compared = compared or not row.text.isascii()
            yield row
        if not compared:
            raise ValueError(
                f"{path} must be UTF-8: it may be {guessed}, but its texts, which are compared with those of the data, are all "
                "ASCII and cannot confirm that; save it as UTF-8"
            )


def _likely_encoding(content: Content) -> str | None:
    """Return the encoding that a program for tables saved the list in; `None` for UTF-8 and where nothing is likely.

    A wrong one is noticed where the texts are compared with those of the data, unless these are all ASCII.
    """
    lines = content.head.rpartition(b"\n")[0]  # the last one may be cut
    if content.kind != "text" or encoding_of_mark(content.head):
        return None
    return next((name for name, _ in likely_encodings(lines)), None) if decoded(lines, "utf-8") is None else None


def _refuse(path: Path, row: _Row, reason: str) -> NoReturn:
    raise ValueError(f"{path} line {row.place}: {reason}")
