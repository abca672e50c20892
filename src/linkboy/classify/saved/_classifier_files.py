"""The files of a saved classifier: written so that they belong together, and read with bounds and checks."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from linkboy._files import atomic_write, local_path, read_bounded
from linkboy._report import plural
from linkboy._version import __version__

FORMAT = "linkboy-classifier"
# A later one where a text may have several labels, or where logits are capped, which the versions before it do not know.
FORMAT_VERSION, SEVERAL_VERSION, CAPPED_VERSION = 1, 2, 3
CONFIG, WEIGHTS = "config.json", "model.safetensors"
ENCODER_PREFIX = "encoder."  # of the arrays of the encoder, beside the weights of the model
# A vocabulary of 64 MiB is the largest that is read from a file; weights are far below this for millions of n-grams.
MOST_CONFIG, MOST_WEIGHTS = 2**26, 2**33
_DTYPES = {"encoder.hashes": "U64", "starts": "I64", "classes": "I32"}  # of tensors that do not hold weights
# Tensors that hold one row or number a class.
_HEADS = ("bag.weight", "head.weight", "bias", "ngrams.bag.weight", "ngrams.bias", "of_vectors.weight")


def write_files(directory: str | os.PathLike[str], files: Mapping[str, bytes]) -> None:
    """Write files so that a directory with a configuration always holds the files that belong to it.

    The configuration is taken away first and written last; each file appears whole or not at all.
    """
    directory = local_path("directory", directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).unlink(missing_ok=True)
    for name in sorted(files, key=lambda name: name == CONFIG):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(directory / name) as file:
            file.write(files[name])


def is_classifier(directory: str | os.PathLike[str]) -> bool:
    """Return whether a directory holds a configuration that `train_classifier` wrote, whatever its version."""
    try:
        config = json.loads(read_bounded(Path(directory) / CONFIG, MOST_CONFIG))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and config.get("format") == FORMAT


def read_config(directory: Path) -> dict[str, Any]:
    """Return the configuration of the classifier in a directory.

    Raises:
        FileNotFoundError: there is no such directory, or it holds no classifier.
        NotADirectoryError: it is a file.
        ValueError: the configuration is damaged, or of something else.
    """
    if directory.is_file():
        raise NotADirectoryError(f"{directory} is a file; name the directory that train_classifier has written")
    if not directory.is_dir():
        raise FileNotFoundError(f"there is no directory {directory}; name one that train_classifier has written")
    try:
        config = json.loads(read_bounded(directory / CONFIG, MOST_CONFIG))
    except FileNotFoundError:
        hint = (
            "; its training was not finished: train again with resume=True" if (directory / "run.json").exists() else ""
        )
        raise FileNotFoundError(f"{directory} holds no classifier (there is no {CONFIG} in it){hint}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{directory / CONFIG} is damaged ({error}); train the classifier again") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ValueError(
            f"{directory / CONFIG} does not belong to a linkboy classifier; name a directory that train_classifier has written"
        )
    if config.get("format_version") not in (FORMAT_VERSION, SEVERAL_VERSION, CAPPED_VERSION):
        raise ValueError(
            f"{directory} has format version {config.get('format_version')}, this linkboy ({__version__}) reads versions "
            f"{FORMAT_VERSION} to {CAPPED_VERSION}; update linkboy or train the classifier again"
        )
    _check_thresholds(directory, config)
    names = config.get("class_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"{directory / CONFIG} must name the classes in a list of different strings; train it again")
    return config


def _check_thresholds(directory: Path, config: Mapping[str, Any]) -> None:
    """Refuse thresholds that are not a probability for each label, or are missing where a text may have several."""
    several, thresholds = config.get("format_version") == SEVERAL_VERSION, config.get("thresholds")
    if not several and thresholds is None:
        return
    names = config.get("class_names")
    listed = thresholds if isinstance(thresholds, list) and isinstance(names, list) else []
    right = bool(listed) and len(listed) == len(names or ())
    if not (several and right and all(isinstance(t, float) and 0 <= t <= 1 for t in listed)):
        raise ValueError(
            f"{directory / CONFIG} must hold a probability for each label under 'thresholds'; train it again"
        )


def read_weights(directory: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights that a configuration names, with the arrays of the encoder.

    Raises:
        FileNotFoundError: there are none.
        ValueError: they are damaged, or cannot be those of the configuration.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        _check_header(directory, config)
        content = (directory / WEIGHTS).read_bytes()
        if hashlib.sha256(content).hexdigest() != config.get("weights_sha256"):
            raise ValueError(
                f"{directory / WEIGHTS} is damaged or of another run: its hash is not the one in {CONFIG}; train it again"
            )
        return load(content)
    except FileNotFoundError:
        raise FileNotFoundError(f"{directory} holds no weights (there is no {WEIGHTS} in it); train it again") from None
    except SafetensorError as error:
        raise ValueError(f"{directory / WEIGHTS} is not a safetensors file ({error}); train it again") from error


def _check_header(directory: Path, config: Mapping[str, Any]) -> None:
    """Refuse weights that cannot be those of the configuration, before they are read."""
    from safetensors import safe_open

    path = directory / WEIGHTS
    if path.stat().st_size > MOST_WEIGHTS:
        raise ValueError(f"{path} must be a file of at most {MOST_WEIGHTS >> 30} GiB, and is larger; train it again")
    classes = len(config["class_names"])
    with safe_open(path, "pt") as file:
        found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is not a mapping)
        dtypes = {name: piece.get_dtype() for name, piece in found.items()}
        shapes = {name: piece.get_shape() for name, piece in found.items()}
    version, capped = config["format_version"], "soft_cap.cap" in shapes
    if capped != (version == CAPPED_VERSION):
        raise ValueError(
            f"{path} must hold a cap of logits in format version {CAPPED_VERSION} and in no other, got "
            f"{'one' if capped else 'none'} in version {version}; train it again"
        )
    heads = [shapes[name] for name in _HEADS if name in shapes]
    expected = {name: _DTYPES.get(name, "F32") for name in found}
    wrong = next((name for name in expected if dtypes[name] != expected[name]), None)
    if wrong is not None:
        raise ValueError(f"{path} must hold {expected[wrong]} under {wrong!r}, got {dtypes[wrong]}; train it again")
    if any(classes not in shape for shape in heads):
        raise ValueError(
            f"{directory} holds a classifier whose {CONFIG} and {WEIGHTS} do not belong together "
            f"({plural(classes, 'class', 'classes')}, weights of "
            f"shape {tuple(heads[0])}); train it again"
        )
    encoder = [shapes[name] for name in ("encoder.hashes", "encoder.idf") if name in shapes]
    if encoder and (len(encoder) < 2 or encoder[0] != encoder[1] or len(encoder[0]) != 1):
        raise ValueError(f"{path} must hold one weight for each n-gram, got the shapes {encoder}; train it again")
