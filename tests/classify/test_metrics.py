"""Figures equal scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from linkboy.classify.metrics import classification_metrics, macro_f1

LABELS = st.integers(0, 4)


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
        "accuracy 50.00% (standard error 25.00%)   macro-F1 50.00%   4 rows"
    )
