"""The directory that a run writes: checked before any work, begun, and filled at the end."""

import dataclasses
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from linkboy._files import LOCK, atomic_write, locked_directory
from linkboy._report import json_text
from linkboy.classify.budget import Search
from linkboy.classify.calibration import Calibration
from linkboy.classify.classifier import CONFIG, WEIGHTS, Classifier, is_classifier
from linkboy.classify.dataset import Encoder
from linkboy.classify.metrics import ClassificationMetrics
from linkboy.classify.pictures import confusion_png, curves_png
from linkboy.classify.split import PARTS, Parts
from linkboy.classify.suspects import SuspectedLabels
from linkboy.training import History
from linkboy.training.report import rows_as_csv

RUN, CHECKPOINTS = "run.json", "checkpoints"
CONTENTS = {
    "report.html": "all of this as one page, with the surest mistakes and what drove them",
    CONFIG: "classes, encoder, settings",
    WEIGHTS: "weights",
    "metrics.json": "figures of the train, valid and test part",
    "history.csv": "a row per epoch",
    "predictions.csv": "each test text with its prediction",
    "suspects.csv": "held-out rows whose label may be wrong",
    "curves.png": "loss and metric over the epochs",
    "confusion.png": "what is taken for what",
}


@dataclasses.dataclass(frozen=True)
class Judgement:
    """How good a classifier is: logits and metrics of each part, and what the held-out parts tell beyond that."""

    logits: Mapping[str, Tensor]
    metrics: Mapping[str, ClassificationMetrics]
    without_leaked: ClassificationMetrics | None
    calibration: Calibration
    suspects: SuspectedLabels
    before_refit: ClassificationMetrics | None = None
    search: Search | None = None


def check_directory(out: Path, *, overwrite: bool, resume: bool) -> None:
    """Raise, before any work, if a run could not write its results into `out`."""
    if overwrite and resume:
        raise ValueError("--overwrite and --resume cannot go together: one begins anew, the other goes on")
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out must name a directory, got the file {out}")
    if resume:
        if not (out / RUN).exists():
            state = "holds a finished run; train anew with --overwrite" if (out / CONFIG).exists() else "holds no run"
            raise FileNotFoundError(f"there is nothing to resume: {out} {state}")
    elif out.is_dir() and any(path.name != LOCK for path in out.iterdir()):
        if not overwrite:
            raise FileExistsError(
                f"{out} is not empty; pass --overwrite to replace it, --resume to go on, or another --out"
            )
        if not ((out / RUN).exists() or is_classifier(out)):
            raise FileExistsError(
                f"{out} holds other files than those of linkboy train, and --overwrite would mix them up; pass another --out"
            )
    existing = out
    while not existing.exists():
        existing = existing.parent
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write into {existing}; pass another --out")


@contextmanager
def run_in(out: Path, run: Mapping[str, Any], *, overwrite: bool, resume: bool) -> Iterator[None]:
    """Hold the directory for one run, and note in it what was asked for, so that `--resume` can tell whether it fits.

    An earlier classifier is no longer one from here on: its configuration goes first.

    Raises:
        BlockingIOError: another run holds the directory.
    """
    with locked_directory(out, f"another run is writing into {out}; wait for it or pass another --out"):
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
        raise ValueError(f"cannot resume {out}: {RUN} in it is damaged; train anew with --overwrite") from None
    if data != run["data"]:
        raise ValueError(
            f"cannot resume {out}: texts, labels, class names or vocabulary are not those of the stopped run; pass the same files"
        )
    if processes != run["processes"]:
        raise ValueError(
            f"cannot resume {out}: it was begun by {processes} processes, now there are {run['processes']}; start as many as then"
        )
    for name, value in run["options"].items():
        if options.get(name) != value:
            then, now, mend = _as_option(name, options.get(name)), _as_option(name, value), "pass the same options"
            raise ValueError(f"cannot resume {out}: it was begun {then}, now it is run {now}; {mend}")


def _as_option(name: str, value: object) -> str:
    if name == "refit":
        name, value = "no_refit", not value
    option = f"--{name.replace('_', '-')}"
    if value is None or value is False:
        return f"without {option}"
    return f"with {option}" if value is True else f"with {option} {value}"


def fingerprint(parts: Parts, encoder: Encoder) -> str:
    """Return a hash of all that a run is about: texts, labels, weights, classes and vocabulary."""
    digest = hashlib.sha256(json.dumps([parts.class_names, parts.numbered, encoder.settings()]).encode())
    for part in PARTS:
        texts = parts.texts[part]
        weights = None if texts.weights is None else list(texts.weights)
        digest.update(json.dumps([len(texts), weights]).encode())
        for text, label in zip(texts.texts, texts.labels, strict=True):
            digest.update(f"{len(text)} {text}{len(label)} {label}".encode())
    return digest.hexdigest()


def finish_run(out: Path) -> None:
    """Take away what only an unfinished run needs."""
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    (out / RUN).unlink(missing_ok=True)


def result_files(
    classifier: Classifier, parts: Parts, judged: Judgement, history: History, metric: str, page: bytes
) -> dict[str, bytes]:
    """Return the files of a finished run by name; `metric` is the key of the one that chose the epoch."""
    figures = {
        **judged.metrics,
        "test_without_leaked": judged.without_leaked,
        "test_before_refit": judged.before_refit,
        "calibration": judged.calibration,
        "suspected_labels": judged.suspects.count,
        "budget": judged.search,
    }
    return {
        **classifier.files(),
        "report.html": page,
        "metrics.json": json_text(figures, indent=1).encode(),
        "history.csv": rows_as_csv(history.rows).encode(),
        "predictions.csv": _predictions_csv(parts, judged.logits["test"]),
        "suspects.csv": judged.suspects.as_csv(),
        "curves.png": curves_png(history.rows, metric, history.best_epoch),
        "confusion.png": confusion_png(judged.metrics["test"].confusion, parts.class_names),
    }


def _predictions_csv(parts: Parts, logits: Tensor) -> bytes:
    import polars as pl

    best = logits.float().softmax(1).max(1)
    frame = pl.DataFrame(
        {
            "text": parts.texts["test"].texts,
            "label": [parts.class_names[target] for target in parts.targets["test"]],
            "predicted": [parts.class_names[target] for target in best.indices.tolist()],
            "probability": best.values.numpy(),
        }
    )
    buffer = io.BytesIO()
    frame.write_csv(buffer, float_precision=6)
    return buffer.getvalue()
