"""A run from rows to a directory that predicts."""

import csv
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import linkboy as lb
from linkboy.classify.models._kinds import make_encoder, make_model
from linkboy.classify.reading._frames import ACCEPTED
from linkboy.classify.recipe import DataTraits, choose_recipe
from linkboy.classify.results import _run_directory as outputs
from linkboy.classify.results._charts import as_file, confusion_chart, learning_curves
from linkboy.classify.results._results import CONTENTS
from linkboy.classify.saved.classifier import Classifier

SVG = "{http://www.w3.org/2000/svg}"
QUICK = lb.TrainingOptions()
IN_EPOCHS = lb.TrainingOptions(model="cnn", epochs=4, batch_size=32)
OF_EPOCHS = {"history.csv", "curves.svg"}
PROMISED = set(CONTENTS) - {"encoder"}  # that is there where an encoder was fine-tuned


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_rows):
    out = tmp_path_factory.mktemp("run") / "model"
    return lb.train_classifier(make_rows(240), out, options=QUICK)


@pytest.fixture(scope="module")
def trained_in_epochs(tmp_path_factory, make_rows):
    return lb.train_classifier(make_rows(240), tmp_path_factory.mktemp("epochs") / "model", options=IN_EPOCHS)


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_directory_holds_what_was_promised(finished):
    out = finished.directory
    assert sorted(path.name for path in out.iterdir()) == sorted(PROMISED - OF_EPOCHS)
    assert not OF_EPOCHS & set(str(finished).split())
    metrics = json.loads((out / "metrics.json").read_text("utf-8"))
    assert {"train", "valid", "test"} < set(metrics)
    assert metrics["test"]["accuracy"] == finished.metrics["test"].accuracy == 1.0
    assert metrics["test"]["macro_f1"] == 1.0
    assert metrics["linear"]["row_count"] == 216
    assert ElementTree.parse(out / "confusion.svg").getroot().tag == f"{SVG}svg"


def test_training_in_epochs_leaves_a_curve_and_a_row_for_each_epoch(trained_in_epochs):
    out = trained_in_epochs.directory
    assert sorted(path.name for path in out.iterdir()) == sorted(PROMISED)
    assert set(str(trained_in_epochs).split()) >= OF_EPOCHS
    assert [row["epoch"] for row in read_csv(out / "history.csv")] == ["1", "2", "3", "4"]
    assert ElementTree.parse(out / "curves.svg").getroot().tag == f"{SVG}svg"


def test_predictions_of_the_test_part_are_each_written_once_and_agree_with_the_classifier(finished):
    rows = read_csv(finished.directory / "predictions.csv")
    assert len(rows) == finished.metrics["test"].row_count == len({row["text"] for row in rows})
    classifier = lb.load_classifier(finished.directory)
    predictions = classifier.predict([row["text"] for row in rows])
    assert [row["predicted"] for row in rows] == list(predictions.labels)
    np.testing.assert_allclose([float(row["probability"]) for row in rows], predictions.probabilities, atol=1e-5)
    assert np.mean([row["label"] == row["predicted"] for row in rows]) == finished.metrics["test"].accuracy


def test_the_report_shows_classes_files_times_and_memory(finished):
    text = str(finished)
    for part in (
        "class  precision",
        "体育",
        "accuracy 100.00%",
        "model.safetensors",
        "training",
        finished.memory.summary,
    ):
        assert part in text


@pytest.mark.parametrize("model", ["ngram", "cnn", "capsule", "transformer"])
def test_predictions_do_not_depend_on_batch_mates(tmp_path, make_rows, model):
    options = dataclasses.replace(QUICK, model=model)
    report = lb.train_classifier(make_rows(240), tmp_path / "model", options=options)
    assert report.metrics["test"].accuracy > 0.9
    classifier = lb.load_classifier(tmp_path / "model")
    texts = ["球队 夺冠", "x", "", "股市 大涨 " * 50, "the match"]
    together = classifier.logits(texts)
    alone = torch.cat([classifier.logits([text]) for text in texts])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    in_small_batches = classifier.logits(texts, batch_size=2)
    torch.testing.assert_close(together, in_small_batches, rtol=1e-5, atol=1e-5)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(tmp_path, make_rows, finished):
    lb.train_classifier(make_rows(240), tmp_path / "same", options=QUICK)
    lb.train_classifier(make_rows(240), tmp_path / "other", options=dataclasses.replace(QUICK, seed=1))
    first = (finished.directory / "model.safetensors").read_bytes()
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == first
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != first


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "cross-entropy"},
        {"loss": "squared-hinge"},
        {"class_weight": "balanced"},
        {"class_weight": "effective", "metric": "macro-f1"},
        {"model": "cnn", "loss": "focal", "gamma": 1.0, "epochs": 4},
        {"model": "cnn", "loss": "logit-adjusted", "epochs": 4},
        {"model": "cnn", "class_weight": "balanced", "epochs": 4},
        {"model": "cnn", "accumulate": 2, "epochs": 6},
        {"model": "cnn", "early_stopping": 1, "epochs": 50},
        {"model": "cnn", "ema": 0.9, "epochs": 4},
        {"model": "cnn", "checkpoint_every": 3, "epochs": 4},
        {"model": "cnn", "precision": "bf16", "epochs": 4},
    ],
)
def test_every_option_trains(tmp_path, make_rows, changes):
    options = dataclasses.replace(QUICK, **changes)
    report = lb.train_classifier(make_rows(240), tmp_path / "model", options=options)
    assert report.metrics["test"].accuracy > 0.9


def test_options_of_epochs_are_named_where_the_model_is_solved(tmp_path, make_rows):
    shown = []
    options = lb.TrainingOptions(epochs=3, lr=0.1, ema=0.9)
    lb.train_classifier(make_rows(60), tmp_path / "model", options=options, show=lambda block: shown.append(str(block)))
    assert "not used, since the n-gram model is solved and not trained in epochs: epochs, lr, ema" in shown


@pytest.mark.parametrize("loss", ["focal", "logit-adjusted"])
def test_losses_of_models_that_read_tokens_are_refused_for_n_grams(loss):
    with pytest.raises(ValueError) as caught:
        lb.TrainingOptions(loss=loss)
    assert str(caught.value) == (
        f"loss={loss!r} is for models that read tokens, one of ('cnn', 'capsule', 'transformer'), got model='ngram'; its losses "
        "are 'squared-hinge' and 'cross-entropy', and metric='macro-f1' lifts rare classes"
    )


def unbalanced(make_rows):
    rows = make_rows(900)
    rare = [n for n, label in enumerate(rows.labels) if label == rows.labels[0]]
    kept = sorted(set(range(len(rows))) - set(rare[20:]))
    return rows.take(kept)


def test_classes_of_very_unequal_size_show_both_points_and_change_nothing_by_themselves(tmp_path, make_rows):
    report = lb.train_classifier(unbalanced(make_rows), tmp_path / "one")
    assert report.macro_f1_point is not None
    assert "the classes are of very unequal size: accuracy" in str(report)
    assert report.calibration.adjustment is None
    asked = lb.train_classifier(unbalanced(make_rows), tmp_path / "two", options=lb.TrainingOptions(metric="macro-f1"))
    assert asked.macro_f1_point is None
    assert asked.calibration.adjustment is not None
    assert asked.metrics["test"].macro_f1 == pytest.approx(report.macro_f1_point.macro_f1)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_said_of_macro_f1_is_what_asking_for_it_gives(tmp_path, seed):
    # The validation part alone, with a few rows of the rare classes, would choose another adjustment than all judged rows.
    generator = np.random.default_rng(seed)
    texts, labels = [], []
    for n in range(900):
        kind = int(generator.choice(3, p=(0.8, 0.15, 0.05)))
        words = [f"w{generator.integers(60)}" for _ in range(6)] + [f"k{generator.choice((kind, 0, 1, 2))}"]
        texts.append(f"{' '.join(generator.permutation(words))} {n}")
        labels.append(f"c{kind}")
    rows = lb.LabelledTexts("x", texts, labels, range(900))
    said = lb.train_classifier(rows, tmp_path / "one").macro_f1_point
    asked = lb.train_classifier(rows, tmp_path / "two", options=lb.TrainingOptions(metric="macro-f1")).metrics["test"]
    assert said is not None
    assert (said.accuracy, said.macro_f1) == (asked.accuracy, asked.macro_f1)


def test_long_texts_whose_features_are_not_kept_give_the_same_model(tmp_path, make_rows, finished, monkeypatch):
    monkeypatch.setattr("linkboy.classify.encoding._dataset.MOST_CHARACTERS", 100)
    report = lb.train_classifier(make_rows(240), tmp_path / "model", options=QUICK)
    one, other = (load_file(path / "model.safetensors") for path in (finished.directory, report.directory))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert report.metrics == finished.metrics


def test_of_many_classes_fewer_rows_judge_and_only_those_are_measured(tmp_path, make_rows, monkeypatch):
    monkeypatch.setattr("linkboy.classify.learning._outcome.MOST_JUDGED", 3 * 90)
    report = lb.train_classifier(make_rows(240), tmp_path / "model", options=QUICK)
    assert report.linear.judged_count == 90
    assert report.linear.row_count == 216
    assert 0 < report.metrics["valid"].row_count < 24


def test_thousands_of_classes_get_a_centroid_each(tmp_path, monkeypatch):
    monkeypatch.setattr("linkboy.classify.learning._outcome.MOST_SOLVED_CLASSES", 10)
    monkeypatch.setattr("linkboy.classify.models._centroids.MOST_OF_CLASSES", 0.5)
    texts = [f"goods{n} model{n * 7 % 40} {row}" for n in range(40) for row in range(6)]
    rows = lb.LabelledTexts("goods", texts, [f"c{n}" for n in range(40) for _ in range(6)], range(1, 241))
    report = lb.train_classifier(rows, tmp_path / "model")
    assert report.metrics["test"].accuracy > 0.9
    assert "40 classes are too many to solve for: the model has a centroid for each" in str(report)
    classifier = lb.load_classifier(tmp_path / "model")
    assert classifier.predict(["goods7 model9"]).labels == ["c7"]
    (explained,) = classifier.explain(["goods7 model9"]).explanations
    assert explained.log_odds == pytest.approx(
        explained.base + sum(piece.log_odds for piece in explained.pieces), abs=1e-4
    )
    with pytest.raises(ValueError) as caught:
        classifier.export(tmp_path / "file", form="torchscript")
    assert str(caught.value) == (
        "a model of 40 classes is a sparse matrix, for which torchscript has no operations; load it with load_classifier"
    )


def test_labels_at_random_are_not_better_than_guessing_and_no_label_is_suspected(tmp_path):
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(["red", "green", "blue", "old", "new", "far"], 6)) for _ in range(300)]
    rows = lb.LabelledTexts("noise", texts, generator.choice(["a", "b"], 300).tolist(), range(1, 301))
    report = lb.train_classifier(rows, tmp_path / "model")
    assert not report.metrics["test"].is_better_than_guessing
    assert "this is not better than guessing" in str(report)
    assert report.suspects.suspects == ()
    assert "not better than guessing" in (tmp_path / "model" / "report.html").read_text("utf-8")


def test_row_weights_decide_between_labels_that_contradict_each_other(tmp_path):
    texts = ["same words here"] * 60 + ["other words there"] * 60
    labels = ["yes", "no"] * 30 + ["no", "yes"] * 30
    rows = lb.LabelledTexts("made up", texts, labels, range(120))
    weights = [9.0 if label == "yes" else 1.0 for label in labels]
    for weighted, answer in ((weights, "yes"), ([10 - w for w in weights], "no")):
        data = dataclasses.replace(rows, weights=weighted)
        lb.train_classifier(data, tmp_path / answer, valid=data, test=data, options=QUICK)
        assert set(lb.load_classifier(tmp_path / answer).predict(texts).labels) == {answer}


def test_the_epoch_with_the_best_metric_is_kept_where_epochs_differ_by_more_than_chance(tmp_path, make_rows):
    options = dataclasses.replace(IN_EPOCHS, early_stopping=9)
    history = lb.train_classifier(make_rows(240), tmp_path / "model", options=options)
    assert history.recipe.keep == "best"
    best = max(row["accuracy"] for row in history.history.rows)
    assert history.history.best_value == best == history.metrics["valid"].accuracy


@pytest.mark.parametrize(
    ("asked", "largest", "chosen"),
    [("auto", 99, "accuracy"), ("auto", 100, "accuracy"), ("accuracy", 100, "accuracy"), ("macro-f1", 10, "macro-f1")],
)
def test_the_metric_is_accuracy_unless_another_is_asked_for(asked, largest, chosen):
    recipe = choose_recipe(lb.TrainingOptions(metric=asked), DataTraits(500, 3, largest, 10))
    assert recipe.metric == chosen
    assert f"metric: {chosen}" in str(recipe)


def test_the_score_without_overlapping_rows_is_given(tmp_path, make_rows):
    train, test = make_rows(240), make_rows(60, seed=9)
    leaked = train.take(range(30))
    both = dataclasses.replace(
        test, texts=[*test.texts, *leaked.texts], labels=[*test.labels, *leaked.labels], lines=range(90)
    )
    report = lb.train_classifier(train, tmp_path / "model", valid=make_rows(60, seed=5), test=both, options=QUICK)
    assert (report.metrics["test"].row_count, report.without_overlap.row_count) == (90, 60)
    assert "without the rows whose text also occurs in training: accuracy" in str(report)
    written = json.loads((tmp_path / "model" / "metrics.json").read_text("utf-8"))
    assert written["test_without_overlap"]["row_count"] == 60


def test_probabilities_are_calibrated_and_the_calibration_error_before_and_after_is_told(trained_in_epochs):
    calibration = trained_in_epochs.calibration
    assert set(calibration.calibration_error_before) == set(calibration.calibration_error_after) == {"valid", "test"}
    written = json.loads((trained_in_epochs.directory / "metrics.json").read_text("utf-8"))["calibration"]
    assert written["temperature"] == calibration.temperature > 0
    assert "expected calibration error valid" in str(trained_in_epochs)


def test_the_mix_of_the_n_gram_model_needs_no_temperature(finished):
    assert finished.calibration.temperature is None
    assert set(finished.calibration.calibration_error_after) == {"valid", "test"}
    assert finished.calibration.calibration_error_before == {}
    assert "probabilities: expected calibration error valid" in str(finished)


@pytest.mark.parametrize(
    ("part", "texts", "message"),
    [
        ("train", None, f"train must be {ACCEPTED}, got NoneType; see read_labelled"),
        ("train", ("good", "bad"), f"train must be {ACCEPTED}, got tuple; see read_labelled"),
        ("valid", ["good"], f"valid must be {ACCEPTED}, got list; see read_labelled"),
    ],
)
def test_texts_that_were_not_read_are_refused_before_anything_is_written(tmp_path, make_rows, part, texts, message):
    with pytest.raises(TypeError) as caught:
        lb.train_classifier(**({"train": make_rows(60), "out": tmp_path / "model"} | {part: texts}))
    assert str(caught.value) == message
    assert not (tmp_path / "model").exists()


def test_an_options_typo_is_named():
    with pytest.raises(ValueError) as caught:
        lb.TrainingOptions(loss="focl")
    assert str(caught.value) == (
        "loss must be one of ('auto', 'cross-entropy', 'squared-hinge', 'focal', 'logit-adjusted'), got 'focl'; "
        "did you mean 'focal'?"
    )
    with pytest.raises(ValueError) as caught:
        lb.TrainingOptions(epochs=0)
    assert str(caught.value) == "epochs must be an integer of at least 1, got 0"
    with pytest.raises(ValueError) as caught:
        lb.TrainingOptions(gamma=1.0)
    assert str(caught.value) == "gamma is for loss='focal', got loss='auto'; leave gamma out"
    with pytest.raises(ValueError) as caught:
        lb.TrainingOptions(ema=1)
    assert str(caught.value) == "ema must be a number above 0 and below 1, got 1"


@pytest.mark.parametrize("rows", [3, 20, 100, 1000, 5000, 20_000, 45_000, 1_000_000])
def test_the_recipe_makes_enough_updates_and_never_too_many_epochs(rows):
    recipe = choose_recipe(lb.TrainingOptions(), DataTraits(rows, 2, rows, rows))
    steps = recipe.epochs * -(-rows // recipe.batch_size)
    assert recipe.batch_size >= 1
    assert (4 if rows < 200_000 else 1) <= recipe.epochs <= 100
    assert steps >= min(300, 100 * -(-rows // recipe.batch_size))
    rates = [recipe.rate_at(step, steps) for step in range(steps)]
    assert max(rates) <= 1
    assert min(rates) > 0


def test_the_options_of_the_user_hold():
    recipe = choose_recipe(lb.TrainingOptions(epochs=2, batch_size=7, lr=0.5), DataTraits(1000, 2, 500, 500))
    assert (recipe.epochs, recipe.batch_size, recipe.lr) == (2, 7, 0.5)


# --- the directory -------------------------------------------------------------------------------------------------------


def message_of(error, *arguments, **keywords):
    with pytest.raises(error) as caught:
        lb.train_classifier(*arguments, options=QUICK, **keywords)
    return str(caught.value)


def test_a_directory_that_is_not_empty_is_refused_and_left_alone(tmp_path, rows):
    (tmp_path / "mine.txt").write_text("mine")
    assert message_of(FileExistsError, rows, tmp_path) == (
        f"{tmp_path} is not empty; pass overwrite=True to replace it, resume=True to continue, or another directory"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_overwriting_replaces_only_what_a_run_writes(tmp_path, rows):
    lb.train_classifier(rows, tmp_path, options=QUICK, overwrite=True)
    (tmp_path / "mine.txt").write_text("mine")
    lb.train_classifier(rows, tmp_path, options=QUICK, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert lb.load_classifier(tmp_path).class_names == sorted(set(rows.labels))


def test_a_directory_of_others_is_never_overwritten(tmp_path, rows):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "checkpoints").mkdir()
    assert message_of(FileExistsError, rows, tmp_path, overwrite=True) == (
        f"{tmp_path} holds other files than those of a training run, and new ones would mix with them; pass another directory"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "config.json"]


def test_two_runs_into_one_directory_are_refused(tmp_path, rows):
    with outputs.run_in(tmp_path / "model", {}, overwrite=False, resume=False):
        assert message_of(BlockingIOError, rows, tmp_path / "model", overwrite=True) == (
            f"another run is writing into {tmp_path / 'model'}; wait for it or pass another directory"
        )


def test_a_damaged_note_of_a_run_is_named(tmp_path, rows):
    for content in ("{}", "[]", "tru"):
        (tmp_path / "run.json").write_text(content)
        assert message_of(ValueError, rows, tmp_path, resume=True) == (
            f"cannot resume {tmp_path}: run.json in it is damaged; train again with overwrite=True"
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"device": "cuda"},
            "device must be one that this machine has, got 'cuda'; pass device='cpu' or device='auto'",
        ),
        (
            {"precision": "fp16", "device": "cpu"},
            "precision fp16 needs a GPU, and this run is on a CPU; pass precision='bf16' or precision='fp32'",
        ),
    ],
)
def test_what_the_machine_lacks_is_said_before_anything_is_written(tmp_path, rows, changes, message):
    if torch.cuda.is_available() and "precision" not in changes:
        pytest.skip("this machine has CUDA")
    with pytest.raises(ValueError) as caught:
        lb.train_classifier(rows, tmp_path / "new", options=dataclasses.replace(QUICK, **changes))
    assert str(caught.value) == message
    assert not (tmp_path / "new").exists()


def test_labels_with_dollars_and_underscores_are_drawn_as_they_are(tmp_path, rows):
    names = {"体育": "$100 to $200", "财经": "$^$", "sport": "a_b"}
    data = dataclasses.replace(rows, labels=[names[label] for label in rows.labels])
    lb.train_classifier(data, tmp_path / "model", options=QUICK)
    assert (tmp_path / "model" / "confusion.svg").exists()


def test_a_file_in_place_of_the_directory_is_refused(tmp_path, rows):
    (tmp_path / "file").write_text("")
    assert message_of(NotADirectoryError, rows, tmp_path / "file") == (
        f"out must name a directory, got the file {tmp_path / 'file'}"
    )


def test_a_directory_that_cannot_be_written_is_refused(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as root, who can write anywhere
    assert (
        message_of(PermissionError, rows, tmp_path / "new") == f"cannot write into {tmp_path}; pass another directory"
    )


def test_nothing_is_written_when_the_data_is_bad(tmp_path):
    rows = lb.LabelledTexts("one.tsv", ["a", "b"], ["x", "x"], [1, 2])
    message_of(ValueError, rows, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_nothing_to_resume_is_said(tmp_path, rows, finished):
    assert message_of(FileNotFoundError, rows, tmp_path / "new", resume=True) == (
        f"there is nothing to resume: {tmp_path / 'new'} holds no run"
    )
    assert message_of(FileNotFoundError, rows, finished.directory, resume=True) == (
        f"there is nothing to resume: {finished.directory} holds a finished run; train again with overwrite=True"
    )
    assert message_of(ValueError, rows, tmp_path, resume=True, overwrite=True) == (
        "overwrite=True and resume=True cannot go together: one starts over, the other continues"
    )


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, rows, make_rows, trained_in_epochs, monkeypatch):
    import signal

    from linkboy.classify.learning import _learner as learning

    real = learning.fit

    def stopped_early(*arguments, **keywords):
        def stop(event, state):
            if event == "step" and state.step == 7:
                signal.raise_signal(signal.SIGINT)

        return real(*arguments, **{**keywords, "callbacks": (stop,)})

    monkeypatch.setattr(learning, "fit", stopped_early)
    with pytest.raises(KeyboardInterrupt) as stopped:
        lb.train_classifier(rows, tmp_path / "model", options=IN_EPOCHS)
    assert str(stopped.value) == (
        f"stopped by SIGINT after 8 steps; the state is saved in {tmp_path / 'model'}; go on with resume=True"
    )
    with pytest.raises(FileNotFoundError) as caught:
        lb.load_classifier(tmp_path / "model")
    assert str(caught.value) == (
        f"{tmp_path / 'model'} holds no classifier (there is no config.json in it); its training was not finished: "
        "train again with resume=True"
    )
    monkeypatch.setattr(learning, "fit", real)
    other = dataclasses.replace(IN_EPOCHS, lr=0.3)
    with pytest.raises(ValueError) as caught:
        lb.train_classifier(rows, tmp_path / "model", options=other, resume=True)
    assert str(caught.value) == (
        f"cannot resume {tmp_path / 'model'}: it was started with lr=None, and now it is run with lr=0.3; pass the same "
        "options"
    )
    with pytest.raises(ValueError) as caught:
        lb.train_classifier(make_rows(240, seed=1), tmp_path / "model", options=IN_EPOCHS, resume=True)
    changed = (
        f"cannot resume {tmp_path / 'model'}: texts, labels, class names or vocabulary differ from those of the stopped run; "
        "pass the same files"
    )
    assert str(caught.value) == changed
    with pytest.raises(ValueError) as caught:
        lb.train_classifier(
            rows, tmp_path / "model", options=IN_EPOCHS, resume=True, class_names=sorted(set(rows.labels))[::-1]
        )
    assert str(caught.value) == changed
    resumed = lb.train_classifier(rows, tmp_path / "model", options=IN_EPOCHS, resume=True)
    assert resumed.history.resumed_from is not None
    one, other = (load_file(path / "model.safetensors") for path in (trained_in_epochs.directory, tmp_path / "model"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == sorted(PROMISED)


def test_an_n_gram_run_that_was_interrupted_starts_again_to_the_same_bits(tmp_path, rows, finished, monkeypatch):
    from linkboy.classify.learning import _outcome

    def interrupted(*arguments, **keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_outcome, "fit_linear", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lb.train_classifier(rows, tmp_path / "model", options=QUICK)
    with pytest.raises(ValueError) as caught:
        lb.train_classifier(rows, tmp_path / "model", options=dataclasses.replace(QUICK, refit=False), resume=True)
    assert str(caught.value) == (
        f"cannot resume {tmp_path / 'model'}: it was started with refit=True, and now it is run with refit=False; pass the same "
        "options"
    )
    resumed = lb.train_classifier(rows, tmp_path / "model", options=QUICK, resume=True)
    one, other = (load_file(path / "model.safetensors") for path in (finished.directory, resumed.directory))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert resumed.metrics == finished.metrics


def test_without_the_validation_rows_the_model_learns_from_the_training_part_alone(tmp_path, make_rows):
    valid = make_rows(60, seed=5)
    reports = {
        refit: lb.train_classifier(
            make_rows(240), tmp_path / str(refit), valid=valid, options=dataclasses.replace(QUICK, refit=refit)
        )
        for refit in (True, False)
    }
    assert reports[True].linear.row_count == reports[False].linear.row_count + 60
    assert lb.load_classifier(tmp_path / "False").evaluate(valid) == reports[False].metrics["valid"]


# --- a damaged or foreign directory --------------------------------------------------------------------------------------


def load_message(path, error=ValueError):
    with pytest.raises(error) as caught:
        lb.load_classifier(path)
    return str(caught.value)


@pytest.fixture
def copy(finished, tmp_path):
    import shutil

    return shutil.copytree(finished.directory, tmp_path / "copy")


def test_a_missing_or_foreign_directory_is_named(tmp_path):
    assert load_message(tmp_path / "no", FileNotFoundError) == (
        f"there is no directory {tmp_path / 'no'}; name one that train_classifier has written"
    )
    assert load_message(tmp_path, FileNotFoundError) == (
        f"{tmp_path} holds no classifier (there is no config.json in it)"
    )
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert load_message(tmp_path) == (
        f"{tmp_path / 'config.json'} does not belong to a linkboy classifier; name a directory that train_classifier has written"
    )
    (tmp_path / "config.json").write_text("[" * 100_000)
    assert load_message(tmp_path).startswith(f"{tmp_path / 'config.json'} is damaged (")
    (tmp_path / "config.json").write_text("{")
    assert load_message(tmp_path) == (
        f"{tmp_path / 'config.json'} is damaged (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)); "
        "train the classifier again"
    )


def test_damaged_weights_are_refused(copy):
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    assert load_message(copy) == (
        f"{copy / 'model.safetensors'} is damaged or of another run: its hash is not the one in config.json; train it again"
    )
    (copy / "model.safetensors").unlink()
    assert load_message(copy, FileNotFoundError) == (
        f"{copy} holds no weights (there is no model.safetensors in it); train it again"
    )


def test_a_configuration_of_another_version_or_with_missing_parts_is_refused(copy):
    config = json.loads((copy / "config.json").read_text("utf-8"))
    (copy / "config.json").write_text(json.dumps({**config, "format_version": 99}))
    assert load_message(copy) == (
        f"{copy} has format version 99, this linkboy ({lb.__version__}) reads versions 1 to 3; update linkboy or train the "
        "classifier again"
    )
    (copy / "config.json").write_text(json.dumps({**config, "class_names": ["one"]}))
    assert "do not belong together" in load_message(copy)
    for wrong in ("ab", ["a", "a", "b"], [["a"], None, "b"]):
        (copy / "config.json").write_text(json.dumps({**config, "class_names": wrong}))
        assert load_message(copy) == (
            f"{copy / 'config.json'} must name the classes in a list of different strings; train it again"
        )
    for wrong in ({"longest": 10**9, "words": True}, {"longest": "3", "words": True}, {"longest": 3, "words": 1}):
        (copy / "config.json").write_text(json.dumps({**config, "encoder": wrong}))
        assert "(the encoder needs a longest n-gram of 1 to 16 characters" in load_message(copy)
    del config["encoder"]
    (copy / "config.json").write_text(json.dumps(config))
    assert load_message(copy) == (
        f"{copy} holds a classifier whose config.json and model.safetensors do not belong together ('encoder'); train it again"
    )


def test_a_prediction_loads_no_compiler(tmp_path, rows):
    """On the meta device torch loads it to draw initial weights: 0.8 s of the 2 s to a first answer, for nothing."""
    for kind in ("ngram", "cnn", "capsule", "transformer"):
        encoder = make_encoder(kind, rows.texts)
        model = make_model(kind, encoder, 2)
        Classifier(kind, model, encoder, ["no", "yes"], numbered=False, about={}).save(tmp_path / kind)
    code = (
        "import sys, linkboy as lb\n"
        "for kind in sys.argv[1:]:\n"
        "    lb.load_classifier(kind).predict(['球队 冠军'])\n"
        "    assert 'torch._dynamo' not in sys.modules, kind\n"
    )
    subprocess.run([sys.executable, "-c", code, *(path.name for path in tmp_path.iterdir())], cwd=tmp_path, check=True)


def test_a_classifier_of_the_first_format_still_answers_as_it_did():
    """`format_1` was written by the first version of the format, on texts of the fixture `rows`."""
    classifier = lb.load_classifier(Path(__file__).with_name("format_1"))
    predictions = classifier.predict(["球队 夺冠", "股市 大涨", "the match"])
    assert predictions.labels == ["体育", "财经", "sport"]
    np.testing.assert_allclose(predictions.probabilities, [0.804283, 0.875242, 0.887503], atol=1e-5)


@pytest.mark.parametrize("kind", ["ngram", "cnn"])
def test_a_classifier_that_an_earlier_version_trained_still_answers_as_it_did(kind):
    """`former` holds what `linkboy train --model KIND` wrote before, with its predictions for the test part."""
    directory = Path(__file__).with_name("former") / kind
    _, *rows = csv.reader((directory / "predictions.csv").read_text("utf-8").splitlines())
    classifier = lb.load_classifier(directory)
    assert classifier.predict([rows[0][0], " ", "ققق"]).known == [True, False, kind == "cnn"]
    predictions = classifier.predict([text for text, *_ in rows])
    assert predictions.labels == [predicted for _, _, predicted, _ in rows]
    np.testing.assert_allclose(predictions.probabilities, [float(row[3]) for row in rows], atol=1e-5)


# --- the classifier ------------------------------------------------------------------------------------------------------


def test_predict_refuses_what_is_no_list_of_strings(finished):
    classifier = lb.load_classifier(finished.directory)
    for bad, message in (
        ("text", "texts must be a list of strings, got one str; put it in brackets: predict([text])"),
        (["a", None], "texts must be a list of strings, got NoneType at position 1"),
    ):
        with pytest.raises(TypeError) as caught:
            classifier.predict(bad)
        assert str(caught.value) == message
    with pytest.raises(ValueError) as caught:
        classifier.predict(["a"], top=0)
    assert str(caught.value) == "top must be an integer of at least 1, got 0"


def test_a_changed_classifier_is_saved_as_it_is_now(finished, tmp_path):
    classifier = lb.load_classifier(finished.directory)
    with torch.no_grad():
        classifier.model.bias.zero_()
    classifier.class_names = ["a", "b", "c"]
    classifier.save(tmp_path / "changed")
    again = lb.load_classifier(tmp_path / "changed")
    assert again.class_names == ["a", "b", "c"]
    assert not again.model.bias.any()


def test_space_around_a_text_changes_nothing(finished):
    classifier = lb.load_classifier(finished.directory)
    assert torch.equal(classifier.logits(["冠军 进球"]), classifier.logits(["  冠军 进球\n"]))


def test_a_configuration_cannot_name_a_file_to_read(tmp_path, make_rows):
    options = dataclasses.replace(QUICK, model="cnn", epochs=1)
    lb.train_classifier(make_rows(60), tmp_path, options=options)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    config["encoder"]["vocabulary"] = "/etc/hostname"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "(the encoder needs a list of tokens and a max_length of at least 1)" in load_message(tmp_path)


def test_predict_ranks_classes_and_takes_any_number_of_texts(finished):
    classifier = lb.load_classifier(finished.directory)
    assert list(classifier.predict([]).labels) == []
    predictions = classifier.predict(["冠军 进球"], top=99)
    labels, shares = zip(*predictions.top[0], strict=True)
    assert labels[0] == "体育"
    assert set(labels) == set(classifier.class_names)
    assert sum(shares) == pytest.approx(1)
    assert list(shares) == sorted(shares, reverse=True)
    streamed = [
        p for part in classifier.predict_stream((f"基金 {n}" for n in range(25)), batch_size=10) for p in part.labels
    ]
    assert streamed == list(classifier.predict([f"基金 {n}" for n in range(25)]).labels)


def test_evaluate_gives_the_figures_of_the_run(finished, rows):
    classifier = lb.load_classifier(finished.directory)
    metrics = classifier.evaluate(rows)
    assert metrics.accuracy > 0.99
    unknown = dataclasses.replace(rows.take([0, 1]), labels=["体育", "天气"])
    with pytest.raises(ValueError) as caught:
        classifier.evaluate(unknown)
    assert str(caught.value) == (
        "made up line 2: the label '天气' of the evaluation part is not among the 3 classes ('sport', '体育', '财经'); "
        "correct the label or leave the row out"
    )


def test_predicting_leaves_mode_and_random_stream_alone(finished):
    classifier = lb.load_classifier(finished.directory)
    classifier.model.train()
    before = torch.get_rng_state()
    classifier.predict(["冠军"])
    assert classifier.model.training
    assert torch.equal(before, torch.get_rng_state())


# --- charts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 25, 120])
def test_confusion_charts_of_any_size_and_script(classes):
    names = [["体育", "العربية", "sport", "x" * 60][n % 4] + str(n) for n in range(classes)]
    confusion = np.random.default_rng(0).integers(0, 50, (classes, classes))
    drawn = ElementTree.fromstring(as_file([("Confusion", confusion_chart(confusion.tolist(), names), ())]))
    assert len(list(drawn.iter(f"{SVG}rect"))) == 2 + (confusion > 0).sum()  # with the background and the frame
    assert float(drawn.get("width")) == float(drawn.find(f"{SVG}svg").get("width"))


def test_curves_of_one_epoch():
    rows = [{"epoch": 1, "train_loss": 0.5, "val_loss": 0.6, "accuracy": 0.7}]
    drawn = ElementTree.fromstring(as_file(learning_curves(rows, "accuracy", 1)))
    assert [words.text for words in drawn.iter(f"{SVG}tspan")] == [
        "Loss",
        "training",
        "validation",
        "Accuracy",
        "validation",
    ]
    assert len(list(drawn.iter(f"{SVG}circle"))) == 3
