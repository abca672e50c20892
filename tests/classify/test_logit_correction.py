"""What is corrected in the logits of a mix: intercepts and a cap, where rows that did not choose them say so."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from tests.classify.test_linear import VOCABULARY, draw

import linkboy as lb
from linkboy.classify.linear import _logit_correction
from linkboy.classify.linear._linear import Task, fit_linear
from linkboy.classify.linear._logit_correction import LogitCorrection, choose_logit_correction
from linkboy.classify.models._models import NgramAndVectorClassifier, NgramClassifier, SoftCap


def judged(rows, classes=3, seed=0, size=3.0, cap=None, moved=None):
    """Return logits, classes drawn from what they become under a cap and other intercepts, and even weights."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, size, (rows, classes))
    logits -= logits.mean(1, keepdims=True)
    true = logits + (0 if moved is None else np.array(moved))
    true = true if cap is None else cap * np.tanh(true / cap)
    targets = (true + generator.gumbel(size=true.shape)).argmax(1)
    return torch.from_numpy(logits), torch.from_numpy(targets), torch.ones(rows)


def losses(logits, targets):
    return -log_softmax(np.asarray(logits), axis=1)[np.arange(len(targets)), np.asarray(targets)]


def test_likely_logits_are_left_as_they_are():
    for seed in range(5):
        found = choose_logit_correction(*judged(4000, seed=seed), intercepts=True)
        assert found.cap is None
        assert found.scale == 1.0
        assert found.intercepts.tolist() == [0.0] * 3


@pytest.mark.parametrize("classes", [2, 3, 12])
def test_a_cap_is_found_where_large_logits_are_less_sure(classes):
    logits, targets, weights = judged(6000, classes, cap=2.0)
    found = choose_logit_correction(logits, targets, weights, intercepts=False)
    assert found.cap == pytest.approx(2.0, rel=0.25)
    assert found.gain_of_cap > 0.01
    assert losses(found(logits), targets).mean() < losses(logits, targets).mean() - 0.01
    assert (found(logits).argmax(1) == logits.argmax(1)).all()
    assert float(found(logits).abs().max()) <= found.cap


def test_intercepts_are_found_where_a_class_is_given_too_often():
    moved = [0.8, -0.3, -0.5]
    logits, targets, weights = judged(6000, moved=moved)
    found = choose_logit_correction(logits, targets, weights, intercepts=True)
    assert found.cap is None or found.cap > 10
    assert found.intercepts.tolist() == pytest.approx(moved, abs=0.15)
    assert found.gain_of_intercepts > 0.01
    shares = found(logits).softmax(1).mean(0)
    assert shares.tolist() == pytest.approx((np.bincount(targets) / 6000).tolist(), abs=2e-3)
    assert choose_logit_correction(logits, targets, weights, intercepts=False).intercepts.tolist() == [0.0] * 3


def test_they_are_at_the_minimum_of_what_is_written():
    logits, targets, weights = judged(3000, cap=1.5, moved=[1.0, 0.0, -1.0])
    weights = torch.from_numpy(np.random.default_rng(1).uniform(0.2, 2, 3000))
    z, share = logits.numpy(), (weights / weights.sum()).numpy()

    start = np.array([0, 0, math.log(_logit_correction.CAP_AT_FIRST * np.sqrt(np.square(z).mean()))])

    def capped(p):
        return np.exp(p[2]) * np.tanh((np.exp(p[0]) * z - p[1]) / np.exp(p[2]))

    first = minimize(lambda p: share @ losses(capped(p), targets) + (p - start) @ (p - start) / 6000, start, tol=1e-9).x
    between, worth = capped(first), _logit_correction.WORTH_OF_INTERCEPTS / 6000
    second = minimize(
        lambda p: share @ losses(np.exp(p[0]) * between + p[1:], targets) + worth * (p @ p), np.zeros(4), tol=1e-9
    ).x
    found = choose_logit_correction(logits, targets, weights, intercepts=True)
    assert found.cap == pytest.approx(math.exp(first[2] + second[0]), rel=1e-3)
    assert found.scale == pytest.approx(math.exp(first[0] + second[0]), rel=1e-3)
    assert found.level == pytest.approx(first[1] * math.exp(second[0]), abs=1e-3)
    assert found.intercepts.numpy() == pytest.approx(second[1:], abs=1e-3)


def test_rows_in_blocks_give_the_same(monkeypatch):
    rows = judged(3000, cap=1.5, moved=[0.5, 0.0, -0.5])
    expected = choose_logit_correction(*rows, intercepts=True)
    monkeypatch.setattr("linkboy.classify.linear._mixing.BLOCK", 64)
    found = choose_logit_correction(*rows, intercepts=True)
    assert found.cap == pytest.approx(expected.cap, rel=1e-6)
    assert found.intercepts.numpy() == pytest.approx(expected.intercepts.numpy(), abs=1e-6)


@pytest.mark.parametrize(("classes", "most"), [(3, 2**21), (4, 6000)])
def test_rows_that_go_through_the_classes_in_turn_choose_as_any_others(monkeypatch, classes, most):
    monkeypatch.setattr(_logit_correction, "MOST_LOGITS", most)
    logits, targets, weights = judged(9000, classes, moved=np.linspace(0.8, -0.8, classes))
    each = 600
    in_turn = torch.stack([torch.nonzero(targets == number)[:each, 0] for number in range(classes)], 1).flatten()
    assert (targets[in_turn] == torch.arange(classes).repeat(each)).all()
    by_chance = in_turn[torch.from_numpy(np.random.default_rng(0).permutation(classes * each))]
    found, expected = (
        choose_logit_correction(logits[rows], targets[rows], weights[rows], intercepts=True)
        for rows in (in_turn, by_chance)
    )
    assert found.gain_of_intercepts == pytest.approx(expected.gain_of_intercepts, abs=0.03)
    assert found.gain_of_intercepts > 0.005
    assert found.intercepts.tolist() == pytest.approx(expected.intercepts.tolist(), abs=0.3)


@pytest.mark.parametrize("rows", [30, 90, 900])
def test_rows_without_a_mistake_ask_for_no_more_certainty(rows):
    for seed in range(4):
        logits, _, weights = judged(rows, seed=seed)
        found = choose_logit_correction(logits, logits.argmax(1), weights, intercepts=True)
        assert found.scale == 1
        assert found.cap is None
        assert found.intercepts.tolist() == [0.0] * 3


def test_rows_without_weight_count_for_nothing():
    logits, targets, weights = judged(2400, cap=1.5)
    wrong = torch.cat([targets, 2 - targets.repeat_interleave(3)])
    found = choose_logit_correction(
        torch.cat([logits, logits.repeat_interleave(3, 0)]),
        wrong,
        torch.cat([weights, 0 * weights.repeat(3)]),
        intercepts=True,
    )
    assert found.cap == pytest.approx(1.5, rel=0.3)


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("size", [0.0, 1e-12, 1.0, 1e4])
def test_few_rows_and_odd_sizes_end_with_finite_numbers(rows, size):
    logits, targets, weights = judged(rows, size=1.0)
    for labels in (targets, logits.argmax(1)):
        found = choose_logit_correction(logits * size, labels, weights, intercepts=True)
        assert math.isfinite(found.scale)
        assert found.intercepts.isfinite().all()
        assert found.cap is None or 0 < found.cap < math.inf


def test_classes_without_a_judged_row_keep_finite_intercepts():
    logits, targets, weights = judged(900, 5, moved=[1.0, 0, 0, 0, -40.0])
    assert 4 not in targets
    found = choose_logit_correction(logits, targets, weights, intercepts=True)
    assert found.gain_of_intercepts > 0.01
    assert found.intercepts.isfinite().all()
    assert float(found.intercepts.abs().max()) < 10


def noisy(rows=900, seed=0):
    """Return texts of three classes of unequal size, a quarter of them with a label by chance."""
    generator = np.random.default_rng(seed)
    words = [line.split() for line in ("球队 比赛 冠军 进球", "股市 基金 银行 涨停", "match goal team league")]
    own = generator.choice(3, rows, p=[0.6, 0.3, 0.1])
    texts = []
    for n, label in enumerate(own):
        pick = [label if generator.random() < 0.8 else generator.integers(3) for _ in range(generator.integers(1, 9))]
        texts.append(" ".join(generator.choice(words[k]) for k in pick) + f" {n}")
    labels = np.where(generator.random(rows) < 0.25, generator.integers(0, 3, rows), own)
    return lb.LabelledTexts("noisy", texts, ["abc"[k] for k in labels], range(1, rows + 1))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    report = lb.train_classifier(noisy(), tmp_path_factory.mktemp("capped") / "model")
    return report, lb.load_classifier(report.directory)


def test_noisy_labels_give_a_classifier_with_a_cap(trained):
    report, classifier = trained
    assert report.linear.logit_cap is not None
    assert f"tanh(logit / {report.linear.logit_cap:.3g})" in str(report)
    assert report.linear.to_dict()["gain_of_cap"] > 0.005
    cap = float(classifier.model.soft_cap.cap)
    assert cap == pytest.approx(report.linear.logit_cap)
    assert float(classifier.logits(["球队 冠军 比赛 进球 " * 20]).abs().max()) <= cap * (1 + 1e-6)
    config = json.loads((report.directory / "config.json").read_text("utf-8"))
    assert config["format_version"] == 3


def test_what_is_measured_is_what_the_loaded_classifier_gives(trained):
    report, classifier = trained
    metrics = report.metrics["test"]
    rows = [line.split(",") for line in (report.directory / "predictions.csv").read_text("utf-8").splitlines()]
    place = {name: rows[0].index(name) for name in ("text", "predicted", "probability")}
    texts = [row[place["text"]] for row in rows[1:]]
    predictions = classifier.predict(texts)
    assert predictions.labels == [row[place["predicted"]] for row in rows[1:]]
    given = [float(row[place["probability"]]) for row in rows[1:]]
    assert predictions.probabilities == pytest.approx(given, abs=1e-4)
    assert metrics.row_count == len(texts)


def test_the_final_model_gives_what_the_members_and_the_cap_say():
    features, _, targets = draw(600, 3)
    generator = np.random.default_rng(3)
    targets = np.where(generator.random(600) < 0.4, generator.integers(0, 3, 600), targets)
    task = Task(features, VOCABULARY, targets, 3, np.ones(600, np.float32))
    everything, splits = np.arange(600), [(np.arange(0, 300), np.arange(300, 600))]
    fit = fit_linear(task, splits, everything)
    total = torch.zeros(VOCABULARY + 1, 3)
    for member in fit.report.members:
        if member.coefficient:
            solved = task.problem(everything).solve(member.loss, member.scale, member.strength, fit.report.steps)
            for columns, weights in solved:
                total[:, columns] += member.coefficient * weights
    total -= total.mean(1, keepdim=True)
    apart = (fit.weights - total)[:-1]
    torch.testing.assert_close(apart, torch.zeros_like(apart), rtol=0, atol=1e-5)
    logits = task.sparse(everything).times(fit.weights)
    if fit.report.logit_cap is not None:
        logits = fit.report.logit_cap * torch.tanh(logits / fit.report.logit_cap)
    torch.testing.assert_close(fit.capped(task.sparse(everything).times(fit.weights)), logits)


@pytest.mark.parametrize("form", ["torchscript", "torch-export", "onnx"])
@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.filterwarnings("ignore:.*get_attr:UserWarning")
def test_an_exported_model_has_the_cap(trained, tmp_path, form):
    if form == "onnx":
        for package in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(package)
    assert trained[1].export(tmp_path / "model", form=form).largest_difference <= 1e-5


def test_an_explanation_under_a_cap_adds_up_and_says_what_counts(trained):
    classifier = trained[1]
    text = "球队 冠军 match 股市"
    explanation = classifier.explain([text]).explanations[0]
    assert explanation.exact
    assert 0 < explanation.scale < 1
    logits = classifier.logits([text])[0].double()
    numbers = [classifier.class_names.index(name) for name in (explanation.label, explanation.against)]
    assert explanation.log_odds == pytest.approx(float(logits[numbers[0]] - logits[numbers[1]]), abs=1e-6)
    assert explanation.base + sum(piece.log_odds for piece in explanation.pieces) == pytest.approx(explanation.log_odds)
    bias, shift = (each.detach().double()[numbers] for each in (classifier.model.bias, classifier.model.soft_cap.shift))
    expected = explanation.scale * float(bias[0] - bias[1]) + float(shift[0] - shift[1])
    assert explanation.base == pytest.approx(expected, abs=1e-5)
    assert f"under the cap of the logits each counts {explanation.scale:.2f} of its weight" in str(explanation)


def test_two_equal_sums_are_explained_by_the_slope_of_the_cap():
    cap = SoftCap(2.0, 3)
    assert cap.slope(1.0, 1.0) == pytest.approx(1 - math.tanh(0.5) ** 2)
    assert cap.slope(1.0, 1.0 + 1e-4) == pytest.approx(cap.slope(1.0, 1.0), rel=1e-3)
    assert cap.slope(-3.0, 4.0) == pytest.approx(2 * (math.tanh(2) + math.tanh(1.5)) / 7)


@pytest.mark.parametrize("capped", [False, True])
@pytest.mark.parametrize("with_vectors", [False, True])
def test_a_change_of_the_logits_holds_under_a_cap(capped, with_vectors):
    generator = torch.Generator().manual_seed(0)
    model = NgramAndVectorClassifier(20, 4, 3) if with_vectors else NgramClassifier(20, 3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 2, generator=generator)
    model.soft_cap = SoftCap(1.5, 3) if capped else None
    inputs = [torch.arange(12) % 20, torch.tensor([0, 5, 12]), torch.rand(12, generator=generator)]
    inputs += [torch.randn(2, 4, generator=generator)] if with_vectors else []
    with torch.no_grad():
        for shift, temperature in ((torch.tensor([1.0, -2.0, 0.5]), 1.7), (torch.tensor([0.2, 0.0, -0.2]), 0.4)):
            before = model(*inputs)
            model.adjust_(shift, temperature)
            torch.testing.assert_close(model(*inputs), (before + shift) / temperature)


def test_macro_f1_moves_the_logits_behind_the_cap(tmp_path):
    options = lb.TrainingOptions(metric="macro-f1")
    report = lb.train_classifier(noisy(), tmp_path / "model", options=options)
    classifier = lb.load_classifier(report.directory)
    assert report.linear.logit_cap is not None
    assert report.calibration.adjustment.tau
    torch.testing.assert_close(classifier.model.soft_cap.shift, torch.tensor(report.calibration.shift))
    plain = lb.load_classifier(lb.train_classifier(noisy(), tmp_path / "plain").directory)
    texts = noisy(300, seed=1).texts
    torch.testing.assert_close(
        classifier.logits(texts), plain.logits(texts) + torch.tensor(report.calibration.shift), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "value"), [("cap", -1.0), ("cap", 0.0), ("cap", math.nan), ("cap", math.inf), ("shift", math.nan)]
)
def test_a_damaged_cap_is_refused(trained, tmp_path, name, value):
    model = lb.load_classifier(trained[0].directory)
    with torch.no_grad():
        getattr(model.model.soft_cap, name).fill_(value)
    model.save(tmp_path / "copy")
    with pytest.raises(ValueError) as caught:
        lb.load_classifier(tmp_path / "copy")
    assert "the cap of logits must be a number above 0, with a finite shift for each class" in str(caught.value)


@pytest.mark.parametrize("kept", [True, False])
def test_a_cap_and_its_format_version_belong_together(trained, tmp_path, kept):
    copy = lb.load_classifier(trained[0].directory)
    if not kept:
        copy.model.soft_cap = None
    copy.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert config["format_version"] == (3 if kept else 1)
    config["format_version"] = version = 1 if kept else 3
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ValueError) as caught:
        lb.load_classifier(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'model.safetensors'} must hold a cap of logits in format version 3 and in no other, got "
        f"{'one' if kept else 'none'} in version {version}; train it again"
    )


@pytest.mark.parametrize("without_gradients", [torch.no_grad, torch.inference_mode])
def test_training_needs_no_gradients_of_its_caller(trained, tmp_path, without_gradients):
    with without_gradients():
        report = lb.train_classifier(noisy(), tmp_path / "model")
    assert (report.directory / "model.safetensors").read_bytes() == (
        trained[0].directory / "model.safetensors"
    ).read_bytes()


def test_a_repeated_training_ends_with_the_same_bits(trained, tmp_path):
    again = lb.train_classifier(noisy(), tmp_path / "model")
    first = (trained[0].directory / "model.safetensors").read_bytes()
    assert (again.directory / "model.safetensors").read_bytes() == first


def test_a_correction_without_a_cap_is_a_scale_and_a_shift():
    logits = torch.randn(4, 2, dtype=torch.float64)
    made = LogitCorrection(2.0, torch.tensor([1.0, -1.0], dtype=torch.float64))(logits)
    torch.testing.assert_close(made, 2 * logits + torch.tensor([1.0, -1.0], dtype=torch.float64))
