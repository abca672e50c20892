"""The directory that a run writes: checked before any work, begun, and filled at the end."""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from linkboy._files import atomic_write
from linkboy._report import json_text
from linkboy.classify.classifier import CONFIG, WEIGHTS, Classifier
from linkboy.classify.metrics import ClassificationMetrics
from linkboy.classify.pictures import confusion_png, curves_png
from linkboy.classify.split import PARTS, Parts
from linkboy.training import History
from linkboy.training.history import rows_as_csv

RUN, CHECKPOINTS = "run.json", "checkpoints"
CONTENTS = {
    CONFIG: "classes, encoder, settings",
    WEIGHTS: "weights",
    "metrics.json": "figures of the train, valid and test part",
    "history.csv": "a row per epoch",
    "predictions.csv": "each test text with its prediction",
    "curves.png": "loss and metric over the epochs",
    "confusion.png": "what is taken for what",
}


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
    elif not overwrite and out.is_dir() and any(out.iterdir()):
        raise FileExistsError(
            f"{out} is not empty; pass --overwrite to replace it, --resume to go on, or another --out"
        )
    existing = out
    while not existing.exists():
        existing = existing.parent
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write into {existing}; pass another --out")


def begin_run(out: Path, run: Mapping[str, Any], *, resume: bool) -> None:
    """Make the directory and note in it what the run was asked for, so that `--resume` can tell whether it fits."""
    out.mkdir(parents=True, exist_ok=True)
    if not resume:
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    with atomic_write(out / RUN) as file:
        file.write(json_text(run, indent=1).encode())


def check_same_run(out: Path, run: Mapping[str, Any]) -> None:
    """Raise unless `run` asks for what the stopped run in `out` was asked for."""
    before = json.loads((out / RUN).read_text("utf-8"))
    if before["data"] != run["data"]:
        raise ValueError(f"cannot resume {out}: the data is not that of the stopped run; pass the same files")
    for name, value in run["options"].items():
        was = before["options"].get(name)
        if was != value:
            option = f"--{name.replace('_', '-')}"
            begun, mend = ("without", f"leave {option} out") if was is None else ("with", f"pass {option} {was}")
            value_then = "" if was is None else f" {was}"
            now = "now it is not given" if value is None else f"now it is {value}"
            raise ValueError(f"cannot resume {out}: it was begun {begun} {option}{value_then}, {now}; {mend}")


def fingerprint(parts: Parts) -> str:
    """Return a hash of all texts, labels and weights."""
    digest = hashlib.sha256()
    for part in PARTS:
        texts = parts.texts[part]
        digest.update(
            json.dumps([texts.texts, texts.labels, texts.weights], ensure_ascii=False).encode("utf-8", "surrogatepass")
        )
    return digest.hexdigest()


def finish_run(out: Path) -> None:
    """Take away what only an unfinished run needs."""
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    (out / RUN).unlink(missing_ok=True)


def result_files(
    classifier: Classifier,
    parts: Parts,
    metrics: Mapping[str, ClassificationMetrics],
    history: History,
    test_logits: Tensor,
    metric: str,
) -> dict[str, bytes]:
    """Return the files of a finished run by name; `metric` is the key of the one that chose the epoch."""
    return {
        **classifier.files(),
        "metrics.json": json_text(metrics, indent=1).encode(),
        "history.csv": rows_as_csv(history.rows).encode(),
        "predictions.csv": _predictions_csv(parts, test_logits),
        "curves.png": curves_png(history.rows, metric, history.best_epoch),
        "confusion.png": confusion_png(metrics["test"].confusion, parts.class_names),
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
