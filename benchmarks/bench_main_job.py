"""`linkboy train` with its defaults beside TF-IDF with a linear SVM, and fastText, on the same rows.

Two comparisons on each set. *Training part*: everybody learns from the training part alone, and the validation part only
chooses. *Both parts*: as `linkboy train` does by default, everybody trains once more on training and validation part together
when all is chosen. The SVM's C (and whether classes are balanced, where macro-F1 counts) is chosen on the validation part.
fastText is as published: 100 dimensions, rate 0.5, 25 epochs, word 3-grams over the characters of Chinese, elsewhere word
2-grams and characters 2 to 5.

Seconds are processor seconds on one thread, which a busy machine hardly changes: ours of the whole call, with both trainings,
judging and the page; the SVM's of features, the fits that choose, and the last one; fastText's of its one fit. The spread is over
the seeds; what is given beside a figure is its standard error over the test rows, or how likely chance alone would make such a
difference (exact McNemar).
"""

import csv
import dataclasses
import functools
import math
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import f1_score
from sklearn.pipeline import FeatureUnion, make_union
from sklearn.svm import LinearSVC

import linkboy as lb
from benchmarks.harness import Row
from linkboy.classify._demo import demo_data
from linkboy.text._scripts import unspaced_share

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SEEDS = 3
SVM_C = (0.25, 1.0, 4.0)
Parts = dict[str, lb.LabelledTexts]


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set, what it is judged by, and what is wanted of the figure, in percent, and of which training."""

    name: str
    figure: str
    wanted: float
    both_parts: bool = False
    seeds: int = SEEDS

    @property
    def label(self) -> str:
        return f"{self.name}: {'macro-F1' if self.figure == 'macro_f1' else 'accuracy'}"


# The long-tailed and the two-class set are judged by macro-F1.
TASKS = {
    task.name: task
    for task in (
        Task("demo", "accuracy", 90, both_parts=True),
        Task("thucnews45k", "accuracy", 91.5, seeds=5),
        Task("thucnews_lt100", "macro_f1", 81.1),
        Task("chnsenticorp_htl", "macro_f1", 87),
        Task("banking77", "accuracy", 91.4),
    )
}


@dataclasses.dataclass(frozen=True)
class Result:
    """What a method predicts for the test part, by what it was trained on, its seconds, and the probabilities it gives."""

    name: str
    training_part: Sequence[str]
    both_parts: Sequence[str]
    seconds: float
    probabilities: Sequence[float] = ()


def read_parts(name: str) -> Parts:
    if name == "demo":
        return demo_data()
    files = {"train": "train.txt", "valid": "dev.txt", "test": "test.txt"}
    return {part: lb.read_labelled(DATA / name / file) for part, file in files.items()}


def score(predicted: Sequence[str], labels: Sequence[str], figure: str) -> float:
    if figure == "accuracy":
        return float((np.array(predicted) == np.array(labels)).mean())
    return float(f1_score(labels, predicted, average="macro"))


def standard_error(predicted: Sequence[str], labels: Sequence[str], figure: str) -> float:
    """Return the standard error of a score over the rows: of a share by its formula, else by resampling them."""
    if figure == "accuracy":
        accuracy = score(predicted, labels, figure)
        return math.sqrt(accuracy * (1 - accuracy) / len(labels))
    generator, predicted, labels = np.random.default_rng(0), np.array(predicted), np.array(labels)
    draws = generator.integers(0, len(labels), (50, len(labels)))
    return float(np.std([score(predicted[rows], labels[rows], figure) for rows in draws]))


def mcnemar(one: Sequence[str], other: Sequence[str], labels: Sequence[str]) -> float:
    """Return the two-sided exact p: of the rows that only one of the two gets right, each is as likely the one's."""
    right, others = np.array(one) == np.array(labels), np.array(other) == np.array(labels)
    only_one, only_other = int((right & ~others).sum()), int((others & ~right).sum())
    trials, fewer = only_one + only_other, min(only_one, only_other)
    return min(1.0, 2 * sum(math.comb(trials, k) for k in range(fewer + 1)) / 2**trials)


def tf_idf(texts: Sequence[str]) -> TfidfVectorizer | FeatureUnion:
    """Return what makes features of texts in this script."""
    if unspaced_share(texts) > 0.5:
        return TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True, min_df=2)
    return make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=2),
    )


def svm(parts: Parts, figure: str) -> Result:
    """Fit the SVM that is best on the validation part."""
    train, valid, test = (parts[part] for part in ("train", "valid", "test"))
    started = time.process_time()
    features = tf_idf(train.texts)
    matrix = features.fit_transform(train.texts)
    held_out, judged = features.transform(valid.texts), features.transform(test.texts)
    candidates = [
        LinearSVC(C=C, class_weight=weight).fit(matrix, train.labels)
        for weight in ((None, "balanced") if figure == "macro_f1" else (None,))
        for C in SVM_C
    ]
    best = max(candidates, key=lambda model: score(model.predict(held_out), valid.labels, figure))
    alone = best.predict(judged)
    matrix = features.fit_transform([*train.texts, *valid.texts])
    labels = [*train.labels, *valid.labels]
    last = LinearSVC(C=best.C, class_weight=best.class_weight).fit(matrix, labels)
    seconds = time.process_time() - started
    name = f"TF-IDF + LinearSVC, C {best.C:g}" + (", balanced" if best.class_weight else "")
    return Result(name, alone, last.predict(features.transform(test.texts)), seconds)


def fast_text(parts: Parts) -> Result:
    """Fit fastText on the training part, and on both; the seconds are those of the second fit, its file pass included."""
    import fasttext

    fasttext.FastText.eprint = lambda *arguments: None
    unspaced = unspaced_share(parts["train"].texts) > 0.5

    def prepared(text: str) -> str:
        return " ".join(text.replace(" ", "")) if unspaced else " ".join(text.lower().split())

    predictions, seconds = [], 0.0
    for used in (("train",), ("train", "valid")):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "train.txt"
            rows = [row for part in used for row in zip(parts[part].labels, parts[part].texts, strict=True)]
            path.write_text("".join(f"__label__{label} {prepared(text)}\n" for label, text in rows), "utf-8")
            started = time.process_time()
            ngrams = {"wordNgrams": 3} if unspaced else {"wordNgrams": 2, "minn": 2, "maxn": 5}
            model = fasttext.train_supervised(
                str(path), dim=100, lr=0.5, epoch=25, bucket=500_000, thread=1, verbose=0, **ngrams
            )
            seconds = time.process_time() - started
        labels, _ = model.predict([prepared(text) for text in parts["test"].texts])
        predictions.append([row[0].removeprefix("__label__") for row in labels])
    return Result("fastText", *predictions, seconds)


@dataclasses.dataclass(frozen=True)
class Ours:
    """Our figures, one per seed, of the training part alone and of both; the predictions of the last; seconds."""

    training_part: list[float]
    both_parts: list[float]
    predicted: list[list[str]]
    seconds: list[float]


def train(parts: Parts, figure: str, seeds: int) -> Ours:
    ours = Ours([], [], [], [])
    torch.set_num_threads(1)
    for seed in range(seeds):
        for refit, figures in ((False, ours.training_part), (True, ours.both_parts)):
            options = lb.TrainingOptions(seed=seed, refit=refit)
            started = time.process_time()
            with tempfile.TemporaryDirectory() as folder:
                report = lb.train_classifier(
                    parts["train"], folder, valid=parts["valid"], test=parts["test"], options=options
                )
                figures.append(100 * getattr(report.metrics["test"], figure))
                if refit:
                    ours.seconds.append(time.process_time() - started)
                    with (Path(folder) / "predictions.csv").open(encoding="utf-8", newline="") as file:
                        ours.predicted.append([row["predicted"] for row in csv.DictReader(file)])
    return ours


def compare(task: Task, seeds: int) -> list[Row]:
    parts = read_parts(task.name)
    labels, ours = parts["test"].labels, train(parts, task.figure, seeds)
    peers = [svm(parts, task.figure), fast_text(parts)]
    better = functools.partial(Row, unit="%", higher_is_better=True)
    rows = []
    for kind, figures in (("training part", ours.training_part), ("both parts", ours.both_parts)):
        for peer in peers:
            theirs = peer.training_part if kind == "training part" else peer.both_parts
            figure, error = score(theirs, labels, task.figure), standard_error(theirs, labels, task.figure)
            remark = f"{min(figures):.2f}-{max(figures):.2f} over {seeds} seeds; standard error {100 * error:.2f}"
            if kind == "both parts":
                chances = sorted(mcnemar(predicted, theirs, labels) for predicted in ours.predicted)
                remark += f"; McNemar p {chances[0]:.2g} to {chances[-1]:.2g}"
            named = (kind == "both parts") == task.both_parts
            wanted = "above" if kind == "training part" or peer is peers[0] else ""
            wanted = f"at least {task.wanted:g}, above" if named and peer is peers[0] else wanted
            what, mean = f"{task.label}, {kind}", statistics.mean(figures)
            rows.append(better(what, mean, peer.name, 100 * figure, equality=remark, target=wanted))
    fastest = min(peer.seconds for peer in peers)
    for peer in peers:
        wanted = "at most 2x" if peer.seconds == fastest else ""
        what, took = f"{task.name}: processor seconds", statistics.median(ours.seconds)
        rows.append(Row(what, took, peer.name, peer.seconds, "s", "the same rows", wanted))
    return rows


def prediction_rate(parts: Parts) -> Row:
    """Measure a stream of headlines through a loaded classifier, by the clock, on all cores."""
    torch.set_num_threads(os.cpu_count() or 1)
    texts = [text for part in parts.values() for text in part.texts] * 3
    with tempfile.TemporaryDirectory() as folder:
        lb.train_classifier(parts["train"], folder, valid=parts["valid"], overwrite=True)
        classifier = lb.load_classifier(folder)
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        answered = sum(len(predictions.labels) for predictions in classifier.predict_stream(texts))
        rates.append(answered / (time.perf_counter() - start))
        assert answered == len(texts)
    what = f"thucnews45k: {len(texts):,} headlines predicted, {torch.get_num_threads()} threads"
    return Row(what, statistics.median(rates), "demand", 100_000, "/s", target=">= 100,000 /s", higher_is_better=True)


def run(*, quick: bool) -> list[Row]:
    wanted = ["demo", "chnsenticorp_htl"] if quick else list(TASKS)
    there = [name for name in wanted if name == "demo" or DATA.is_dir()]
    rows = [row for name in there for row in compare(TASKS[name], 1 if quick else TASKS[name].seeds)]
    return [*rows, prediction_rate(read_parts("thucnews45k"))] if "thucnews45k" in there else rows
