"""A corrected list of suspected labels: taken back row by row, and refused where it does not belong to the data."""

import csv
import dataclasses

import pytest

import linkboy as lb
from linkboy import cli
from linkboy.classify.judging.corrections import corrected_labels

HEADER = "part,line,label,suggested_label,probability,text\n"
ROWS = lb.LabelledTexts(
    "rows.csv", ["a, b", 'c "x"', "two\nlines", "d  d", "e"], ["p", "n", "p", "n", "1"], [2, 3, 4, 6, 7]
)
VALID = lb.LabelledTexts("valid.csv", ["v"], ["p"], [2])


@pytest.fixture
def correct(tmp_path):
    """Return what writes a file of corrections, in a directory of its own, and takes it."""

    def corrected(content, *, valid=None, rows=ROWS, class_names=None):
        path = tmp_path / "suspects.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        try:
            given, made = corrected_labels(path, {"train": rows, "valid": valid, "test": None}, class_names)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), "suspects.csv")) from None
        return {part: None if each is None else list(each.labels) for part, each in given.items()}, made

    return corrected


def test_rows_get_the_suggested_label_and_what_changed_is_said(correct):
    labels, made = correct(HEADER + 'test,2,p,n,0.9,"a, b"\nvalid,4,p,n,0.8,"two\nlines"\n')
    assert labels == {"train": ["n", "n", "n", "n", "1"], "valid": None, "test": None}
    assert (made.row_count, made.changed_count, made.new_labels) == (2, 2, ())
    said = str(made)
    assert "suspects.csv: 2 labels corrected" in said
    assert "train     4  p      n                two lines" in said
    assert made.to_dict()["changes"][0] == {
        "part": "train", "line": 2, "label": "p", "corrected_label": "n", "text": "a, b",
    }  # fmt: skip
    assert list(ROWS.labels) == ["p", "n", "p", "n", "1"]


@pytest.mark.parametrize(
    "content",
    [
        HEADER,
        HEADER + 'train,3,n,n,0.9,"c ""x"""\n',
        HEADER + 'train,3,n,,0.9,"c ""x"""\n',
        HEADER + 'train,3,p,n,0.9,"c ""x"""\n',  # it has been corrected in the file already
        HEADER + "train,7,1,1.0,0.9,e\n",  # the same class, written in another way
    ],
)
def test_a_row_that_suggests_nothing_else_changes_nothing(content, correct):
    labels, made = correct(content)
    assert labels["train"] == list(ROWS.labels)
    assert made.changed_count == 0
    assert str(made).endswith("suspects.csv: 0 labels corrected; its rows suggest no other label than the data have")


def test_what_programs_for_tables_make_of_the_file_is_read(correct):
    labels, _ = correct("﻿line;label;suggested_label;text;my remark\r\n2;p;n;a, b;?\r\n6;n;p;d d;\r\n".encode())
    assert labels["train"] == ["n", "n", "p", "p", "1"]


def test_a_list_that_was_saved_in_another_encoding_is_read(correct):
    texts = ["两个小时才送到，饭都凉了", "味道很好，下次还来", "服务员态度很差"]
    rows = lb.LabelledTexts("rows.csv", texts, ["好评", "好评", "差评"], [2, 3, 4])
    content = HEADER + f"train,2,好评,差评,0.9,{texts[0]}\r\ntrain,4,差评,一般,0.8,{texts[2]}\r\n"
    labels, made = correct(content.encode("gb18030"), rows=rows)
    assert labels["train"] == ["差评", "好评", "一般"]
    assert made.new_labels == ("一般",)


def test_an_encoding_that_no_text_confirms_is_refused(correct):
    content = HEADER + 'train,2,p,投诉建议,0.9,"a, b"\n'
    with pytest.raises(ValueError, match=r"must be UTF-8: it may be .*, but its texts, .* are all ASCII"):
        correct(content.encode("gb18030"))


def test_rows_of_a_given_part_are_corrected_in_that_part(correct):
    content = HEADER + 'valid,2,p,n,0.9,v\ntest,2,p,n,0.9,"a, b"\n'
    labels, made = correct(content, valid=VALID)
    assert (labels["valid"], labels["train"][0]) == (["n"], "n")
    assert [change.part for change in made.changes] == ["valid", "train"]


def test_a_new_label_is_taken_and_said(correct):
    rows = dataclasses.replace(ROWS, labels=["good", "n", "good", "n", "n"])
    labels, made = correct(HEADER + 'train,2,good,goood,0.9,"a, b"\ntrain,3,n,other,0.9,"c ""x"""\n', rows=rows)
    assert labels["train"][:2] == ["goood", "other"]
    assert made.new_labels == ("goood", "other")
    assert made.notes == ("new label 'goood' of 1 row; did you mean 'good'?", "new label 'other' of 1 row")
    assert "new label 'other' of 1 row" in str(made)


def test_equal_rows_count_once_and_labels_may_be_numbers_of_named_classes(correct):
    row = 'train,2,bad,good,0.9,"a, b"\n'
    labels, made = correct(
        HEADER + row + row, rows=dataclasses.replace(ROWS, labels=list("01011")), class_names=["bad", "good"]
    )
    assert labels["train"] == ["good", "1", "0", "1", "1"]
    assert (made.row_count, made.changed_count, made.new_labels) == (2, 1, ())


def test_many_changes_are_shown_in_part(correct):
    rows = lb.LabelledTexts("rows.csv", [f"t{n}" for n in range(8)], ["p"] * 7 + ["n"], range(8))
    _, made = correct(HEADER + "".join(f"train,{n},p,n,0.9,t{n}\n" for n in range(7)), rows=rows)
    assert str(made).endswith("and 2 more")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            HEADER + 'train,2,p,n,0.9,"a, c"\n',
            "suspects.csv line 2: the text 'a, c' is not that of rows.csv line 2, 'a, b'; make the list again with these data",
        ),
        (
            HEADER + "train,5,p,n,0.9,a\n",
            "suspects.csv line 2: rows.csv has no row that begins at line 5; name the file that the list is about",
        ),
        (
            HEADER + 'train,2,p,n,0.9,"a, b"\ntest,2,p,q,0.9,"a, b"\n',
            "suspects.csv line 3: the row of line 2 has another suggested label above; keep one of the two rows",
        ),
        (
            "line,label,text\n2,p,a\n",
            "suspects.csv must have the columns 'line', 'label', 'suggested_label', 'text', as suspects.csv has, and lacks "
            "'suggested_label'",
        ),
        (
            HEADER + 'train,2,p,"  ",0.9,"a, b"\n',
            "suspects.csv line 2: the suggested label is made of spaces only, which is no label; write one, or leave it "
            "empty; correct the line",
        ),
        (
            HEADER + 'train,2,n,q,0.9,"a, b"\n',
            "suspects.csv line 2: the label is 'n', and rows.csv line 2 has 'p'; make the list again with these data, or "
            "remove the row",
        ),
        (
            HEADER + "train,two,p,n,0.9,a\n",
            "suspects.csv line 2: line must be the number of a line, got 'two'; correct the line",
        ),
        (
            HEADER + "rest,2,p,n,0.9,a\n",
            "suspects.csv line 2: part must be one of train, valid, test, got 'rest'; correct the line",
        ),
        (HEADER + "train,2,p\n", "suspects.csv line 2: "),
        ("", "suspects.csv holds no labelled text; it is empty"),
    ],
)
def test_what_does_not_belong_to_the_data_is_refused(content, sentence, correct):
    with pytest.raises(ValueError) as caught:
        correct(content)
    assert str(caught.value).startswith(sentence)
    assert str(caught.value) == sentence or sentence.endswith(": ")
    assert list(ROWS.labels) == ["p", "n", "p", "n", "1"]


def test_several_labels_are_refused(correct):
    rows = dataclasses.replace(ROWS, labels=[("p",)] * 5)
    with pytest.raises(ValueError) as caught:
        correct(HEADER, rows=rows)
    assert str(caught.value) == (
        "corrections are for texts of one class, and these may have several labels; correct the labels in their file"
    )


def test_a_list_of_suspects_goes_out_and_comes_back(tmp_path, make_rows, capsys):
    rows = make_rows(90)
    labels, names = list(rows.labels), sorted(set(rows.labels))
    for row in (7, 40, 73):
        labels[row] = names[(names.index(labels[row]) + 1) % 3]
    file, out = tmp_path / "rows.csv", tmp_path / "model"
    with file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows([("text", "label"), *zip(rows.texts, labels, strict=True)])
    train = ["train", str(file), "--out", str(out), "--loss", "cross-entropy"]  # which has fewer members
    assert cli.run([*train, "--folds", "2"]) == 0
    assert "± is the standard error over 2 folds" in capsys.readouterr().out
    suspects = tmp_path / "checked.csv"
    head, first, *rest = (out / "suspects.csv").read_text("utf-8").splitlines(keepends=True)
    suspects.write_text("".join([head, *rest]), "utf-8")  # the label of the first is to stay
    assert cli.run([*train, "--overwrite", "--corrections", str(suspects), "--lang", "zh"]) == 0
    printed, page = capsys.readouterr().out, (out / "report.html").read_text("utf-8")
    count = len(rest)
    assert 0 < count < 3
    assert f"checked.csv: {count} label{'s' * (count > 1)} corrected" in printed
    assert f"checked.csv：更正了 {count} 个标签" in page
    assert "更正后的标签" in page
    assert "corrected label" not in page
    lines = {int(next(csv.reader([line]))[1]) for line in rest}
    _, made = corrected_labels(suspects, {"train": lb.read_labelled(file)}, None)
    assert {change.line for change in made.changes} == lines
    assert all(change.corrected_label == rows.labels[change.line - 2] for change in made.changes)
    assert int(next(csv.reader([first]))[1]) not in lines


def test_corrections_of_another_file_stop_before_anything_is_written(tmp_path, rows):
    path = tmp_path / "suspects.csv"
    path.write_text(HEADER + "train,1,a,b,0.9,another text\n", "utf-8")
    with pytest.raises(ValueError, match="is not that of made up line 1"):
        lb.train_classifier(rows, tmp_path / "model", corrections=path)
    assert not (tmp_path / "model").exists()
    with pytest.raises(FileNotFoundError, match="there is no file"):
        lb.train_classifier(rows, tmp_path / "model", corrections=tmp_path / "none.csv")
