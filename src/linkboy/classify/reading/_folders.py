"""Labelled texts as a directory: a folder for each class, and a text in each of its files."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from linkboy._report import plural
from linkboy.classify.reading._columns import Roles
from linkboy.classify.reading._content import opened, unpacked_name
from linkboy.classify.reading._tables import BadRow, Reading, TextTable, text_lines

_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".xlsx")


def table_of_folders(directory: Path, asked: Reading, bad_row: BadRow) -> TextTable:
    """Return the files of a directory as a table, the folders and their files in the order of their names, numbered from 1.

    Args:
        directory: the directory.
        asked: how to read its files.
        bad_row: called with number and reason of a file that cannot be read.

    Raises:
        IsADirectoryError: there are no folders in it.
        ValueError: something is asked for that is of tables alone, or a folder holds folders, tables or nothing.
    """
    wanted = asked.wanted
    given = {"text_column": wanted.text, "label_column": wanted.label, "weight_column": wanted.weight}
    given |= {"separator": asked.separator, "header": asked.header, "label_separator": asked.label_separator}
    wrong = next((name for name, value in given.items() if value is not None), None)
    folders = [entry for entry in _entries(directory) if entry.is_dir()]
    if not folders:
        raise IsADirectoryError(
            f"{directory} is a directory; name the file with the labelled texts in it, or a directory that has a folder for "
            "each class, with a text in each file"
        )
    if wrong is not None:
        raise ValueError(f"{directory} is a directory, for which {wrong} has no meaning; leave {wrong} out")
    files = [file for folder in folders for file in _texts_in(directory, folder)]
    beside = len(_entries(directory)) - len(folders)
    notes = (
        (f"{plural(beside, 'file')} beside the folders {'is' if beside == 1 else 'are'} left out",) if beside else ()
    )
    roles, records = Roles((0,), (1,), None, notes), _records(files, asked, bad_row)
    return TextTable(directory, "folders", ("text", "label"), True, [], records, roles, folders=True)


def _entries(directory: Path) -> list[Path]:
    """Return what somebody put into a directory, in the order of the names."""
    return sorted(entry for entry in directory.iterdir() if not entry.name.startswith((".", "__")))


def _texts_in(directory: Path, folder: Path) -> Sequence[Path]:
    entries = _entries(folder)
    if any(entry.is_dir() for entry in entries):
        raise ValueError(
            f"{directory} has a folder {folder.name!r} that holds folders itself; name the directory whose folders are the "
            f"classes, such as {folder}"
        )
    table = next((entry for entry in entries if unpacked_name(entry).suffix.lower() in _TABLES), None)
    if table is not None:
        raise ValueError(f"{directory} has a folder {folder.name!r} that holds a table, {table.name}; name that file")
    if not entries:
        raise ValueError(f"{directory} has a folder {folder.name!r} without files; remove it, or put its texts there")
    return entries


def _records(files: Sequence[Path], asked: Reading, bad_row: BadRow) -> Iterator[tuple[int, tuple[str, str]]]:
    for number, file in enumerate(files, 1):
        undecoded: dict[int, str] = {}
        with opened(file) as content:
            if content.kind != "text":
                raise ValueError(f"{file} is not text but a table, beside files of one text each; name the table alone")
            lines = text_lines(content, content.encoding(asked.encoding), undecoded, may_be_blank=True)
            text = "\n".join(line or "" for _, line in lines).strip()
        name = f"{file.parent.name}/{file.name}"
        line = next(iter(undecoded), None)
        if line is not None:
            bad_row(number, f"line {line} of {name!r}: {undecoded[line]}")
        elif not text:
            bad_row(number, f"{name!r} is empty")
        else:
            yield number, (text, file.parent.name)
