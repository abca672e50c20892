"""BasicTokenizer: from a string to words and signs, equal to Google's reference to the last character."""

from collections.abc import Iterable, Mapping, Set

from linkboy._checks import check_choice, check_flag
from linkboy.text.characters import Rules, is_punctuation, is_space, scan

CHARACTERS_KEPT = 1 << 16


class BasicTokenizer:
    """Split text into words, signs and single Han characters exactly as BERT's own `BasicTokenizer` does.

    Text is cleaned of control and format characters, Han characters become tokens of their own, tokens are lower-cased
    and stripped of accents, and every punctuation sign is split off.

    Args:
        do_lower_case: lower-case the text; also strips accents unless `strip_accents` says otherwise.
        strip_accents: decompose and drop combining marks; `None` follows `do_lower_case`.
        tokenize_chinese_chars: make every Han character a token.
        never_split: tokens, as they stand between spaces, that stay as they are.
        han: `"google"` splits the ranges of the reference; `"all"` also Extensions F and later, radicals, 々 and 〇.
        kana: also split Japanese kana one by one.
        emoji: also split emoji and pictographs one by one.

    Raises:
        TypeError: a flag is no `bool`, `never_split` is a bare string, or a text is neither `str` nor `bytes`.
        ValueError: `han` is unknown.

    Examples:
        >>> from linkboy import BasicTokenizer
        >>> BasicTokenizer().tokenize("Café 北京2008!")
        ['cafe', '北', '京', '2008', '!']
        >>> BasicTokenizer(never_split=["[MASK]"]).tokenize("I [MASK] you")
        ['i', '[MASK]', 'you']

    Source: `tokenization.py` of https://github.com/google-research/bert. Differs from the copied snippet: no loop over
    characters, a lone surrogate is allowed, and `never_split` (from transformers) is there. "Exactly" means: as the
    reference answers on this Python, since both ask its `unicodedata`.
    """

    def __init__(
        self,
        do_lower_case: bool = True,
        strip_accents: bool | None = None,
        tokenize_chinese_chars: bool = True,
        never_split: Iterable[str] = (),
        *,
        han: str = "google",
        kana: bool = False,
        emoji: bool = False,
    ) -> None:
        self.never_split = check_never_split(never_split)
        self.rules = make_rules(do_lower_case, strip_accents, tokenize_chinese_chars, han=han, kana=kana, emoji=emoji)
        self._table = CharacterTable(self.rules)
        self._first_characters = frozenset(token[0] for token in self.never_split)

    def tokenize(self, text: str | bytes) -> list[str]:
        """Return the tokens of one text; bytes are read as UTF-8, leaving out what is not."""
        text = as_text(text)
        if self._first_characters and not self._first_characters.isdisjoint(text):
            return [word.text for word in scan(text, self.rules, self.never_split)]
        try:
            return text.translate(self._table).split()
        except DependsOnNeighboursError:
            return [word.text for word in scan(text, self.rules, self.never_split)]

    def tokenize_batch(self, texts: Iterable[str | bytes]) -> list[list[str]]:
        """Return the tokens of each text."""
        return [self.tokenize(text) for text in check_texts("texts", texts)]


class DependsOnNeighboursError(Exception):
    """A character that cannot be translated by itself; never leaves the room."""


class CharacterTable(dict[int, str]):
    """What `str.translate` puts in a character's place, worked out at first sight; forgets when it grows large."""

    def __init__(self, rules: Rules) -> None:
        super().__init__()
        self.rules = rules

    def __missing__(self, code: int) -> str:
        if len(self) >= CHARACTERS_KEPT:
            self.clear()
        character, rules = chr(code), self.rules
        if rules.is_dropped(character):
            value = ""
        elif is_space(character):
            value = " "
        elif rules.depends_on_neighbours(character):
            raise DependsOnNeighboursError
        else:
            value = rules.fold(character)
            if rules.is_alone(character) or (value and is_punctuation(value[0])):
                value = f" {value} "
        self[code] = value
        return value

    def __reduce__(self) -> tuple[type["CharacterTable"], tuple[Rules]]:
        return CharacterTable, (self.rules,)


def make_rules(
    do_lower_case: bool,
    strip_accents: bool | None,
    tokenize_chinese_chars: bool,
    *,
    han: str = "google",
    kana: bool = False,
    emoji: bool = False,
    drop_private: bool = False,
) -> Rules:
    """Check the options that both tokenizers share and turn them into `Rules`."""
    check_flag("do_lower_case", do_lower_case)
    check_flag("tokenize_chinese_chars", tokenize_chinese_chars)
    check_flag("kana", kana)
    check_flag("emoji", emoji)
    if strip_accents is not None and not isinstance(strip_accents, bool):
        raise TypeError(f"strip_accents must be True, False or None, got {strip_accents!r}")
    check_choice("han", han, ("google", "all"))
    strip = do_lower_case if strip_accents is None else strip_accents
    return Rules(do_lower_case, strip, tokenize_chinese_chars, han, kana, emoji, drop_private)


def check_never_split(never_split: Iterable[str]) -> frozenset[str]:
    """Return the tokens as a set; a bare string, whose letters would be taken for tokens, is refused."""
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
    """Return the texts as a list of strings; say which one is none."""
    if isinstance(texts, (str, bytes)):
        raise TypeError(f"{argument} must be a list of texts, got a single {type(texts).__name__}")
    if not isinstance(texts, Iterable) or isinstance(texts, (Set, Mapping)):  # which have no order, or are no texts
        raise TypeError(f"{argument} must be a list of texts, got {type(texts).__name__}")
    texts = list(texts)
    # One pass in C for the usual case; the loop only runs where bytes are to be read or a message is due.
    if set(map(type, texts)) <= {str}:
        return texts  # type: ignore[return-value]
    return [as_text(text, f"{argument}[{index}]") for index, text in enumerate(texts)]
