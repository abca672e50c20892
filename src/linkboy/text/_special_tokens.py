"""The tokens with a task: their names (`cls_token`), the added tokens, and the ids of both."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Self

from linkboy._checks import did_you_mean
from linkboy.text._added_tokens import AddedToken, as_added_token
from linkboy.text._vocabulary import CLS, MASK, MOST_IDS, PAD, SEP, UNK

DEFAULTS = {
    "bos_token": None,
    "eos_token": None,
    "unk_token": UNK,
    "sep_token": SEP,
    "pad_token": PAD,
    "cls_token": CLS,
    "mask_token": MASK,
}
EXTRA = ("extra_special_tokens", "additional_special_tokens")  # the name of transformers 5, and that of 4


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """What is known of special and added tokens; every change returns another one, so that no change is half done.

    Attributes:
        vocabulary: token to id, without the added tokens.
        names: the token that has each task, `None` where none has.
        extra: further special tokens, without a task.
        added: the tokens that are found in texts whole, by their content, each with its id.
    """

    vocabulary: Mapping[str, int]
    names: Mapping[str, str | None]
    extra: tuple[str, ...]
    added: Mapping[str, tuple[AddedToken, int]]

    @classmethod
    def make(
        cls,
        vocabulary: Mapping[str, int],
        *,
        names: Mapping[str, Any],
        extra: Iterable[Any] | Mapping[str, Any],
        added: Iterable[Any] | Mapping[Any, int],
        match_names: bool,
    ) -> Self:
        """Return the tokens that the arguments of a tokenizer describe; those without an id get the next free ones.

        Args:
            vocabulary: token to id.
            names: the tokens with a task; `None` is BERT's own where the vocabulary has it.
            extra: further special tokens; a mapping gives them names.
            added: tokens, or a mapping from tokens to ids.
            match_names: whether the tokens with a task are found in texts whole.
        """
        tokens = cls(vocabulary, dict.fromkeys(DEFAULTS), (), {})
        items = (
            added.items() if isinstance(added, Mapping) else ((token, None) for token in _list("added_tokens", added))
        )
        for token, number in sorted(items, key=lambda item: (item[1] is None, item[1] or 0)):
            tokens = tokens.with_token(as_added_token(token, argument="added_tokens"), number)
        for name, default in DEFAULTS.items():
            token = names.get(name)
            if token is None and (default is None or default not in vocabulary):
                continue
            tokens = tokens.with_name(name, default if token is None else token, match=match_names)
        if not isinstance(extra, Mapping):
            return tokens.with_extra(extra)
        for name, token in extra.items():
            tokens = tokens.with_name(name, token, match=match_names)
        return tokens

    def id_of(self, token: str) -> int | None:
        """Return the id of a token of the vocabulary or of an added one; of two with one name the added one counts."""
        found = self.added.get(token)
        return self.vocabulary.get(token) if found is None else found[1]

    def id_for(self, name: str) -> int | None:
        """Return the id of the token with a task, `cls_token`."""
        token = self.names[name]
        return None if token is None else self.id_of(token)

    @property
    def unknown_id(self) -> int:
        """The id of words without a cut."""
        return self.vocabulary[self.names["unk_token"] or UNK]

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max([*self.vocabulary.values(), *(number for _, number in self.added.values())]) + 1

    @property
    def all(self) -> list[str]:
        """All special tokens, those with a task first, none twice."""
        return list(dict.fromkeys([*filter(None, self.names.values()), *self.extra]))

    @property
    def left_out(self) -> frozenset[int]:
        """The ids that decoding leaves out: the special tokens, and the added ones that say they are special."""
        numbers = {self.id_of(token) for token in self.all}
        numbers |= {number for token, number in self.added.values() if token.special}
        return frozenset(number for number in numbers if number is not None)

    @property
    def matched(self) -> dict[AddedToken, int]:
        """The tokens that are found in texts whole, and their ids."""
        return dict(self.added.values())

    def with_token(self, token: AddedToken, number: int | None = None) -> Self:
        """Add a token, or change the flags of one that is there.

        Raises:
            ValueError: the token has another id already, or the id another token.
        """
        known = self.id_of(token.content)
        if number is None:
            number = self.size if known is None else known
        self._check_id(token.content, number, known)
        return dataclasses.replace(self, added={**self.added, token.content: (token, number)})

    def with_name(self, name: str, token: Any, *, match: bool) -> Self:
        """Give a token a task; add it where the vocabulary does not have it.

        Args:
            name: the task, for instance `"cls_token"`.
            token: the token.
            match: whether it is found in texts whole, also where it is one of the vocabulary.
        """
        added = as_added_token(token, argument=name, special=True)
        if isinstance(token, str) and added.content in self.added:
            added = dataclasses.replace(self.added[added.content][0], special=True)
        tokens = self
        if match or self.id_of(added.content) is None or added.content in self.added:
            tokens = self.with_token(added)
        return dataclasses.replace(tokens, names={**tokens.names, name: added.content})

    def without_name(self, name: str) -> Self:
        """Take a task away from its token, which stays a token."""
        return dataclasses.replace(self, names={**self.names, name: None})

    def with_extra(self, tokens: Iterable[Any], *, replace: bool = False) -> Self:
        """Add special tokens without a task, or put them in the place of those that are there."""
        result = dataclasses.replace(self, extra=()) if replace else self
        for token in _list("extra_special_tokens", tokens):
            added = as_added_token(token, argument="extra_special_tokens", special=True)
            if isinstance(token, str) and added.content in result.added:
                added = dataclasses.replace(result.added[added.content][0], special=True)
            result = result.with_token(added)
            result = dataclasses.replace(result, extra=tuple(dict.fromkeys((*result.extra, added.content))))
        return result

    def _check_id(self, content: str, number: int, known: int | None) -> None:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < MOST_IDS:
            raise ValueError(f"added token {content!r} must have an id from 0 to {MOST_IDS - 1}, got {number!r}")
        if known is not None and known != number:
            raise ValueError(
                f"added token {content!r} must have the id that it has in the vocabulary, {known}, got {number}"
            )
        if known is None:
            others = [token for token, (_, other) in self.added.items() if other == number]
            others += [token for token, other in self.vocabulary.items() if other == number]
            if others:
                raise ValueError(
                    f"added token {content!r} must have an id of its own, {number} is that of {others[0]!r}"
                )


def check_names(names: Iterable[str], known: Iterable[str]) -> None:
    """Raise unless these are names that special tokens have."""
    known = (*known, *EXTRA)
    for name in names:
        if name not in known:
            raise ValueError(f"special tokens are named {', '.join(known)}, got {name!r}{did_you_mean(name, known)}")


def _list(argument: str, tokens: Iterable[Any]) -> list[Any]:
    if isinstance(tokens, (str, bytes, AddedToken)) or not isinstance(tokens, Iterable):
        raise TypeError(f"{argument} must be a list of tokens, got {tokens!r}")
    return list(tokens)
