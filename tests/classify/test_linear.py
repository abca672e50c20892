"""The solver of the n-gram model against scikit-learn and a plain objective, the mix, the folds, and what follows from them."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.svm import LinearSVC

from linkboy.classify.encoding._features import FlatFeatures
from linkboy.classify.linear._linear import Judge, Member, Task, _path, fit_linear, folds
from linkboy.classify.linear._mixing import centred, mean_loss, mix
from linkboy.classify.linear._solver import SCALES, Problem, SparseRows
from linkboy.classify.models._centroids import MOST_OF_CLASSES, fit_centroids

VOCABULARY = 40


def draw(rows=120, classes=3, seed=0):
    """Return sparse rows that tell the classes apart somewhat, their dense form, and targets."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, classes, rows)
    dense = generator.random((rows, VOCABULARY)) < 0.15
    dense[np.arange(rows), (targets * 7 + generator.integers(0, 5, rows)) % VOCABULARY] = True
    dense[3] = False  # a text without a known n-gram
    ids = np.nonzero(dense)[1].astype(np.int64)
    offsets = np.concatenate(([0], np.cumsum(dense.sum(1))))
    return FlatFeatures(ids, None, offsets), dense / np.sqrt(np.maximum(dense.sum(1, keepdims=True), 1)), targets


def problem(features, targets, classes=3, weights=None):
    weights = np.ones(len(targets), np.float32) if weights is None else weights
    return Problem(
        SparseRows(features, VOCABULARY), torch.from_numpy(targets), classes, torch.from_numpy(weights)[:, None]
    )


def dense_solution(made, *arguments):
    weights = torch.zeros(VOCABULARY + 1, made.classes)
    for columns, block in made.solve(*arguments):
        weights[:, columns] = block
    return weights


def test_rows_multiply_from_both_sides_as_their_dense_form_does():
    features, dense, _ = draw()
    rows, generator = SparseRows(features, VOCABULARY), torch.Generator().manual_seed(0)
    weights = torch.randn(VOCABULARY + 1, 5, generator=generator)
    values = torch.randn(len(rows), 5, generator=generator)
    whole = torch.from_numpy(np.hstack([dense, np.ones((len(dense), 1))]))
    torch.testing.assert_close(rows.times(weights).double(), whole @ weights.double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rows.transposed_times(values).double(), whole.T @ values.double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        rows.squared_times(values).double(), whole.square().T @ values.double(), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("kind", SCALES)
@pytest.mark.parametrize("classes", [2, 3])
def test_a_scale_gives_rows_of_unit_size_and_nothing_to_what_is_rare(kind, classes):
    features, dense, targets = draw(classes=classes)
    scale = problem(features, targets, classes).scale(kind, 0, classes).double().numpy()
    size = ((dense**2) @ scale[:-1] ** 2).mean()
    assert size == pytest.approx(1, rel=1e-5)
    assert (scale[-1] == 1).all()
    assert (scale[:-1][(dense > 0).sum(0) < 2] == 0).all()


def test_log_odds_are_those_of_naive_bayes():
    features, dense, targets = draw()
    found = problem(features, targets).scale("log-odds", 0, 3).double().numpy()[:-1]
    inside = np.stack([(dense[targets == c] > 0).sum(0) for c in range(3)], 1) + 0.3
    outside = np.stack([(dense[targets != c] > 0).sum(0) for c in range(3)], 1) + 0.3
    expected = np.log(inside / inside.sum(0)) - np.log(outside / outside.sum(0))
    expected[(dense > 0).sum(0) < 2] = 0
    ratio = found[expected != 0] / expected[expected != 0]
    assert ratio.std() < 1e-4 * abs(ratio.mean())


@pytest.mark.parametrize("kind", SCALES)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("strength", [0.25, 4.0])
def test_the_hinge_comes_to_the_weights_of_linear_svc(kind, classes, strength):
    features, dense, targets = draw(classes=classes)
    weights = np.random.default_rng(1).random(len(targets)).astype(np.float32)
    made = problem(features, targets, classes, weights)
    scale = made.scale(kind, 0, classes).double().numpy()[:-1]
    ours = dense_solution(made, "squared-hinge", kind, strength, 300).double().numpy()
    for c in range(classes):
        scaled = dense * scale[:, min(c, scale.shape[1] - 1)]
        peer = LinearSVC(dual=True, C=strength, tol=1e-10, max_iter=200_000).fit(
            scaled, targets == c, sample_weight=weights
        )
        theirs, mine = scaled @ peer.coef_[0] + peer.intercept_[0], dense @ ours[:-1, c] + ours[-1, c]
        if classes == 2:
            mine = mine * 2  # two classes share one column, half of it each
        np.testing.assert_allclose(mine, theirs, atol=2e-3)


def test_the_cross_entropy_is_at_its_minimum():
    features, dense, targets = draw()
    weights = np.random.default_rng(1).random(len(targets)).astype(np.float32)
    made = problem(features, targets, 3, weights)
    scale = made.scale("idf", 0, 3).double()
    x = torch.from_numpy(np.hstack([dense, np.ones((len(dense), 1))])) * scale[:, 0]
    u = (dense_solution(made, "cross-entropy", "idf", 4.0, 300).double() / scale.clamp_min(1e-12)).requires_grad_()
    losses = torch.nn.functional.cross_entropy(x @ u, torch.from_numpy(targets), reduction="none")
    (gradient,) = torch.autograd.grad(u.square().sum() / 2 + 4 * (torch.from_numpy(weights) * losses).sum(), u)
    assert gradient.abs().max() < 1e-3


def objective(made, strength, steps, scale="presence"):
    """Return what the solver minimises for a cross-entropy, after some steps."""
    weights = dense_solution(made, "cross-entropy", scale, strength, steps)
    losses = torch.nn.functional.cross_entropy(made.rows.times(weights), made.targets, reduction="none").double()
    scaled = weights.double() / made.scale(scale, 0, made.classes).double().clamp_min(1e-12)
    return float(scaled.square().sum() / 2 + strength * losses.sum())


@pytest.mark.parametrize("classes", [10, 20])
@pytest.mark.parametrize("strength", [16.0, 64.0, 1024.0])
def test_no_step_goes_beyond_the_minimum_and_back_where_the_loss_is_nearly_flat(classes, strength):
    targets = np.repeat(np.arange(classes), 10)
    made = problem(FlatFeatures(targets, None, np.arange(len(targets) + 1)), targets, classes)
    found = [objective(made, strength, steps) for steps in range(12)]
    assert all(later <= earlier * 1.001 for earlier, later in pairwise(found))
    assert found[-1] == pytest.approx(objective(made, strength, 200), rel=0.02)


@pytest.mark.parametrize(("classes", "rows"), [(40, 600), (60, 1200)])
def test_eight_steps_come_near_to_the_minimum_for_many_classes(classes, rows):
    features, _, targets = draw(rows, classes)
    made = problem(features, targets, classes)
    before, after, least = (objective(made, 64.0, steps, "idf") for steps in (0, 8, 1000))
    assert after - least < 0.035 * (before - least)


def test_classes_in_blocks_come_to_the_same_weights(monkeypatch):
    features, _, targets = draw()
    whole = dense_solution(problem(features, targets), "squared-hinge", "log-odds", 1.0, 20)
    monkeypatch.setattr("linkboy.classify.linear._solver.BLOCK", 1)
    torch.testing.assert_close(dense_solution(problem(features, targets), "squared-hinge", "log-odds", 1.0, 20), whole)


@pytest.mark.parametrize("loss", ["squared-hinge", "cross-entropy"])
def test_n_grams_in_pieces_come_to_the_same_weights(loss, monkeypatch):
    features, _, targets = draw()
    whole = dense_solution(problem(features, targets), loss, "idf", 1.0, 5)
    monkeypatch.setattr("linkboy.classify.linear._solver.TILE", 7)
    torch.testing.assert_close(
        dense_solution(problem(features, targets), loss, "idf", 1.0, 5), whole, atol=1e-5, rtol=1e-4
    )


def test_a_mix_is_at_its_minimum_and_never_below_zero():
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(4, (500,), generator=generator)
    good = torch.nn.functional.one_hot(targets, 4) * 2.0 + torch.randn(500, 4, generator=generator)
    members = [centred(good), centred(-good), centred(torch.randn(500, 4, generator=generator) + good / 4)]
    weights = torch.rand(500, generator=generator)
    a = mix(members, targets, weights)
    assert (a >= 0).all()
    assert a[1] == 0

    def loss(coefficients):
        z = sum(float(c) * m for c, m in zip(coefficients, members, strict=True))
        prior = 1e-3 / 2 * sum((float(c) - 1 / 3) ** 2 for c in coefficients)
        return float(mean_loss(z, targets, weights.double())) + prior

    for n in range(3):
        for step in (-1e-3, 1e-3):
            moved = a.clone()
            moved[n] = max(0.0, moved[n] + step)
            assert loss(moved) >= loss(a) - 1e-12


@pytest.mark.parametrize("several", [False, True])
def test_a_mix_in_blocks_of_rows_is_the_same(several, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    members = [torch.randn(101, 4, generator=generator) for _ in range(2)]
    targets = torch.randint(4, (101,), generator=generator)
    if several:
        targets = torch.rand(101, 4, generator=generator) < 0.4
    weights = torch.rand(101, generator=generator)
    whole, loss = mix(members, targets, weights), mean_loss(members[0].double(), targets, weights.double())
    monkeypatch.setattr("linkboy.classify.linear._mixing.BLOCK", 8 * 7)
    torch.testing.assert_close(mix(members, targets, weights), whole, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(mean_loss(members[0].double(), targets, weights.double()), loss, rtol=1e-12, atol=0)


def test_centred_logits_leave_those_given_unchanged():
    logits = torch.randn(5, 3, dtype=torch.float64)
    before = logits.clone()
    assert centred(logits).mean(1).abs().max() < 1e-12
    assert torch.equal(logits, before)


@pytest.mark.parametrize("block", [1, 7, 10_000])
def test_a_centroid_is_the_unit_sum_of_the_unit_rows_of_its_class(block, monkeypatch):
    monkeypatch.setattr("linkboy.classify.models._centroids.ROWS", block)
    features, dense, targets = draw(classes=30)
    rows = np.flatnonzero(np.arange(len(targets)) % 4)  # of which class 0 has some, and others perhaps none
    idf = np.random.default_rng(1).random(VOCABULARY).astype(np.float32) + 0.5
    model = fit_centroids(features, targets, rows, idf, 30)
    tf_idf = (dense > 0) * idf.astype(np.float64)
    tf_idf /= np.maximum(np.linalg.norm(tf_idf, axis=1, keepdims=True), 1e-12)
    sums = np.stack([tf_idf[rows][targets[rows] == c].sum(0) for c in range(30)])
    sums[:, (sums > 0).sum(0) > 30 * MOST_OF_CLASSES] = 0
    expected = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12) * idf
    found = np.zeros_like(expected)
    for ngram in range(VOCABULARY):
        own = slice(int(model.starts[ngram]), int(model.starts[ngram + 1]))
        found[model.classes[own].numpy(), ngram] = model.values[own].detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    model.check()


def test_one_member_without_mistakes_does_not_ask_for_certainty():
    targets = torch.arange(30) % 3
    (a,) = mix([torch.nn.functional.one_hot(targets, 3) * 2.0 - 2 / 3], targets, torch.ones(30)).tolist()
    assert 1 < a < 20


def test_folds_keep_equal_texts_together_and_hold_every_class():
    generator = np.random.default_rng(0)
    targets, keys = generator.integers(0, 5, 300), generator.integers(0, 200, 300)
    made = folds(targets, keys, 0)
    assert sorted(np.concatenate([judged for _, judged in made]).tolist()) == list(range(300))
    for fit, judged in made:
        assert not set(keys[fit]) & set(keys[judged])
        assert len(np.unique(targets[judged])) == 5


def task_of(rows=300, classes=3):
    features, _, targets = draw(rows, classes)
    return Task(features, VOCABULARY, targets, classes, np.ones(rows, np.float32))


def test_the_result_is_the_sum_of_its_members_and_repeats_to_the_bit():
    task, everyone = task_of(), np.arange(300)
    splits = folds(task.targets, everyone, 0)
    one, two = (fit_linear(task, splits, everyone) for _ in range(2))
    assert torch.equal(one.weights, two.weights)
    total = torch.zeros_like(one.weights)
    for member in one.report.members:
        if member.coefficient:
            for columns, weights in task.problem(everyone).solve(
                member.loss, member.scale, member.strength, one.report.steps
            ):
                total[:, columns] += member.coefficient * weights
    torch.testing.assert_close(one.weights, total - total.mean(1, keepdim=True), rtol=1e-4, atol=1e-5)
    assert one.report.judged_loss <= min(m.judged_loss for m in one.report.members) + 1e-3
    assert one.report.judged_loss < np.log(3)


def test_a_budget_tries_other_strengths_and_never_ends_less_likely():
    task, everyone = task_of(), np.arange(300)
    splits = [(everyone[:200], everyone[200:])]
    plain, tried = fit_linear(task, splits, everyone), fit_linear(task, splits, everyone, deadline=float("inf"))
    assert tried.report.tried_count >= 8
    assert tried.report.judged_loss <= plain.report.judged_loss + 1e-9
    assert fit_linear(task, splits, everyone, deadline=0.0).report.tried_count == 0


def test_all_strengths_that_were_tried_are_members():
    task, everyone = task_of(), np.arange(300)
    members = fit_linear(task, [(everyone[:200], everyone[200:])], everyone).report.members
    tried = {loss: [m for m in members if m.loss == loss] for loss in ("squared-hinge", "cross-entropy")}
    assert [m.scale for m in tried["squared-hinge"] if m.scale != "idf"] == ["presence", "idf x log-odds"]
    assert {m.scale for m in tried["cross-entropy"]} == set(SCALES)
    for found in tried.values():
        path = [m for m in found if m.scale == found[0].scale]
        losses = [m.judged_loss for m in path]
        assert len(path) > 1
        assert [m.strength for m in path] == [path[0].strength * 4**n for n in range(len(path))]
        assert all(later < earlier for earlier, later in pairwise(losses[:-1]))
        best = path[int(np.argmin(losses))].strength
        assert {m.strength for m in found if m.scale != found[0].scale} == {best}


def test_strengths_of_a_cross_entropy_grow_while_rows_become_likelier():
    class Stronger(Judge):
        def __init__(self):
            pass

        def judge(self, member):
            return dataclasses.replace(member, judged_loss=1 / member.strength), torch.zeros(1, 2)

    path = _path(Stronger(), "cross-entropy", "idf", lambda what: None)
    assert [member.strength for member, _ in path] == [4, 16, 64, 256]


def test_a_member_is_judged_with_the_proportions_of_the_judged_rows():
    features, _, targets = draw(400, 3)
    order = np.random.default_rng(2).permutation(400)
    train = np.concatenate([order[:200][targets[order[:200]] != 0], order[:200][targets[order[:200]] == 0][:8]])
    valid = order[200:]
    task = Task(features, VOCABULARY, targets, 3, np.ones(400, np.float32))
    ratio = (task.counts(valid) / len(valid)) / (task.counts(train) / len(train))
    member, logits = Judge(task, [(train, valid)], ratio, 5).judge(Member("cross-entropy", "idf", 4.0))
    z, own = logits.double().numpy(), targets[valid]

    def loss(factors: np.ndarray) -> float:
        moved = factors[0] * z + factors[1] * np.log(ratio)
        return float((logsumexp(moved, axis=1) - moved[np.arange(len(own)), own]).mean())

    best = minimize(loss, [1.0, 1.0], bounds=[(0, None)] * 2).fun
    assert member.judged_loss == pytest.approx(best, abs=2e-3)
    assert best < minimize(lambda factor: loss(np.array([factor[0], 0.0])), [1.0], bounds=[(0, None)]).fun - 0.01


def test_the_final_rows_are_weighted_by_their_own_proportions():
    """A part that is trained on in the end, with other proportions than the one that was judged with."""
    features, _, targets = draw(400, 2)
    order = np.concatenate([np.flatnonzero(targets == 0), np.flatnonzero(targets == 1)])
    zeros, ones = order[: (targets == 0).sum()], order[(targets == 0).sum() :]
    train, valid = np.concatenate([zeros[:120], ones[:20]]), np.concatenate([zeros[120:170], ones[20:70]])
    task = Task(features, VOCABULARY, targets, 2, np.ones(400, np.float32))
    prior, final = (task.counts(train), task.counts(valid)), np.concatenate([train, valid])
    fit = fit_linear(task, [(train, valid)], final, prior=prior)
    even, of_final = np.array([0.5, 0.5]), task.counts(final) / len(final)
    problem = task.problem(final, even / of_final)
    expected = torch.zeros(VOCABULARY + 1, 2)
    for member in fit.report.members:
        if member.coefficient:
            for columns, weights in problem.solve(member.loss, member.scale, member.strength, fit.report.steps):
                expected[:, columns] += member.coefficient * weights
    expected[-1] += fit.report.prior_shift * torch.from_numpy(np.log(even / of_final)).float()
    expected -= expected.mean(1, keepdim=True)
    torch.testing.assert_close(fit.weights, expected, rtol=1e-4, atol=1e-5)
