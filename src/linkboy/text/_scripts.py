"""Scripts written without spaces between words, and the language whose fonts fit a text."""

from collections.abc import Sequence

import numpy as np

# Kana, Han, Thai, Lao, Myanmar, Khmer.
UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


def is_unspaced(character: str) -> bool:
    """Return whether a character belongs to a script written without spaces between words."""
    return any(low <= ord(character) <= high for low, high in UNSPACED)


def unspaced_share(texts: Sequence[str]) -> float:
    """Return the share of letters that belong to scripts written without spaces, in a sample of the texts."""
    sample = "".join(texts[:: max(1, len(texts) // 1000)])
    codes = np.frombuffer(sample.encode("utf-32-le", "surrogatepass"), np.uint32)
    unspaced = sum(int(((codes >= low) & (codes <= high)).sum()) for low, high in UNSPACED)
    letters = sum(map(str.isalpha, sample))
    return unspaced / letters if letters else 0.0


def font_language(text: str) -> str:
    """Return the language tag whose fonts fit a text, `""` where any do: a Han character has a shape per language."""
    if any("\u3040" <= character <= "\u30ff" for character in text):
        return "ja"
    if any("\uac00" <= character <= "\ud7af" for character in text):
        return "ko"
    return "zh-Hans" if any("\u3400" <= character <= "\u9fff" for character in text) else ""
