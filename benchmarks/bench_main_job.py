"""`linkboy train` with its defaults beside TF-IDF and a linear SVM on the same parts."""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import f1_score
from sklearn.pipeline import make_union
from sklearn.svm import LinearSVC

import linkboy as lb
from benchmarks.harness import Row
from linkboy.classify.demo import demo_data
from linkboy.classify.features import share_unspaced

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
# What each set is judged by: the long-tailed and the two-class set by macro-F1.
SETS = {
    "thucnews45k": ("accuracy", {}),
    "thucnews_lt100": ("macro_f1", {"loss": "logit-adjusted", "metric": "macro-f1"}),
    "chnsenticorp_htl": ("macro_f1", {"metric": "macro-f1"}),
    "banking77": ("accuracy", {}),
}


def svm(parts: dict[str, lb.LabelledTexts], figure: str, *, balanced: bool) -> tuple[float, float]:
    """Return the test figure and the seconds of features and fit; C is chosen on the validation part."""
    started = time.perf_counter()
    if share_unspaced(parts["train"].texts) > 0.5:
        features = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True, min_df=2)
    else:
        features = make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=2),
        )
    train = features.fit_transform(parts["train"].texts)
    seconds = time.perf_counter() - started
    best = (-1.0, 0.0, 0.0)
    matrices = {part: features.transform(parts[part].texts) for part in ("valid", "test")}
    for C in (0.25, 1.0, 4.0):
        started = time.perf_counter()
        model = LinearSVC(C=C, class_weight="balanced" if balanced else None).fit(train, parts["train"].labels)
        fit_seconds = time.perf_counter() - started
        valid, test = (score(model.predict(matrices[part]), parts[part].labels, figure) for part in ("valid", "test"))
        best = max(best, (valid, test, fit_seconds))
    return best[1], seconds + best[2]


def score(predicted: np.ndarray, labels: list[str], figure: str) -> float:
    if figure == "accuracy":
        return float((predicted == np.array(labels)).mean())
    return float(f1_score(labels, predicted, average="macro"))


def compare(name: str, parts: dict[str, lb.LabelledTexts], figure: str, options: dict, seeds: int) -> list[Row]:
    figures, seconds = [], []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            report = lb.train_classifier(
                parts["train"], folder, valid=parts["valid"], test=parts["test"],
                options=lb.TrainingOptions(seed=seed, **options),
            )  # fmt: skip
        figures.append(getattr(report.metrics["test"], figure))
        seconds.append(report.seconds["encoding"] + report.seconds["training"])
    balanced = figure == "macro_f1"
    peer, peer_seconds = svm(parts, figure, balanced=balanced)
    peer_name = "TF-IDF + LinearSVC" + (", balanced" if balanced else "")
    spread = f"{100 * min(figures):.2f}-{100 * max(figures):.2f}, {seeds} seeds, the same rows"
    ours = 100 * statistics.mean(figures)
    chosen = " ".join(f"--{key} {value}" for key, value in options.items())
    label = f"{name}: {figure.replace('_', '-')} {chosen}".strip()
    return [
        Row(label, ours, peer_name, 100 * peer, "%", spread, higher_is_better=True),
        Row(
            f"{name}: seconds, features and fit",
            statistics.median(seconds),
            peer_name,
            peer_seconds,
            "s",
            "the same rows",
        ),
    ]


def run(*, quick: bool) -> list[Row]:
    rows: list[Row] = []
    seeds = 1 if quick else 3
    rows += compare("demo (32 languages)", demo_data(), "accuracy", {}, seeds)
    if DATA.is_dir():
        for name, (figure, options) in SETS.items():
            files = {"train": "train.txt", "valid": "dev.txt", "test": "test.txt"}
            parts = {part: lb.read_labelled(DATA / name / file) for part, file in files.items()}
            if not quick or name == "chnsenticorp_htl":
                rows += compare(name, parts, figure, options, seeds)
    return rows
