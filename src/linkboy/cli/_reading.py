"""The options by which several commands read labelled texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:  # importing a room costs time that --help must not pay
    from linkboy.classify import LabelledTexts
    from linkboy.classify.reading._tables import Reading as AskedReading


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How to read a file of labelled texts.

    Attributes:
        text_column: Column that holds the text, by name or by number from 0, if it is not a usual one such as text, review
            or 文本; several are separated by commas and joined. In JSON a dotted name is inside an object.
        label_column: Column that holds the label, if it is not a usual one such as label, class or 标签; several, separated
            by commas, hold 0 or 1 each, and a text may have several labels.
        label_separator: What stands between labels where a text may have several, for instance "|", or a word such as comma.
        separator: What stands between fields: a character, or tab, comma, semicolon, pipe; seen from the file by default.
        header: Whether the first row names the columns; seen from the file by default.
        label_map: New names of labels, such as 1=bad,2=bad,3=good; others keep theirs.
        encoding: Encoding of text files, for instance gb18030; that of a byte order mark, or UTF-8, by default.
        on_bad_row: Stop at a row that cannot be read, or skip and count it.
    """

    text_column: str | None = None
    label_column: str | None = None
    label_separator: str | None = None
    separator: str | None = None
    header: Annotated[bool | None, Parameter(negative="--no-header")] = None
    label_map: str | None = None
    encoding: str | None = None
    on_bad_row: Literal["raise", "skip"] = "raise"

    def read(
        self,
        file: Path,
        *,
        weight_column: str | None = None,
        known: Sequence[str] = (),
        known_label: Sequence[str] = (),
    ) -> "LabelledTexts":
        """Return the labelled texts of a file.

        Args:
            file: the file.
            weight_column: the column of the weights.
            known: columns of the text that a classifier was trained on.
            known_label: columns of the label that it was trained on.
        """
        from linkboy.classify.reading.labelled import read_rows

        asked = self._asked(weight_column, known, known_label, needs_label=True)
        return read_rows(file, asked, label_map=_map_of(self.label_map), on_bad_row=self.on_bad_row)

    def for_texts(self, known: Sequence[str]) -> "AskedReading":
        """Return how to read texts without labels."""
        if self.label_map is not None:
            raise ValueError("--label-map is for labels that are read, and predict reads none; leave it out")
        if self.label_separator is not None:
            raise ValueError("--label-separator is for labels that are read, and predict reads none; leave it out")
        return self._asked(None, known, (), needs_label=False)

    def _asked(
        self, weight_column: str | None, known: Sequence[str], known_label: Sequence[str], *, needs_label: bool
    ) -> "AskedReading":
        from linkboy.classify.reading._columns import wanted_columns
        from linkboy.classify.reading._dialect import label_separator_of, separator_of
        from linkboy.classify.reading._tables import Reading as AskedReading

        wanted = wanted_columns(
            self.text_column,
            self.label_column,
            weight_column,
            needs_label=needs_label,
            known=known,
            known_label=known_label,
        )
        between = label_separator_of(self.label_separator)
        return AskedReading(wanted, self.encoding, separator_of(self.separator), self.header, between)


READING_OPTIONS = {f"--{field.name.replace('_', '-')}" for field in fields(ReadingOptions)} | {"--no-header"}


def _map_of(pairs: str | None) -> Mapping[str, str] | None:
    """Return the names of labels that `1=bad,2=good` gives."""
    if pairs is None:
        return None
    split = [pair.partition("=") for pair in pairs.split(",")]
    wrong = next((label for label, equals, name in split if not (equals and label.strip() and name.strip())), None)
    if wrong is not None:
        raise ValueError(f"--label-map must be pairs such as 1=bad,2=good, got {pairs!r}")
    return {label.strip(): name.strip() for label, _, name in split}


Reading = Annotated[ReadingOptions, Parameter(name="*")]
