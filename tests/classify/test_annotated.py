"""Labels as annotation tools write them: fastText's prefix in a column or at the end, Label Studio's choices, doccano's `#`."""

import io
import json

import polars as pl
import pytest

from linkboy.classify._given import texts_of_file, texts_of_stream
from linkboy.classify.reading._columns import wanted_columns
from linkboy.classify.reading._tables import Reading
from linkboy.classify.reading.labelled import read_labelled

ROWS = [
    (f"the {thing} was {word} {n}", label)
    for n in range(8)
    for thing in ("room", "food")
    for word, label in (("fine", "pos"), ("poor", "neg"))
]


def read(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content, "utf-8")
    return read_labelled(path)


def lines(line, first=""):
    return first + "".join(line.format(text=text, label=label) + "\n" for text, label in ROWS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.txt", lines("{text} __label__{label}")),
        ("rows.tsv", lines("{text}\t__label__{label}")),
        ("rows.csv", lines("{text},__label__{label}", "text,label\n")),
        (
            "rows.jsonl",
            "".join(json.dumps({"text": text, "label": f"__label__{label}"}) + "\n" for text, label in ROWS),
        ),
    ],
)
def test_fasttexts_prefix_is_no_part_of_a_label_wherever_it_stands(tmp_path, name, content):
    data = read(tmp_path, name, content)
    assert list(zip(data.texts, data.labels, strict=True)) == ROWS
    frame = pl.DataFrame({"text": [text for text, _ in ROWS], "label": [f"__label__{label}" for _, label in ROWS]})
    assert read_labelled(frame).labels == list(data.labels)


@pytest.mark.parametrize("line", ["__label__{label} {text}", "{text} __label__{label}"])
def test_fasttexts_labels_are_no_part_of_a_text_to_predict(tmp_path, line):
    path = tmp_path / "rows.txt"
    path.write_text(lines(line), "utf-8")
    asked = Reading(wanted_columns(None, None, None, needs_label=False))
    with texts_of_file(path, asked, print) as given:
        assert list(given.texts(keep=False)) == [text for text, _ in ROWS]
    given = texts_of_stream(io.BytesIO(lines(line).encode()), asked, print, name="standard input")
    assert list(given.texts(keep=False)) == [text for text, _ in ROWS]


def test_a_prefix_that_only_some_labels_have_is_part_of_them(tmp_path):
    data = read(tmp_path, "rows.csv", lines("{text},__label__{label}", "text,label\n") + "more,plain\n" * 5)
    assert set(data.labels) == {"__label__pos", "__label__neg", "plain"}


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.json"])
def test_what_was_chosen_in_label_studio_is_a_list_of_labels(tmp_path, name):
    """A row for which one was chosen has a plain label, one with two an object with a list."""
    cells = [{"choices": [label, "long"]} if n % 2 else label for n, (_, label) in enumerate(ROWS)]
    if name == "rows.json":
        content = json.dumps(
            [
                {"id": n, "text": text, "sentiment": cell}
                for n, ((text, _), cell) in enumerate(zip(ROWS, cells, strict=True))
            ]
        )
    else:
        written = [cell if isinstance(cell, str) else json.dumps(cell) for cell in cells]
        frame = pl.DataFrame({"id": range(len(ROWS)), "text": [text for text, _ in ROWS], "sentiment": written})
        content = frame.write_csv(separator="," if name == "rows.csv" else "\t")
    data = read(tmp_path, name, content)
    assert data.labels == [(label, "long") if n % 2 else (label,) for n, (_, label) in enumerate(ROWS)]
    assert "spaces before quotes" not in data.notes[0]


def test_annotations_inside_lists_of_objects_are_refused_with_the_export_to_choose(tmp_path):
    rows = [
        {"id": n, "data": {"text": text}, "annotations": [{"result": [{"value": {"choices": [label]}}]}]}
        for n, (text, label) in enumerate(ROWS)
    ]
    with pytest.raises(ValueError) as caught:
        read(tmp_path, "rows.json", json.dumps(rows))
    assert str(caught.value) == (
        f"{tmp_path}/rows.json: cannot tell which column is the label; it has the columns 'id', 'data.text', 'annotations', and "
        "lists of objects, as in 'annotations', are not looked into: write the label as a value of its own beside the others, as "
        "Label Studio does as JSON-MIN or CSV"
    )


@pytest.mark.parametrize("sign", ["#", "&", "||"])
def test_labels_that_doccano_joined_are_pointed_at(tmp_path, sign):
    data = read(tmp_path, "rows.csv", lines("{text},{label}", "text,label\n") + f"both,pos{sign}neg\n" * 5)
    assert data.notes[-2 if data.notes[-1].startswith("4") else -1] == (
        f"the label 'pos{sign}neg' is made of other labels, with {sign!r} between them; if a text may have several labels, pass "
        f"label_separator={sign!r}"
    )
