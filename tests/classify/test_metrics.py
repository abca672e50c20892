"""Figures equal scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from linkboy._language import translate_filled
from linkboy.classify.judging.metrics import classification_metrics, macro_f1
from linkboy.classify.judging.multilabel import multilabel_metrics

LABELS = st.integers(0, 4)


@settings(deadline=None)  # a busy machine takes longer than the default
@given(st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=60))
def test_figures_equal_scikit_learn(rows):
    target, predicted = np.array(rows).T
    metrics = classification_metrics(target, predicted, list("abcde"))
    assert metrics.accuracy == pytest.approx(accuracy_score(target, predicted))
    assert metrics.macro_f1 == pytest.approx(f1_score(target, predicted, average="macro", zero_division=0))
    assert metrics.macro_f1 == pytest.approx(macro_f1(target, predicted))
    assert metrics.weighted_f1 == pytest.approx(f1_score(target, predicted, average="weighted", zero_division=0))
    assert np.array_equal(metrics.confusion, confusion_matrix(target, predicted, labels=range(5)))
    expected = precision_recall_fscore_support(target, predicted, labels=range(5), zero_division=np.nan)
    got = [(c.precision, c.recall, c.f1, c.support) for c in metrics.per_class]
    np.testing.assert_allclose(np.array(got).T[:2], expected[:2])
    assert [c.support for c in metrics.per_class] == list(expected[3])


def test_a_class_that_occurs_nowhere_does_not_count_in_macro_f1():
    target, predicted = np.array([0, 0, 1]), np.array([0, 0, 1])
    assert classification_metrics(target, predicted, ["a", "b", "never"]).macro_f1 == 1.0


def test_a_class_that_is_only_predicted_counts_as_zero():
    target, predicted = np.array([0, 0, 0]), np.array([0, 0, 1])
    assert classification_metrics(target, predicted, ["a", "b"]).macro_f1 == pytest.approx(0.8 / 2)


def test_the_report_lists_classes_and_confusions():
    target, predicted = np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1])
    assert str(classification_metrics(target, predicted, ["体育", "财经"])) == (
        "class  precision   recall      F1  rows\n"
        "体育     100.00%   33.33%  50.00%     3\n"
        "财经      33.33%  100.00%  50.00%     1\n"
        "\n"
        "most confused: 体育 -> 财经 2\n"
        "\n"
        "this is not better than guessing: labels drawn at random in the same proportions would agree with 37.50% of the "
        "predictions\n"
        "\n"
        "accuracy 50.00% (95% interval 15.0 to 85.0; largest class 75.00%)   macro-F1 50.00%   4 rows"
    )


def test_the_interval_is_that_of_wilson_also_at_the_ends():
    for right, rows in ((0, 5), (5, 5), (9, 10), (450, 500)):
        target, predicted = np.zeros(rows, np.int64), np.r_[np.zeros(right), np.ones(rows - right)].astype(np.int64)
        low, high = classification_metrics(target, predicted, ["a", "b"]).interval
        share, z = right / rows, 1.959964
        for end in (low, high):  # where the distance of the share from the end is z standard deviations of the end
            assert (share - end) ** 2 == pytest.approx(z * z * end * (1 - end) / rows, abs=1e-12)
        assert -1e-12 <= low <= share <= high <= 1 + 1e-12


def test_guessing_is_told_from_knowing():
    generator = np.random.default_rng(0)
    target = generator.integers(0, 3, 400)
    guesses = [classification_metrics(target, generator.permutation(target), list("abc")) for _ in range(300)]
    assert sum(metrics.is_better_than_guessing for metrics in guesses) <= 12  # one in a hundred is to be expected
    known = np.where(generator.random(400) < 0.3, target, generator.permutation(target))
    assert classification_metrics(target, known, list("abc")).is_better_than_guessing
    always = classification_metrics(target, np.zeros(400, np.int64), list("abc"))
    assert not always.is_better_than_guessing
    assert always.chance_accuracy == pytest.approx(always.accuracy)


def test_thousands_of_classes_have_no_table_but_their_confused_pairs(monkeypatch):
    monkeypatch.setattr("linkboy.classify.judging.metrics.MOST_IN_TABLE", 2)
    metrics = classification_metrics(np.array([0, 0, 1, 2]), np.array([1, 1, 1, 0]), list("abc"))
    assert metrics.confusion == ()
    assert metrics.most_confused() == [("a", "b", 2), ("c", "a", 1)]


def test_of_more_than_two_hundred_classes_the_weakest_are_shown():
    target = np.repeat(np.arange(201), 2)
    predicted = target.copy()
    predicted[[6, 9]] = 0  # one row of class 3 and one of class 4
    metrics = classification_metrics(target, predicted, [f"c{n}" for n in range(201)])
    shown = str(metrics)
    assert "the 20 weakest of 201 classes by F1; per_class has all" in shown
    assert (
        translate_filled(metrics.class_table().title, "zh") == "按 F1 最弱的 20 个类别，共 201 个；全部在 per_class 里"
    )
    rows = [line.split()[0] for line in shown.splitlines() if line.startswith("c") and "%" in line]
    assert rows == ["c0", "c3", "c4", *(f"c{n}" for n in range(1, 20) if n not in (3, 4))]
    assert len(metrics.per_class) == 201
    fewer = classification_metrics(target[:400], target[:400], [f"c{n}" for n in range(200)])
    assert "weakest" not in str(fewer)
    assert "c199" in str(fewer)


def test_of_more_than_two_hundred_labels_the_weakest_are_shown():
    flags = np.eye(201, dtype=bool)
    given = flags.copy()
    given[7, 7] = False
    metrics = multilabel_metrics(flags, given, given.astype(float), [f"l{n}" for n in range(201)])
    shown = [line.split()[0] for line in str(metrics).splitlines() if line.startswith("l") and "%" in line]
    assert shown == ["l7", *(f"l{n}" for n in range(20) if n != 7)]
    assert "the 20 weakest of 201 classes by F1" in str(metrics)
