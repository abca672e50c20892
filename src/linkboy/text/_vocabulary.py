"""A vocabulary as a mapping from token to id, from a file, a sequence or a mapping; no id ever shifts."""

import os
import re
from collections.abc import Mapping, Sequence

from linkboy._files import local_path
from linkboy._reading import read_lines

MOST_IDS = (1 << 24) - 1
MOST_BYTES, MOST_LINES = 1 << 26, 1 << 21  # of a file: fifty times the size of those that are published
UNK, CLS, SEP, PAD, MASK = "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"
SPECIAL = (PAD, UNK, CLS, SEP, MASK)

_LOOKED_AT = 100  # lines
_COUNTED = re.compile(r"\S+[ \t]+-?\d+(\.\d+)?")
Vocabulary = str | os.PathLike[str] | Sequence[str] | Mapping[str, int]


def load_vocabulary(vocab: Vocabulary, unknown: str = UNK) -> tuple[dict[str, int], dict[int, str]]:
    """Return token to id and id to token; of two equal tokens the later id counts, as in the reference, and no id shifts."""
    if isinstance(vocab, Mapping):
        names = _check_mapping(vocab)
    elif isinstance(vocab, (str, os.PathLike)):
        names = dict(enumerate(read_vocabulary(vocab)))
    elif isinstance(vocab, Sequence) and not isinstance(vocab, bytes):
        for number, token in enumerate(vocab):
            if not isinstance(token, str):
                raise TypeError(f"vocab[{number}] must be a string, got {type(token).__name__}")
        names = dict(enumerate(vocab))
    else:
        kind = type(vocab).__name__
        raise TypeError(f"vocab must be a path, a list of tokens or a dict from token to id, got {kind}")
    tokens = {token: number for number, token in names.items()}
    if unknown not in tokens:
        raise ValueError(f"vocab needs the token {unknown}: words that have no pieces become it")
    if len(tokens) > MOST_IDS:
        raise ValueError(f"vocab must have at most {MOST_IDS} tokens, got {len(tokens)}")
    return tokens, names


def read_vocabulary(path: str | os.PathLike[str]) -> list[str]:
    r"""Return the tokens of a `vocab.txt`: split at `\n` alone, so that a token U+2028 does not shift what follows."""
    path = local_path("vocab", path)
    if path.is_dir():
        raise IsADirectoryError(
            f"vocab must be the path of a vocab.txt, got the directory {os.fspath(path)!r}; "
            "BertTokenizer.from_pretrained reads a model directory"
        )
    try:
        lines = read_lines(path, MOST_BYTES, most_lines=MOST_LINES)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"vocab must be the path of a vocab.txt, and there is no file {os.fspath(path)!r}; nothing is downloaded"
        ) from None
    if UNK not in lines and lines and lines[0].lstrip().startswith("{"):
        raise ValueError(
            f"vocab must be the path of a vocab.txt, one token per line, and {os.fspath(path)!r} holds JSON; "
            "BertTokenizer.from_tokenizer_json reads a tokenizer.json"
        )
    counted = next((line for line in lines if line.strip()), "") if all(map(_is_counted, lines[:_LOOKED_AT])) else ""
    if counted:
        raise ValueError(
            f"vocab must be the path of a vocab.txt, one token per line, and in {os.fspath(path)!r} a number follows each token, "
            f"such as {counted!r}; keep the tokens alone"
        )
    return [_token_on(line) for line in lines]


def _is_counted(line: str) -> bool:
    """Return whether a line is a token with its count or score, as SentencePiece and scripts that count words write it."""
    return not line.strip() or _COUNTED.fullmatch(line.strip()) is not None


def _token_on(line: str) -> str:
    """Return the token of a line, stripped as the reference does; a token that is white space stays one."""
    token = line.strip()
    return line.strip(" \t\r") if token in ("", "##") else token


def _check_mapping(vocab: Mapping[str, int]) -> dict[int, str]:
    owners = dict[int, str]()
    for token, number in vocab.items():
        if not isinstance(token, str):
            raise TypeError(f"vocab must map strings to ids, got the key {token!r}")
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < MOST_IDS:
            raise ValueError(f"vocab must map every token to an id from 0 to {MOST_IDS - 1}, got {token!r}: {number!r}")
        if number in owners:
            raise ValueError(
                f"vocab must give every token its own id, got {number} for {owners[number]!r} and {token!r}"
            )
        owners[number] = token
    return owners
