"""A text file to ids or tokens, line by line, in bounded memory."""

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal, TextIO, get_args

from linkboy._checks import check_choice
from linkboy._progress import Progress
from linkboy._reading import decoded_lines
from linkboy.text._vocabulary import UNK
from linkboy.text.report import TokenizedFile
from linkboy.text.tokenizer import BertTokenizer

BATCH_BYTES = 1 << 20

Output = Literal["ids", "tokens"]


def tokenize_file(
    tokenizer: BertTokenizer,
    source: str | os.PathLike[str],
    destination: TextIO,
    *,
    output: Output = "ids",
    add_special_tokens: bool = False,
    progress: bool = False,
) -> TokenizedFile:
    r"""Write the ids or tokens of each line of a file, separated by spaces, one output line for each input line.

    Args:
        tokenizer: the tokenizer to use.
        source: a path, or `"-"` for standard input; lines end at `\n` or `\r\n`, bytes that are not UTF-8 are skipped, and so is
            a byte order mark.
        destination: where to write, for instance `sys.stdout`.
        output: `"ids"` or `"tokens"`.
        add_special_tokens: whether to begin each line with `[CLS]` and end it with `[SEP]`.
        progress: whether to show on standard error how much of the file is done.

    Returns:
        The numbers of lines, characters, tokens and unknown tokens.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: `tokenizer` is not a `BertTokenizer`, or text cannot be written to `destination`.
        ValueError: `output` is unknown, the file is UTF-16, or one of its lines is longer than 16 MiB.

    Examples:
        >>> import pathlib, sys, tempfile
        >>> from linkboy import BertTokenizer, tokenize_file
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "lines.txt"
        >>> _ = path.write_text("你好\n好\n", "utf-8")
        >>> report = tokenize_file(BertTokenizer(["[UNK]", "你", "好"]), path, sys.stdout)
        1 2
        2
        >>> report.token_count
        3
    """
    _check_arguments(tokenizer, destination, output)
    names = {number: str(number) if output == "ids" else token for token, number in tokenizer.vocab.items()}
    unknown_id = tokenizer.vocab[UNK]
    standard_input = os.fspath(source) == "-"
    total = None if standard_input else Path(source).stat().st_size
    lines = characters = tokens = unknown = 0
    with Progress("tokenizing", total=total, unit="bytes", enabled=progress) as bar:
        for size, batch in _batches(sys.stdin.buffer if standard_input else Path(source)):
            rows = tokenizer(batch, add_special_tokens=add_special_tokens)["input_ids"]
            destination.write("".join([" ".join([names[number] for number in row]) + "\n" for row in rows]))
            lines, characters = lines + len(batch), characters + sum(map(len, batch))
            tokens, unknown = tokens + sum(map(len, rows)), unknown + sum(row.count(unknown_id) for row in rows)
            bar.advance(size, lines=lines)
    return TokenizedFile(lines, characters, tokens, unknown)


def _check_arguments(tokenizer: object, destination: object, output: object) -> None:
    if not isinstance(tokenizer, BertTokenizer):
        raise TypeError(f"tokenizer must be a BertTokenizer, got {type(tokenizer).__name__}")
    if not hasattr(destination, "write") or isinstance(destination, (io.RawIOBase, io.BufferedIOBase)):
        kind = type(destination).__name__
        raise TypeError(f"destination must be a text file open for writing, such as sys.stdout, got {kind}")
    check_choice("output", output, get_args(Output))


def _batches(source: BinaryIO | Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the size in bytes and the lines of about a megabyte at a time."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield from _batches_of(os.fspath(source), file)
    else:
        yield from _batches_of("standard input", source)


def _batches_of(name: str, file: BinaryIO) -> Iterator[tuple[int, list[str]]]:
    counted = _Counted(file)
    lines, skipped = list[str](), ""

    def skip_bad_bytes(number: int, error: UnicodeDecodeError, raw: bytes) -> None:
        nonlocal skipped
        skipped = raw.decode("utf-8", "ignore").removesuffix("\r")  # as the reference does

    sent = 0
    for _, line in decoded_lines(name, counted, "utf-8", skip_bad_bytes):
        lines.append(skipped if line is None else line)
        if counted.size - sent >= BATCH_BYTES:
            yield counted.size - sent, lines
            sent, lines = counted.size, []
    if lines:
        yield counted.size - sent, lines


class _Counted:
    """A file that knows how many of its bytes were read."""

    def __init__(self, file: BinaryIO) -> None:
        self._read = getattr(file, "read1", file.read)
        self.size = 0

    def read(self, size: int, /) -> bytes:
        """Read up to `size` bytes."""
        piece = self._read(size)
        self.size += len(piece)
        return piece
