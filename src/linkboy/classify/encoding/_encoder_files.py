"""The directory of a pretrained encoder: what is in it, checked before any of it is loaded; nothing is downloaded."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from linkboy._files import local_path, read_bounded

CONFIG, MODULES, WEIGHTS, INDEX = "config.json", "modules.json", "model.safetensors", "model.safetensors.index.json"
MOST_CONFIG = 2**22
MOST_TOKENS = 256  # of a text, where the directory does not say fewer
PICKLES = (
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.pt",
    "model.bin",
    "tf_model.h5",
    "flax_model.msgpack",
)
POOLINGS = ("mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
    "tokenizer.model",
)
# What decides which ids a text becomes, and which vector these: the fingerprint is of these files.
_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json",
    "merges.txt", "sentencepiece.bpe.model", "spiece.model", "spm.model", "tokenizer.model", "sentence_bert_config.json",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class EncoderFiles:
    """A directory that holds a pretrained encoder.

    Args:
        directory: as it was named, made absolute.
        model: where the transformers model in it is; the same, or a folder of it.
        config: what `config.json` of the model says.
        poolings: how the vectors of the tokens become one: some of `POOLINGS`, one behind the other.
        described: whether the directory is one of sentence-transformers, which says how to pool.
        max_length: tokens of a text beyond this many are cut off.
        files: the files that decide the vectors.
    """

    directory: Path
    model: Path
    config: dict[str, Any]
    poolings: tuple[str, ...]
    described: bool
    max_length: int
    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        """What to call the encoder: the name it was saved under, or that of its directory."""
        name = self.config.get("_name_or_path")
        return name if isinstance(name, str) and name and not os.path.isabs(name) else self.directory.name  # noqa: PTH117

    def fingerprint(self) -> str:
        """Return a hash of everything that decides the vector of a text."""
        digest = hashlib.sha256(json.dumps([self.poolings, self.max_length]).encode())
        for path in self.files:
            with path.open("rb") as file:
                digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return digest.hexdigest()


def read_encoder(directory: str | os.PathLike[str]) -> EncoderFiles:
    """Look at the directory of an encoder, of transformers or of sentence-transformers, without loading it.

    Raises:
        FileNotFoundError: there is no such directory.
        NotADirectoryError: it is a file.
        ValueError: it holds no encoder that can be used; the message says why.
    """
    directory = local_path("encoder", directory).absolute()
    if directory.is_file():
        raise NotADirectoryError(
            f"encoder must name a directory, got the file {directory}; name the directory it is in"
        )
    if not directory.is_dir():
        raise FileNotFoundError(
            f"there is no directory {directory}; encoder names a local directory with a pretrained encoder, and nothing is "
            "downloaded"
        )
    model, poolings, described = directory, ("mean",), (directory / MODULES).exists()
    if described:
        model, poolings = _sentence_modules(directory)
    if (model / "adapter_config.json").exists():
        raise ValueError(
            f"{directory} holds an adapter, not a whole encoder; merge it into its model, save that and name its directory"
        )
    if not (model / CONFIG).exists():
        raise ValueError(
            f"{directory} holds no encoder (there is no {CONFIG} in it); name a directory that transformers or "
            "sentence-transformers has saved"
        )
    config = _read_json(model / CONFIG, dict)
    if not isinstance(config.get("model_type"), str):
        raise ValueError(f"{model / CONFIG} names no model_type; name a directory that transformers has saved")
    _refuse_code(directory, model)
    if not any((model / name).exists() for name in VOCABULARIES):
        raise ValueError(
            f"{directory} has no tokenizer (no {' or '.join(VOCABULARIES[:4])} in it); copy the whole directory"
        )
    others = tuple(model / name for name in _TOKENIZER)
    files = (*_weights(directory, model), model / CONFIG, *(path for path in others if path.exists()))
    return EncoderFiles(directory, model, config, poolings, described, _max_length(model, config), files)


def _sentence_modules(directory: Path) -> tuple[Path, tuple[str, ...]]:
    """Return where the model of a sentence-transformers directory is, and how it pools."""
    modules = _read_json(directory / MODULES, list)
    kinds: list[tuple[str, Path]] = []
    for module in modules:
        kind, path = (module.get(key) for key in ("type", "path")) if isinstance(module, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(path, str):
            raise ValueError(
                f"{directory / MODULES} is damaged: each module needs a type and a path; save the encoder again"
            )
        if not kind.startswith("sentence_transformers."):
            raise ValueError(_needs_code(directory, f"{kind} in {MODULES}"))
        folder = directory / path
        if not folder.resolve().is_relative_to(directory.resolve()):
            raise ValueError(
                f"{directory / MODULES} names {path!r}, which is outside of the directory; save the encoder again"
            )
        kinds.append((kind.rpartition(".")[2], folder))
    names = [kind for kind, _ in kinds]
    if names[:2] != ["Transformer", "Pooling"] or set(names[2:]) - {"Normalize"}:
        raise ValueError(
            f"{directory} consists of {' and '.join(names) or 'nothing'}, and an encoder must consist of Transformer, Pooling "
            "and at most Normalize; name another one, or the directory of the transformers model alone"
        )
    return kinds[0][1], _poolings(kinds[1][1] / CONFIG)


def _poolings(path: Path) -> tuple[str, ...]:
    """Return how a pooling module pools: named by `pooling_mode`, or before by flags such as `pooling_mode_mean_tokens`."""
    config = _read_json(path, dict)
    named = config.get("pooling_mode")
    if named is None:
        flags = {
            name.removeprefix("pooling_mode_"): on for name, on in config.items() if name.startswith("pooling_mode_")
        }
        named = [
            name if name in POOLINGS else name.removesuffix("_tokens").removesuffix("_token")
            for name, on in flags.items()
            if on
        ]
    found = tuple([named] if isinstance(named, str) else named if isinstance(named, list) else ())
    if not found or set(found) - set(POOLINGS):
        raise ValueError(f"{path} must pool by one of {POOLINGS}, got {list(found)}; name another encoder")
    return found


def _refuse_code(directory: Path, model: Path) -> None:
    """Raise if model or tokenizer need code that stands in the directory."""
    for name in (CONFIG, "tokenizer_config.json"):
        if (model / name).exists() and _read_json(model / name, dict).get("auto_map"):
            raise ValueError(_needs_code(directory, f"auto_map in {name}"))


def _needs_code(directory: Path, what: str) -> str:
    return (
        f"{directory} needs code of its own ({what}), and no code of an encoder is ever run; name an encoder whose "
        "architecture transformers has"
    )


def _weights(directory: Path, model: Path) -> Iterator[Path]:
    """Yield the files of the weights."""
    if (model / WEIGHTS).exists():
        yield model / WEIGHTS
        return
    if (model / INDEX).exists():
        shards = _read_json(model / INDEX, dict).get("weight_map")
        names = set(shards.values()) if isinstance(shards, dict) else set()
        wrong = next(
            (n for n in names if not isinstance(n, str) or Path(n).name != n or not n.endswith(".safetensors")), None
        )
        if not names or wrong is not None:
            raise ValueError(
                f"{model / INDEX} is damaged: it must name safetensors files beside it; save the encoder again"
            )
        if missing := sorted(name for name in names if not (model / name).exists()):
            raise ValueError(
                f"{directory} is not whole: its weights {missing[0]} are missing; copy the whole directory"
            )
        yield from (model / name for name in sorted(names))
        yield model / INDEX
        return
    found = next((name for name in PICKLES if (model / name).exists()), None)
    if found is None:
        raise ValueError(f"{directory} holds no weights (there is no {WEIGHTS} in it); copy the whole directory")
    raise ValueError(
        f"{directory} has its weights as {found}, and only safetensors are read, which cannot run code; load the model where "
        "you trust it and save it again with save_pretrained"
    )


def _max_length(model: Path, config: dict[str, Any]) -> int:
    """Return how many tokens of a text are read: what the directory says, at most as many as there are positions."""
    limits: list[Any] = [MOST_TOKENS]
    for name, key in (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        if (model / name).exists():
            limits.append(_read_json(model / name, dict).get(key))
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int):
        limits.append(max(positions - 2, 3))  # some architectures keep two of them for padding
    return int(min(limit for limit in limits if isinstance(limit, (int, float)) and limit > 2))


def _read_json(path: Path, kind: type) -> Any:
    try:
        found = json.loads(read_bounded(path, MOST_CONFIG))
    except FileNotFoundError:
        raise ValueError(f"there is no {path}, which the encoder needs; copy the whole directory") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); save the encoder again") from None
    if not isinstance(found, kind):
        raise ValueError(f"{path} is damaged (it must hold a {kind.__name__}); save the encoder again")
    return found
