"""The files of a tokenizer: `vocab.txt`, `tokenizer.json` and `tokenizer_config.json`, read strictly and written to agree."""

import contextlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from linkboy._files import atomic_write, read_bounded
from linkboy.text._characters import Rules
from linkboy.text._vocabulary import CLS, MOST_BYTES, SEP, SPECIAL, UNK

CLASSES = tuple(
    name + end for name in ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer") for end in ("", "Fast")
)
GENERIC = "PreTrainedTokenizerFast"
# Our own entry in tokenizer_config.json; other readers pass over it.
COMPAT = "linkboy_compat"
NO_LIMIT = 10**9  # transformers writes 10**30 for "no model_max_length"


def read_tokenizer_json(path: str | os.PathLike[str]) -> tuple[dict[str, int], dict[str, Any]]:
    """Return the vocabulary of a `tokenizer.json` and the options of the `BertTokenizer` it describes."""
    content = _read_json(Path(path))
    model = _part(content, "model", ("WordPiece",), path)
    normalizer = _part(content, "normalizer", ("BertNormalizer",), path)
    _part(content, "pre_tokenizer", ("BertPreTokenizer",), path)
    for key, value in (("unk_token", UNK), ("continuing_subword_prefix", "##")):
        if model.get(key, value) != value:
            raise ValueError(f"{key} in {os.fspath(path)!r} must be {value!r}, got {model[key]!r}")
    if not normalizer.get("clean_text", True):
        raise ValueError(f"clean_text in {os.fspath(path)!r} must be true: BERT's tokenizer always cleans the text")
    vocab = model.get("vocab")
    if not isinstance(vocab, dict):
        raise ValueError(f"model.vocab in {os.fspath(path)!r} must map tokens to ids, got {type(vocab).__name__}")
    added = content.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise ValueError(f"added_tokens in {os.fspath(path)!r} must be a list of objects, got {added!r:.80}")
    for token in added:
        _check_added(token, vocab, path)
    _check_processor(content.get("post_processor"), vocab, path)
    return vocab, {
        "do_lower_case": normalizer.get("lowercase", True),
        "strip_accents": normalizer.get("strip_accents"),
        "tokenize_chinese_chars": normalizer.get("handle_chinese_chars", True),
        "compat": "hf",
        "max_input_chars_per_word": model.get("max_input_chars_per_word", 100),
    }


def read_directory(directory: str | os.PathLike[str]) -> tuple[dict[str, int] | Path, dict[str, Any]]:
    """Return the vocabulary and the options that the files of a model directory give; `tokenizer.json` goes first."""
    folder = Path(directory)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no directory {os.fspath(directory)!r}; from_pretrained reads local files and never downloads"
        )
    config_path, json_path, vocab_path = (
        folder / name for name in ("tokenizer_config.json", "tokenizer.json", "vocab.txt")
    )
    config = _read_json(config_path) if config_path.is_file() else {}
    if json_path.is_file():
        vocab, options = read_tokenizer_json(json_path)
    elif vocab_path.is_file():
        kind = config.get("tokenizer_class", CLASSES[0])
        if kind not in CLASSES:
            raise ValueError(f"tokenizer_class in {str(config_path)!r} must be one of {CLASSES}, got {kind!r}")
        keys = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
        vocab, options = vocab_path, {key: config[key] for key in keys if key in config}
    else:
        raise FileNotFoundError(f"neither tokenizer.json nor vocab.txt in {os.fspath(directory)!r}")
    longest = config.get("model_max_length")
    options["model_max_length"] = longest if isinstance(longest, int) and longest < NO_LIMIT else None
    options["compat"] = config.get(COMPAT, "hf")
    return vocab, options


def write_directory(
    directory: str | os.PathLike[str],
    vocabulary: Mapping[str, int],
    rules: Rules,
    *,
    compat: str,
    word_limit: int,
    model_max_length: int | None,
    never_split: Collection[str],
) -> None:
    """Write the three files of a tokenizer; write none where they cannot express it."""
    extra = {"never_split": never_split, "kana": rules.kana, "emoji": rules.emoji, "han": rules.han == "all"}
    for name, given in extra.items():
        if given:
            raise ValueError(f"save_pretrained cannot express {name} in tokenizer.json: other readers would disagree")
    specials = {token: number for token, number in vocabulary.items() if token in SPECIAL}
    config = {
        # Under its own class name transformers rebuilds BERT's tokenizer with the limit of 100, whatever the file says.
        "tokenizer_class": "BertTokenizer" if word_limit == 100 else GENERIC,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "do_lower_case": rules.lower,
        "strip_accents": rules.strip_accents,
        "tokenize_chinese_chars": rules.split_han,
        "model_max_length": model_max_length or 10**30,
        **{f"{token[1:-1].lower()}_token": token for token in specials},
        COMPAT: compat,
    }
    contents = {
        "vocab.txt": "".join(token + "\n" for token in _tokens_in_order(vocabulary)),
        "tokenizer.json": _dump(_tokenizer_json(vocabulary, rules, word_limit, specials)),
        "tokenizer_config.json": _dump(config),
    }
    folder = Path(directory)
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


def _tokenizer_json(
    vocabulary: Mapping[str, int], rules: Rules, word_limit: int, specials: dict[str, int]
) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    processor = None
    if CLS in specials and SEP in specials:
        ends = {"sep": [SEP, specials[SEP]], "cls": [CLS, specials[CLS]]}
        processor = {"type": "BertProcessing", **ends}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": token, **flags, "special": True}
            for token, number in sorted(specials.items(), key=lambda item: item[1])
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": rules.split_han,
            "strip_accents": rules.strip_accents,
            "lowercase": rules.lower,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": processor,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": UNK,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": word_limit,
            "vocab": dict(vocabulary),
        },
    }


def _check_added(token: dict[str, Any], vocab: dict[str, int], path: str | os.PathLike[str]) -> None:
    content = token.get("content")
    if content not in SPECIAL or vocab.get(content) != token.get("id"):
        raise ValueError(
            f"added token {content!r} in {os.fspath(path)!r} is not supported: only {', '.join(SPECIAL)} with their ids"
        )
    for flag in ("single_word", "lstrip", "rstrip", "normalized"):
        if token.get(flag):
            raise ValueError(f"added token {content!r} in {os.fspath(path)!r} is not supported with {flag}=true")


def _check_processor(processor: Any, vocab: dict[str, int], path: str | os.PathLike[str]) -> None:
    """Refuse a file that puts anything but `[CLS] A [SEP] B [SEP]` around texts; one that does not say is BERT's."""
    kind = processor.get("type") if isinstance(processor, dict) else processor
    if kind is None:
        return
    if kind == "BertProcessing":
        same = all(processor.get(key) == [token, vocab.get(token)] for key, token in (("cls", CLS), ("sep", SEP)))
    else:
        special = processor.get("special_tokens") if kind == "TemplateProcessing" else None
        same = (
            isinstance(special, dict)
            and processor.get("single") == _template((CLS, "A", SEP), (0, 0, 0))
            and processor.get("pair") == _template((CLS, "A", SEP, "B", SEP), (0, 0, 0, 1, 1))
            and all(_ids_of(special.get(token)) == [vocab.get(token)] for token in (CLS, SEP))
        )
    if not same:
        raise ValueError(
            f"post_processor in {os.fspath(path)!r} must make [CLS] A [SEP] B [SEP], as BERT's does, got {kind}"
        )


def _template(names: tuple[str, ...], types: tuple[int, ...]) -> list[dict[str, Any]]:
    kinds = ["Sequence" if name in ("A", "B") else "SpecialToken" for name in names]
    return [{kind: {"id": name, "type_id": number}} for kind, name, number in zip(kinds, names, types, strict=True)]


def _ids_of(special: Any) -> Any:
    return special.get("ids") if isinstance(special, dict) else None


def _part(content: dict[str, Any], name: str, kinds: tuple[str, ...], path: str | os.PathLike[str]) -> dict[str, Any]:
    part = content.get(name)
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or kind not in kinds:
        raise ValueError(f"{name} in {os.fspath(path)!r} must be of type {kinds[0]}, as BERT's is, got {kind}")
    return part


def _read_json(path: Path) -> dict[str, Any]:
    raw = read_bounded(path, MOST_BYTES)
    try:
        content = json.loads(raw)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"{str(path)!r} must hold a tokenizer, got JSON nested too deeply to be read") from None
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} must hold a JSON object, got {type(content).__name__}")
    return content


def _dump(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"
