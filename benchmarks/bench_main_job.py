"""`linkboy train` with its defaults beside TF-IDF with a linear SVM, and fastText, on the same rows.

All are trained once more on training and validation part together when their settings are chosen, as `linkboy train` does
by default. The SVM's C (and whether classes are balanced, where macro-F1 counts) is chosen on the validation part;
fastText, as published: 100 dimensions, rate 0.5, 25 epochs, word 3-grams over the characters of Chinese, elsewhere word
2-grams and characters 2 to 5. Seconds are those of features and one fit with the chosen settings; ours are of everything
that `linkboy train` does between reading and judging, both trainings included.
"""

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
    "demo": "accuracy",
    "thucnews45k": "accuracy",
    "thucnews_lt100": "macro_f1",
    "chnsenticorp_htl": "macro_f1",
    "banking77": "accuracy",
}
SVM_C = (0.25, 1.0, 4.0)
Parts = dict[str, lb.LabelledTexts]


def read_parts(name: str) -> Parts:
    if name == "demo":
        return demo_data()
    files = {"train": "train.txt", "valid": "dev.txt", "test": "test.txt"}
    return {part: lb.read_labelled(DATA / name / file) for part, file in files.items()}


def score(predicted: list[str], labels: list[str], figure: str) -> float:
    if figure == "accuracy":
        return float((np.array(predicted) == np.array(labels)).mean())
    return float(f1_score(labels, predicted, average="macro"))


def svm(parts: Parts, figure: str) -> tuple[float, float, str]:
    """Return the test figure, the seconds and the settings of the SVM that is best on the validation part."""
    train, valid, test = (parts[part] for part in ("train", "valid", "test"))
    texts, labels = [*train.texts, *valid.texts], [*train.labels, *valid.labels]
    started = time.perf_counter()
    if share_unspaced(train.texts) > 0.5:
        features = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True, min_df=2)
    else:
        features = make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=2),
        )
    matrix = features.fit_transform(texts)
    seconds = time.perf_counter() - started
    rows = len(train)
    candidates = [
        (score(model.predict(matrix[rows:]), valid.labels, figure), C, weight)
        for weight in ((None, "balanced") if figure == "macro_f1" else (None,))
        for C in SVM_C
        for model in [LinearSVC(C=C, class_weight=weight).fit(matrix[:rows], train.labels)]
    ]
    _, C, weight = max(candidates, key=lambda candidate: candidate[0])
    started = time.perf_counter()
    model = LinearSVC(C=C, class_weight=weight).fit(matrix, labels)
    seconds += time.perf_counter() - started
    name = f"TF-IDF + LinearSVC, C {C:g}" + (", balanced" if weight else "")
    return score(model.predict(features.transform(test.texts)), test.labels, figure), seconds, name


def fast_text(parts: Parts, figure: str) -> tuple[float, float, str]:
    """Return the test figure, the seconds (its pass over the file included) and the settings of fastText."""
    import fasttext

    fasttext.FastText.eprint = lambda *arguments: None
    unspaced = share_unspaced(parts["train"].texts) > 0.5

    def prepared(text: str) -> str:
        return " ".join(text.replace(" ", "")) if unspaced else " ".join(text.lower().split())

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.txt"
        rows = [row for part in ("train", "valid") for row in zip(parts[part].labels, parts[part].texts, strict=True)]
        path.write_text("".join(f"__label__{label} {prepared(text)}\n" for label, text in rows), "utf-8")
        started = time.perf_counter()
        ngrams = {"wordNgrams": 3} if unspaced else {"wordNgrams": 2, "minn": 2, "maxn": 5}
        model = fasttext.train_supervised(
            str(path), dim=100, lr=0.5, epoch=25, bucket=500_000, thread=2, verbose=0, **ngrams
        )
        seconds = time.perf_counter() - started
    labels, _ = model.predict([prepared(text) for text in parts["test"].texts])
    predicted = [row[0].removeprefix("__label__") for row in labels]
    return score(predicted, parts["test"].labels, figure), seconds, "fastText"


def compare(name: str, figure: str, seeds: int) -> list[Row]:
    parts = read_parts(name)
    figures, seconds = [], []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            report = lb.train_classifier(
                parts["train"], folder, valid=parts["valid"], test=parts["test"], options=lb.TrainingOptions(seed=seed)
            )
        figures.append(getattr(report.metrics["test"], figure))
        seconds.append(report.seconds["encoding"] + report.seconds["training"])
    spread = f"{100 * min(figures):.2f}-{100 * max(figures):.2f}, {seeds} seeds, the same rows"
    ours, took = 100 * statistics.mean(figures), statistics.median(seconds)
    rows = []
    for peer in (svm, fast_text):
        theirs, their_seconds, peer_name = peer(parts, figure)
        what = f"{name}: {figure.replace('_', '-')}"
        rows.append(Row(what, ours, peer_name, 100 * theirs, "%", spread, higher_is_better=True))
        rows.append(Row(f"{name}: seconds, features and fit", took, peer_name, their_seconds, "s", "the same rows"))
    return rows


def run(*, quick: bool) -> list[Row]:
    names = ["demo", *(SETS if DATA.is_dir() else [])]
    wanted = ["demo", "chnsenticorp_htl"] if quick else list(SETS)
    return [row for name in wanted if name in names for row in compare(name, SETS[name], 1 if quick else 5)]
