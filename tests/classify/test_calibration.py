"""Adjustment by the priors and temperature, both chosen on the validation part."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from linkboy.classify.judging._reliability import reliability
from linkboy.classify.judging._scored import Scored
from linkboy.classify.judging.metrics import macro_f1
from linkboy.classify.learning.calibration import (
    best_temperature,
    calibrate,
    choose_adjustment,
    gain_standard_error,
)
from linkboy.classify.models._models import NgramClassifier, TextCNN


def drawn(rows, classes, temperature, seed=0):
    """Return logits, and labels drawn from the softmax of the logits divided by `temperature`."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (rows, classes))
    shares = np.exp(log_softmax(logits / temperature, 1))
    target = (shares.cumsum(1) > generator.random((rows, 1))).argmax(1)
    return logits, target


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(temperature):
    logits, target = drawn(20_000, 5, temperature)
    assert best_temperature(logits, target) == pytest.approx(temperature, rel=0.05)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 8), st.integers(1, 60))
def test_the_temperature_is_that_of_a_general_minimiser(seed, classes, rows):
    logits, target = drawn(rows, classes, 0.7, seed)
    weights = np.random.default_rng(seed).random(rows).astype(np.float32)

    def loss(log_scale):
        likelihood = log_softmax(logits * np.exp(log_scale), 1)[np.arange(rows), target]
        return -(weights * likelihood).sum() + log_scale**2 / 2

    found = minimize_scalar(loss, bounds=(-7, 7), method="bounded", options={"xatol": 1e-9})
    assert loss(-np.log(best_temperature(logits, target, weights))) <= found.fun + 1e-6


def test_a_validation_part_without_mistakes_does_not_ask_for_certainty():
    logits = np.eye(3)[[0, 1, 2, 0]] * 5
    assert 0.1 < best_temperature(logits, np.array([0, 1, 2, 0])) < 10


def test_calibration_lowers_the_error_of_rows_it_has_not_seen():
    logits, target = drawn(8000, 4, 0.3)
    seen, unseen = slice(0, 4000), slice(4000, None)
    temperature = best_temperature(logits[seen], target[seen])
    before, after = (
        Scored.of(torch.from_numpy(logits[unseen] / divisor), target[unseen]).reliability().calibration_error
        for divisor in (1.0, temperature)
    )
    assert after < 0.03 < 0.1 < before


def test_the_error_is_the_mean_distance_of_confidence_and_accuracy_in_fifteen_bins():
    generator = np.random.default_rng(1)
    confidence, right = generator.uniform(0.2, 1, 500), generator.random(500) < 0.6
    expected = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            expected += inside.sum() / 500 * abs(right[inside].mean() - confidence[inside].mean())
    assert reliability(confidence, right).calibration_error == pytest.approx(expected)


@pytest.mark.parametrize("rows", [60, 500, 5000])
def test_exact_probabilities_show_the_error_that_is_named_as_chance(rows):
    generator = np.random.default_rng(2)
    confidence = generator.beta(4, 2, rows)
    drawn = [reliability(confidence, generator.random(rows) < confidence) for _ in range(400)]
    assert np.mean([each.calibration_error for each in drawn]) == pytest.approx(drawn[0].chance_error, rel=0.05)
    assert f"(by chance alone {drawn[0].chance_error:.2%})" in str(drawn[0])


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (NgramClassifier(50, 3), (torch.tensor([1, 2, 40, 7]), torch.tensor([0, 3, 4]), torch.rand(4))),
        (TextCNN(50, 3).eval(), (torch.tensor([[1, 2, 40], [7, 0, 0]]),)),
    ],
)
def test_what_was_chosen_is_built_into_the_weights(model, inputs):
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    logits, target = drawn(600, 3, 0.5)
    raw = model(*inputs)
    done = calibrate(torch.from_numpy(logits), target, np.array([900, 90, 9]), metric="macro-f1", adjust=True)
    done.build_into(model)
    assert done.temperature != 1
    torch.testing.assert_close(model(*inputs), done.apply(raw), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(done.undo(model(*inputs)), raw, rtol=1e-4, atol=1e-4)


def skewed(rows=4000, seed=0):
    """Return logits of a model trained on classes of 9 : 1, over a validation part in which they are even."""
    generator = np.random.default_rng(seed)
    target = generator.integers(0, 2, rows)
    evidence = generator.normal(2.0 * target - 1, 1)  # log-odds of class 1 under even priors: 2 * evidence
    log_prior = np.log([0.9, 0.1])
    return np.stack([np.zeros(rows), 2 * evidence], 1) + log_prior, target, log_prior


@pytest.mark.parametrize("metric", ["accuracy", "macro-f1"])
def test_priors_that_do_not_hold_at_test_are_taken_out(metric):
    logits, target, log_prior = skewed()
    found = choose_adjustment(logits, target, log_prior, metric=metric)
    assert found.tau == pytest.approx(1, abs=0.25)
    assert found.after - found.before > 5 * found.standard_error > 0
    assert f"{found.tau:g} * log(prior) is subtracted from each logit" in str(found)


def test_no_adjustment_where_the_priors_hold():
    generator = np.random.default_rng(0)
    target = (generator.random(4000) < 0.1).astype(np.int64)
    evidence = generator.normal(2.0 * target - 1, 1)
    log_prior = np.log([0.9, 0.1])
    logits = np.stack([np.zeros(4000), 2 * evidence], 1) + log_prior
    found = choose_adjustment(logits, target, log_prior, metric="accuracy")
    assert found.tau == 0
    assert "no adjustment" in str(found)


def test_a_gain_within_its_standard_error_is_not_taken():
    generator = np.random.default_rng(3)
    taken = 0
    for _ in range(20):  # logits that say nothing: whatever is best is so by chance
        logits, target = generator.normal(0, 1, (40, 2)), generator.integers(0, 2, 40)
        found = choose_adjustment(logits, target, np.log([0.7, 0.3]), metric="accuracy")
        assert found.tau == 0 or found.after - found.before > found.standard_error
        taken += found.tau > 0
    assert taken < 20


def test_the_standard_error_of_a_gain_in_accuracy_is_that_of_paired_proportions():
    generator = np.random.default_rng(0)
    target = generator.integers(0, 3, 3000)
    before = np.where(generator.random(3000) < 0.7, target, (target + 1) % 3)
    after = np.where(generator.random(3000) < 0.3, target, before)
    difference = (after == target).astype(float) - (before == target)
    expected = difference.std() / np.sqrt(3000)
    error = gain_standard_error(target, before, after, lambda t, p: float((t == p).mean()))
    assert error == pytest.approx(expected, rel=0.25)


def test_without_a_long_tail_no_class_is_lifted():
    logits, target = drawn(300, 3, 1.0)
    done = calibrate(torch.from_numpy(logits), target, np.array([10, 30, 11]), metric="accuracy", adjust=False)
    assert done.adjustment is None
    assert set(done.shift) == {0.0}


def test_macro_f1_of_the_report_is_that_of_the_adjusted_predictions():
    logits, target, log_prior = skewed()
    found = choose_adjustment(logits, target, log_prior, metric="macro-f1")
    assert found.after == macro_f1(target, (logits - found.tau * log_prior).argmax(1))
