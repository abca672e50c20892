"""Parts are stratified, repeatable, and equal texts stay on one side."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from linkboy.classify.reading._parts import make_parts, read_class_names, targets_of
from linkboy.classify.reading._proportions import other_proportions
from linkboy.classify.reading.labelled import LabelledTexts


def labelled(pairs, source="rows.tsv"):
    texts, labels = zip(*pairs, strict=True)
    return LabelledTexts(source, list(texts), list(labels), list(range(1, len(pairs) + 1)))


def test_every_row_stands_in_exactly_one_part_and_each_class_gives_a_tenth():
    rows = labelled([(f"text {n}", "rare" if n % 10 == 0 else "common") for n in range(400)])
    parts = make_parts(rows)
    texts = [text for part in parts.texts.values() for text in part.texts]
    assert sorted(texts) == sorted(rows.texts)
    for part in ("valid", "test"):
        assert Counter(parts.texts[part].labels) == {"common": 36, "rare": 4}


def test_equal_texts_stay_on_one_side():
    rows = labelled([(f"text {n // 4}", "ab"[n // 4 % 2]) for n in range(400)])
    parts = make_parts(rows)
    train, valid, test = (set(part.texts) for part in parts.texts.values())
    assert not train & valid
    assert not (train | valid) & test


def test_the_seed_decides_the_split():
    rows = labelled([(f"text {n}", "ab"[n % 2]) for n in range(100)])
    one, same, other = (make_parts(rows, seed=seed).texts["test"].texts for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_a_class_with_few_rows_stays_in_training():
    rows = labelled([(f"text {n}", "a") for n in range(50)] + [("only", "b")])
    parts = make_parts(rows)
    assert "b" in parts.texts["train"].labels
    assert set(parts.texts["test"].labels) == {"a"}


def test_given_parts_are_taken_as_they_are_and_only_the_missing_one_is_cut():
    rows = labelled([(f"text {n}", "ab"[n % 2]) for n in range(100)])
    test = labelled([("text 3", "b"), ("new", "a")], "test.tsv")
    parts = make_parts(rows, test=test)
    assert list(parts.texts["test"].texts) == ["text 3", "new"]
    assert (len(parts.texts["train"]), len(parts.texts["valid"])) == (90, 10)
    assert list(parts.notes[:1]) == ["valid: a tenth of each class held out of the training file, seed 0"]


def test_texts_in_two_parts_and_under_two_labels_are_reported():
    rows = labelled([(f"text {n}", "ab"[n % 2]) for n in range(20)] + [("text 0", "b")])
    seen = labelled([("text 1", "b"), ("new", "a")])
    parts = make_parts(rows, valid=seen, test=seen)
    assert list(parts.notes) == [
        "1 valid text (50.00%) also occurs in training",
        "1 test text (50.00%) also occurs in training",
        "2 test texts (100.00%) also occur in valid",
        "1 training row (4.76%) repeats a text",
        "1 training text occurs with more than one label",
    ]


def test_numbers_are_ordered_as_numbers_and_words_as_words():
    rows = labelled([(f"text {n}", str(n % 12)) for n in range(240)])
    assert list(make_parts(rows).class_names) == [str(n) for n in range(12)]
    rows = labelled([(f"text {n}", "乙甲b"[n % 3]) for n in range(60)])
    assert list(make_parts(rows).class_names) == sorted("乙甲b")


def test_class_names_give_numbers_their_meaning(tmp_path):
    (tmp_path / "class.txt").write_text("财经\r\n体育\r\n", "utf-8-sig")
    names = read_class_names(tmp_path / "class.txt")
    rows = labelled([(f"text {n}", str(n % 2)) for n in range(40)])
    parts = make_parts(rows, class_names=names)
    assert list(parts.class_names) == ["财经", "体育"]
    assert np.array_equal(targets_of(labelled([("x", "1"), ("y", "财经")]), names, "test", numbered=True), [1, 0])


def message_of(error, call, *arguments, **keywords):
    with pytest.raises(error) as caught:
        call(*arguments, **keywords)
    return str(caught.value)


def test_a_label_that_training_never_saw_is_named_by_line():
    rows = labelled([(f"text {n}", ("sports", "finance")[n % 2]) for n in range(40)])
    test = labelled([("x", "sports"), ("y", "sport")], "test.tsv")
    assert message_of(ValueError, make_parts, rows, test=test) == (
        "test.tsv line 2: the label 'sport' of the test part is not among the 2 classes ('finance', 'sports'); "
        "did you mean 'sports'?; correct the label or leave the row out"
    )


def test_rows_of_classes_that_only_a_held_out_part_has_are_left_out_and_told():
    rows = labelled([(f"text {n}", ("sports", "finance")[n % 2]) for n in range(40)])
    valid = labelled([("x", "sports"), ("y", "天气"), ("z", "天气"), ("w", "kochen")], "valid.tsv")
    parts = make_parts(rows, valid=valid)
    assert list(parts.texts["valid"].texts) == ["x"]
    assert "valid: 3 rows of 2 classes that the training data does not have ('kochen', '天气') left out" in parts.notes
    assert message_of(ValueError, make_parts, rows, valid=labelled([("y", "天气")], "valid.tsv")).startswith(
        "valid.tsv line 1: the label '天气' of the valid part is not among the 2 classes"
    )


def test_one_class_only_is_refused():
    rows = labelled([(f"text {n}", "a") for n in range(40)])
    assert message_of(ValueError, make_parts, rows) == (
        "rows.tsv: training needs rows of at least two classes, got 40 rows of 'a' only"
    )


def test_too_few_rows_to_split_are_refused():
    rows = labelled([("one", "a"), ("two", "b")])
    assert message_of(ValueError, make_parts, rows) == (
        "rows.tsv has too few rows to cut a valid part from (2 rows, and no class with more than 2); pass one as valid=..."
    )


@pytest.mark.parametrize("texts", [{"good": "p", "bad": "q"}, {"good": "p", "bad": "q", "fine": "p", "awful": "q"}])
def test_rows_that_repeat_a_few_texts_are_held_out_and_it_is_said(texts):
    parts = make_parts(labelled([*texts.items()] * 9))
    assert {part: len(rows) for part, rows in parts.texts.items()} == (
        {"train": 14, "valid": 2, "test": 2} if len(texts) == 2 else {"train": 28, "valid": 4, "test": 4}
    )
    assert parts.notes[1] == (
        "no class has enough different texts to hold some out, so valid and test repeat texts of training: their figures do "
        "not say how new texts are classified"
    )
    alone = make_parts(labelled([*texts.items()] * 9), test=labelled([("new", "p"), ("old", "q")]))
    assert alone.notes[1].startswith("no class has enough different texts") == (len(texts) == 2)


def test_no_text_is_in_two_parts_where_one_class_has_enough():
    rows = [(f"text {n}", "a") for n in range(10)] + [("same", "b")] * 30
    parts = make_parts(labelled(rows))
    assert not any(note.startswith("no class") for note in parts.notes)
    assert not set(parts.texts["test"].texts) & set(parts.texts["train"].texts)


def test_class_names_must_exist_and_differ(tmp_path):
    path = tmp_path / "class.txt"
    assert message_of(FileNotFoundError, read_class_names, path) == f"there is no file {path} with class names"
    path.write_text("a\nb\na\n")
    assert message_of(ValueError, read_class_names, path) == f"{path} must name each class once, got 'a' twice"
    path.write_text("\n")
    assert message_of(ValueError, read_class_names, path) == f"{path} must name each class once, got nothing"
    path.write_bytes(b"\xff\n")
    assert (
        message_of(ValueError, read_class_names, path) == f"{str(path)!r} line 1 is not UTF-8; save the file as UTF-8"
    )


def test_rows_that_were_skipped_stay_with_the_training_part():
    from linkboy.classify.reading.labelled import SkippedRow

    rows = dataclasses.replace(
        labelled([(f"text {n}", "ab"[n % 2]) for n in range(100)]), skipped=(SkippedRow(7, "the text is empty"),)
    )
    parts = make_parts(rows)
    assert [len(part.skipped) for part in parts.texts.values()] == [1, 0, 0]


def test_labels_in_the_first_column_are_suspected():
    rows = labelled([("体育", f"text {n}") for n in range(60)], "cnews.txt")
    assert message_of(ValueError, make_parts, rows) == (
        "cnews.txt has 60 different labels in 60 rows; if the label is in another column, name it as label_column=..."
    )


def test_a_header_of_unusual_names_is_suspected():
    rows = labelled([("headline", "y")] + [(f"text {n}", "ab"[n % 2]) for n in range(60)])
    assert make_parts(rows).notes[-1] == (
        "the label of the first line, 'y', occurs nowhere else: if that line is a header, name the text column"
    )


def test_weights_that_are_all_zero_are_refused():
    rows = dataclasses.replace(labelled([(f"text {n}", "ab"[n % 2]) for n in range(60)]), weights=[0.0] * 60)
    assert message_of(ValueError, make_parts, rows) == (
        "rows.tsv: the weights of the training rows are all 0; at least one must be more"
    )


def test_labels_that_only_look_like_numbers_are_words():
    rows = labelled([(f"text {n}", ("--1", "2")[n % 2]) for n in range(60)])
    assert list(make_parts(rows).class_names) == ["--1", "2"]


def test_leaked_and_repeated_texts_are_marked_and_counted():
    train = LabelledTexts("train", ["a", "b", "a", "c"], ["x", "y", "y", "x"], range(1, 5))
    valid = LabelledTexts("valid", ["d", "b"], ["x", "y"], range(1, 3))
    test = LabelledTexts("test", ["c", "d", "e", "f"], ["x", "y", "x", "y"], range(1, 5))
    parts = make_parts(train, valid=valid, test=test)
    assert parts.overlap["valid"].tolist() == [False, True]
    assert parts.overlap["test"].tolist() == [True, False, False, False]
    assert list(parts.notes) == [
        "1 valid text (50.00%) also occurs in training",
        "1 test text (25.00%) also occurs in training",
        "1 test text (25.00%) also occurs in valid",
        "1 training row (25.00%) repeats a text",
        "1 training text occurs with more than one label",
    ]


def test_a_whole_number_is_its_class_however_it_is_written():
    train = labelled([(f"text {n}", "01"[n % 2]) for n in range(60)])
    test = labelled([("a", "1.0"), ("b", "0.0"), ("c", "1")])
    assert make_parts(train, test=test).targets["test"].tolist() == [1, 0, 1]
    assert make_parts(labelled([(f"text {n}", ("10.0", "9.0")[n % 2]) for n in range(60)])).class_names == [
        "9.0",
        "10.0",
    ]


def of_shares(prefix, *counts):
    return labelled(
        [(f"{prefix} {name} {n}", name) for name, count in zip("abc", counts, strict=True) for n in range(count)]
    )


def test_other_proportions_are_told_from_chance():
    generator = np.random.default_rng(0)
    train = np.array([400.0, 400, 200])
    draws = [np.bincount(generator.choice(3, 2000, p=train / 1000), minlength=3).astype(float) for _ in range(100)]
    assert not any(other_proportions(train, valid) for valid in draws)
    assert other_proportions(train, np.array([700.0, 700, 600]))


@pytest.mark.parametrize(
    ("valid", "test", "note"),
    [
        (
            (40, 40, 20),
            (20, 20, 60),
            "than training: 'c' is 60.00% of it and 20.00% of training; figures and probabilities",
        ),
        ((20, 20, 60), (20, 20, 60), "than training: 'c' is 60.00% of it and 20.00% of training"),
        ((20, 20, 60), (40, 40, 20), None),
        ((40, 40, 20), (39, 38, 23), None),
        ((40, 40, 20), (0, 2, 3), None),  # by chance
    ],
)
def test_a_test_part_of_other_proportions_is_told(valid, test, note):
    parts = make_parts(of_shares("fit", 400, 400, 200), valid=of_shares("held", *valid), test=of_shares("new", *test))
    found = [line for line in parts.notes if "proportions" in line]
    assert len(found) == (note is not None)
    if note is not None:
        assert note in found[0]
        assert note in str(parts)
