"""Texts with several labels from training to use: measured, saved, explained, exported, or refused in a sentence."""

import json
import re

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import accuracy_score, average_precision_score, f1_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import LinearSVC

import linkboy as lb
from linkboy.classify import multilabel_metrics
from linkboy.classify.judging._thresholds import choose_thresholds
from linkboy.classify.judging.multilabel import micro_f1
from linkboy.classify.linear._mixing import label_biases, mix
from linkboy.classify.linear._solver import Problem, SparseRows


def made(count, labels=6, seed=0, noise=0.05):
    """Return texts that name each of their labels by a word of its own, most of the time."""
    generator = np.random.default_rng(seed)
    words = [[f"{chr(97 + label)}{chr(97 + number)}x" for number in range(6)] for label in range(labels)]
    texts, sets = [], []
    for _ in range(count):
        held = [label for label in range(labels) if generator.random() < 0.08 + 0.2 * label / labels]
        chosen = [word for label in held for word in generator.choice(words[label], 2)]
        chosen += [f"n{number}" for number in generator.integers(0, 150, 6)]
        generator.shuffle(chosen)
        texts.append(" ".join(chosen))
        sets.append(tuple(f"l{label}" for label in held if generator.random() > noise))
    return lb.LabelledTexts("made up", texts, sets, range(1, count + 1))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("several") / "m"
    return lb.train_classifier(made(300), directory, lang="en"), directory


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    rows, labels = 60, 7
    target = generator.random((rows, labels)) < np.linspace(0, 0.6, labels)  # the first label is never true
    scores = np.round(
        generator.random((rows, labels)) * 0.5 + 0.5 * target * generator.random((rows, labels)), 2
    )  # with ties
    given = scores > 0.5
    given[:, 1] = target[:, 1] = False  # a label that occurs nowhere
    ours = multilabel_metrics(target, given, scores, [f"l{n}" for n in range(labels)])
    assert ours.micro_f1 == pytest.approx(f1_score(target, given, average="micro"), abs=1e-12)
    assert ours.macro_f1 == pytest.approx(f1_score(target, given, average="macro", zero_division=np.nan), abs=1e-12)
    assert ours.sample_f1 == pytest.approx(f1_score(target, given, average="samples", zero_division=1.0), abs=1e-12)
    assert ours.subset_accuracy == pytest.approx(accuracy_score(target, given), abs=1e-12)
    held = target.any(0)
    wanted = average_precision_score(target[:, held], scores[:, held], average=None)
    assert ours.mean_average_precision == pytest.approx(np.mean(wanted), abs=1e-12)
    assert [c.average_precision for c, true in zip(ours.per_class, held, strict=True) if true] == pytest.approx(
        list(wanted), abs=1e-12
    )
    constant = max(
        f1_score(target, np.isin(np.arange(labels), np.argsort(-target.sum(0), kind="stable")[:k]) * np.ones((rows, 1), bool),
                 average="micro")
        for k in range(1, labels + 1)
    )  # fmt: skip
    assert ours.constant_f1 == pytest.approx(constant, abs=1e-12)


def test_nothing_true_and_nothing_given_is_no_error():
    none = np.zeros((3, 2), bool)
    ours = multilabel_metrics(none, none, np.zeros((3, 2)), ["a", "b"])
    assert (ours.sample_f1, ours.subset_accuracy) == (1.0, 1.0)
    assert np.isnan([ours.micro_f1, ours.macro_f1, ours.mean_average_precision]).all()
    assert "micro-F1 -" in str(ours)


def features_of(texts):
    from linkboy.classify.encoding._features import NgramEncoder

    encoder = NgramEncoder.fit(texts, binary=True)
    return encoder.encode(texts), len(encoder)


@pytest.mark.parametrize("loss", ["squared-hinge", "cross-entropy"])
def test_each_label_is_solved_as_if_it_were_alone(loss):
    data = made(80, labels=3)
    features, vocabulary = features_of(data.texts)
    table = torch.tensor([[f"l{n}" in labels for n in range(3)] for labels in data.labels])
    rows, weights = SparseRows(features, vocabulary), torch.ones(80, 1)

    def solved(targets):
        problem = Problem(rows, targets, targets.shape[1], weights)
        return torch.cat([w for _, w in problem.solve(loss, "idf", 1.0, 200)], 1)

    together = solved(table)
    for label in range(3):
        torch.testing.assert_close(together[:, [label]], solved(table[:, [label]]), atol=2e-4, rtol=0)
    # Stationary: the gradient of |u|^2 / 2 + C sum of losses vanishes.
    problem = Problem(rows, table, 3, weights)
    scale = problem.scale("idf", 0, 3)
    u = (together / scale.clamp_min(1e-12)).masked_fill(scale == 0, 0).double().requires_grad_()
    dense = torch.zeros(80, vocabulary + 1, dtype=torch.float64)
    dense[:, -1] = 1
    for row, (first, last) in enumerate(zip(features.offsets, features.offsets[1:], strict=False)):
        dense[row, features.ids[first:last]] = (last - first) ** -0.5
    z, side = dense @ (scale.double() * u), table.double() * 2 - 1
    losses = (
        (1 - side * z).clamp_min(0).square() if loss == "squared-hinge" else torch.nn.functional.softplus(-side * z)
    )
    (u.square().sum() / 2 + losses.sum()).backward()
    assert u.grad.abs().max() < 2e-3


def test_a_label_of_few_rows_does_not_run_away():
    data = made(400, labels=12, noise=0.0)
    features, vocabulary = features_of(data.texts)
    table = torch.tensor([[f"l{n}" in labels for n in range(12)] for labels in data.labels])
    problem = Problem(SparseRows(features, vocabulary), table, 12, torch.ones(400, 1))
    for strength in (4.0, 64.0, 1024.0):
        weights = torch.cat([w for _, w in problem.solve("cross-entropy", "idf", strength, 20)], 1)
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            problem.rows.times(weights), table.float(), reduction="none"
        )
        assert losses.mean(0).max() < 0.3


def test_the_mix_and_the_biases_are_the_likeliest():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(500, 3, generator=generator)
    target = torch.rand(500, 3, generator=generator) < (truth - torch.tensor([0.0, 1.0, 2.0])).sigmoid()
    members = [truth + torch.randn(500, 3, generator=generator) * s for s in (0.2, 1.0)]
    weights = torch.ones(500)
    a = mix(members, target, weights)

    def loss(a, b):
        z = sum(x * m.double() for x, m in zip(a, members, strict=True)) + b
        return float(
            torch.nn.functional.binary_cross_entropy_with_logits(z, target.double(), reduction="none").sum(1).mean()
        )

    zero = torch.zeros(3, dtype=torch.float64)
    for change in ([0.05, 0], [-0.05, 0], [0, 0.05]):
        assert loss(a, zero) < loss((a + torch.tensor(change)).clamp_min(0), zero) + 1e-4
    z = sum(x * m.double() for x, m in zip(a, members, strict=True))
    b = label_biases(z, target, weights)
    assert all(loss(a, b) <= loss(a, b + change) + 1e-3 for change in (0.1, -0.1))
    assert ((z + b).sigmoid().mean(0) - target.double().mean(0)).abs().max() < 5e-3


def test_thresholds_are_the_best_for_many_rows():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(4000, 3)) * 2
    target = generator.random((4000, 3)) < 1 / (1 + np.exp(-(logits + np.array([-2.0, 0.0, 1.0]))))
    chosen = choose_thresholds(logits, target)
    ours = micro_f1(target, 1 / (1 + np.exp(-logits)) >= chosen)
    tried = np.quantile(logits, np.linspace(0.02, 0.98, 25))
    best = max(micro_f1(target, logits >= np.array([x, y, z])) for x in tried for y in tried[::2] for z in tried[::2])
    assert ours > best - 0.003
    assert ours > micro_f1(target, logits > 0) + 0.01


def test_the_threshold_of_a_rare_label_is_drawn_towards_the_common_one():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(1000, 2))
    target = np.zeros((1000, 2), bool)
    target[:, 0] = logits[:, 0] > 0
    target[logits[:, 1].argmax(), 1] = True  # one row, far out
    chosen = choose_thresholds(logits, target)
    assert chosen[1] < 1 / (1 + np.exp(-logits[:, 1].max())) - 0.05
    assert choose_thresholds(logits, np.zeros((1000, 2), bool)).shape == (2,)


def test_a_run_says_and_keeps_how_good_it_is(trained):
    report, directory = trained
    test = report.metrics["test"]
    assert test.micro_f1 > 0.8 > test.constant_f1
    said = str(report)
    assert "micro-F1" in said
    assert "all labels right" in said
    assert "confusion.svg" not in said
    assert not (directory / "confusion.svg").exists()
    page = (directory / "report.html").read_text("utf-8")
    assert "Each label is given from a threshold of its own on" in page
    assert 'id="confusion"' not in page
    figures = json.loads((directory / "metrics.json").read_text("utf-8"))
    assert figures["test"]["micro_f1"] == test.micro_f1
    again = lb.read_labelled(directory / "predictions.csv", label_column="labels")
    data = made(300)
    given = set(zip(data.texts, map(frozenset, data.labels), strict=True))
    assert again.several
    assert set(zip(again.texts, map(frozenset, again.labels), strict=True)) <= given


def test_what_is_loaded_gives_the_same_labels(trained):
    directory = trained[1]
    classifier = lb.load_classifier(directory)
    assert classifier.several
    test = made(100, seed=3)
    predictions = classifier.predict(test.texts, top=2)
    shares = classifier.logits(test.texts).double().sigmoid().numpy()
    for row, labels in enumerate(predictions.labels):
        assert set(labels) == {
            n for n, t, p in zip(classifier.class_names, classifier.thresholds, shares[row], strict=True) if p >= t
        }
        assert list(predictions.probabilities[row]) == sorted(predictions.probabilities[row], reverse=True)
    assert [len(top) for top in predictions.top] == [2] * 100
    evaluated = classifier.evaluate(test)
    given = np.array([[name in labels for name in classifier.class_names] for labels in predictions.labels])
    target = np.array([[name in labels for name in classifier.class_names] for labels in test.labels])
    assert evaluated.micro_f1 == pytest.approx(f1_score(target, given, average="micro"), abs=1e-12)
    assert classifier.predict(["zzz"], threshold=1.0).labels == [()]
    assert len(classifier.predict(["zzz"], threshold=0.0).labels[0]) == len(classifier.class_names)
    every = classifier.predict(["zzz"], threshold=dict.fromkeys(classifier.class_names, 0.0))
    assert len(every.labels[0]) == len(classifier.class_names)
    rare = classifier.class_names[-1]
    plain, more = classifier.predict(["zzz"]).labels[0], classifier.predict(["zzz"], threshold={rare: 0.0}).labels[0]
    assert set(more) == {*plain, rare}


def test_labels_that_the_classifier_does_not_have_are_said_in_evaluation(trained):
    classifier = lb.load_classifier(trained[1])
    data = lb.LabelledTexts("new.csv", ["aax", "bbx"], [("l0", "new"), ()], [1, 2])
    assert "evaluation: 1 label that the training data does not have left out ('new' of 1 row)" in str(
        classifier.evaluate(data)
    )


def test_an_explanation_is_of_one_label_against_not_having_it(trained):
    classifier = lb.load_classifier(trained[1])
    (it,) = classifier.explain(["aax abx noise"], label="l0").explanations
    assert (it.label, it.against) == ("l0", "not l0")
    assert it.probability + it.against_probability == pytest.approx(1)
    assert it.base + sum(piece.log_odds for piece in it.pieces) == pytest.approx(it.log_odds, abs=1e-5)
    assert it.pieces[0].log_odds > 0
    with pytest.raises(ValueError, match="against is for texts of one class; where they may have several labels"):
        classifier.explain(["x"], against="l1")


def test_an_exported_model_gives_the_same_probabilities(trained, tmp_path):
    classifier = lb.load_classifier(trained[1])
    assert classifier.export(tmp_path / "m.pt2", form="torch-export").largest_difference < 1e-5
    texts = ["aax abx", "bax"]
    got = torch.export.load(tmp_path / "m.pt2").module()(**classifier.export_inputs(texts))
    torch.testing.assert_close(got, classifier.logits(texts).sigmoid())


def test_the_same_seed_gives_the_same_weights(trained, tmp_path):
    lb.train_classifier(made(300), tmp_path / "again", lang="en")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (trained[1] / "model.safetensors").read_bytes()


@pytest.mark.parametrize("options", [{}, {"loss": "focal", "metric": "macro-f1"}])
def test_models_over_tokens_take_several_labels(tmp_path, options):
    options = lb.TrainingOptions(model="cnn", epochs=2, device="cpu", **options)
    report = lb.train_classifier(made(120, labels=3), tmp_path / "m", options=options)
    assert report.history is not None
    classifier = lb.load_classifier(tmp_path / "m")
    assert isinstance(classifier.predict(["aax abx"]).labels[0], tuple)
    assert len(classifier.explain(["aax abx"]).explanations[0].pieces) == 2


def test_one_label_and_rows_without_are_a_task(tmp_path):
    texts = [f"{word} {n}" for n in range(60) for word in ("spam offer", "plain words")]
    data = lb.LabelledTexts("made up", texts, [("spam",), ()] * 60, range(1, 121))
    report = lb.train_classifier(data, tmp_path / "m")
    assert report.metrics["test"].subset_accuracy == 1
    assert lb.load_classifier(tmp_path / "m").predict(["spam offer 7", "plain words 9"]).labels == [("spam",), ()]


REFUSED = [
    (
        {"metric": "accuracy"},
        "metric='accuracy' is for texts of one class, and these may have several labels; leave metric out",
    ),
    ({"loss": "logit-adjusted", "model": "cnn"}, "loss='logit-adjusted' is for texts of one class"),
    ({"class_weight": "balanced"}, "class_weight='balanced' is for texts of one class"),
    ({"budget": "5s", "model": "cnn"}, "budget is for texts of one class or the ngram model, got model='cnn'"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_options_for_one_class_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        lb.train_classifier(made(60), tmp_path / "m", options=lb.TrainingOptions(**options))


def test_too_many_labels_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("linkboy.classify.learning._outcome.MOST_SOLVED_CLASSES", 3)
    with pytest.raises(ValueError, match="several labels a text are for at most 3 labels and"):
        lb.train_classifier(made(60), tmp_path / "m")


def test_files_of_the_other_kind_are_refused(trained, tmp_path):
    classifier = lb.load_classifier(trained[1])
    one = lb.LabelledTexts("one.csv", ["x"], ["l0"], [1])
    with pytest.raises(ValueError, match="the classifier gives any number of labels, and a text of this file has one"):
        classifier.evaluate(one)
    with pytest.raises(
        ValueError, match="abstain is for texts of one class, and these may have several labels, none too"
    ):
        classifier.predict(["x"], abstain=0.9)
    words = lb.LabelledTexts(
        "made up", [f"{w} {n}" for n in range(20) for w in ("good", "bad")], ["p", "q"] * 20, range(40)
    )
    lb.train_classifier(words, tmp_path / "one")
    with pytest.raises(
        ValueError, match="a text of the evaluation part may have several labels, and the classifier chooses one"
    ):
        lb.load_classifier(tmp_path / "one").evaluate(made(5))


@pytest.mark.parametrize("thresholds", [None, [], [0.5], ["0.5"] * 6, [2.0] * 6])
def test_damaged_thresholds_are_refused(trained, tmp_path, thresholds):
    import shutil

    shutil.copytree(trained[1], tmp_path / "m")
    config = json.loads((tmp_path / "m/config.json").read_text("utf-8"))
    config["thresholds"] = thresholds
    (tmp_path / "m/config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ValueError, match="must hold a probability for each label under 'thresholds'"):
        lb.load_classifier(tmp_path / "m")


@pytest.mark.slow
def test_micro_f1_is_at_least_that_of_one_linear_svm_a_label(tmp_path):
    """Both choose on the same validation rows: the SVM its strength, and where its margin decides, a label at a time."""
    train, valid, test = made(2000, 20, 0, 0.1), made(400, 20, 1, 0.1), made(2000, 20, 2, 0.1)
    lb.train_classifier(train, tmp_path / "m", valid=valid, test=test, options=lb.TrainingOptions(refit=False))
    classifier = lb.load_classifier(tmp_path / "m")
    names = classifier.class_names

    def table(data):
        return np.array([[name in labels for name in names] for labels in data.labels])

    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2).fit(train.texts)
    best = (-1.0, None, None)
    for strength in (0.25, 1, 4):
        model = OneVsRestClassifier(LinearSVC(dual=True, C=strength)).fit(vectors.transform(train.texts), table(train))
        margins = model.decision_function(vectors.transform(valid.texts))
        cuts = np.zeros(len(names))
        for label in range(len(names)):
            tried = [0.0, *np.quantile(margins[:, label], np.linspace(0.5, 0.999, 60))]
            cuts[label] = max(
                tried, key=lambda cut, n=label: f1_score(table(valid)[:, n], margins[:, n] > cut, zero_division=0)
            )
        for chosen in (np.zeros(len(names)), cuts):
            score = micro_f1(table(valid), margins > chosen)
            best = max(best, (score, (model, chosen), strength), key=lambda each: each[0])
    model, chosen = best[1]
    theirs = model.decision_function(vectors.transform(test.texts)) > chosen
    ours = np.array([[name in labels for name in names] for labels in classifier.predict(test.texts).labels])
    truth, generator = table(test), np.random.default_rng(0)
    draws = [generator.integers(0, len(truth), len(truth)) for _ in range(100)]
    error = float(np.std([micro_f1(truth[rows], ours[rows]) - micro_f1(truth[rows], theirs[rows]) for rows in draws]))
    print(micro_f1(truth, ours), micro_f1(truth, theirs), error, best[2])
    assert micro_f1(truth, ours) >= micro_f1(truth, theirs) - error


def test_an_answer_of_the_server_has_all_labels_of_a_text(trained):
    from linkboy.classify.serving import answers_of

    texts = ["nothing at all", *made(8, seed=3).texts]
    predictions = lb.load_classifier(trained[1]).predict(texts, top=3)
    answers = answers_of(predictions, 3)
    assert [tuple(answer["labels"]) for answer in answers] == list(predictions.labels)
    assert [tuple(answer["probabilities"]) for answer in answers] == [
        tuple(shares) for shares in predictions.probabilities
    ]
    assert [answer["top"][0]["label"] for answer in answers] == [pairs[0][0] for pairs in predictions.top]
    assert "top" not in answers_of(predictions, 1)[0]
