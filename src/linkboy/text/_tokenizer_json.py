"""`tokenizer.json`, the file of `tokenizers`: read strictly, and written so that other readers agree."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linkboy._files import local_path, read_bounded
from linkboy.text._added_tokens import FLAGS, AddedToken
from linkboy.text._characters import Rules
from linkboy.text._special_tokens import SpecialTokens
from linkboy.text._vocabulary import CLS, MOST_BYTES, SEP, UNK

TEMPLATE_KEYS = ("single", "pair", "special_tokens")


def is_tokenizer_json(data: bytes) -> bool:
    """Return whether the content of a file looks like a `tokenizer.json` and not like a list of tokens."""
    return data.lstrip()[:1] == b"{" and b'"model"' in data


def read_tokenizer_json(path: str | os.PathLike[str]) -> tuple[dict[str, int], dict[str, Any]]:
    """Return the vocabulary of a `tokenizer.json` and the options of the `BertTokenizer` it describes."""
    content = read_json(local_path("path", path))
    model = _model(content, path)
    normalizer = _part(content, "normalizer", "BertNormalizer", path)
    _part(content, "pre_tokenizer", "BertPreTokenizer", path)
    if model.get("continuing_subword_prefix", "##") != "##":
        prefix = model["continuing_subword_prefix"]
        raise ValueError(f"continuing_subword_prefix in {os.fspath(path)!r} must be '##', got {prefix!r}")
    if not normalizer.get("clean_text", True):
        raise ValueError(f"clean_text in {os.fspath(path)!r} must be true: BERT's tokenizer always cleans the text")
    vocab = model.get("vocab")
    if not isinstance(vocab, dict):
        raise ValueError(f"model.vocab in {os.fspath(path)!r} must map tokens to ids, got {type(vocab).__name__}")
    added = _added_tokens(content, path)
    ids = {**vocab, **{token.content: number for token, number in added.items()}}
    cls_token, sep_token = _around_texts(content.get("post_processor"), ids, path)
    return vocab, {
        "do_lower_case": normalizer.get("lowercase", True),
        "strip_accents": normalizer.get("strip_accents"),
        "tokenize_chinese_chars": normalizer.get("handle_chinese_chars", True),
        "compat": "hf",
        "max_input_chars_per_word": model.get("max_input_chars_per_word", 100),
        "added_tokens": added,
        **({} if model.get("unk_token", UNK) == UNK else {"unk_token": model["unk_token"]}),
        **({} if cls_token == CLS else {"cls_token": cls_token}),
        **({} if sep_token == SEP else {"sep_token": sep_token}),
        **_sides(content, ids, path),
    }


def tokenizer_json(tokens: SpecialTokens, rules: Rules, word_limit: int) -> dict[str, Any]:
    """Return the content of a `tokenizer.json`; it matches the special tokens in texts, as other readers expect."""
    matched = {token: (AddedToken(token, special=True), tokens.id_of(token)) for token in tokens.all}
    matched |= tokens.added
    cls_token, sep_token = tokens.names["cls_token"], tokens.names["sep_token"]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": token.content, **{flag: getattr(token, flag) for flag in FLAGS}}
            for token, number in sorted(matched.values(), key=lambda item: item[1] or 0)
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": rules.split_han,
            "strip_accents": rules.strip_accents,
            "lowercase": rules.lower,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None
        if cls_token is None or sep_token is None
        else {
            "type": "BertProcessing",
            "sep": [sep_token, tokens.id_of(sep_token)],
            "cls": [cls_token, tokens.id_of(cls_token)],
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": tokens.names["unk_token"],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": word_limit,
            "vocab": dict(tokens.vocabulary),
        },
    }


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds, or raise."""
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


def token_of(value: Any, *, place: str, special: bool = False) -> AddedToken:
    """Return the token that a file gives as a string or as an object with flags."""
    if isinstance(value, str) and value:
        return AddedToken(value, special=special)
    content = value.get("content") if isinstance(value, dict) else value
    if not isinstance(value, dict) or not isinstance(content, str) or not content:
        raise ValueError(f"{place} must be a token or an object with its content, got {content!r:.80}")
    flags = {flag: value[flag] for flag in FLAGS if flag in value}
    for flag, on in flags.items():
        if not isinstance(on, bool):
            raise ValueError(f"{flag} of the token {content!r} of {place} must be true or false, got {on!r}")
    return AddedToken(content, **{**flags, "special": special or flags.get("special", False)})


def _model(content: dict[str, Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    model = content.get("model")
    # Files of early versions of tokenizers do not name the model; only WordPiece has a prefix and no merges.
    if (
        isinstance(model, dict)
        and "type" not in model
        and "continuing_subword_prefix" in model
        and "merges" not in model
    ):
        return model
    return _part(content, "model", "WordPiece", path)


def _added_tokens(content: dict[str, Any], path: str | os.PathLike[str]) -> dict[AddedToken, int]:
    added = content.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise ValueError(f"added_tokens in {os.fspath(path)!r} must be a list of objects, got {added!r:.80}")
    place = f"added_tokens in {os.fspath(path)!r}"
    tokens = {token_of(token, place=place): token.get("id") for token in added}
    for token, number in tokens.items():
        if isinstance(number, bool) or not isinstance(number, int):
            raise ValueError(f"the id of the token {token.content!r} of {place} must be a number, got {number!r}")
    return tokens


def _around_texts(processor: Any, ids: Mapping[str, int], path: str | os.PathLike[str]) -> tuple[str, str]:
    """Return the tokens that stand before and after a text; refuse a file that puts anything but these around texts."""
    kind = processor.get("type") if isinstance(processor, dict) else processor
    if kind is None:  # a file that does not say is BERT's
        return CLS, SEP
    found = None
    if kind == "BertProcessing":
        found = _of_bert_processing(processor, ids)
    elif kind == "TemplateProcessing":
        found = _of_template(processor, ids)
    if found is None:
        raise ValueError(
            f"post_processor in {os.fspath(path)!r} must make [CLS] A [SEP] B [SEP], as BERT's does, got {kind}"
        )
    return found


def _of_bert_processing(processor: dict[str, Any], ids: Mapping[str, int]) -> tuple[str, str] | None:
    pairs = processor.get("cls"), processor.get("sep")
    if not all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
        return None
    (cls_token, cls_id), (sep_token, sep_id) = pairs  # type: ignore[misc]
    return (cls_token, sep_token) if (ids.get(cls_token), ids.get(sep_token)) == (cls_id, sep_id) else None


def _of_template(processor: dict[str, Any], ids: Mapping[str, int]) -> tuple[str, str] | None:
    single, pair, special = (processor.get(key) for key in TEMPLATE_KEYS)
    try:
        cls_token, sep_token = (single[at]["SpecialToken"]["id"] for at in (0, 2))  # type: ignore[index]
    except (TypeError, KeyError, IndexError):
        return None
    same = (
        isinstance(special, dict)
        and single == _template((cls_token, "A", sep_token), (0, 0, 0))
        and pair == _template((cls_token, "A", sep_token, "B", sep_token), (0, 0, 0, 1, 1))
        and all(_ids_of(special.get(token)) == [ids.get(token)] for token in (cls_token, sep_token))
    )
    return (cls_token, sep_token) if same else None


def _template(names: tuple[str, ...], types: tuple[int, ...]) -> list[dict[str, Any]]:
    kinds = ["Sequence" if name in ("A", "B") else "SpecialToken" for name in names]
    return [{kind: {"id": name, "type_id": number}} for kind, name, number in zip(kinds, names, types, strict=True)]


def _ids_of(special: Any) -> Any:
    return special.get("ids") if isinstance(special, dict) else None


def _sides(content: dict[str, Any], ids: Mapping[str, int], path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what the file says of padding and truncation beyond their lengths, which the call decides."""
    options: dict[str, Any] = {}
    for part, option in (("padding", "padding_side"), ("truncation", "truncation_side")):
        section = content.get(part)
        side = str(section.get("direction", "Right")).lower() if isinstance(section, dict) else "right"
        if side not in ("left", "right"):
            raise ValueError(f"{part}.direction in {os.fspath(path)!r} must be 'Left' or 'Right', got {side!r}")
        if side == "left":
            options[option] = side
    padding = content.get("padding")
    if isinstance(padding, dict):
        token = padding.get("pad_token", "[PAD]")
        if padding.get("pad_type_id"):
            raise ValueError(f"padding.pad_type_id in {os.fspath(path)!r} must be 0, got {padding['pad_type_id']!r}")
        if token in ids and padding.get("pad_id", ids[token]) != ids[token]:
            raise ValueError(
                f"padding.pad_id in {os.fspath(path)!r} must be the id of {token!r}, {ids[token]}, got {padding['pad_id']!r}"
            )
        if token != "[PAD]":
            options["pad_token"] = token
    return options


def _part(content: dict[str, Any], name: str, kind: str, path: str | os.PathLike[str]) -> dict[str, Any]:
    part = content.get(name)
    found = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or found != kind:
        raise ValueError(f"{name} in {os.fspath(path)!r} must be of type {kind}, as BERT's is, got {found}")
    return part
