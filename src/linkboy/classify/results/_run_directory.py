"""The directory that a run writes into: checked before any work, held by one run at a time, and resumed."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from linkboy._files import LOCK, atomic_write, locked_directory
from linkboy._report import json_text, plural
from linkboy.classify.encoding._dataset import Encoder
from linkboy.classify.reading._parts import PARTS, Parts
from linkboy.classify.saved._classifier_files import CONFIG, is_classifier

RUN, CHECKPOINTS = "run.json", "checkpoints"


def check_directory(out: Path, *, overwrite: bool, resume: bool) -> None:
    """Raise, before any work, if a run could not write its results into `out`."""
    if overwrite and resume:
        raise ValueError("overwrite=True and resume=True cannot go together: one starts over, the other continues")
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"out must name a directory, got the file {out}")
    if resume:
        if not (out / RUN).exists():
            state = (
                "holds a finished run; train again with overwrite=True" if (out / CONFIG).exists() else "holds no run"
            )
            raise FileNotFoundError(f"there is nothing to resume: {out} {state}")
    elif out.is_dir() and any(path.name != LOCK for path in out.iterdir()):
        if not overwrite:
            raise FileExistsError(
                f"{out} is not empty; pass overwrite=True to replace it, resume=True to continue, or another directory"
            )
        if not ((out / RUN).exists() or is_classifier(out)):
            raise FileExistsError(
                f"{out} holds other files than those of a training run, and new ones would mix with them; pass another directory"
            )
    existing = out
    while not existing.exists():
        existing = existing.parent
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write into {existing}; pass another directory")


@contextmanager
def run_in(out: Path, run: Mapping[str, Any], *, overwrite: bool, resume: bool) -> Iterator[None]:
    """Hold the directory for one run, and record in it what was asked for, so that resuming it can compare.

    An earlier classifier in it stops being one: its configuration is removed first.

    Raises:
        BlockingIOError: another run holds the directory.
    """
    with locked_directory(out, f"another run is writing into {out}; wait for it or pass another directory"):
        check_directory(out, overwrite=overwrite, resume=resume)  # the holder before may have filled it
        if not resume:
            shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
        (out / CONFIG).unlink(missing_ok=True)
        with atomic_write(out / RUN) as file:
            file.write(json_text(run, indent=1).encode())
        yield


def check_same_run(out: Path, run: Mapping[str, Any]) -> None:
    """Raise unless `run` asks for what the stopped run in `out` was asked for."""
    try:
        before = json.loads((out / RUN).read_text("utf-8"))
        data, processes, options = before["data"], before["processes"], dict(before["options"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(f"cannot resume {out}: {RUN} in it is damaged; train again with overwrite=True") from None
    if data != run["data"]:
        raise ValueError(
            f"cannot resume {out}: texts, labels, class names or vocabulary differ from those of the "
            "stopped run; pass the same files"
        )
    if processes != run["processes"]:
        raise ValueError(
            f"cannot resume {out}: it was started with {plural(processes, 'process', 'processes')}, and now there are "
            f"{run['processes']}; start as many as before"
        )
    for name, value in run["options"].items():
        if options.get(name) != value:
            raise ValueError(
                f"cannot resume {out}: it was started with {name}={options.get(name)!r}, and now it is run with "
                f"{name}={value!r}; pass the same options"
            )


def kept_precision(out: Path) -> bool | None:
    """Return whether a stopped run had found that its encoder is faster in bfloat16; `None` where it does not say.

    A clock decided that, which may decide otherwise now, and the vectors would have other bits.
    """
    try:
        kept = json.loads((out / RUN).read_text("utf-8"))["bfloat16"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return kept if isinstance(kept, bool) else None


def fingerprint(parts: Parts, encoder: Encoder) -> str:
    """Return a hash of everything that a run is about: texts, labels, weights, classes and vocabulary."""
    digest = hashlib.sha256(json.dumps([parts.class_names, parts.numbered, encoder.settings()]).encode())
    for part in PARTS:
        texts = parts.texts[part]
        weights = None if texts.weights is None else list(texts.weights)
        digest.update(json.dumps([len(texts), weights]).encode())
        for text, label in zip(texts.texts, texts.labels, strict=True):
            digest.update(f"{len(text)} {text}{len(label)} {label}".encode())
    return digest.hexdigest()


def finish_run(out: Path) -> None:
    """Remove what only an unfinished run needs."""
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    (out / RUN).unlink(missing_ok=True)
