"""Files that hold no vectors, told by their first bytes, and bytes that are text or not."""

import codecs
import re
import struct
from pathlib import Path

from linkboy._reading import compression_of, foreign_kind

FASTTEXT_MAGIC = 793712314
# dim, ws, epoch, minCount, neg, wordNgrams, loss, model, bucket, minn, maxn, lrUpdateRate, t
FASTTEXT_ARGUMENTS = struct.Struct("<12id")
_AS_ARRAY = "save its numbers as .npy, and pass its words"
# What people pass for vectors, beside what is no text at all.
_MAGIC = (
    (b"PAR1", "a Parquet file", _AS_ARRAY),
    (b"%%MatrixMarket", "a Matrix Market file", _AS_ARRAY),
    (b"GGUF", "a GGUF model", "name the safetensors file of the model"),
    (b"\x04\x22\x4d\x18", "packed by lz4", "unpack it"),
    (b"\x89PNG", "a picture", "get the file of vectors"),
    (b"\x7fELF", "a program", "get the file of vectors"),
)
_PAGE = re.compile(rb"\s*<(head|body|script|!--)", re.IGNORECASE)
_JSON = re.compile(rb'\s*(\{\s*["}]|\[\s*[\[{"])')
_SPECIAL_WORDS = re.compile(rb"\[\w+\]")
_CONTROL = bytes({*range(32)} - set(b"\t\n\r\x0c\x1b"))
_OF_NUMBERS = b"0123456789.,;:|+-eE \t\r\n"


def check_is_vectors(path: Path, head: bytes) -> None:
    """Raise a `ValueError` where the first bytes are those of something that is known and holds no vectors."""
    if (inner := compression_of(head)) != "none":
        raise ValueError(f"{str(path)!r} is packed twice, inside by {inner}; unpack it once and name what comes out")
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise ValueError(
            f"{str(path)!r} is a pickle, which could run any code and is never opened; export its words and numbers "
            "as text"
        )
    found = foreign_kind(head) or next(((what, fix) for magic, what, fix in _MAGIC if head.startswith(magic)), None)
    if found is None and _PAGE.match(head):
        found = ("an HTML page", "download the file itself, not the page that shows it")
    if found is not None:
        what, fix = found
        if "tar archive" in what:
            what += f" whose first file is {head[:100].rstrip(bytes(1)).decode('utf-8', 'replace')!r}"
            fix += " with `tar xf` and name the file of vectors in it"
        if "Parquet" in fix or "HDF5" in what:
            fix = _AS_ARRAY
        raise ValueError(f"{str(path)!r} is {what}, which holds no vectors to read; {fix}")
    head = head.removeprefix(codecs.BOM_UTF8)
    if _JSON.match(head) and not _SPECIAL_WORDS.match(head):
        raise ValueError(f"{str(path)!r} is JSON and not a file of vectors; write a word and its numbers in each line")


def is_fasttext(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of a fastText model, also of the first format.

    Examples:
        >>> is_fasttext(struct.pack("<2i", 793712314, 12)), is_fasttext(b"the 0.1 0.2")
        (True, False)
    """
    if head[:4] == struct.pack("<i", FASTTEXT_MAGIC):
        return True
    if len(head) < FASTTEXT_ARGUMENTS.size:
        return False
    dim, ws, epoch, least, negative, grams, loss, model, bucket, shortest, longest, _, sampling = (
        FASTTEXT_ARGUMENTS.unpack_from(head)
    )
    return (  # the first format begins with its arguments, which are small numbers; four letters of text are a large one
        0 < dim <= 1 << 16 and 0 < ws < 1000 and 0 <= epoch < 1 << 20 and 0 <= least < 1 << 24 and 0 <= negative < 1 << 16
        and 0 < grams < 100 and 1 <= loss <= 4 and 1 <= model <= 3 and bucket >= 0 and 0 <= shortest <= longest + 1 < 1000
        and 0 <= sampling <= 1
    )  # fmt: skip


def is_text(content: bytes) -> bool:
    """Return whether bytes from anywhere in a file are text in some encoding whose digits are those of ASCII.

    Examples:
        >>> is_text("w\xf6rld 0.1".encode("latin-1")), is_text(b"a \\x00\\x00\\xc0\\x3f\\xcd\\xcc")
        (True, False)
    """
    others = len(content.translate(None, _OF_NUMBERS))
    if 2 * others < len(content):
        return True
    if len(content.translate(None, _CONTROL)) < len(content):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(content)
    except UnicodeDecodeError:
        return 4 * others < 3 * len(content)
    return True
