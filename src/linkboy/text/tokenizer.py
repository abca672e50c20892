"""BertTokenizer: texts to what a BERT model takes, exact and at array speed."""

import dataclasses
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, Self

from linkboy._checks import check_choice, check_flag, check_number
from linkboy.text._added_tokens import AddedToken
from linkboy.text._arguments import as_text, check_never_split, check_texts, make_rules
from linkboy.text._call_options import CallOptions, Padding, Side, Tensors, Truncation, check_options, check_room
from linkboy.text._characters import Han, Rules
from linkboy.text._decode import Spaces, clean_up_text, decode_tokens
from linkboy.text._directory import INPUTS, read_directory, write_directory
from linkboy.text._encoding import Details, Encoding, to_encoding
from linkboy.text._explain import explain_texts
from linkboy.text._flat import join_words
from linkboy.text._inputs import Inputs, Text, Texts, read_inputs, words_of
from linkboy.text._padding import pad_rows
from linkboy.text._quick_rows import make_plan, quick_rows
from linkboy.text._rows import Around, TokenRows, make_rows
from linkboy.text._special_tokens import SpecialTokens
from linkboy.text._text_encoder import TextEncoder
from linkboy.text._token_names import TokenNames
from linkboy.text._tokenizer_json import read_tokenizer_json
from linkboy.text._vocabulary import UNK, Vocabulary, load_vocabulary
from linkboy.text.report import TokenizationReport

Compat = Literal["google", "hf"]
WORD_LIMITS = {"google": 200, "hf": 100}


class _Fixed(NamedTuple):
    """What a tokenizer is made with and cannot change."""

    rules: Rules
    compat: Compat
    never_split: frozenset[str]
    max_input_chars_per_word: int


class BertTokenizer(TokenNames):
    """Turn text into WordPiece ids exactly as BERT's reference does, many texts at once.

    Args:
        vocab: path of a `vocab.txt`, a list of tokens in the order of their ids, or a dict from token to id. It must hold
            `[UNK]`. If a token occurs twice, its later id is used and no other id shifts.
        do_lower_case: whether to lower-case the text, and to strip accents unless `strip_accents` says otherwise.
        strip_accents: whether to decompose and drop combining marks; `None` follows `do_lower_case`.
        tokenize_chinese_chars: whether to make every Han character a token.
        never_split: tokens that are looked up whole where they stand between spaces.
        compat: `"google"` is the reference: words over 200 characters are `[UNK]`, private-use characters are letters,
            `[MASK]` in a text is split like any other text. `"hf"` is what models from the Hugging Face hub are used
            with: the limit is 100, private-use characters are dropped, and the special tokens are matched in the raw text
            before anything else.
        max_input_chars_per_word: a limit other than that of `compat`.
        model_max_length: the `max_length` of a call that truncates or pads without naming one.
        han: as for `BasicTokenizer`.
        kana: as for `BasicTokenizer`.
        emoji: as for `BasicTokenizer`.
        added_tokens: tokens that are found in texts whole, strings or `AddedToken`, or a mapping from these to ids. Without
            ids, those that the vocabulary does not have get the next free ones.
        extra_special_tokens: added tokens that are special: decoding leaves them out. A dict gives them names:
            `{"entity_token": "<e>"}` makes `tokenizer.entity_token`.
        bos_token: the token with this name; transformers keeps it, BERT does not use it.
        eos_token: the token with this name; transformers keeps it, BERT does not use it.
        unk_token: what a word without a cut becomes; `None` is `[UNK]`.
        sep_token: what stands after each text; `None` is `[SEP]`, and so for the next three, where the vocabulary has
            them. A token that the vocabulary does not have is added.
        pad_token: what fills up rows.
        cls_token: what stands before a text.
        mask_token: what stands for a token that is to be guessed.
        padding_side: `"right"` or `"left"`.
        truncation_side: the side at which a text that is too long is cut.
        model_input_names: which of `input_ids`, `token_type_ids` and `attention_mask` a call returns.
        clean_up_tokenization_spaces: whether `decode` closes up punctuation and contractions where it writes as transformers.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the vocabulary has no `[UNK]`, is not UTF-8, or gives one id to two tokens; an option is unknown.

    Examples:
        >>> from linkboy import BertTokenizer
        >>> tokenizer = BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "你", "好", "play", "##ing", "!"])
        >>> tokenizer.tokenize("你好, playing!")
        ['你', '好', '[UNK]', 'play', '##ing', '!']
        >>> tokenizer(["你好", "Playing!"], padding=True, return_tensors="np")["input_ids"]
        array([[2, 4, 5, 3, 0],
               [2, 6, 7, 8, 3]])

    Threads may share a tokenizer, processes may inherit or unpickle it, and no environment variable is needed. Its caches
    are bounded. Source: `tokenization.py` of https://github.com/google-research/bert; Devlin et al. 2018,
    https://arxiv.org/abs/1810.04805. Differs from `transformers.BertTokenizer`: see `compat` and docs/text.md.
    """

    def __init__(
        self,
        vocab: Vocabulary,
        *,
        do_lower_case: bool = True,
        strip_accents: bool | None = None,
        tokenize_chinese_chars: bool = True,
        never_split: Iterable[str] = (),
        compat: Compat = "google",
        max_input_chars_per_word: int | None = None,
        model_max_length: int | None = None,
        han: Han = "google",
        kana: bool = False,
        emoji: bool = False,
        added_tokens: Iterable[str | AddedToken] | Mapping[str | AddedToken, int] = (),
        extra_special_tokens: Iterable[str | AddedToken] | Mapping[str, str | AddedToken] = (),
        bos_token: str | AddedToken | None = None,
        eos_token: str | AddedToken | None = None,
        unk_token: str | AddedToken | None = None,
        sep_token: str | AddedToken | None = None,
        pad_token: str | AddedToken | None = None,
        cls_token: str | AddedToken | None = None,
        mask_token: str | AddedToken | None = None,
        padding_side: Side = "right",
        truncation_side: Side = "right",
        model_input_names: Sequence[str] = INPUTS,
        clean_up_tokenization_spaces: bool = False,
    ) -> None:
        check_choice("compat", compat, tuple(WORD_LIMITS))
        if max_input_chars_per_word is not None:
            check_number("max_input_chars_per_word", max_input_chars_per_word, minimum=1, integer=True)
        rules = make_rules(
            do_lower_case,
            strip_accents,
            tokenize_chinese_chars,
            han=han,
            kana=kana,
            emoji=emoji,
            drop_private=compat == "hf",
        )
        self._fixed = _Fixed(
            rules, compat, check_never_split(never_split), max_input_chars_per_word or WORD_LIMITS[compat]
        )
        self.model_max_length = model_max_length
        self.padding_side, self.truncation_side = padding_side, truncation_side
        self.model_input_names = model_input_names
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces
        self._deprecation_warnings: dict[str, bool] = {}
        unknown = UNK if unk_token is None else str(unk_token)
        vocabulary, self._in_file = load_vocabulary(vocab, unknown)
        names = {
            "bos_token": bos_token,
            "eos_token": eos_token,
            "unk_token": unk_token,
            "sep_token": sep_token,
            "pad_token": pad_token,
            "cls_token": cls_token,
            "mask_token": mask_token,
        }
        special = SpecialTokens.make(
            vocabulary,
            names=names,
            extra=extra_special_tokens,
            added=added_tokens,
            match_names=compat == "hf",
        )
        self._encoder = TextEncoder(
            vocabulary,
            rules,
            unknown_id=special.unknown_id,
            limit=self._fixed.max_input_chars_per_word,
            never_split=self._fixed.never_split,
            added=special.matched,
        )
        self._take(special)

    def _change(self, special: SpecialTokens) -> None:
        self._encoder = self._encoder.with_added(special.matched)
        self._take(special)

    def _take(self, special: SpecialTokens) -> None:
        self._tokens = self._in_file | {number: token.content for token, number in special.matched.items()}
        self._special, self._plan = special, None
        cls_id, sep_id = special.id_for("cls_token"), special.id_for("sep_token")
        self._known_around = None if cls_id is None or sep_id is None else Around(cls_id, sep_id)
        self._known_pad = special.id_for("pad_token")

    @classmethod
    def from_tokenizer_json(cls, path: str | os.PathLike[str]) -> Self:
        """Read a `tokenizer.json` that holds a BERT tokenizer; a file of another kind is refused.

        Returns:
            A tokenizer with `compat="hf"`, which is what such a file means, and the file's own word limit and added tokens.

        Raises:
            ValueError: the file is not JSON, or its model, normalizer, pre-tokenizer, post-processor or added tokens are not
                such as BERT's tokenizer can have.
        """
        vocab, options = read_tokenizer_json(path)
        return cls._read_from(path, vocab, options)

    @classmethod
    def from_pretrained(
        cls, directory: str | os.PathLike[str], *, ignore: Collection[str] = (), **options: Any
    ) -> Self:
        """Read a local model directory: all files of a tokenizer that are in it.

        Vocabulary, special tokens and added tokens are taken from `tokenizer.json` or `vocab.txt`, `tokenizer_config.json`,
        `special_tokens_map.json` and `added_tokens.json`, as transformers takes them. What these say and this tokenizer does
        not do is refused by name.

        Args:
            directory: the directory.
            ignore: entries of `tokenizer_config.json` to pass over.
            **options: arguments of `BertTokenizer` that take the place of what the directory says.

        Returns:
            The tokenizer that `save_pretrained` wrote; the directory of another library gives one with `compat="hf"`.

        Raises:
            FileNotFoundError: there is no such directory, or no vocabulary in it; nothing is ever downloaded.
            ValueError: the files belong to another kind of tokenizer, contradict each other, or ask for something else
                that this tokenizer does not do.
        """
        if isinstance(ignore, str):
            raise TypeError(f"ignore must be a collection of names, got the bare string {ignore!r}")
        vocab, found = read_directory(directory, ignore)
        return cls._read_from(directory, vocab, {**found, **options})

    @classmethod
    def _read_from(cls, path: str | os.PathLike[str], vocab: Vocabulary, options: dict[str, Any]) -> Self:
        own = options.pop("own_names", {})
        extra = options.pop("extra_special_tokens", ())
        try:
            tokenizer = cls(vocab, **options)
            special = tokenizer._special
            for name, token in own.items():  # their ids come before those of tokens without names
                special = special.with_name(name, token, match=tokenizer.compat == "hf")
            tokenizer._change(special.with_extra(extra))
        except ValueError as error:
            raise ValueError(f"{error}; read from {os.fspath(path)!r}") from None
        return tokenizer

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write `vocab.txt`, `tokenizer.json` and `tokenizer_config.json`, which `transformers` and `tokenizers` load.

        Raises:
            ValueError: the vocabulary has gaps, or an option is on that these files cannot express.
        """
        write_directory(
            directory,
            self._special,
            self.rules,
            compat=self.compat,
            word_limit=self.max_input_chars_per_word,
            never_split=self.never_split,
            entries={
                "model_input_names": self.model_input_names,
                "model_max_length": self.model_max_length or 10**30,
                "padding_side": self.padding_side,
                "truncation_side": self.truncation_side,
                "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
            },
        )

    def __call__(
        self,
        text: Texts,
        text_pair: Texts | None = None,
        *,
        add_special_tokens: bool = True,
        padding: Padding = False,
        truncation: Truncation = False,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: Side | None = None,
        return_tensors: Tensors = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
    ) -> Encoding:
        """Tokenize one text or many; the names are those of `transformers`.

        Args:
            text: a text, a list of `N` texts, or a list of `N` pairs of texts. With `is_split_into_words` each text is a list
                of words.
            text_pair: the second text of each pair: one text, or a list of `N`.
            add_special_tokens: whether to put `[CLS]` first and `[SEP]` after each text.
            padding: `True` or `"longest"`, `"max_length"`, or `False`.
            truncation: `True` or `"longest_first"`, `"only_first"`, `"only_second"`, or `False`.
            max_length: the most tokens that a row may have, special ones included.
            stride: tokens that a row shares with the one it continues; needs `return_overflowing_tokens`.
            is_split_into_words: whether texts are lists of words; each word is cut by itself, and `offset_mapping` counts
                its characters.
            pad_to_multiple_of: a number of which the width of the rows becomes a multiple.
            padding_side: `"right"` or `"left"`; `None` is that of the tokenizer.
            return_tensors: `"pt"`, `"np"`, `None` for lists, or `"flat"`: tensors of all rows end to end, row `i` from
                `row_splits[i]` to `row_splits[i + 1]`; `"flat_np"` gives the same as NumPy arrays.
            return_token_type_ids: whether to return `token_type_ids`; `None` follows `model_input_names`.
            return_attention_mask: whether to return `attention_mask`; `None` follows `model_input_names`.
            return_overflowing_tokens: whether to continue a text that is too long in further rows.
            return_special_tokens_mask: whether to add `special_tokens_mask`, 1 for `[CLS]`, `[SEP]` and `[PAD]`.
            return_offsets_mapping: whether to add `offset_mapping`, the `[start, end)` of each token in the original
                text; for bytes, in the text that they decode to.
            return_length: whether to add `length`, the number of tokens of each row, padding included.
            verbose: accepted for transformers' sake; nothing is ever printed.

        Returns:
            A dict with `input_ids`, `token_type_ids` and `attention_mask`, `(N, L)` and int64 as tensors; a single text
            without `return_tensors` gives plain lists instead of lists of lists. `"flat"`: `input_ids` `(T,)`,
            `row_splits` `(N + 1,)` int32, and `token_type_ids` for pairs. Its methods say which word and which characters
            a token comes from.

        Raises:
            TypeError: a text is neither `str` nor `bytes`.
            ValueError: options contradict each other, `max_length` has no room for the special tokens, or rows of
                different length are to become a tensor without padding.
        """
        alone, plan = text_pair is None and is_split_into_words is False, self._plan
        # A call that asks for the same as the last one, object by object, needs none of what follows.
        asked = (
            add_special_tokens,
            padding,
            truncation,
            max_length,
            stride,
            pad_to_multiple_of,
            padding_side,
            return_tensors,
            return_token_type_ids,
            return_attention_mask,
            return_overflowing_tokens,
            return_special_tokens_mask,
            return_offsets_mapping,
            return_length,
        )
        if plan is not None and alone and (encoding := plan[0](text, asked, plan[1])) is not None:
            return encoding
        options = check_options(
            add_special_tokens,
            padding,
            truncation,
            max_length,
            self._model_max_length,
            stride,
            pad_to_multiple_of,
            return_overflowing_tokens,
            return_offsets_mapping,
            return_special_tokens_mask,
            return_tensors,
            self._padding_side if padding_side is None else padding_side,
            self._truncation_side,
            self._returns_types if return_token_type_ids is None else return_token_type_ids,
            self._returns_mask if return_attention_mask is None else return_attention_mask,
            return_length,
        )
        core = self._encoder.core if alone else None
        around = self._around() if add_special_tokens else Around(0, 0)
        pad_id = self._pad_id() if options.padding else 0
        known = _make_details, self._encoder, options, around, pad_id, self._tokens
        encoding, given = None, text
        if core is not None:
            given = text.copy() if type(text) is list else text  # the caller may write into theirs
            encoding = quick_rows(core, given, options, around, pad_id)
            self._plan = make_plan(core, asked, options, around, pad_id, known)
        if encoding is None:
            given = read_inputs(text, text_pair, is_split_into_words)
            check_room(options, given.pair)
            rows = _make_rows(self._encoder, given, options, around)
            encoding = to_encoding(rows, options, pad_id, single=given.single, numbers=self._encoder.numbers)
        encoding._details = known, given
        return encoding

    def encode(
        self,
        text: Any,
        text_pair: Any = None,
        add_special_tokens: bool = True,
        *,
        padding: Padding = False,
        truncation: Truncation = False,
        max_length: int | None = None,
        stride: int = 0,
        padding_side: Side | None = None,
        return_tensors: Tensors = None,
        is_split_into_words: bool = False,
    ) -> Any:
        """Return the ids of one text, or of one pair of texts; the options are those of the call.

        Examples:
            >>> BertTokenizer(["[UNK]", "[CLS]", "[SEP]", "你"]).encode("你们")
            [1, 3, 0, 2]
        """
        plain = padding is False and truncation is False and max_length is None and return_tensors is None
        if isinstance(text, Text) and text_pair is None and plain and not stride and not is_split_into_words:
            check_flag("add_special_tokens", add_special_tokens)
            ids = self._encoder.ids(text if isinstance(text, str) else as_text(text))
            if not add_special_tokens:
                return ids
            cls_id, sep_id = self._around()
            return [cls_id, *ids, sep_id]
        encoding = self(
            text,
            text_pair,
            add_special_tokens=add_special_tokens,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            stride=stride,
            padding_side=padding_side,
            return_tensors=return_tensors,
            is_split_into_words=is_split_into_words,
            return_token_type_ids=False,
            return_attention_mask=False,
        )
        return encoding["input_ids"]

    def tokenize(
        self, text: str | bytes, pair: str | bytes | None = None, add_special_tokens: bool = False
    ) -> list[str]:
        """Return the tokens of one text, or of a pair of texts one after the other; words without a cut are `[UNK]`."""
        check_flag("add_special_tokens", add_special_tokens)
        if add_special_tokens:
            ids = self.encode(text, pair)
        else:
            ids = self._encoder.ids(as_text(text))
            if pair is not None:
                ids = ids + self._encoder.ids(as_text(pair, "pair"))
        return [self._tokens[number] for number in ids]

    def pad(
        self,
        encoded_inputs: Any,
        padding: Padding = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: Side | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: Literal["pt", "np"] | None = None,
        verbose: bool = True,
    ) -> Encoding:
        """Make the rows of encodings equally long, as the collators of transformers ask for it.

        Args:
            encoded_inputs: an encoding, or a list of encodings, one for each text.
            padding: as for the call.
            max_length: the width for `padding="max_length"`; `None` is `model_max_length`.
            pad_to_multiple_of: a number of which the width becomes a multiple.
            padding_side: `"right"` or `"left"`; `None` is that of the tokenizer.
            return_attention_mask: whether to make an attention mask where there is none; `None` follows
                `model_input_names`.
            return_tensors: `"pt"`, `"np"`, or `None` for what came.
            verbose: accepted for transformers' sake; nothing is ever printed.

        Returns:
            The encodings as one, with `input_ids`, `token_type_ids`, `attention_mask` and `special_tokens_mask` padded, and
            other keys unchanged.

        Examples:
            >>> tokenizer = BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "你"])
            >>> tokenizer.pad([tokenizer("你"), tokenizer("你你")])["input_ids"]
            [[2, 4, 3, 0], [2, 4, 4, 3]]
        """
        side = self._padding_side if padding_side is None else padding_side
        check_choice("padding_side", side, ("left", "right"))
        return pad_rows(
            encoded_inputs,
            pad_id=self._pad_id() if padding not in (False, "do_not_pad") else 0,
            padding=padding,
            max_length=self._model_max_length if max_length is None else max_length,
            multiple=pad_to_multiple_of,
            left=side == "left",
            mask=self._returns_mask if return_attention_mask is None else return_attention_mask,
            tensors=return_tensors,
        )

    def decode(
        self,
        token_ids: Iterable[int],
        skip_special_tokens: bool = True,
        clean_up_tokenization_spaces: bool | None = None,
        *,
        spaces: Spaces = "auto",
    ) -> str:
        """Return the text that ids stand for, as far as it can be restored.

        Args:
            token_ids: token ids, a list or a 1-D tensor.
            skip_special_tokens: whether to leave out special tokens. With `compat="google"` `[UNK]` stays, as it is a word;
                with `"hf"` it goes, as in transformers.
            clean_up_tokenization_spaces: whether to write `it's` and not `it ' s`, wherever it stands: transformers removes
                the spaces around any single `'`, also those of quotations. `None` is what the tokenizer was made with where
                `spaces=True`, and no otherwise.
            spaces: `True` writes as transformers: a space between any two words, none before `. , ? !`. `"auto"` does so,
                too, but has no space between Han or kana. `False` writes none.

        Returns:
            The text.

        Examples:
            >>> BertTokenizer(["[UNK]", "[CLS]", "[SEP]", "你", "好", "bert", "##s"]).decode([1, 3, 4, 5, 6, 2])
            '你好 berts'
        """
        check_flag("skip_special_tokens", skip_special_tokens)
        check_choice("spaces", spaces, ("auto", True, False))
        clean_up = clean_up_tokenization_spaces
        if clean_up is None:
            clean_up = spaces is True and self._clean_up
        check_flag("clean_up_tokenization_spaces", clean_up)
        tokens = self._tokens_of(token_ids, skip=self._left_out() if skip_special_tokens else frozenset())
        return decode_tokens(tokens, spaces, clean_up)

    def batch_decode(
        self,
        sequences: Iterable[Iterable[int]],
        skip_special_tokens: bool = True,
        clean_up_tokenization_spaces: bool | None = None,
        *,
        spaces: Spaces = "auto",
    ) -> list[str]:
        """Return the texts of many rows of ids: a list of lists, or a 2-D tensor; the options are those of `decode`."""
        rows = sequences.tolist() if hasattr(sequences, "tolist") else list(sequences)  # type: ignore[attr-defined]
        return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces, spaces=spaces) for row in rows]

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """Return the text of tokens, as transformers writes it."""
        return decode_tokens(list(tokens), True, clean_up=False)

    def clean_up_tokenization(self, text: str) -> str:
        """Return a text with punctuation and English contractions closed up, as transformers does."""
        return clean_up_text(text)

    def explain(self, texts: str | bytes | Sequence[str | bytes]) -> TokenizationReport:
        """Return a report of the tokens of each text with their spans, the share of `[UNK]`, and the dropped characters.

        Examples:
            >>> print(BertTokenizer(["[UNK]", "你"]).explain("你\\u200b们"))
            1 text, 3 characters: 2 tokens, of which [UNK] 1 (50.00%); 1 character dropped
            <BLANKLINE>
            text  span  token  characters
               0   0-1  你     你
               0   2-3  [UNK]  们
            <BLANKLINE>
            dropped
            text  index  character  reason
               0      1  U+200B     ZERO WIDTH SPACE, category Cf
        """
        items = [as_text(texts, "texts")] if isinstance(texts, Text) else check_texts("texts", texts)
        return explain_texts(items, self._encoder, self._tokens, self.rules)

    @property
    def rules(self) -> Rules:
        """What a character becomes."""
        return self._fixed.rules

    @property
    def compat(self) -> Compat:
        """The set of rules: `"google"` or `"hf"`."""
        return self._fixed.compat

    @property
    def never_split(self) -> frozenset[str]:
        """The tokens that are looked up whole where they stand between spaces."""
        return self._fixed.never_split

    @property
    def max_input_chars_per_word(self) -> int:
        """The number of characters above which a word is unknown."""
        return self._fixed.max_input_chars_per_word

    @property
    def do_lower_case(self) -> bool:
        """Whether the text is lower-cased."""
        return self.rules.lower

    @property
    def is_fast(self) -> bool:
        """Whether tokens know their characters, which transformers asks a tokenizer: always `True`."""
        return True

    @property
    def model_max_length(self) -> int | None:
        """The `max_length` of a call that truncates or pads without naming one."""
        return self._model_max_length

    @model_max_length.setter
    def model_max_length(self, length: int | None) -> None:
        if length is not None:
            check_number("model_max_length", length, minimum=1, integer=True)
        self._plan = None
        self._model_max_length = length

    @property
    def padding_side(self) -> Side:
        """The side at which rows are filled up."""
        return self._padding_side

    @padding_side.setter
    def padding_side(self, side: Side) -> None:
        check_choice("padding_side", side, ("left", "right"))
        self._plan = None
        self._padding_side: Side = side

    @property
    def truncation_side(self) -> Side:
        """The side at which a text that is too long is cut."""
        return self._truncation_side

    @truncation_side.setter
    def truncation_side(self, side: Side) -> None:
        check_choice("truncation_side", side, ("left", "right"))
        self._plan = None
        self._truncation_side: Side = side

    @property
    def model_input_names(self) -> list[str]:
        """Which of `input_ids`, `token_type_ids` and `attention_mask` a call returns."""
        return list(self._model_input_names)

    @model_input_names.setter
    def model_input_names(self, names: Sequence[str]) -> None:
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise TypeError(f"model_input_names must be a list of names, got {names!r}")
        for name in names:
            check_choice("model_input_names", name, INPUTS)
        if "input_ids" not in names:
            raise ValueError(f"model_input_names must hold 'input_ids', got {list(names)}")
        self._plan = None
        self._model_input_names = tuple(names)
        self._returns_types, self._returns_mask = "token_type_ids" in names, "attention_mask" in names

    @property
    def clean_up_tokenization_spaces(self) -> bool:
        """Whether `decode` closes up punctuation and contractions where it writes as transformers."""
        return self._clean_up

    @clean_up_tokenization_spaces.setter
    def clean_up_tokenization_spaces(self, on: bool) -> None:
        check_flag("clean_up_tokenization_spaces", on)
        self._clean_up = on

    @property
    def deprecation_warnings(self) -> dict[str, bool]:
        """A dict in which collators of transformers note the warnings that they turned off; nothing here reads it."""
        return self._deprecation_warnings

    @property
    def _tokenizer(self) -> SimpleNamespace:
        # Pipelines of transformers look here for the prefix that pieces have.
        return SimpleNamespace(model=SimpleNamespace(continuing_subword_prefix="##"))

    def __repr__(self) -> str:
        return f"BertTokenizer({self.vocab_size} tokens, {self._options()})"

    def _options(self) -> dict[str, Any]:
        rules = self.rules
        return {
            "do_lower_case": rules.lower,
            "strip_accents": rules.strip_accents,
            "tokenize_chinese_chars": rules.split_han,
            "never_split": tuple(sorted(self.never_split)),
            "compat": self.compat,
            "max_input_chars_per_word": self.max_input_chars_per_word,
            "model_max_length": self.model_max_length,
            "han": rules.han,
            "kana": rules.kana,
            "emoji": rules.emoji,
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
            "model_input_names": self.model_input_names,
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
        }

    def __getstate__(self) -> dict[str, Any]:
        # Everything else is made from these, faster than it could be read.
        special = self._special
        names, extra, added = dict(special.names), special.extra, dict(special.added)
        return {
            "vocab": dict(special.vocabulary),
            "tokens": self._in_file,
            "special": (names, extra, added),
            "options": self._options(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        names, extra, added = state["special"]
        self.__init__(state["vocab"], **state["options"], unk_token=names["unk_token"])
        self._in_file = state["tokens"]  # with the earlier ones of equal tokens
        self._change(SpecialTokens(state["vocab"], names, extra, added))

    def _around(self) -> Around:
        return self._known_around or Around(self._id_for("cls_token"), self._id_for("sep_token"))

    def _pad_id(self) -> int:
        return self._id_for("pad_token") if self._known_pad is None else self._known_pad


def _make_details(
    encoder: TextEncoder, options: CallOptions, around: Around, pad_id: int, names: Mapping[int, str], given: Any
) -> Details:
    """Return where the tokens of an encoding come from."""
    inputs = given if isinstance(given, Inputs) else read_inputs(given, None, False)
    full = dataclasses.replace(options, offsets=True, special_mask=True)
    return Details(_make_rows(encoder, inputs, full, around, words=True), options, pad_id, names)


def _make_rows(
    encoder: TextEncoder, inputs: Inputs, options: CallOptions, around: Around, *, words: bool = False
) -> TokenRows:
    """Return the rows of a call, where asked for with the number of each token's word."""
    if inputs.word_counts is None:
        flat = encoder.encode(inputs.texts, spans=options.offsets)
        numbers = encoder.word_numbers(flat) if words else None
    else:
        flat = encoder.encode(words_of(inputs), spans=options.offsets)
        flat, numbers = join_words(flat, inputs.word_counts)
    return make_rows(flat, inputs.count, inputs.pair, options, around, numbers)
