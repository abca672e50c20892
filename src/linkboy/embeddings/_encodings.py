"""In which encoding the words of a text file are: told by a byte order mark, asked for, or suggested."""

from collections.abc import Sequence

from linkboy._encodings import decoded, encoding_of_mark, likely_encodings, unmarked_utf16
from linkboy.embeddings._source import BUFFER, Source

_SHOWN = 20
_LOOKED_AT = 50  # words


def ascii_digits(codec: str) -> bool:
    """Return whether numbers and separators are the bytes of ASCII, so that words may be compared as bytes.

    Examples:
        >>> [ascii_digits(codec) for codec in ("gb18030", "latin-1", "utf-16", "cp037")]
        [True, True, False, False]
    """
    text = "0123456789.,;|eE+- \t\n"
    return text.encode(codec) == text.encode("ascii") and codec not in ("utf-7", "utf_7", "hz")


def wide_encoding(source: Source) -> str | None:
    """Return the encoding of more than a byte per character that the start of the file shows."""
    head = source.stream.peek(512)[:512]
    named = encoding_of_mark(head) or unmarked_utf16(head)
    return None if named == "utf-8" else named


def encoding_note(source: Source, codec: str) -> str | None:
    """Return what to say where most words outside ASCII at the start of the file are not in the encoding."""
    content = source.stream.peek(BUFFER)
    if content.isascii():
        return None
    content = content[: content.rfind(b"\n") + 1] or content
    if decoded(content, codec) is not None:
        return None
    return note_on_words(
        [line.split(None, 1)[0] for line in content.split(b"\n") if line.strip() and not line.isascii()], codec
    )


def note_on_words(words: Sequence[bytes], codec: str) -> str | None:
    """Return what to say where most of these words, all outside ASCII, are not in the encoding."""
    bad = [word for word in words if decoded(word, codec) is None]
    if not bad or 2 * len(bad) < len(words):
        return None
    likely = likely_encodings(b"\n".join(bad[:_LOOKED_AT]))
    shown = f"words such as {bad[0][:_SHOWN]!r} are not in {codec.upper()}"
    if not likely:
        return f"{shown}; pass the encoding that they are in"
    name, text = likely[0]
    return f"{shown}; pass encoding={name!r} if {text.split()[0][:_SHOWN]!r} is right"
