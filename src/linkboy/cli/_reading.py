"""The options by which several commands read labelled texts."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:  # importing a room costs time that --help must not pay
    from linkboy.classify import LabelledTexts


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How to read a file of labelled texts.

    Attributes:
        text_column: Name of the column that holds the text, if it is not a usual one such as text, review or 文本.
        label_column: Name of the column that holds the label, if it is not a usual one such as label, class or 标签.
        encoding: Encoding of text files, for instance gb18030.
        on_bad_row: Stop at a row that cannot be read, or skip and count it.
    """

    text_column: str | None = None
    label_column: str | None = None
    encoding: str = "utf-8"
    on_bad_row: Literal["raise", "skip"] = "raise"

    def read(self, file: Path, *, weight_column: str | None = None) -> "LabelledTexts":
        """Return the labelled texts of a file."""
        from linkboy import read_labelled

        return read_labelled(
            file,
            text_column=self.text_column,
            label_column=self.label_column,
            weight_column=weight_column,
            on_bad_row=self.on_bad_row,
            encoding=self.encoding,
        )


Reading = Annotated[ReadingOptions, Parameter(name="*")]
