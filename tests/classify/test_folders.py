"""A directory with a folder for each class, and a text in each of its files."""

import re

import pytest

import linkboy as lb
from linkboy._language import translate_filled


def written(directory, files):
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return directory


FILES = {"pos/2.txt": "a good\nfilm\n", "neg/b": "bad", "neg/a.md": "不好看", "pos/10.txt": "\ufefffine"}


def test_each_file_is_a_text_of_the_class_of_its_folder_in_the_order_of_the_names(tmp_path):
    data = lb.read_labelled(written(tmp_path, FILES))
    assert data.texts == ["不好看", "bad", "fine", "a good\nfilm"]
    assert data.labels == ["neg", "neg", "pos", "pos"]
    assert list(data.lines) == [1, 2, 3, 4]
    assert data.notes[0] == "a text from each file, its label from the folder that it is in (2 classes), 4 rows"


def test_the_encoding_is_that_of_each_file_or_the_one_asked_for(tmp_path):
    texts = ["中文的一句话", "另一句"]
    written(tmp_path, {"a/1.txt": texts[0].encode("gb18030"), "b/1.txt": texts[1].encode("gb18030")})
    assert lb.read_labelled(tmp_path, encoding="gb18030").texts == texts
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path} file 1: line 1 of 'a/1.txt': byte 1 is not UTF-8")):
        lb.read_labelled(tmp_path)
    written(tmp_path, {"a/1.txt": texts[0].encode("utf-16"), "b/1.txt": texts[1].encode("utf-8-sig")})
    assert lb.read_labelled(tmp_path).texts == texts


def test_what_cannot_be_read_is_named_and_skipped_if_asked(tmp_path):
    written(tmp_path, {**FILES, "neg/c.txt": " \n", "pos/1.txt": b"one\ntw\xff\n"})
    with pytest.raises(
        ValueError, match=re.escape(f"{tmp_path} file 3: 'neg/c.txt' is empty; correct the file or pass on_bad")
    ):
        lb.read_labelled(tmp_path)
    data = lb.read_labelled(tmp_path, on_bad_row="skip")
    assert data.texts == lb.read_labelled(written(tmp_path / "whole", FILES)).texts
    reasons = [row.reason for row in data.skipped]
    assert [row.line for row in data.skipped] == [3, 4]
    assert reasons[0] == "'neg/c.txt' is empty"
    assert reasons[1].startswith("line 2 of 'pos/1.txt': byte 3 is not UTF-8 (0xff)")
    assert all(re.search(r"[\u4e00-\u9fff]", translate_filled(reason, "zh")) for reason in reasons)


@pytest.mark.parametrize(
    ("beside", "note"),
    [
        ({"urls.txt": "x", ".DS_Store": "x"}, "1 file beside the folders is left out"),
        ({"a.txt": "x", "b.txt": "x", "__MACOSX/c/x": "x"}, "2 files beside the folders are left out"),
        ({".git/x": "x"}, None),
    ],
)
def test_files_beside_the_folders_are_left_out_and_it_is_said(tmp_path, beside, note):
    data = lb.read_labelled(written(tmp_path, {**FILES, **beside}))
    assert len(data) == 4
    assert [each for each in data.notes if "beside" in each] == ([note] if note else [])
    assert note is None or re.search(r"[\u4e00-\u9fff]", translate_filled(note, "zh"))


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"a.txt": "x"}, {}, "{path} is a directory; name the file with the labelled texts in it, or a directory that has a"),
        ({"train/pos/1.txt": "x"}, {}, "{path} has a folder 'train' that holds folders itself; name the directory whose folders"
         " are the classes, such as {path}/train"),
        ({"a/1.txt": "x", "a/b/1.txt": "x"}, {}, "{path} has a folder 'a' that holds folders itself"),
        ({"a/rows.csv.gz": "x"}, {}, "{path} has a folder 'a' that holds a table, rows.csv.gz; name that file"),
        ({"a/1.txt": "x", "b/.keep": ""}, {}, "{path} has a folder 'b' without files; remove it, or put its texts there"),
        ({"a/1.txt": b"PAR1x"}, {}, "{path}/a/1.txt is not text but a table, beside files of one text each; name the"),
        ({"a/1.txt": bytes(range(256)) * 10}, {}, "{path}/a/1.txt is not text"),
        ({"a/1.gif": b"GIF89a" + bytes(range(256)) * 9}, {}, "{path}/a/1.gif is "),
        ({"a/1.txt": " ", "b/1.txt": ""}, {"on_bad_row": "skip"}, "{path} holds no labelled text: 2 rows were skipped"),
        (FILES, {"text_column": "text"}, "{path} is a directory, for which text_column has no meaning; leave text_column out"),
        (FILES, {"label_column": 1}, "{path} is a directory, for which label_column has no meaning"),
        (FILES, {"weight_column": "w"}, "{path} is a directory, for which weight_column has no meaning"),
        (FILES, {"header": False}, "{path} is a directory, for which header has no meaning"),
        (FILES, {"separator": "tab"}, "{path} is a directory, for which separator has no meaning"),
        (FILES, {"label_separator": "|"}, "{path} is a directory, for which label_separator has no meaning"),
    ],
)  # fmt: skip
def test_what_is_no_such_directory_is_refused(tmp_path, files, options, message):
    written(tmp_path, files)
    with pytest.raises((ValueError, IsADirectoryError), match=re.escape(message.format(path=tmp_path))):
        lb.read_labelled(tmp_path, **options)


def test_labels_are_renamed_and_a_classifier_is_trained_and_measured(tmp_path):
    files = {f"{label}/{n}.txt": f"{word} {n}" for n in range(20) for label, word in (("1", "good"), ("2", "bad"))}
    written(tmp_path / "rows", files)
    data = lb.read_labelled(tmp_path / "rows", label_map={"1": "pos", "2": "neg"})
    assert set(data.labels) == {"pos", "neg"}
    report = lb.train_classifier(tmp_path / "rows", tmp_path / "m", lang="zh")
    assert "每个文件一条文本" in (tmp_path / "m/report.html").read_text("utf-8")
    assert lb.load_classifier(report.directory).evaluate(tmp_path / "rows").accuracy == 1
