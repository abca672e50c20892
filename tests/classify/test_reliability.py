"""Calibration figures equal a loop by the definition."""

import math

import numpy as np
import pytest

from linkboy.classify.judging._reliability import reliability


def test_error_and_bins_equal_the_definition():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.1, 1, 500)
    right = generator.random(500) < confidence**2
    got = reliability(confidence, right, bins=10)
    error = 0.0
    for number in range(10):
        low, high = number / 10, (number + 1) / 10
        rows = [i for i in range(500) if low < confidence[i] <= high]
        assert got.bins[number].row_count == len(rows)
        if rows:
            sure, hit = (sum(values[i] for i in rows) / len(rows) for values in (confidence, right))
            assert got.bins[number].confidence == pytest.approx(sure)
            assert got.bins[number].accuracy == pytest.approx(hit)
            error += len(rows) / 500 * abs(sure - hit)
    assert got.calibration_error == pytest.approx(error)
    assert (got.confidence, got.accuracy) == pytest.approx((confidence.mean(), right.mean()))


def test_the_ends_belong_to_the_first_and_the_last_bin_and_empty_bins_have_no_figures():
    got = reliability(np.array([0.0, 1.0], np.float32), np.array([False, True]), bins=4)
    assert [b.row_count for b in got.bins] == [1, 0, 0, 1]
    assert math.isnan(got.bins[1].accuracy)
    assert got.calibration_error == 0


def test_probabilities_that_say_what_is_true_have_no_error():
    assert reliability(np.full(10, 0.75), np.arange(10) % 4 != 0, bins=15).calibration_error == pytest.approx(0.05)
    assert "mean confidence 75.00%, accuracy 70.00%" in str(reliability(np.full(10, 0.75), np.arange(10) % 4 != 0))
