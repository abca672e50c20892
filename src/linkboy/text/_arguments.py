"""What the tokenizers require of their arguments: options of the rules, tokens that stay whole, and texts."""

from collections.abc import Iterable, Mapping, Set
from typing import get_args

from linkboy._checks import check_choice, check_flag
from linkboy.text._characters import Han, Rules


def make_rules(
    do_lower_case: bool,
    strip_accents: bool | None,
    tokenize_chinese_chars: bool,
    *,
    han: Han = "google",
    kana: bool = False,
    emoji: bool = False,
    drop_private: bool = False,
) -> Rules:
    """Return the `Rules` for the options that both tokenizers share, or raise."""
    check_flag("do_lower_case", do_lower_case)
    check_flag("tokenize_chinese_chars", tokenize_chinese_chars)
    check_flag("kana", kana)
    check_flag("emoji", emoji)
    if strip_accents is not None and not isinstance(strip_accents, bool):
        raise TypeError(f"strip_accents must be True, False or None, got {strip_accents!r}")
    check_choice("han", han, get_args(Han))
    strip = do_lower_case if strip_accents is None else strip_accents
    return Rules(do_lower_case, strip, tokenize_chinese_chars, han, kana, emoji, drop_private)


def check_never_split(never_split: Iterable[str]) -> frozenset[str]:
    """Return the tokens as a set; raise for a bare string, whose letters would become tokens."""
    if isinstance(never_split, (str, bytes)):
        kind = type(never_split).__name__
        raise TypeError(f"never_split must be a collection of tokens, got the bare {kind} {never_split!r}")
    tokens = frozenset(never_split)
    for token in tokens:
        if not isinstance(token, str) or not token:
            raise TypeError(f"never_split must hold non-empty strings, got {token!r}")
    return tokens


def as_text(text: str | bytes, argument: str = "text") -> str:
    """Return the text; bytes are read as UTF-8, leaving out what is not."""
    if isinstance(text, str):
        return text
    if isinstance(text, bytes):
        return text.decode("utf-8", "ignore")  # as the reference does
    raise TypeError(f"{argument} must be str or bytes, got {type(text).__name__}")


def check_texts(argument: str, texts: Iterable[str | bytes]) -> list[str]:
    """Return the texts as a list of strings, or raise an error that names the one that is not a text."""
    if isinstance(texts, (str, bytes)):
        raise TypeError(f"{argument} must be a list of texts, got a single {type(texts).__name__}")
    if not isinstance(texts, Iterable) or isinstance(texts, (Set, Mapping)):  # neither is a list of texts
        raise TypeError(f"{argument} must be a list of texts, got {type(texts).__name__}")
    texts = list(texts)
    # One pass in C for the usual case; the loop runs only to decode bytes or to name what is not a text.
    if set(map(type, texts)) <= {str}:
        return texts  # type: ignore[return-value]
    return [as_text(text, f"{argument}[{index}]") for index, text in enumerate(texts)]
