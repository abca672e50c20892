"""The part of a tokenizer that knows its tokens by name: special ones, added ones, the whole vocabulary."""

import operator
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from linkboy._checks import check_flag, describe, did_you_mean
from linkboy.text._added_tokens import AddedToken, as_added_token
from linkboy.text._special_tokens import DEFAULTS, EXTRA, SpecialTokens, check_names
from linkboy.text._vocabulary import UNK


def _token(name: str) -> Any:
    def get(self: "TokenNames") -> str | None:
        return self._special.names[name]

    def set_(self: "TokenNames", token: str | AddedToken | None) -> None:
        self._name(name, token)

    return property(get, set_, doc=f"The token that is the {name.removesuffix('_token')} token, `None` where none is.")


def _token_id(name: str) -> Any:
    def get(self: "TokenNames") -> int | None:
        return self._special.id_for(name)

    def set_(self: "TokenNames", number: int | None) -> None:
        self._name(name, None if number is None else self.id_to_token(number))

    return property(get, set_, doc=f"The id of `{name}`, `None` where no token is that.")


# Methods that scripts for other tokenizers call, and what is called here.
_OF_OTHERS = {
    "encode_plus": "call the tokenizer itself, tokenizer(text)",
    "batch_encode_plus": "call the tokenizer itself, tokenizer(texts)",
    "build_inputs_with_special_tokens": "tokenizer(text) adds them",
    "prepare_for_model": "tokenizer(text) makes the inputs of the model",
    "create_token_type_ids_from_sequences": "tokenizer(text, text_pair) gives token_type_ids",
}


class TokenNames:
    """Tokens, their ids and their tasks; `BertTokenizer` builds on it."""

    _special: SpecialTokens
    _tokens: dict[int, str]

    bos_token, bos_token_id = _token("bos_token"), _token_id("bos_token")
    eos_token, eos_token_id = _token("eos_token"), _token_id("eos_token")
    unk_token, unk_token_id = _token("unk_token"), _token_id("unk_token")
    sep_token, sep_token_id = _token("sep_token"), _token_id("sep_token")
    pad_token, pad_token_id = _token("pad_token"), _token_id("pad_token")
    cls_token, cls_token_id = _token("cls_token"), _token_id("cls_token")
    mask_token, mask_token_id = _token("mask_token"), _token_id("mask_token")

    @property
    def compat(self) -> str:
        """The set of rules."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        # Tokens with names of their own: `entity_token` and `entity_token_id`.
        special = self.__dict__.get("_special")
        if special is not None:
            if name in special.names:
                return special.names[name]
            if name.removesuffix("_id") in special.names:
                return special.id_for(name.removesuffix("_id"))
        instead = _OF_OTHERS.get(name)
        hint = f": {instead}" if instead else did_you_mean(name, dir(type(self)))
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{hint}")

    def __setattr__(self, name: str, value: Any) -> None:
        kind = type(self)
        found = getattr(kind, name, None)
        if name.startswith("_") or (isinstance(found, property) and found.fset is not None):
            object.__setattr__(self, name, value)
        elif hasattr(self, name):
            raise AttributeError(
                f"{name} cannot be set on a {kind.__name__}: make a new one, with {name} as an argument"
            )
        else:
            near = did_you_mean(name, [n for n in dir(kind) if isinstance(getattr(kind, n), property)])
            raise AttributeError(f"{name} cannot be set: {kind.__name__} has no such attribute{near}")

    def _change(self, special: SpecialTokens) -> None:
        """Take over other special and added tokens."""
        raise NotImplementedError

    def add_tokens(
        self, new_tokens: str | AddedToken | Iterable[str | AddedToken], special_tokens: bool = False
    ) -> int:
        """Add tokens that are found in texts whole, the longest one where several fit.

        Args:
            new_tokens: a token or a list of them, strings or `AddedToken`. One of the vocabulary keeps its id; the others get
                the ids after the last one.
            special_tokens: whether decoding leaves them out.

        Returns:
            How many ids are new: resize the embeddings of the model to `len(tokenizer)`.

        Examples:
            >>> from linkboy import BertTokenizer
            >>> tokenizer = BertTokenizer(["[UNK]", "a"])
            >>> tokenizer.add_tokens(["<e1>", "<e2>"]), tokenizer.tokenize("a<e2>")
            (2, ['a', '<e2>'])
        """
        check_flag("special_tokens", special_tokens)
        one = isinstance(new_tokens, (str, AddedToken)) or not isinstance(new_tokens, Iterable)
        special, size = self._special, self._special.size
        for token in [new_tokens] if one else list(new_tokens):  # type: ignore[arg-type]
            special = special.with_token(as_added_token(token, argument="new_tokens", special=special_tokens))
        self._change(special)
        return special.size - size

    def add_special_tokens(
        self, special_tokens_dict: Mapping[str, Any], replace_extra_special_tokens: bool = True
    ) -> int:
        """Give tokens a task, and add those that the vocabulary does not have.

        Args:
            special_tokens_dict: from `"cls_token"` and the like to a token, and from `"extra_special_tokens"` (or
                `"additional_special_tokens"`) to a list of tokens.
            replace_extra_special_tokens: whether such a list takes the place of the present one.

        Returns:
            How many ids are new.
        """
        if not isinstance(special_tokens_dict, Mapping):
            raise TypeError(f"special_tokens_dict must be a dict, got {type(special_tokens_dict).__name__}")
        check_flag("replace_extra_special_tokens", replace_extra_special_tokens)
        check_names(special_tokens_dict, self._special.names)
        special, size = self._special, self._special.size
        for name, token in special_tokens_dict.items():
            if name == "unk_token":
                self._name(name, token)
            elif name in EXTRA:
                special = special.with_extra(token, replace=replace_extra_special_tokens)
            else:
                special = special.with_name(name, token, match=True)
        self._change(special)
        return special.size - size

    def _name(self, name: str, token: str | AddedToken | None) -> None:
        if name == "unk_token" and str(token) != self._special.names[name]:
            raise AttributeError(
                "unk_token cannot be set on a tokenizer: make a new one, with unk_token as an argument"
            )
        if token is None:
            self._change(self._special.without_name(name))
            return
        if isinstance(token, str) and self._special.id_of(token) is None:
            raise ValueError(
                f"{name} must be a token of the vocabulary, got {token!r}; "
                f"add_special_tokens({{{name!r}: {token!r}}}) adds a new one"
            )
        self._change(self._special.with_name(name, token, match=self.compat == "hf"))

    @property
    def _pad_token(self) -> str | None:
        # Collators of transformers 4 look here for whether there is one.
        return self._special.names["pad_token"]

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The tokens with a task, by its name."""
        return {name: token for name, token in self._special.names.items() if token is not None}

    @property
    def extra_special_tokens(self) -> list[str]:
        """The special tokens without a task."""
        return list(self._special.extra)

    @property
    def additional_special_tokens(self) -> list[str]:
        """The same as `extra_special_tokens`, under its name in transformers 4."""
        return list(self._special.extra)

    @property
    def all_special_tokens(self) -> list[str]:
        """All special tokens."""
        return self._special.all

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of all special tokens."""
        return [number for number in map(self._special.id_of, self._special.all) if number is not None]

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The tokens that are found in texts whole, by id."""
        return {number: token for token, number in sorted(self._special.added.values(), key=operator.itemgetter(1))}

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """The ids of the tokens that are found in texts whole."""
        return self.get_added_vocab()

    def get_added_vocab(self) -> dict[str, int]:
        """Return the ids of the tokens that are found in texts whole."""
        return {token.content: number for number, token in self.added_tokens_decoder.items()}

    def get_vocab(self) -> dict[str, int]:
        """Return all tokens and their ids, the added ones too."""
        return {**self._special.vocabulary, **self.get_added_vocab()}

    @property
    def vocab(self) -> Mapping[str, int]:
        """All tokens and their ids, the added ones too, read-only."""
        return MappingProxyType(self.get_vocab())

    @property
    def vocab_size(self) -> int:
        """One more than the largest id of the vocabulary, without the added tokens; `len` counts these too."""
        return max(self._special.vocabulary.values()) + 1

    def __len__(self) -> int:
        return self._special.size

    def __bool__(self) -> bool:
        return True

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a token, `None` if the vocabulary does not have it."""
        if not isinstance(token, str):
            raise TypeError(f"token must be a string, got {type(token).__name__}")
        return self._special.id_of(token)

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
            raise ValueError(f"id must be one of the vocabulary's, from 0 to {len(self) - 1}, got {id!r}") from None

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> int | list[int]:
        """Return the id of a token, or those of many; of a token that the vocabulary does not have, that of `[UNK]`."""
        if isinstance(tokens, str):
            return self._id_or_unknown(tokens)
        items = list(tokens) if isinstance(tokens, Iterable) else [tokens]
        for token in items:
            if not isinstance(token, str):
                raise TypeError(f"tokens must be a string or a list of them, got {type(token).__name__}")
        return [self._id_or_unknown(token) for token in items]

    def convert_ids_to_tokens(self, ids: int | Iterable[int], skip_special_tokens: bool = False) -> str | list[str]:
        """Return the token of an id, or those of a list or a 1-D tensor."""
        if hasattr(ids, "__index__") and not getattr(ids, "ndim", 0):
            return self.id_to_token(ids)  # type: ignore[arg-type]
        return self._tokens_of(ids, skip=frozenset(self.all_special_ids) if skip_special_tokens else frozenset())  # type: ignore[arg-type]

    def get_special_tokens_mask(
        self,
        token_ids_0: Iterable[int],
        token_ids_1: Iterable[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """Return 1 for each special token of a row and 0 for the others.

        Args:
            token_ids_0: the ids of a row, or of a first text.
            token_ids_1: the ids of a second text.
            already_has_special_tokens: whether `token_ids_0` is a whole row; otherwise the mask is that of the row which
                the texts would make.

        Returns:
            A list of numbers, one for each token of the row.
        """
        if already_has_special_tokens:
            if token_ids_1 is not None:
                raise ValueError("token_ids_1 must be None where token_ids_0 is a whole row")
            special = set(self.all_special_ids)
            return [int(number in special) for number in _as_list(token_ids_0)]
        mask = [1, *[0] * len(_as_list(token_ids_0)), 1]
        return mask if token_ids_1 is None else [*mask, *[0] * len(_as_list(token_ids_1)), 1]

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many special tokens stand around a text, or around a pair of texts."""
        return 3 if pair else 2

    def _id_or_unknown(self, token: str) -> int:
        number = self._special.id_of(token)
        return self._special.unknown_id if number is None else number

    def _left_out(self) -> frozenset[int]:
        """Return the ids that decoding leaves out: in Google's rules all special ones but `[UNK]`, which is a word."""
        left_out = self._special.left_out
        return left_out if self.compat == "hf" else left_out - {self._special.unknown_id}

    def _tokens_of(self, ids: Iterable[int], skip: frozenset[int] = frozenset()) -> list[str]:
        if not isinstance(ids, Iterable) or getattr(ids, "ndim", 1) == 0:
            raise TypeError(f"ids must be a list or a 1-D tensor of ids, got {describe(ids)}")
        numbers = _as_list(ids)
        if any(isinstance(number, list) for number in numbers):
            raise TypeError("ids must be one row of whole numbers, got a list in it; batch_decode takes many rows")
        return [self.id_to_token(number) for number in numbers if number not in skip]

    def _id_for(self, name: str) -> int:
        number = self._special.id_for(name)
        if number is None:
            use = "padding" if name == "pad_token" else "add_special_tokens=True"
            raise ValueError(f"{use} needs the token {DEFAULTS.get(name) or UNK} in the vocabulary")
        return number


def _as_list(ids: Any) -> list[int]:
    return ids.tolist() if hasattr(ids, "tolist") else list(ids)
