"""Labelled texts from memory: frames of polars and pandas, texts and labels; what is shown, and how a signal ends a run."""

import contextlib
import dataclasses
import signal

import numpy as np
import polars as pl
import pytest

import linkboy as lb
from linkboy._progress import Progress, progress_shown
from linkboy.classify.learning import _learner as learning

TEXTS = [f"{word} {n}" for n in range(20) for word in ("好吃", "难吃")]
LABELS = ["good", "bad"] * 20


def frame_of(kind, columns):
    if kind == "pandas":
        return pytest.importorskip("pandas").DataFrame(columns)
    return pl.DataFrame(columns) if kind == "polars" else pl.LazyFrame(columns)


@pytest.mark.parametrize("kind", ["polars", "lazy", "pandas"])
def test_a_frame_is_read_as_a_file_of_it_would_be(kind, tmp_path):
    columns = {"id": list(range(40)), "review": TEXTS, "stars": [5, 1] * 20}
    pl.DataFrame(columns).write_csv(tmp_path / "rows.csv")
    of_file = lb.read_labelled(tmp_path / "rows.csv")
    data = lb.read_labelled(frame_of(kind, columns))
    assert (data.texts, data.labels, data.text_columns) == (of_file.texts, of_file.labels, of_file.text_columns)
    assert data.source == "data frame"
    assert data.notes[0] == "text from column 'review', label from column 'stars' (2 classes), 40 rows; in memory"
    assert list(data.lines) == list(range(1, 41))


@pytest.mark.parametrize("kind", ["polars", "pandas"])
def test_columns_of_a_frame_are_named_as_those_of_a_file(kind):
    columns = {"a": TEXTS, "b": TEXTS[::-1], "c": LABELS, "w": [0.5] * 40}
    data = lb.read_labelled(
        frame_of(kind, columns), text_column=["a", "b"], label_column="c", weight_column="w", label_map={"bad": "poor"}
    )
    assert data.texts[0] == f"{TEXTS[0]} \x01 {TEXTS[-1]}"
    assert (set(data.labels), data.weights[0]) == ({"good", "poor"}, 0.5)


def test_a_classifier_finds_the_columns_it_was_trained_on_in_another_order(tmp_path):
    rows = {"shop": ["a", "b"] * 20, "评论": TEXTS, "quality": LABELS, "city": ["x", "x", "y", "z"] * 10}
    data = lb.read_labelled(pl.DataFrame(rows), label_column="quality")
    assert data.label_columns == ("quality",)
    lb.train_classifier(data, tmp_path / "model")
    other = tmp_path / "new.csv"
    pl.DataFrame(rows).select("city", "quality", "评论", "shop").write_csv(other)
    with pytest.raises(ValueError, match="columns could be the label"):
        lb.read_labelled(other)
    classifier = lb.load_classifier(tmp_path / "model")
    assert (classifier.text_columns, classifier.label_columns) == (["评论"], ["quality"])
    assert classifier.evaluate(other).accuracy == 1


@pytest.mark.parametrize("make", [list, tuple, np.array, pl.Series, "pandas"])
def test_texts_and_labels_are_read(make):
    make = pytest.importorskip("pandas").Series if make == "pandas" else make
    data = lb.read_labelled((make(TEXTS), make([1, 0] * 20)))
    assert (data.texts, data.labels) == (TEXTS, ["1", "0"] * 20)


def test_values_are_read_as_json_reads_them():
    frame = pl.DataFrame({"text": ["a b", "c d", "e f"], "label": [1.0, 2.0, 1.0]})
    assert lb.read_labelled(frame).labels == ["1", "2", "1"]
    assert lb.read_labelled((["a", "b"], [True, False])).labels == ["true", "false"]


def test_what_is_missing_in_a_frame_is_named_by_its_row():
    for kind in ("polars", "pandas"):
        frame = frame_of(kind, {"text": ["a b", None], "label": ["x", "y"]})
        with pytest.raises(ValueError) as caught:
            lb.read_labelled(frame)
        assert str(caught.value) == ("data frame line 2: the text is empty; correct the line or pass on_bad_row='skip'")
        assert lb.read_labelled(frame, on_bad_row="skip").labels == ["x"]


def test_series_whose_indexes_match_rows_otherwise_than_their_places_are_refused():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": TEXTS, "label": LABELS})
    shuffled = frame.sample(frac=1, random_state=0)
    with pytest.raises(ValueError) as caught:
        lb.read_labelled((frame["text"], shuffled["label"]))
    assert str(caught.value) == (
        "texts and labels are series with different indexes, so they can be matched by index or by place; take both from one "
        "frame, or pass lists (texts.to_list(), labels.to_list()) to match them by place"
    )
    together = lb.read_labelled((shuffled["text"], shuffled["label"]))
    assert set(zip(together.texts, together.labels, strict=True)) == set(zip(TEXTS, LABELS, strict=True))
    by_place = lb.read_labelled((frame["text"].to_list(), shuffled["label"].to_list()))
    assert by_place.labels == shuffled["label"].to_list()


REFUSED = {
    "there must be as many labels as texts, got 1 for 2 texts": lambda: lb.read_labelled((["a", "b"], ["x"])),
    "separator has no meaning for a data frame; leave separator out": lambda: lb.read_labelled(
        pl.DataFrame({"text": ["a"], "label": ["x"]}), separator="tab"
    ),
    "label_column has no meaning for texts and labels; leave label_column out": lambda: lb.read_labelled(
        (["a"], ["x"]), label_column=1
    ),
    "data frame holds no labelled text; it has a header and no rows": lambda: lb.read_labelled(
        pl.DataFrame({"text": [], "label": []})
    ),
    "path must be the path of a file, a polars or pandas frame, or (texts, labels), got ['a']": lambda: (
        lb.read_labelled(["a"])
    ),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_is_no_table_is_refused(sentence):
    with pytest.raises((ValueError, TypeError)) as caught:
        REFUSED[sentence]()
    assert str(caught.value) == sentence


def test_a_classifier_is_trained_on_every_form_alike_and_measured_on_it(tmp_path):
    columns = {"text": TEXTS, "label": LABELS}
    pl.DataFrame(columns).write_csv(tmp_path / "rows.csv")
    given = [str(tmp_path / "rows.csv"), tmp_path / "rows.csv", pl.DataFrame(columns), (TEXTS, LABELS)]
    weights = []
    for number, train in enumerate(given):
        out = tmp_path / f"model {number}"
        lb.train_classifier(train, out)
        weights.append((out / "model.safetensors").read_bytes())
        assert lb.load_classifier(out).evaluate(train).accuracy == 1
    assert len(set(weights)) == 1


def test_rows_of_a_frame_whose_class_only_the_valid_part_has_are_reported_and_left_out(tmp_path):
    valid = pl.DataFrame({"text": ["好吃 a", "难吃 b", "odd"], "label": ["good", "bad", "other"]})
    said = []
    report = lb.train_classifier((TEXTS, LABELS), tmp_path / "m", valid=valid, test=valid, show=said.append)
    assert report.metrics["test"].row_count == 2
    assert "valid: 1 row of 1 class that the training data does not have ('other') left out" in str(said[0])


QUICK = lb.TrainingOptions(model="cnn", epochs=2, batch_size=16)


def test_nothing_is_printed_unless_asked(tmp_path, capfd):
    lb.train_classifier((TEXTS, LABELS), tmp_path / "silent", options=QUICK)
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
    said = []
    lb.train_classifier((TEXTS, LABELS), tmp_path / "shown", options=QUICK, show=said.append)
    printed = capfd.readouterr()
    assert said
    assert printed.out == ""
    assert "epoch 2/2" in printed.err


def test_progress_is_shown_again_behind_a_silent_block(capsys):
    with contextlib.suppress(ValueError), progress_shown(False), progress_shown(True), Progress("a") as progress:
        progress.write("not seen")
        raise ValueError
    with Progress("b") as progress:
        progress.write("seen")
    assert capsys.readouterr().err == "seen\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_saves_and_ends_the_call(tmp_path, monkeypatch, name):
    real = learning.fit

    def stopped_early(*arguments, **keywords):
        def stop(event, state):
            if event == "step" and state.step == 3:
                signal.raise_signal(getattr(signal, name))

        return real(*arguments, **{**keywords, "callbacks": (stop,)})

    monkeypatch.setattr(learning, "fit", stopped_early)
    with pytest.raises(KeyboardInterrupt if name == "SIGINT" else SystemExit) as caught:
        lb.train_classifier((TEXTS, LABELS), tmp_path / "m", options=QUICK)
    assert caught.value.__notes__ == [f"stopped by {name} after 4 steps; the state is saved in {tmp_path / 'm'}"]
    if name == "SIGTERM":
        assert caught.value.code == 143
    assert list((tmp_path / "m" / "checkpoints" / "choosing").glob("step-*"))
    monkeypatch.setattr(learning, "fit", real)
    resumed = lb.train_classifier((TEXTS, LABELS), tmp_path / "m", options=QUICK, resume=True)
    assert "test" in resumed.metrics


@pytest.mark.parametrize("rows", [np.eye(2, dtype=int), np.array([[1, 1, 0], [0, 1, 0]]), np.eye(3)[:2] > 0], ids=str)
def test_labels_as_rows_of_zeros_and_ones_are_refused(rows):
    """Read as lists of names every text would have the labels `0` and `1`."""
    labels = np.tile(rows, (10, 1))
    with pytest.raises(ValueError, match=r"must hold names, got rows of 0 and 1 .*argmax\(1\)"):
        lb.read_labelled(([f"text {n}" for n in range(20)], labels))


def test_one_column_of_labels_is_one_label_a_text():
    data = lb.read_labelled((["a text", "b text", "c text"], np.array([["p"], ["q"], ["p"]])))
    assert list(data.labels) == ["p", "q", "p"]


def test_texts_and_labels_the_other_way_round_are_refused():
    texts = [f"the room was fine, {n}" for n in range(40)]
    with pytest.raises(ValueError) as caught:
        lb.read_labelled(([0, 1] * 20, texts))
    assert str(caught.value) == (
        "texts and labels seem to be the other way round: the text '0' occurs again and again, and no label "
        "does; pass (texts, labels)"
    )
    assert lb.read_labelled((texts, [0, 1] * 20)).labels[:2] == ["0", "1"]


def test_texts_in_memory_are_stripped_as_those_of_files_are(tmp_path, make_rows):
    rows = make_rows(240)
    padded = dataclasses.replace(rows, texts=[f"  {text} \n" for text in rows.texts])
    plain, spaced = (lb.train_classifier(each, tmp_path / name) for name, each in (("a", rows), ("b", padded)))
    first, second = ((report.directory / "model.safetensors").read_bytes() for report in (plain, spaced))
    assert first == second
    assert plain.metrics["test"].accuracy == spaced.metrics["test"].accuracy
    assert (plain.directory / "predictions.csv").read_bytes() == (spaced.directory / "predictions.csv").read_bytes()
