"""Cross-validation: the figures of models trained by hand, no text on both sides, and suspected labels of the whole file."""

import csv
import dataclasses
import json
import re

import numpy as np
import pytest

import linkboy as lb
from linkboy.classify.learning.folds import check_folds, cross_validate
from linkboy.classify.linear._linear import folds
from linkboy.classify.reading._parts import keys_of, make_parts, parts_of_fold, targets_of

FOLDS = 3
WRONG = range(7, 120, 23)
QUICK = lb.TrainingOptions(loss="cross-entropy")  # fewer members


@pytest.fixture(scope="module")
def data(make_rows):
    """Rows of which some have a wrong label, and some repeat a text."""
    rows = make_rows(120)
    names, labels, texts = sorted(set(rows.labels)), list(rows.labels), list(rows.texts)
    for row in WRONG:
        labels[row] = names[(names.index(labels[row]) + 1) % 3]
    texts[1:117:39] = texts[4:120:39]  # of the same class
    return dataclasses.replace(rows, source="reviews.csv", texts=texts, labels=labels, lines=range(2, 122))


@pytest.fixture(scope="module")
def report(data, tmp_path_factory):
    return lb.train_classifier(data, tmp_path_factory.mktemp("folds") / "model", options=QUICK, folds=FOLDS, lang="zh")


def splits_of(data, count, seed=0):
    parts = make_parts(data, seed=seed)
    targets = targets_of(data, parts.class_names, "train")
    return parts, targets, folds(targets, keys_of(data.texts), seed, count)


@pytest.mark.parametrize(("count", "seed"), [(2, 0), (5, 1), (10, 2)])
def test_every_row_is_judged_once_and_no_model_has_seen_its_text(count, seed, data):
    parts, targets, splits = splits_of(data, count, seed)
    assert sorted(np.concatenate([judged for _, judged in splits]).tolist()) == list(range(len(data)))
    assert len(splits) == count
    for learned, judged in splits:
        made = parts_of_fold(data, parts, learned, judged, seed=seed)
        seen = set(made.texts["train"].texts) | set(made.texts["valid"].texts)
        assert not seen & set(made.texts["test"].texts)
        assert sorted([*made.texts["train"].lines, *made.texts["valid"].lines]) == [data.lines[row] for row in learned]
        assert list(made.texts["test"].lines) == [data.lines[row] for row in judged]
        assert made.targets["test"].tolist() == targets[judged].tolist()
        assert np.bincount(made.targets["train"], minlength=3).min() > 0


def test_the_figures_are_those_of_models_that_are_trained_by_hand(data, report, tmp_path):
    _, _, splits = splits_of(data, FOLDS)
    by_hand = [
        lb.train_classifier(data.take(learned), tmp_path / f"{n}", test=data.take(judged), options=QUICK).metrics[
            "test"
        ]
        for n, (learned, judged) in enumerate(splits)
    ]
    made = report.cross_validation
    assert made.fold_count == FOLDS
    assert list(made.row_counts) == [each.row_count for each in by_hand]
    assert list(made.accuracies) == [each.accuracy for each in by_hand]
    assert list(made.macro_f1s) == [each.macro_f1 for each in by_hand]
    confusion = sum(np.array(each.confusion) for each in by_hand)
    assert np.array_equal(made.metrics.confusion, confusion)
    assert made.metrics.accuracy == pytest.approx(np.trace(confusion) / len(data), abs=1e-12)
    accuracies, f1s = ([getattr(each, name) for each in by_hand] for name in ("accuracy", "macro_f1"))
    assert made.accuracy_standard_error == pytest.approx(np.std(accuracies, ddof=1) / np.sqrt(FOLDS), abs=1e-12)
    assert made.macro_f1_standard_error == pytest.approx(np.std(f1s, ddof=1) / np.sqrt(FOLDS), abs=1e-12)


def test_macro_f1_of_all_rows_follows_from_the_confusion(report):
    confusion = np.array(report.cross_validation.metrics.confusion)
    right, true, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    f1 = 2 / (true / right + predicted / right)
    assert report.cross_validation.metrics.macro_f1 == pytest.approx(f1.mean(), abs=1e-12)


def test_the_classifier_is_the_one_that_is_trained_without_folds(data, report, tmp_path):
    plain = lb.train_classifier(data, tmp_path / "plain", options=QUICK)
    weights = [(each.directory / "model.safetensors").read_bytes() for each in (plain, report)]
    assert weights[0] == weights[1]
    assert plain.metrics == report.metrics
    assert plain.cross_validation is None
    assert not plain.suspects.by_folds


def test_planted_wrong_labels_are_found_in_all_rows(data, report):
    found = {suspect.line - 2 for suspect in report.suspects.suspects}
    assert report.suspects.row_count == len(data)
    assert found <= set(WRONG)
    assert len(found) >= len(WRONG) - 1
    assert {suspect.part for suspect in report.suspects.suspects} == {"train"}
    with (report.directory / "suspects.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["part", "line", "label", "suggested_label", "probability", "text"]
    assert {int(row["line"]) - 2 for row in rows} == found
    assert "of 120 rows (" in str(report)
    assert "suspects.csv       rows whose label may be wrong" in str(report)


def test_the_report_the_page_and_metrics_json_have_the_figures(report):
    made = report.cross_validation
    low, high = made.metrics.interval
    said = (
        f"all rows: accuracy {made.metrics.accuracy:.2%} ± {100 * made.accuracy_standard_error:.2f} (95% interval "
        f"{100 * low:.1f} to {100 * high:.1f}), macro-F1 {made.metrics.macro_f1:.2%} ± "
        f"{100 * made.macro_f1_standard_error:.2f}; ± is the standard error over 3 folds"
    )
    assert said in str(report)
    for c in made.metrics.per_class:
        row = rf"^ *{c.label} +{c.precision:.2%} +{c.recall:.2%} +{c.f1:.2%} +{c.support}$"
        assert re.search(row, str(made), re.MULTILINE)
    kept = json.loads((report.directory / "metrics.json").read_text("utf-8"))["cross_validation"]
    assert kept["accuracies"] == list(made.accuracies)
    assert kept["metrics"]["macro_f1"] == made.metrics.macro_f1
    page = re.sub(r"<[^>]+>", " ", (report.directory / "report.html").read_text("utf-8"))
    assert f"所有行：准确率 {made.metrics.accuracy:.2%} ±" in page
    assert "交叉验证：共 120 行，每行由没有见过这条文本的模型评估" in page
    assert f"训练文件共 120 行，其中 {report.suspects.suspect_count} 行的标签可能有误" in page
    assert "Cross-validation" not in page


def test_labels_at_random_have_no_suspects(make_rows):
    rows = make_rows(60)
    data = dataclasses.replace(rows, labels=np.random.default_rng(1).permutation(rows.labels).tolist())
    made, suspects = cross_validate(lb.TrainingOptions(folds=2), data, make_parts(data), 2)
    assert not made.metrics.is_better_than_guessing
    assert suspects.suspect_count == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"folds": 1}, "folds must be an integer of at least 2, got 1"),
        ({"folds": 3, "model": "cnn"}, "folds is for model='ngram', got model='cnn'; leave folds or model out"),
        (
            {"folds": 3, "encoder": "bert"},
            "folds is for the n-gram model alone, got encoder='bert'; leave one of them out",
        ),
        (
            {"folds": 3, "budget": "1m"},
            "folds is for the n-gram model alone, got budget='1m'; leave one of them out",
        ),
    ],
)
def test_options_that_do_not_go_with_folds_are_refused(options, sentence):
    with pytest.raises(ValueError) as caught:
        lb.TrainingOptions(**options)
    assert str(caught.value) == sentence


def refused(tmp_path, data, **keywords):
    with pytest.raises(ValueError) as caught:
        lb.train_classifier(data, tmp_path / "model", **keywords)
    assert not (tmp_path / "model").exists()
    return str(caught.value)


def test_data_that_cannot_be_cut_are_refused(tmp_path, data, monkeypatch):
    texts = [f"text {n}" for n in range(30)]
    few = (texts, ["a"] * 25 + ["b", "b", "b"] * 1 + ["c"] * 2)
    said = "needs two classes with at least {} different texts each, and the second largest has 3; pass fewer folds, or add rows"
    assert refused(tmp_path, few, folds=5) == f"folds=5 {said.format(5)}"
    assert refused(tmp_path, few, folds=2) == f"folds=2 {said.format(4)}"
    several = lb.LabelledTexts("by hand", texts, [("a", "b") if n % 2 else ("a",) for n in range(30)], range(1, 31))
    assert refused(tmp_path, several, folds=2) == (
        "folds is for texts of one class, and these may have several labels; leave folds out"
    )
    twice = {"folds": 3, "options": lb.TrainingOptions(folds=4)}
    assert refused(tmp_path, data, **twice) == "folds must be given once, got 3 and in the options 4"
    monkeypatch.setattr("linkboy.classify.learning._outcome.LARGE", 50)
    kept = [text for part in ("train", "valid") for text in make_parts(data).texts[part].texts]
    assert refused(tmp_path, data, folds=3) == (
        "folds is for fewer than 50 training and validation rows with at most 100000000 characters in all, got "
        f"{len(kept)} rows with {len(''.join(kept))}; leave folds out, since so large a test part has small errors"
    )
    monkeypatch.setattr("linkboy.training.process_count", lambda: 2)
    assert refused(tmp_path, data, folds=3) == "folds is for one process, got 2; leave folds out"


def test_the_smallest_data_that_are_taken():
    data = lb.LabelledTexts(
        "by hand", [f"{word} {n}" for n in range(4) for word in ("good", "bad")], ["p", "n"] * 4, range(8)
    )
    options = dataclasses.replace(QUICK, folds=2)
    parts = make_parts(data)
    check_folds(options, data, parts)
    assert cross_validate(options, data, parts, 2)[0].metrics.row_count == 8


def test_a_class_that_a_fold_does_not_have_is_never_predicted_there(make_rows):
    rows = make_rows(30)
    data = dataclasses.replace(rows, labels=["rare", *rows.labels[1:]])
    options = dataclasses.replace(QUICK, folds=2, class_weight="balanced")
    made, _ = cross_validate(options, data, make_parts(data), 2)
    rare = next(each for each in made.metrics.per_class if each.label == "rare")
    assert (rare.support, rare.recall) == (1, 0)
