"""BasicTokenizer: from a string to words and punctuation, equal to Google's reference to the last character."""

from collections.abc import Iterable

from linkboy.text._arguments import as_text, check_never_split, check_texts, make_rules
from linkboy.text._character_table import CharacterTable, DependsOnNeighboursError
from linkboy.text._characters import Han, scan


class BasicTokenizer:
    """Split text into words, punctuation and single Han characters exactly as BERT's own `BasicTokenizer` does.

    Text is cleaned of control and format characters, Han characters become tokens of their own, tokens are lower-cased
    and stripped of accents, and every punctuation mark is split off.

    Args:
        do_lower_case: whether to lower-case the text, and to strip accents unless `strip_accents` says otherwise.
        strip_accents: whether to decompose and drop combining marks; `None` follows `do_lower_case`.
        tokenize_chinese_chars: whether to make every Han character a token.
        never_split: tokens that stay unchanged where they stand between spaces.
        han: `"google"` splits the ranges of the reference; `"all"` also Extensions F and later, radicals, 々 and 〇.
        kana: whether to split Japanese kana one by one, too.
        emoji: whether to split emoji and pictographs one by one, too.

    Raises:
        TypeError: a flag is not a `bool`, `never_split` is a bare string, or a text is neither `str` nor `bytes`.
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
        han: Han = "google",
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
