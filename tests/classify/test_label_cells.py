"""Several labels a text are read from every form they are written in, and what is odd about them is said."""

import json
import re

import numpy as np
import polars as pl
import pytest

from linkboy.classify.reading._parts import make_parts, memberships_of
from linkboy.classify.reading.labelled import LabelledTexts, read_labelled

ROWS = [
    ("calm sea at night", ("sea", "night")),
    ("a red car", ()),
    ("night train", ("night",)),
    ("sea wind", ("sea", "wind")),
]
NAMES = ("sea", "night", "wind")


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content, "utf-8")
    return path


def table(between, separator=","):
    quote = '"' if separator == "," else ""
    rows = "".join(f"{text}{separator}{quote}{between.join(labels)}{quote}\n" for text, labels in ROWS)
    return f"text{separator}tags\n{rows}"


def columns(values=("0", "1")):
    rows = "".join(f"{text},{','.join(values[name in labels] for name in NAMES)}\n" for text, labels in ROWS)
    return f"text,{','.join(NAMES)}\n{rows}"


FORMS = {
    "a.csv": (table("|"), {"label_separator": "|"}),
    "word.csv": (table(","), {"label_separator": "comma"}),
    "long.csv": (table(" || "), {"label_separator": " || "}),
    "b.tsv": (table(" ", "\t"), {"label_separator": " "}),
    "c.jsonl": ("".join(json.dumps({"text": t, "tags": list(l)}) + "\n" for t, l in ROWS), {}),
    "d.json": (json.dumps([{"text": t, "tags": list(l)} for t, l in ROWS]), {}),
    "null.jsonl": ("".join(json.dumps({"text": t, "tags": list(l) or None}) + "\n" for t, l in ROWS), {}),
    "joined.jsonl": (
        "".join(json.dumps({"text": t, "tags": ";".join(l)}) + "\n" for t, l in ROWS),
        {"label_separator": ";"},
    ),
    "written.csv": ("text,tags\n" + "".join(f'{t},"{list(l)}"\n' for t, l in ROWS), {}),
    "columns.csv": (columns(), {"label_column": ["sea", "night", "wind"]}),
    "named.csv": (columns(("False", "True")), {"label_column": "sea,night,wind"}),
    "numbered.csv": (columns(("0.0", "1.0")), {"label_column": (1, 2, 3)}),
    "fast.txt": (
        "".join(f"{' '.join('__label__' + n for n in l)} {t}\n" for t, l in ROWS[:1] + ROWS[2:] + ROWS[1:2] * 0),
        {},
    ),
}


@pytest.mark.parametrize("name", [name for name in FORMS if name != "fast.txt"])
def test_every_form_gives_the_same_rows(tmp_path, name):
    content, options = FORMS[name]
    data = read_labelled(written(tmp_path, name, content), text_column="text", **{"label_column": "tags"} | options)
    assert data.several
    assert [(text, tuple(sorted(labels))) for text, labels in zip(data.texts, data.labels, strict=True)] == [
        (text, tuple(sorted(labels))) for text, labels in ROWS
    ]
    assert "1 row has no label" in str(data)


def test_lists_of_parquet_give_the_same_rows(tmp_path):
    pl.DataFrame({"text": [t for t, _ in ROWS], "labels": [list(l) for _, l in ROWS]}).write_parquet(
        tmp_path / "a.parquet"
    )
    data = read_labelled(tmp_path / "a.parquet")
    assert list(data.labels) == [labels for _, labels in ROWS]
    assert "labels from column 'labels' (3 labels, 1.2 a row; lists), 4 rows" in data.notes[0]


@pytest.mark.parametrize("kind", ["polars", "pandas", "arrays", "pair", "tuples"])
def test_lists_in_memory_give_the_same_rows(kind):
    columns = {"text": [t for t, _ in ROWS], "labels": [list(l) for _, l in ROWS]}
    value = pl.DataFrame(columns) if kind == "polars" else tuple(columns.values())
    if kind in ("pandas", "arrays"):
        value = pytest.importorskip("pandas").DataFrame(columns)
        if kind == "arrays":
            value["labels"] = value["labels"].map(np.array)
    if kind == "tuples":
        value = columns["text"], [labels for _, labels in ROWS]
    data = read_labelled(value)
    assert list(data.labels) == [labels for _, labels in ROWS]


def test_lines_of_fasttext_may_have_several_labels(tmp_path):
    lines = "__label__a __label__b one text\n__label__a two\n__label__ab __label__a three\n"
    data = read_labelled(written(tmp_path, "a.txt", lines))
    assert list(data.labels) == [("a", "b"), ("a",), ("ab", "a")]
    assert list(data.texts) == ["one text", "two", "three"]


def test_a_late_line_with_two_labels_is_a_bad_row_where_the_first_ones_have_one(tmp_path):
    lines = "__label__a one text\n" * 1000 + "__label__a __label__b two\n"
    path = written(tmp_path, "a.txt", lines)
    with pytest.raises(
        ValueError, match="line 1001: expected one __label__ in a line, got 2; the first lines have one each"
    ):
        read_labelled(path)


def test_separators_at_the_ends_and_doubled_labels_are_said(tmp_path):
    data = read_labelled(
        written(tmp_path, "a.csv", "text,labels\nfirst,|a|b|\nsecond,a|a\nthird, | \n"), label_separator="|"
    )
    assert list(data.labels) == [("a", "b"), ("a",), ()]
    assert "2 rows have a label separator with nothing on one side, which is not counted" in data.notes
    assert "1 row names a label twice, which counts once" in data.notes
    assert "1 row has no label, which says that none holds" in data.notes


def test_new_names_and_spellings_of_numbers_are_of_each_label(tmp_path):
    path = written(tmp_path, "a.csv", "text,labels\nfirst,1|x\nsecond,1.0|y\nthird,2|x\n")
    data = read_labelled(path, label_separator="|", label_map={"y": "x"})
    assert list(data.labels) == [("1", "x"), ("1", "x"), ("2", "x")]
    assert "label_map renamed 'y' -> 'x'" in data.notes


@pytest.mark.parametrize("sign", ["|", ",", ";", "、", "/"])
def test_a_label_that_is_made_of_other_labels_is_said(sign):
    labels = ["sea", "night", f"sea{sign} night", f"sea{sign}wind"]
    data = read_labelled((["a b", "c d", "e f", "g h"], labels))
    said = [note for note in data.notes if "made of other labels" in note]
    assert said == [
        f"the label {f'sea{sign} night'!r} is made of other labels, with {sign!r} between them; if a text may have several "
        f"labels, pass label_separator={sign!r}"
    ]
    assert data.labels == labels
    alone = read_labelled((["a b", "c d", "e f", "g h"], ["sea", "night", f"sea{sign}wind", f"{sign}sea"]))
    assert not [note for note in alone.notes if "made of other labels" in note]


def test_a_separator_that_stands_in_no_row_is_said(tmp_path):
    data = read_labelled(written(tmp_path, "a.csv", "text,labels\nfirst,a\nsecond,b\n"), label_separator=";")
    assert any(note.startswith("label_separator ';' stands in no row") for note in data.notes)
    with pytest.raises(
        ValueError, match="every row has exactly one label, so a text has one class; leave label_separator out"
    ):
        make_parts(data)


REFUSED = [
    ("a.jsonl", '{"text": "x", "tags": ["a"]}\n', {"label_separator": "|"}, "are written as lists, so label_separator has"),
    ("a.csv", columns(), {"label_column": "sea,night", "label_separator": "|"}, "in columns of their own, so label_sep"),
    ("a.csv", columns(("no", "yes")), {"label_column": "sea,night"}, "line 2: the label column 'sea' must hold 0 or 1"),
    ("a.csv", "text,a,b\nx,1,\n", {"label_column": "a,b"}, "line 2: the label column 'b' must hold 0 or 1, got ''"),
    ("a.jsonl", '{"text": "x", "tags": [["a"]]}\n', {}, "the labels must be text or numbers, got list in the list"),
    ("a.jsonl", '{"text": "x", "tags": ["a", {}]}\n', {}, "the labels must be text or numbers, got dict in the list"),
    ("a.jsonl", '{"text": "x", "tags": ["a"]}\n{"text": "y"}\n', {}, "line 2: there is no key 'tags'"),
    ("a.csv", "text,labels\nx,a\n", {"label_separator": ""}, "label_separator must be what stands between labels, such as '|'"),
    ("a.csv", columns(), {"label_column": []}, "label_column must name at least one column, got none"),
    ("a.csv", columns(), {"label_column": "sea,sun"}, "has no column 'sun'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "options", "message"), REFUSED)
def test_a_refusal_says_why(tmp_path, name, content, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_labelled(written(tmp_path, name, content), **options)


def test_a_separator_must_be_a_string(tmp_path):
    with pytest.raises(TypeError, match=r"label_separator must be a string, got 3 of type int"):
        read_labelled(written(tmp_path, "a.csv", "text,labels\nx,a\n"), label_separator=3)


def test_labels_by_hand_are_all_strings_or_all_tuples():
    data = LabelledTexts("by hand", ["x", "y"], [("a", "b"), ()], [1, 2])
    assert data.several
    assert "2 rows, 2 labels" in str(data)
    assert list(data.take([0]).labels) == [("a", "b")]
    with pytest.raises(
        TypeError, match=r"labels must be a tuple of strings for each text, as the first row has, got 'a'"
    ):
        LabelledTexts("by hand", ["x", "y"], [("a", "b"), "a"], [1, 2])
    with pytest.raises(
        TypeError, match=r"labels must be strings, got \['a'\] of type list; where a text may have several"
    ):
        LabelledTexts("by hand", ["x", "y"], [["a"], "a"], [1, 2])


# --- parts ---------------------------------------------------------------------------------------------------------------


def made(labels, source="made up"):
    return LabelledTexts(source, [f"text number {n}" for n in range(len(labels))], labels, range(1, len(labels) + 1))


def test_every_label_is_in_every_part_and_none_is_lost():
    generator = np.random.default_rng(0)
    labels = [tuple(f"l{n}" for n in range(8) if generator.random() < 0.05 * (n + 1)) for _ in range(400)]
    parts = make_parts(made(labels))
    assert parts.several
    assert all(table.any(0).all() for table in parts.targets.values())
    assert sum(len(rows) for rows in parts.texts.values()) == 400
    for part, rows in parts.texts.items():
        expected = [[name in row for name in parts.class_names] for row in rows.labels]
        assert parts.targets[part].tolist() == expected
    assert "8 labels, " in str(parts)


def test_a_label_of_a_held_out_part_alone_is_left_out_and_said():
    train = made([("a", "b"), ("a",), ()] * 20)
    valid = made([("a", "new"), ("B",), ()] * 3, "valid.csv")
    parts = make_parts(train, valid=valid)
    assert parts.class_names == ["a", "b"]
    assert parts.targets["valid"][0].tolist() == [True, False]
    assert "valid: 2 labels that the training data does not have left out ('new' of 3 rows, 'B' of 3 rows" in str(parts)


def test_a_label_without_a_training_row_is_left_out_and_said():
    # The rows of "rare" all have a rarer label besides, and these decide where a row goes.
    for seed in range(12):
        labels = [("a", "b"), ("a",), ()] * 20 + [("rare", "x"), ("rare", "y"), ("x",), ("y",), ("x",), ("y",), ("x",)]
        parts = make_parts(made(labels), seed=seed)
        assert parts.targets["train"].any(0).all()
        assert len(parts.class_names) == parts.targets["test"].shape[1]
        if "rare" not in parts.class_names:
            assert "1 label without a training row ('rare') left out" in str(parts)


def test_a_label_of_every_row_is_said():
    parts = make_parts(made([("a", "b"), ("a",)] * 20))
    assert "every training row has 'a', which is therefore given to every text" in parts.notes


def test_what_cannot_be_learned_is_refused():
    with pytest.raises(ValueError, match="no row has a label; training needs rows with labels"):
        make_parts(made([()] * 20))
    with pytest.raises(
        ValueError, match="every training row has the labels 'a', 'b', so there is nothing to tell apart"
    ):
        make_parts(made([("a", "b")] * 20))
    one = LabelledTexts("valid.csv", ["x"], ["a"], [1])
    with pytest.raises(
        ValueError, match=r"a text of the valid part has one label, and one of the training data any number"
    ):
        make_parts(made([("a", "b"), ("a",)] * 20), valid=one)


def test_one_label_with_rows_without_is_a_task():
    parts = make_parts(made([("spam",), ()] * 20))
    assert parts.class_names == ["spam"]
    assert parts.targets["train"].shape[1] == 1


def test_numbers_of_classes_are_found():
    table, unknown = memberships_of(made([("0", "b"), ("7",)]), ["a", "b"], numbered=True)
    assert table.tolist() == [[True, True], [False, False]]
    assert unknown == {"7": 1}


def test_lists_of_zeros_and_ones_in_json_are_refused(tmp_path):
    rows = "".join(f'{{"text": "text {n}", "labels": {[n % 2, 1 - n % 2, 0]}}}\n' for n in range(20))
    with pytest.raises(ValueError, match="must hold names, got rows of 0 and 1"):
        read_labelled(written(tmp_path, "rows.jsonl", rows))
    numbers = "".join(f'{{"text": "text {n}", "labels": {[0, 1][: 1 + n % 2]}}}\n' for n in range(20))
    assert read_labelled(written(tmp_path, "numbers.jsonl", numbers)).labels[:2] == [("0",), ("0", "1")]
