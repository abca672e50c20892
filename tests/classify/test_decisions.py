"""Deciding from a threshold on, or for a wanted precision: counted on rows that the model has not learned from."""

import json
import re

import numpy as np
import pytest

import linkboy as lb
from linkboy.classify import DecisionCurve
from linkboy.classify.judging.decisions import MOST_POINTS, thresholds_by_class
from linkboy.classify.judging.metrics import ClassMetrics
from linkboy.cli.app import run


def counted(confidence, right, threshold):
    kept = confidence >= threshold
    return kept.mean(), right[kept].mean() if kept.any() else float("nan")


@pytest.mark.parametrize("rows", [1, 7, 300, 5000])
def test_a_curve_counts_what_a_threshold_covers(rows):
    generator = np.random.default_rng(rows)
    confidence = np.round(generator.random(rows), 2 if rows < 1000 else 9)  # with ties, and more rows than points
    right = generator.random(rows) < confidence
    curve = DecisionCurve.of(confidence, right)
    assert len(curve.thresholds) <= MOST_POINTS
    for threshold in (*curve.thresholds[::29], 0.0, 1.1):
        point = curve.at(threshold)
        coverage, precision = counted(confidence, right, threshold)
        assert point.coverage == pytest.approx(coverage, abs=1e-12)
        assert point.precision == pytest.approx(precision, abs=1e-12, nan_ok=True)


def test_a_precision_gets_the_threshold_that_covers_most():
    generator = np.random.default_rng(0)
    confidence = generator.random(400)
    right = generator.random(400) < confidence
    curve = DecisionCurve.of(confidence, right)
    for wanted in (0.5, 0.8, 0.9):
        best = max((confidence >= t).mean() for t in confidence if right[confidence >= t].mean() >= wanted)
        point = curve.for_precision(wanted)
        assert point.coverage == best
        assert point.precision >= wanted


@pytest.mark.parametrize("rows", [3, 300, 5000])
@pytest.mark.parametrize("spread", [1.0, 1e-4, 1e-9])
def test_what_is_printed_covers_the_same_rows_when_it_is_typed(rows, spread):
    # Under a cap of the logits, the probabilities of all confident rows are those of the cap but for the last digits.
    generator = np.random.default_rng(rows)
    confidence = 0.7404 - spread * np.round(generator.random(rows) ** 3, 6) * 0.7
    right = generator.random(rows) < 0.7
    curve = DecisionCurve.of(confidence, right)
    for wanted in (0.5, 0.6, float(max(np.array(curve.right) / np.array(curve.covered)))):
        point = curve.for_precision(wanted)
        typed = float(re.search(r"probability of (\S+) on", str(point))[1])
        coverage, precision = counted(confidence, right, typed)
        assert (point.coverage, point.precision) == (pytest.approx(coverage), pytest.approx(precision))
        assert curve.at(typed).coverage == point.coverage
    one_class = [ClassMetrics("a", 0.7, 0.7, 0.7, rows, rows)]
    (row,) = thresholds_by_class(
        np.zeros(rows, int), confidence, right | (confidence > np.median(confidence)), one_class
    ).cells()
    typed, kept = float(row[4]), row[5]
    assert kept == f"{(confidence >= typed).mean():.2%}"


def test_thresholds_have_no_more_digits_than_they_need():
    curve = DecisionCurve.of(np.array([0.98765, 0.98712, 0.5, 0.0001]), np.array([True, True, True, False]))
    assert curve.thresholds == (0.9876, 0.987, 0.5, 0.0)
    assert DecisionCurve.of(np.array([1.0, np.nextafter(1.0, 0)]), np.array([True, False])).thresholds[0] == 1.0


def test_a_point_says_how_sure_its_precision_is():
    curve = DecisionCurve.of(
        np.array([0.9] * 10 + [0.6] * 290), np.arange(300) % 4 < np.where(np.arange(300) < 10, 4, 3)
    )
    assert str(curve.for_precision(0.95)) == (
        "from a probability of 0.9 on: precision 100.00% (95% interval 72.2 to 100.0), coverage 3.33%, on 300 rows that the "
        "model has not learned from"
    )
    assert str(curve.at(0.95)) == (
        "from a probability of 0.95 on: precision -, coverage 0.00%, on 300 rows that the model has not learned from"
    )


def test_a_precision_that_cannot_be_had_is_refused():
    curve = DecisionCurve.of(np.array([0.9, 0.8, 0.7]), np.array([False, True, True]))
    message = "abstain=0.9 cannot be reached: the highest precision on 3 validation rows is 66.67%, at a coverage"
    with pytest.raises(ValueError, match=re.escape(message)):
        curve.for_precision(0.9)
    for wrong in (0, -1, 95, float("nan")):
        with pytest.raises(ValueError, match="abstain must be"):
            curve.for_precision(wrong)


def test_the_weakest_of_many_classes_come_first():
    generator = np.random.default_rng(0)
    names, f1 = [f"c{n}" for n in range(77)], generator.random(77).tolist()
    f1[5] = float("nan")
    per_class = [ClassMetrics(name, each, each, each, 20, 20) for name, each in zip(names, f1, strict=True)]
    predicted = generator.integers(0, 76, 2000)  # the last class is never predicted
    confidence = generator.random(2000)
    table = thresholds_by_class(predicted, confidence, generator.random(2000) < confidence, per_class)
    order = [row[0] for row in table.cells()]
    assert len(order) == 77
    assert order[-1] == "c5"
    assert order[0] == names[int(np.nanargmin(f1))]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    generator = np.random.default_rng(0)
    texts = [
        f"{word} {generator.integers(100)} {generator.integers(100)}"
        for _ in range(80)
        for word in ("good", "bad", "odd")
    ]
    labels = [
        "p" if generator.random() < 0.8 else "q" if word == "odd" else word[0] for word in ("good", "bad", "odd") * 80
    ]
    labels = [("p" if generator.random() < 0.5 else "q") if text.startswith("odd") else text[0] for text in texts]
    directory = tmp_path_factory.mktemp("decide") / "m"
    lb.train_classifier(lb.LabelledTexts("x", texts, labels, range(len(texts))), directory, lang="en")
    return directory


def test_a_text_below_the_threshold_gets_no_class(trained):
    classifier = lb.load_classifier(trained)
    texts = ["good 1", "odd 2", "zzz"]
    plain = classifier.predict(texts)
    decided = classifier.predict(texts, threshold=0.9)
    assert decided.labels == [
        label if share >= 0.9 else None for label, share in zip(plain.labels, plain.probabilities, strict=True)
    ]
    assert None in decided.labels
    assert "none of these" in str(decided)
    assert decided.top == plain.top
    (streamed,) = classifier.predict_stream(texts, threshold=0.9)
    assert streamed.labels == decided.labels
    for wrong in (-0.1, 1.5):
        with pytest.raises(ValueError, match="threshold must be"):
            classifier.predict(texts, threshold=wrong)


@pytest.mark.parametrize(
    "threshold", [{"q": 0.05}, {"q": 0.999}, {"q": 0.02, "p": 0.4}, {"q": 0.0, "p": 0.0, "g": 0.0}]
)
def test_a_class_with_a_threshold_is_given_from_there_on_and_only_there(trained, threshold):
    classifier = lb.load_classifier(trained)
    texts = ["good 1", "odd 2", "bad 3", "zzz", "odd good", *(f"odd {n}" for n in range(40))]
    answered = classifier.predict(texts, threshold=threshold)
    shares = classifier.logits(texts).softmax(1).tolist()
    for label, probability, share in zip(answered.labels, answered.probabilities, shares, strict=True):
        by_name = dict(zip(classifier.class_names, share, strict=True))
        allowed = [name for name in threshold if by_name[name] >= threshold[name]] or by_name.keys() - threshold.keys()
        assert label == max(allowed, key=by_name.get)
        assert probability == pytest.approx(by_name[label])
    assert answered.top == classifier.predict(texts).top
    (streamed,) = classifier.predict_stream(texts, threshold=threshold)
    assert streamed == answered


def test_the_threshold_of_a_class_is_measured(trained):
    classifier = lb.load_classifier(trained)
    texts = [f"odd {n} {n + 3}" for n in range(30)]
    data = lb.LabelledTexts("x", texts, ["q", "p"] * 15, range(30))
    low, plain = classifier.evaluate(data, threshold={"q": 0.1}), classifier.evaluate(data)
    given = classifier.predict(texts, threshold={"q": 0.1}).labels
    counted = {each.label: each for each in low.per_class}
    assert counted["q"].predicted_count == given.count("q") > {e.label: e for e in plain.per_class}["q"].predicted_count
    assert low.accuracy == pytest.approx(np.mean(np.array(given) == np.array(data.labels)))
    with pytest.raises(ValueError, match="leaves texts without a class, which cannot be measured; name the class"):
        classifier.evaluate(data, threshold=0.5)


@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        ({}, "threshold names no class; pass a number, name a class, or leave it out"),
        ({"Q": 0.5}, "threshold must name one of the 4 classes, got 'Q'"),
        ({"q": 1.5}, "threshold of 'q' must be a number of at least 0 and of at most 1, got 1.5"),
        ({"q": float("nan")}, "threshold of 'q' must be a number of at least 0 and of at most 1, got nan"),
        (
            dict.fromkeys("gbpq", 0.1),
            "threshold names every class, so that a text that reaches none of them would get no class; leave",
        ),
    ],
)
def test_a_threshold_that_means_nothing_is_refused(trained, threshold, message):
    classifier = lb.load_classifier(trained)
    data = lb.LabelledTexts("x", ["a"], ["q"], [1])
    for ask in (
        lambda: classifier.predict(["a"], threshold=threshold),
        lambda: classifier.evaluate(data, threshold=threshold),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            ask()


def test_a_precision_chooses_the_threshold_and_both_are_refused(trained):
    classifier = lb.load_classifier(trained)
    point = classifier.decision_for(0.95)
    assert (
        classifier.predict(["odd 2"], abstain=0.95).labels
        == classifier.predict(["odd 2"], threshold=point.threshold).labels
    )
    assert "precision" in str(point)
    with pytest.raises(ValueError, match="threshold and abstain cannot go together"):
        classifier.predict(["x"], threshold=0.5, abstain=0.9)


def test_a_classifier_saved_without_a_curve_says_so(trained, tmp_path):
    import shutil

    shutil.copytree(trained, tmp_path / "m")
    config = json.loads((tmp_path / "m/config.json").read_text("utf-8"))
    for damaged in (None, [], {"row_count": 0}, {"row_count": 3, "thresholds": [0.5], "covered": [0], "right": [0]}):
        config["decisions"] = damaged
        (tmp_path / "m/config.json").write_text(json.dumps(config), "utf-8")
        classifier = lb.load_classifier(tmp_path / "m")
        with pytest.raises(ValueError, match="abstain needs what later versions save with a classifier"):
            classifier.decision_for(0.9)


def test_the_page_shows_precision_against_coverage(trained):
    page = (trained / "report.html").read_text("utf-8")
    assert "Precision against coverage" in page
    assert "threshold for precision 0.95" in page


def test_the_command_decides_and_says_the_coverage(trained, capsys, tmp_path):
    assert run(["predict", str(trained), "good 1", "odd 2", "--abstain", "0.95", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[0])["label"] == "g"
    assert "coverage" in err
    assert run(["predict", str(trained), "odd 2", "--threshold", "1"]) == 0
    assert capsys.readouterr().out.startswith("none of these\t")
    assert run(["predict", str(trained), "x", "--threshold", "0.5", "--abstain", "0.9"]) == 2
    assert "--threshold and --abstain cannot go together" in capsys.readouterr().err


def test_the_command_takes_and_says_the_threshold_of_a_class(trained, capsys, tmp_path):
    classifier, texts = lb.load_classifier(trained), [f"odd {n}" for n in range(20)]
    wanted = classifier.predict(texts, threshold={"q": 0.1, "p": 0.9}).labels
    options = ["--threshold", "q=0.1", "--threshold", "p=0.9"]
    assert run(["predict", str(trained), *texts, *options]) == 0
    out, err = capsys.readouterr()
    assert [line.split("\t")[0] for line in out.splitlines()] == wanted
    note = "'q' is given from a probability of 0.1 on, 'p' is given from a probability of 0.9 on; otherwise the likeliest of the"
    assert note in err
    assert run(["predict", str(trained), *texts, *options, "--out", str(tmp_path / "o.csv")]) == 0
    assert [line.split(",")[1] for line in (tmp_path / "o.csv").read_text("utf-8").splitlines()[1:]] == wanted
    file = tmp_path / "labelled.csv"
    file.write_text("text,label\n" + "".join(f"{text},q\n" for text in texts), "utf-8")
    for json_form in ([], ["--json"]):
        capsys.readouterr()
        assert run(["evaluate", str(trained), str(file), *options, *json_form]) == 0
        out, err = capsys.readouterr()
        assert note in (err if json_form else out)
        assert f"{wanted.count('q') / 20:.2%}" in out or f'"accuracy": {wanted.count("q") / 20}' in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["x"], "--threshold must be a probability, or CLASS=PROBABILITY, got 'x'"),
        (["q="], "--threshold must be a probability, or CLASS=PROBABILITY, got 'q='"),
        (["0.1", "q=0.1"], "--threshold must be one probability, or CLASS=PROBABILITY for each, got 0.1 and q=0.1"),
        (["0.1", "0.2"], "--threshold must be one probability, or CLASS=PROBABILITY for each, got 0.1 and 0.2"),
        (["q=0.1", "q=0.2"], "--threshold names 'q' twice; leave one out"),
        (["-0.5"], "must be a number of at least 0 and of at most 1, got -0.5"),
        (["=0.5"], "classes, got ''"),
    ],
)
def test_the_command_refuses_a_threshold_that_means_nothing(trained, capsys, options, message):
    options = [word for option in options for word in ("--threshold", option)]
    assert run(["predict", str(trained), "x", *options]) == 2
    assert message in capsys.readouterr().err


def test_the_likeliest_classes_do_not_hide_what_the_threshold_gives(trained, capsys):
    assert run(["predict", str(trained), "odd 2", "--top", "2", "--threshold", "q=0"]) == 2
    assert (
        "--top prints the likeliest classes whatever the threshold; add --json, which shows both"
        in capsys.readouterr().err
    )
    assert run(["predict", str(trained), "odd 2", "--top", "2", "--threshold", "q=0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] == "q"
