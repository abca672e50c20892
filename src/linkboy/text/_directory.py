"""The directory of a tokenizer as transformers keeps it: every file is read, and what it says is done or refused by name."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from linkboy._files import atomic_write, local_path
from linkboy.text._added_tokens import FLAGS, AddedToken
from linkboy.text._characters import Rules
from linkboy.text._special_tokens import DEFAULTS, EXTRA, SpecialTokens
from linkboy.text._tokenizer_json import read_json, read_tokenizer_json, token_of, tokenizer_json

# Classes whose tokenizer is BERT's, unchanged. Some of these models take no token types.
SAME = (
    "BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer", "LayoutLMTokenizer",
    "SqueezeBertTokenizer", "ConvBertTokenizer", "LxmertTokenizer", "RetriBertTokenizer", "RealmTokenizer",
    "DPRQuestionEncoderTokenizer", "DPRContextEncoderTokenizer",
)  # fmt: skip
CLASSES = tuple(name + end for name in SAME for end in ("", "Fast"))
WITHOUT_TYPES = tuple(name + end for name in ("DistilBertTokenizer", "RetriBertTokenizer") for end in ("", "Fast"))
MODELS_WITHOUT_TYPES = ("distilbert", "retribert")
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
INPUTS = ("input_ids", "token_type_ids", "attention_mask")
# Our own entries in tokenizer_config.json; other readers pass over them.
COMPAT = "linkboy_compat"
# For Google's rules, which find only tokens that were added: other readers need all special tokens among these.
ADDED = "linkboy_added_tokens"
OWN_NAMES = "model_specific_special_tokens"  # where transformers 5 saves tokens with names of their own
NO_LIMIT = 10**9  # transformers writes 10**30 for "no model_max_length"

# Entries of tokenizer_config.json that change no id: notes of transformers to itself, chats, and the lengths of a past call.
PASSED_OVER = frozenset((
    "tokenizer_class", "name_or_path", "special_tokens_map_file", "tokenizer_file", "vocab_file", "backend", "is_local",
    "local_files_only", "files_loaded", "auto_map", "processor_class", "chat_template", "chat_control_tokens",
    "response_schema", "response_template", "use_fast", "transformers_version", "_commit_hash", "_from_auto",
    "_from_pipeline", "device_map", "verbose", "max_model_input_sizes", "max_length", "stride", "padding", "truncation",
    "truncation_strategy", "pad_to_multiple_of", "init_inputs", "model_type", "license", "trust_remote_code", "revision",
    "cache_dir", "use_auth_token", "token", "subfolder", "return_tensors", "model_max_length", "max_len", "legacy",
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", "added_tokens_decoder",
))  # fmt: skip
OPTIONS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "padding_side", "truncation_side")
# What other tokenizers do and BERT's does not, with the value that asks for nothing.
NEUTRAL = {
    "do_basic_tokenize": True,
    "wordpieces_prefix": "##",
    "split_special_tokens": False,
    "add_prefix_space": False,
    "add_bos_token": False,
    "add_eos_token": False,
    "pad_token_type_id": 0,
}


def read_directory(
    directory: str | os.PathLike[str], ignore: Collection[str] = ()
) -> tuple[dict[str, int] | Path, dict[str, Any]]:
    """Return the vocabulary and the options that the files of a model directory give.

    Args:
        directory: the directory.
        ignore: entries of `tokenizer_config.json` to pass over.
    """
    folder = local_path("directory", directory)
    if folder.is_file():
        reader = "BertTokenizer" if folder.suffix != ".json" else "BertTokenizer.from_tokenizer_json"
        raise NotADirectoryError(
            f"from_pretrained reads a model directory, got the file {os.fspath(directory)!r}; {reader} reads a file"
        )
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no directory {os.fspath(directory)!r}; from_pretrained reads local files and never downloads"
        )
    config_path = folder / "tokenizer_config.json"
    config = _read_if_there(config_path)
    config = {key: value for key, value in config.items() if key not in ignore}
    model = _read_if_there(folder / "config.json")
    kind = config.get("tokenizer_class", model.get("tokenizer_class"))
    in_json = (folder / "tokenizer.json").is_file()
    if kind is not None and kind not in CLASSES and not (in_json and kind in GENERIC):
        raise ValueError(
            f"tokenizer_class in {str(config_path)!r} must be one whose tokenizer is BERT's, {', '.join(SAME)}, got {kind!r}"
        )
    if in_json:
        vocab, options = read_tokenizer_json(folder / "tokenizer.json")
    elif (folder / "vocab.txt").is_file():
        vocab, options = folder / "vocab.txt", dict[str, Any](added_tokens={})
    else:
        raise FileNotFoundError(f"neither tokenizer.json nor vocab.txt in {os.fspath(directory)!r}")
    _check_entries(config, config_path)
    _Tokens(folder, config, options).read()
    options |= {name: config[name] for name in OPTIONS if config.get(name) is not None}
    options["never_split"] = config.get("never_split") or ()
    longest = config.get("model_max_length", config.get("max_len"))
    options["model_max_length"] = longest if isinstance(longest, int) and longest < NO_LIMIT else None
    options["clean_up_tokenization_spaces"] = bool(config.get("clean_up_tokenization_spaces", False))
    types = kind not in WITHOUT_TYPES and (kind is not None or model.get("model_type") not in MODELS_WITHOUT_TYPES)
    default = INPUTS if types else tuple(name for name in INPUTS if name != "token_type_ids")
    options["model_input_names"] = config.get("model_input_names") or default
    options["compat"] = config.get(COMPAT, "hf")
    if options["compat"] == "google":
        found = config.get(ADDED) or ()
        options["added_tokens"] = {t: number for t, number in options["added_tokens"].items() if t.content in found}
    return vocab, options


def _check_entries(config: Mapping[str, Any], path: Path) -> None:
    """Refuse an entry that changes what the tokenizer does and that this one does not do."""
    for name, neutral in NEUTRAL.items():
        if config.get(name) not in (None, neutral):
            raise ValueError(
                f"{name} in {str(path)!r} must be {json.dumps(neutral)}, which is what BERT's tokenizer does, "
                f"got {json.dumps(config[name])}"
            )
    known = {
        *PASSED_OVER,
        *NEUTRAL,
        *OPTIONS,
        *DEFAULTS,
        *EXTRA,
        COMPAT,
        ADDED,
        OWN_NAMES,
        "never_split",
        "model_input_names",
    }
    known.add("clean_up_tokenization_spaces")
    for name, value in config.items():
        if name in known or value in (None, False, "", [], {}) or name.endswith("_token"):
            continue
        raise ValueError(
            f"{name} in {str(path)!r} is an entry that BertTokenizer does not know, so it cannot say whether ids depend on "
            f"it, got {json.dumps(value):.80}; where they do not, pass ignore=[{name!r}]"
        )


class _Tokens:
    """Gathers special and added tokens from all the files that may hold some, in the order of transformers.

    Args:
        folder: the directory.
        config: the content of `tokenizer_config.json`.
        options: the options read so far; `read` extends them.
    """

    def __init__(self, folder: Path, config: dict[str, Any], options: dict[str, Any]) -> None:
        self._folder, self._config, self._options = folder, config, options
        self._added: dict[str, tuple[AddedToken, int]] = {
            token.content: (token, number) for token, number in options["added_tokens"].items()
        }

    def read(self) -> None:
        """Put names, extra tokens and added tokens into the options."""
        named = self._names_and_extra()
        decoder = self._config.get("added_tokens_decoder")
        self._take_decoder(decoder)
        special = {
            value.get("content") if isinstance(value, dict) else value
            for key, values in named.items()
            for value in (values if isinstance(values, list) else [values])
        }
        self._take_added_tokens({token for token in special if isinstance(token, str)}, decoder is not None)
        place = str(self._folder / "tokenizer_config.json")
        extra = [token for key in EXTRA for token in self._extra(named.pop(key, None), named, f"{key} in {place!r}")]
        tokens = {
            name: self._with_flags(token_of(value, place=f"{name} in {place!r}", special=True))
            for name, value in named.items()
            if value is not None
        }
        self._options |= {name: token for name, token in tokens.items() if name in DEFAULTS}
        self._options["own_names"] = {name: token for name, token in tokens.items() if name not in DEFAULTS}
        self._options["extra_special_tokens"] = extra
        self._options["added_tokens"] = dict(self._added.values())

    def _names_and_extra(self) -> dict[str, Any]:
        """Return the entries of tokenizer_config.json that name tokens, and those of special_tokens_map.json."""

        def tokens_in(content: Mapping[str, Any]) -> dict[str, Any]:
            return {
                key: value
                for key, value in content.items()
                if key in EXTRA or (key.endswith("_token") and key not in PASSED_OVER and key not in NEUTRAL)
            }

        own = self._config.get(OWN_NAMES)
        named = {**tokens_in(self._config), **(own if isinstance(own, dict) else {})}
        path = self._folder / "special_tokens_map.json"
        for key, value in tokens_in(_read_if_there(path)).items():
            known = named.get(key)
            if "added_tokens_decoder" in self._config and known and _contents(known) != _contents(value):
                raise ValueError(
                    f"{key} must be the same in the files of a directory, got {_contents(value)!r} in {str(path)!r} and "
                    f"{_contents(known)!r} in 'tokenizer_config.json'"
                )
            if value is not None and (known is None or "added_tokens_decoder" not in self._config):
                named[key] = value
        return named

    def _take_decoder(self, decoder: Any) -> None:
        path = self._folder / "tokenizer_config.json"
        if decoder is None:
            return
        if not isinstance(decoder, dict) or not all(str(number).isdecimal() for number in decoder):
            raise ValueError(f"added_tokens_decoder in {str(path)!r} must map ids to tokens, got {decoder!r:.80}")
        for number, value in decoder.items():
            self._take(token_of(value, place=f"added_tokens_decoder in {str(path)!r}"), int(number), path)

    def _take_added_tokens(self, special: Collection[str], decoded: bool) -> None:
        path = self._folder / "added_tokens.json"
        for content, number in _read_if_there(path).items():
            if isinstance(number, bool) or not isinstance(number, int):
                raise ValueError(f"{str(path)!r} must map tokens to ids, got {content!r}: {number!r}")
            if content in self._added and (decoded or self._added[content][1] == number):
                self._take(self._added[content][0], number, path)
            else:
                self._take(AddedToken(content, special=content in special), number, path)

    def _take(self, token: AddedToken, number: int, path: Path) -> None:
        known = self._added.get(token.content)
        if known is not None and known[1] != number:
            raise ValueError(
                f"added token {token.content!r} must have one id, got {number} in {str(path)!r} and {known[1]} in another "
                "file of the directory"
            )
        self._added[token.content] = (token, number)

    def _extra(self, value: Any, named: dict[str, Any], place: str) -> list[AddedToken]:
        if isinstance(value, dict) and "content" not in value:  # with names of their own, as in transformers 5
            named.update(value)
            return []
        if value is not None and not isinstance(value, list):
            raise ValueError(f"{place} must be a list of tokens, got {value!r:.80}")
        return [self._with_flags(token_of(token, place=place, special=True)) for token in value or ()]

    def _with_flags(self, token: AddedToken) -> AddedToken:
        """Return the token with the flags that it has among the added ones, which count where an entry has others."""
        known = self._added.get(token.content)
        return token if known is None else dataclasses.replace(known[0], special=True)


def _contents(value: Any) -> Any:
    if isinstance(value, list):
        return [_contents(item) for item in value]
    return value.get("content", value) if isinstance(value, dict) else value


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def write_directory(
    directory: str | os.PathLike[str],
    tokens: SpecialTokens,
    rules: Rules,
    *,
    compat: str,
    word_limit: int,
    never_split: Collection[str],
    entries: Mapping[str, Any],
) -> None:
    """Write the files of a tokenizer; write none where they cannot express it.

    Args:
        directory: the directory, made where it is missing.
        tokens: vocabulary, special and added tokens.
        rules: what a character becomes.
        compat: the set of rules.
        word_limit: characters above which a word is unknown.
        never_split: tokens that stay whole; the files cannot express them.
        entries: further entries of `tokenizer_config.json`.
    """
    extra = {"never_split": never_split, "kana": rules.kana, "emoji": rules.emoji, "han": rules.han == "all"}
    for name, given in extra.items():
        if given:
            raise ValueError(f"save_pretrained cannot express {name} in tokenizer.json: other readers would disagree")
    content = tokenizer_json(tokens, rules, word_limit)
    own = {name: token for name, token in tokens.names.items() if token is not None and name not in DEFAULTS}
    config = {
        # Under its own class name transformers rebuilds BERT's tokenizer with the limit of 100, whatever the file says.
        "tokenizer_class": "BertTokenizer" if word_limit == 100 else GENERIC[0],
        "do_lower_case": rules.lower,
        "strip_accents": rules.strip_accents,
        "tokenize_chinese_chars": rules.split_han,
        **{name: token for name, token in tokens.names.items() if token is not None and name in DEFAULTS},
        **entries,
        "added_tokens_decoder": {
            str(token["id"]): {key: token[key] for key in ("content", *FLAGS)} for token in content["added_tokens"]
        },
        **own,
        # Under the name of transformers 4, which 5 reads, too.
        **({EXTRA[1]: list(tokens.extra)} if tokens.extra else {}),
        COMPAT: compat,
        **({ADDED: list(tokens.added)} if compat == "google" else {}),
    }
    contents = {
        "vocab.txt": "".join(token + "\n" for token in _tokens_in_order(tokens.vocabulary)),
        "tokenizer.json": _dump(content),
        "tokenizer_config.json": _dump(config),
    }
    folder = local_path("directory", directory)
    folder.mkdir(parents=True, exist_ok=True)
    # All are written before the first one takes its name, so that old and new files are never mixed.
    with contextlib.ExitStack() as stack:
        for name, text in contents.items():
            file = stack.enter_context(atomic_write(folder / name))
            file.write(text.encode("utf-8"))
            file.flush()


def _tokens_in_order(vocabulary: Mapping[str, int]) -> list[str]:
    """Return the tokens by id; raise where an id has no token, or where a line of a file cannot hold a token."""
    by_id = {number: token for token, number in vocabulary.items()}
    gaps = [number for number in range(max(by_id) + 1) if number not in by_id]
    if gaps:
        raise ValueError(
            f"save_pretrained needs a token for every id, but {len(gaps)} have none, the first is {gaps[0]}"
        )
    tokens = [by_id[number] for number in range(len(by_id))]
    for number, token in enumerate(tokens):
        read_as_mark = number == 0 and token.startswith("\ufeff")  # a byte order mark, which readers skip
        if read_as_mark or not _fits_on_a_line(token):
            raise ValueError(f"save_pretrained cannot write the token {token!r} on a line of vocab.txt")
    return tokens


def _fits_on_a_line(token: str) -> bool:
    return token == token.strip(" \t\r") and "\n" not in token and not any("\ud800" <= c <= "\udfff" for c in token)


def _dump(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"
