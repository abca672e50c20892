"""A folder of a model: the matrix in its safetensors file, the words in its tokenizer."""

import json
from pathlib import Path
from typing import Any

from linkboy._files import read_bounded
from linkboy._report import listed

_TOKENIZER = "tokenizer.json"
_MOST_BYTES = 1 << 28
_STATIC = "0_StaticEmbedding"  # where sentence-transformers keeps a table of vectors


def open_folder(path: Path, *, with_words: bool) -> tuple[Path, list[str | None]]:
    """Return the safetensors file of a folder that model2vec or transformers wrote, and the token of each id if asked for.

    Raises:
        IsADirectoryError: there is no tokenizer in the folder.
        ValueError: its tokenizer cannot be read, or there is not one safetensors file.
    """
    folder = next((place for place in (path, path / _STATIC) if (place / _TOKENIZER).is_file()), None)
    if folder is None:
        raise IsADirectoryError(
            f"path must be a vectors file or a folder with {_TOKENIZER} and a safetensors file, got the directory {str(path)!r}; "
            "name a file in it"
        )
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise ValueError(
            f"{str(folder)!r} must hold one safetensors file, got {listed((repr(file.name) for file in files), 8) or 'none'}; "
            "name the file, and pass words"
        )
    return files[0], _tokens(folder / _TOKENIZER) if with_words else []


def _tokens(path: Path) -> list[str | None]:
    try:
        content = json.loads(read_bounded(path, _MOST_BYTES))
        model = content["model"]["vocab"]
        ids: dict[str, Any] = (
            dict(model) if isinstance(model, dict) else {piece: i for i, (piece, _) in enumerate(model)}
        )
        ids |= {added["content"]: added["id"] for added in content.get("added_tokens") or ()}
        most = max(ids.values(), default=-1)
        if not all(type(i) is int and i >= 0 for i in ids.values()) or most > 2 * len(ids) + 1000:
            raise ValueError("its ids are not those of rows")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is not a tokenizer that can be read ({error!r:.80}); pass words") from None
    words: list[str | None] = [None] * (most + 1)
    for token, number in ids.items():
        words[number] = token
    return words
