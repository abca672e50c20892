"""BertTokenizer: texts to what a BERT model takes, exact and at array speed."""

import itertools
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, Self

import numpy as np

from linkboy._checks import check_choice, check_number, describe
from linkboy.text._arguments import as_text, check_never_split, check_texts, make_rules
from linkboy.text._array_encoder import MARK, ArrayEncoder, FlatIds
from linkboy.text._call_options import Padding, Tensors, Truncation, check_options
from linkboy.text._characters import Han
from linkboy.text._decode import Spaces, decode_tokens
from linkboy.text._directory import read_directory, read_tokenizer_json, write_directory
from linkboy.text._encoding import Encoding, to_encoding
from linkboy.text._explain import explain_texts
from linkboy.text._rows import make_rows
from linkboy.text._vocabulary import CLS, MASK, PAD, SEP, SPECIAL, UNK, Vocabulary, load_vocabulary
from linkboy.text._wordpiece import TextReader
from linkboy.text.report import TokenizationReport

Compat = Literal["google", "hf"]
WORD_LIMITS = {"google": 200, "hf": 100}
SMALL = 160  # up to so many characters the readable path is faster


class BertTokenizer:
    """Turn text into WordPiece ids exactly as BERT's reference does, faster than the compiled tokenizers.

    Args:
        vocab: path of a `vocab.txt`, a list of tokens in the order of their ids, or a dict from token to id. It must hold
            `[UNK]`. If a token occurs twice, its later id is used and no other id shifts.
        do_lower_case: whether to lower-case the text, and to strip accents unless `strip_accents` says otherwise.
        strip_accents: whether to decompose and drop combining marks; `None` follows `do_lower_case`.
        tokenize_chinese_chars: whether to make every Han character a token.
        never_split: tokens that are looked up whole where they stand between spaces.
        compat: `"google"` is the reference: words over 200 characters are `[UNK]`, private-use characters are letters,
            `[MASK]` in a text is split like any other text. `"hf"` is what models from the Hugging Face hub are used
            with: the limit is 100, private-use characters are dropped, and the special tokens of the vocabulary are
            matched in the raw text before anything else.
        max_input_chars_per_word: a limit other than that of `compat`.
        model_max_length: the `max_length` of a call that truncates or pads without naming one.
        han: as for `BasicTokenizer`.
        kana: as for `BasicTokenizer`.
        emoji: as for `BasicTokenizer`.

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
    ) -> None:
        check_choice("compat", compat, tuple(WORD_LIMITS))
        for name, value in (
            ("max_input_chars_per_word", max_input_chars_per_word),
            ("model_max_length", model_max_length),
        ):
            if value is not None:
                check_number(name, value, minimum=1, integer=True)
        self.rules = make_rules(
            do_lower_case,
            strip_accents,
            tokenize_chinese_chars,
            han=han,
            kana=kana,
            emoji=emoji,
            drop_private=compat == "hf",
        )
        self.compat, self.model_max_length = compat, model_max_length
        self.never_split = check_never_split(never_split)
        self.max_input_chars_per_word = max_input_chars_per_word or WORD_LIMITS[compat]
        self._vocabulary, self._tokens = load_vocabulary(vocab)
        self._prepare()

    def _prepare(self) -> None:
        vocabulary, unknown = self._vocabulary, self._vocabulary[UNK]
        self.vocab_size = max(vocabulary.values()) + 1
        special = [token for token in SPECIAL if token in vocabulary] if self.compat == "hf" else []
        self._reader = TextReader(
            vocabulary,
            self.rules,
            unknown_id=unknown,
            limit=self.max_input_chars_per_word,
            never_split=self.never_split,
            special=special,
        )
        self._encoder = ArrayEncoder(
            vocabulary,
            self.rules,
            unknown_id=unknown,
            limit=self.max_input_chars_per_word,
            reader=self._reader,
        )

    @classmethod
    def from_tokenizer_json(cls, path: str | os.PathLike[str]) -> Self:
        """Read a `tokenizer.json` that holds a BERT tokenizer; a file of another kind is refused.

        Returns:
            A tokenizer with `compat="hf"`, which is what such a file means, and the file's own word limit.

        Raises:
            ValueError: the file is not JSON, or its model, normalizer, pre-tokenizer or added tokens are not BERT's.
        """
        vocab, options = read_tokenizer_json(path)
        return cls(vocab, **options)

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str]) -> Self:
        """Read a local model directory: `vocab.txt` or `tokenizer.json`, and `tokenizer_config.json` where present.

        Returns:
            The tokenizer that `save_pretrained` wrote; the directory of another library gives one with `compat="hf"`.

        Raises:
            FileNotFoundError: there is no such directory, or no vocabulary in it; nothing is ever downloaded.
            ValueError: the files belong to another kind of tokenizer.
        """
        vocab, options = read_directory(directory)
        return cls(vocab, **options)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write `vocab.txt`, `tokenizer.json` and `tokenizer_config.json`, which `transformers` and `tokenizers` load.

        Raises:
            ValueError: the vocabulary has gaps, or an option is on that these files cannot express.
        """
        write_directory(
            directory,
            self._vocabulary,
            self.rules,
            compat=self.compat,
            word_limit=self.max_input_chars_per_word,
            model_max_length=self.model_max_length,
            never_split=self.never_split,
        )

    def __call__(
        self,
        text: str | bytes | Sequence[str | bytes],
        text_pair: str | bytes | Sequence[str | bytes] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: Padding = False,
        truncation: Truncation = False,
        max_length: int | None = None,
        stride: int = 0,
        return_overflowing_tokens: bool = False,
        return_offsets_mapping: bool = False,
        return_special_tokens_mask: bool = False,
        pad_to_multiple_of: int | None = None,
        return_tensors: Tensors = None,
    ) -> Encoding:
        """Tokenize one text or many; the names are those of `transformers`.

        Args:
            text: a text, or a list of `N` texts.
            text_pair: the second text of each pair: one text, or a list of `N`.
            add_special_tokens: whether to put `[CLS]` first and `[SEP]` after each text.
            padding: `True` or `"longest"`, `"max_length"`, or `False`.
            truncation: `True` or `"longest_first"`, `"only_first"`, `"only_second"`, or `False`.
            max_length: the most tokens that a row may have, special ones included.
            stride: tokens that a row shares with the one it continues; needs `return_overflowing_tokens`.
            return_overflowing_tokens: whether to continue a text that is too long in further rows.
            return_offsets_mapping: whether to add `offset_mapping`, the `[start, end)` of each token in the original
                text; for bytes, in the text that they decode to.
            return_special_tokens_mask: whether to add `special_tokens_mask`, 1 for `[CLS]`, `[SEP]` and `[PAD]`.
            pad_to_multiple_of: a number of which the width of the rows becomes a multiple.
            return_tensors: `"pt"`, `"np"`, `None` for lists, or `"flat"`: tensors of all rows end to end, row `i` from
                `row_splits[i]` to `row_splits[i + 1]`.

        Returns:
            A dict with `input_ids`, `token_type_ids` and `attention_mask`, `(N, L)` and int64 as tensors; a single text
            without `return_tensors` gives plain lists instead of lists of lists. `"flat"`: `input_ids` `(T,)`,
            `row_splits` `(N + 1,)` int32, and `token_type_ids` for pairs.

        Raises:
            TypeError: a text is neither `str` nor `bytes`.
            ValueError: options contradict each other, `max_length` has no room for the special tokens, or rows of
                different length are to become a tensor without padding.
        """
        single = isinstance(text, (str, bytes))
        texts = [as_text(text)] if isinstance(text, (str, bytes)) else check_texts("text", text)
        count, pair = len(texts), text_pair is not None
        if text_pair is not None:
            texts = texts + self._check_pair(text_pair, single, count)
        options = check_options(
            pair=pair,
            specials=add_special_tokens,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            model_max_length=self.model_max_length,
            stride=stride,
            multiple=pad_to_multiple_of,
            overflow=return_overflowing_tokens,
            offsets=return_offsets_mapping,
            special_mask=return_special_tokens_mask,
            tensors=return_tensors,
        )
        flat = self._encode(texts, spans=return_offsets_mapping)
        cls_id, sep_id = (self._special_id(CLS), self._special_id(SEP)) if add_special_tokens else (0, 0)
        rows = make_rows(flat, count, pair, options, cls_id, sep_id)
        pad_id = self._special_id(PAD) if options.padding else 0
        return to_encoding(rows, options, pad_id, single=single)

    def encode(self, text: str | bytes, *, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of one text.

        Examples:
            >>> BertTokenizer(["[UNK]", "[CLS]", "[SEP]", "你"]).encode("你们")
            [1, 3, 0, 2]
        """
        ids = self._reader.ids(text if isinstance(text, str) else as_text(text))
        return [self._special_id(CLS), *ids, self._special_id(SEP)] if add_special_tokens else ids

    def tokenize(self, text: str | bytes) -> list[str]:
        """Return the tokens of one text, without special ones; words without a cut are `[UNK]`."""
        return [self._tokens[number] for number in self._reader.ids(as_text(text))]

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True, spaces: Spaces = "auto") -> str:
        """Return the text that ids stand for, as far as it can be restored.

        Args:
            ids: token ids, a list or a 1-D tensor.
            skip_special_tokens: whether to leave out `[PAD]`, `[CLS]`, `[SEP]` and `[MASK]`; `[UNK]` stays, as it is a word.
            spaces: `"auto"` joins words as they are written: no space between Han or kana, none before a comma or full stop.
                `True` puts a space between any two words, `False` none.

        Examples:
            >>> BertTokenizer(["[UNK]", "[CLS]", "[SEP]", "你", "好", "bert", "##s"]).decode([1, 3, 4, 5, 6, 2])
            '你好 berts'
        """
        check_choice("spaces", spaces, ("auto", True, False))
        tokens = self._tokens_of(ids)
        if skip_special_tokens:
            tokens = [token for token in tokens if token == UNK or token not in SPECIAL]
        return decode_tokens(tokens, spaces)

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
        items = [as_text(texts, "texts")] if isinstance(texts, (str, bytes)) else check_texts("texts", texts)
        return explain_texts(items, self._reader, self._tokens, self.rules)

    @property
    def vocab(self) -> Mapping[str, int]:
        """The vocabulary, token to id, read-only."""
        return MappingProxyType(self._vocabulary)

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a token, `None` if the vocabulary does not have it."""
        if not isinstance(token, str):
            raise TypeError(f"token must be a string, got {type(token).__name__}")
        return self._vocabulary.get(token)

    def id_to_token(self, id: int) -> str:
        """Return the token of an id.

        Raises:
            ValueError: the vocabulary has no such id.
        """
        try:
            return self._tokens[operator.index(id)]
        except TypeError:
            raise TypeError(f"id must be a whole number, got {id!r}") from None
        except KeyError:
            raise ValueError(
                f"id must be one of the vocabulary's, from 0 to {self.vocab_size - 1}, got {id!r}"
            ) from None

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> int | list[int]:
        """Return the id of a token, or those of many; of a token that the vocabulary does not have, that of `[UNK]`."""
        if isinstance(tokens, str):
            return self._vocabulary.get(tokens, self._vocabulary[UNK])
        items = list(tokens) if isinstance(tokens, Iterable) else [tokens]
        for token in items:
            if not isinstance(token, str):
                raise TypeError(f"tokens must be a string or a list of them, got {type(token).__name__}")
        return [self._vocabulary.get(token, self._vocabulary[UNK]) for token in items]

    def convert_ids_to_tokens(self, ids: int | Iterable[int]) -> str | list[str]:
        """Return the token of an id, or those of a list or a 1-D tensor."""
        if hasattr(ids, "__index__") and not getattr(ids, "ndim", 0):
            return self.id_to_token(ids)  # type: ignore[arg-type]
        return self._tokens_of(ids)  # type: ignore[arg-type]

    @property
    def pad_token_id(self) -> int | None:
        """The id of `[PAD]`, `None` if the vocabulary does not have it."""
        return self._vocabulary.get(PAD)

    @property
    def unk_token_id(self) -> int:
        """The id of `[UNK]`, which every vocabulary has."""
        return self._vocabulary[UNK]

    @property
    def cls_token_id(self) -> int | None:
        """The id of `[CLS]`, `None` if the vocabulary does not have it."""
        return self._vocabulary.get(CLS)

    @property
    def sep_token_id(self) -> int | None:
        """The id of `[SEP]`, `None` if the vocabulary does not have it."""
        return self._vocabulary.get(SEP)

    @property
    def mask_token_id(self) -> int | None:
        """The id of `[MASK]`, `None` if the vocabulary does not have it."""
        return self._vocabulary.get(MASK)

    def __len__(self) -> int:
        return self.vocab_size

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
        }

    def __getstate__(self) -> dict[str, Any]:
        # Everything else is made from these, faster than it could be read.
        return {"vocab": self._vocabulary, "tokens": self._tokens, "options": self._options()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["vocab"], **state["options"])
        self._tokens = state["tokens"]  # with the earlier ones of equal tokens

    def _encode(self, texts: list[str], *, spans: bool) -> FlatIds:
        if spans or len(texts) > 16 or sum(map(len, texts)) > SMALL:
            return self._encoder.encode(texts, spans=spans)
        rows = [[MARK, *self._reader.ids(text), MARK] for text in texts]
        ends = np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)))
        ids = np.array(list(itertools.chain.from_iterable(rows)), np.int32)
        return FlatIds(ids, np.append(0, ends)[:-1], ends - 1, None)

    def _check_pair(self, pair: str | bytes | Sequence[str | bytes], single: bool, count: int) -> list[str]:
        if isinstance(pair, (str, bytes)) != single:
            raise TypeError("text and text_pair must both be one text or both be lists of texts")
        texts = [as_text(pair, "text_pair")] if isinstance(pair, (str, bytes)) else check_texts("text_pair", pair)
        if len(texts) != count:
            raise ValueError(f"text_pair must have as many texts as text, {count}, got {len(texts)}")
        return texts

    def _tokens_of(self, ids: Iterable[int]) -> list[str]:
        if not isinstance(ids, Iterable) or getattr(ids, "ndim", 1) == 0:
            raise TypeError(f"ids must be a list or a 1-D tensor of ids, got {describe(ids)}")
        numbers = ids.tolist() if hasattr(ids, "tolist") else list(ids)  # type: ignore[attr-defined]
        if any(isinstance(number, list) for number in numbers):
            raise TypeError("ids must be one row of whole numbers, got a list in it")
        return [self.id_to_token(number) for number in numbers]

    def _special_id(self, token: str) -> int:
        number = self._vocabulary.get(token)
        if number is None:
            use = "padding" if token == PAD else "add_special_tokens=True"
            raise ValueError(f"{use} needs the token {token} in the vocabulary")
        return number
