"""The cache gives what the file gives and nothing else; conversion and the command line."""

import dataclasses
import json
import os

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tests.embeddings.cases import AWKWARD, text_row, vector, write_text

from linkboy import cli, convert_embeddings, load_embeddings

WORDS = ["a", "b", "Ç", "new york", " "]
VOCAB = ["b", "ç", "missing", " "]


@pytest.fixture
def path(tmp_path):
    path = write_text(tmp_path / "vectors.txt", [*WORDS, "a"])
    path.write_bytes(path.read_bytes() + b"bad 1\n" + text_row(b"inf", [float("inf")] * 6))
    return path


def loaded(path, tmp_path, vocab=VOCAB, **options):
    options = {"generator": torch.Generator().manual_seed(0), "on_bad_row": "skip", **options}
    weight, report = load_embeddings(path, vocab, cache=tmp_path / "cache", **options)
    return weight, report, (report.cache or "").split(" ")[0]


@pytest.mark.parametrize("vocab", [None, VOCAB, {"b": 4, "a": 1}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_second_load_comes_from_the_cache_and_is_the_same(vocab, dtype, path, tmp_path):
    first, report, written = loaded(path, tmp_path, vocab, dtype=dtype)
    second, again, read = loaded(path, tmp_path, vocab, dtype=dtype)
    assert (written, read) == ("written", "read")
    assert torch.equal(first, second)
    assert torch.equal(report.known, again.known)
    same = {"cache": None, "known": None}
    assert dataclasses.replace(report, **same) == dataclasses.replace(again, **same)


def test_the_rows_not_found_are_drawn_each_time_and_not_kept(path, tmp_path):
    drawn = loaded(path, tmp_path)[0]
    weight, _, how = loaded(path, tmp_path, unk_init="zeros", padding_idx=0)
    assert how == "read"
    assert weight[[0, 2]].tolist() == [[0] * 6] * 2
    assert torch.equal(loaded(path, tmp_path)[0], drawn)


def test_a_file_that_has_changed_is_read_again(path, tmp_path):
    loaded(path, tmp_path)
    write_text(path, ["b", *WORDS])
    weight, _, how = loaded(path, tmp_path)
    assert (how, weight[0].tolist()) == ("written", vector(0))
    state = path.stat()
    path.write_bytes(path.read_bytes().replace(b"0.25", b"9.25"))  # of the same size
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1000))
    weight, _, how = loaded(path, tmp_path)
    assert (how, weight[0, 0].item()) == ("written", 9.25)


def test_files_of_one_name_do_not_share_an_entry(tmp_path):
    for folder, word in (("one", "a"), ("two", "b")):
        (tmp_path / folder).mkdir()
        path = write_text(tmp_path / folder / "v.txt", [word])
        os.utime(path, ns=(1, 1))
        assert loaded(path, tmp_path, None)[1].words == [word]


@pytest.mark.parametrize(
    "options",
    [{"fallback": ("exact",)}, {"duplicates": "last"}, {"format": "glove"}, {"dim": 6}, {"dtype": torch.float64}],
)
def test_other_options_are_another_entry(options, path, tmp_path):
    loaded(path, tmp_path)
    assert loaded(path, tmp_path, **options)[2] == "written"
    assert loaded(path, tmp_path, VOCAB[::-1])[2] == "written"


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "no metadata"])
def test_a_damaged_entry_is_written_again(damage, path, tmp_path):
    first, report, _ = loaded(path, tmp_path)
    (entry,) = (tmp_path / "cache").iterdir()
    content = bytearray(entry.read_bytes())
    if damage == "cut":
        del content[-9:]
    elif damage == "flipped":
        content[-1] ^= 1
    elif damage == "emptied":
        content.clear()
    else:
        content = bytearray(b"\x08\0\0\0\0\0\0\0{}      ")
    entry.write_bytes(content)
    weight, again, how = loaded(path, tmp_path)
    assert (how, again.found) == ("written", report.found)
    assert torch.equal(weight, first)
    assert loaded(path, tmp_path)[2] == "read"


def test_a_writer_that_is_killed_leaves_no_entry(path, tmp_path, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("linkboy._files.os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        loaded(path, tmp_path)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_place_that_cannot_be_written_is_told_and_does_no_harm(path, tmp_path):
    (tmp_path / "cache").write_text("a file where the directory should be")
    weight, report, _ = loaded(path, tmp_path)
    assert weight[0].tolist() == vector(1)
    assert report.cache == "not written (File exists)"


# --- conversion ---


def test_a_converted_file_gives_the_same_rows_to_every_reader(path, tmp_path):
    out = tmp_path / "emb.safetensors"
    words = list(AWKWARD.values())
    full = convert_embeddings(write_text(tmp_path / "all", words), out)
    assert full.words == words
    weight, report = load_embeddings(out)
    assert report.words == words
    assert torch.equal(load_file(out)["weight"], weight)
    with safe_open(out, framework="pt") as file:
        assert json.loads(file.metadata()["words"]) == words


def test_rows_that_were_not_found_are_written_and_not_taken_for_found(path, tmp_path):
    out = tmp_path / "emb.safetensors"
    convert_embeddings(path, out, VOCAB)
    assert load_file(out)["weight"].shape == (4, 6)
    report = load_embeddings(out, VOCAB)[1]
    assert (report.found, report.missing) == (2, ("ç", "missing"))
    assert load_embeddings(out)[1].words == ["b", " "]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_converted_file_keeps_the_dtype(dtype, path, tmp_path):
    out = tmp_path / "emb.safetensors"
    convert_embeddings(path, out, ["a", "b"], dtype=dtype)
    assert torch.equal(load_file(out)["weight"], load_embeddings(path, ["a", "b"], dtype=dtype)[0])


def test_words_too_many_for_a_header_are_refused(path, tmp_path, monkeypatch):
    monkeypatch.setattr("linkboy.embeddings._safetensors._LONGEST_HEADER", 100)
    with pytest.raises(ValueError) as caught:
        convert_embeddings(path, tmp_path / "emb.safetensors", on_bad_row="skip")
    assert str(caught.value).endswith("bytes and a safetensors header holds at most 100; pass a vocab with fewer words")
    assert not (tmp_path / "emb.safetensors").exists()


def test_the_command_converts_and_reports(path, tmp_path, capsys):
    words, out = tmp_path / "vocab.txt", tmp_path / "emb.safetensors"
    words.write_text("\ufeffb\nmissing\nnew york\n", "utf-8")
    assert cli.run(["vectors", str(path), "--vocab", str(words), "--out", str(out)]) == 0
    assert "found 2 of 3 words (66.67%): 2 exact" in capsys.readouterr().out
    assert load_file(out)["weight"][[0, 2]].tolist() == [vector(1), vector(3)]
    assert cli.run(["vectors", str(path), "--out", str(out)]) == 2
    assert "line 7 (word 'bad'): expected 6 numbers, got 1; fix the line or " in capsys.readouterr().err
    assert cli.run(["vectors", str(path), "--out", str(out), "--json", "--on-bad-row", "skip"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["found"], report["bad_row_count"], report["format"]) == (6, 1, "glove")
    words.write_bytes(b"a\n\xff\n")
    assert cli.run(["vectors", str(path), "--vocab", str(words), "--out", str(out)]) == 2
    assert capsys.readouterr().err == f"linkboy: {str(words)!r} line 2 is not UTF-8; save the file as UTF-8\n"


def test_a_report_prints_and_becomes_plain_values(path):
    report = load_embeddings(path, VOCAB)[1]
    assert str(report).splitlines() == [
        f"{path}: glove, 8 rows of 6 numbers",
        "found 2 of 4 words (50.00%): 2 exact",
        "missing 2: 'ç', 'missing'",
    ]
    values = report.to_dict()
    assert not {"words", "known"} & values.keys()
    assert json.loads(report.to_json())["missing"] == ["ç", "missing"]
    assert np.isfinite(report.coverage)


def test_what_cannot_be_written_is_told_before_anything_is_read(path, tmp_path):
    content = path.read_bytes()
    (tmp_path / "link").symlink_to(path)
    for out in (path, tmp_path / "link"):
        with pytest.raises(ValueError) as caught:
            convert_embeddings(path, out)
        assert str(caught.value) == f"out must be another file than the one that is read, got {str(out)!r} for both"
    assert path.read_bytes() == content
    with pytest.raises(IsADirectoryError) as caught:
        convert_embeddings(path, tmp_path)
    assert str(caught.value) == f"out must be a file to write, got the directory {str(tmp_path)!r}; name a file in it"
    with pytest.raises(FileNotFoundError) as caught:
        convert_embeddings(tmp_path / "not read", tmp_path / "none" / "v.safetensors")
    assert str(caught.value) == f"there is no folder {str(tmp_path / 'none')!r} for out; make it first"


def test_the_command_gives_no_advice_that_it_cannot_take(path, tmp_path, capsys):
    words = tmp_path / "words.json"
    words.write_text('{"zebra": 0, "quagga": 1, "and": "many more words of a long line"}')
    arguments = [str(path), "--out", str(tmp_path / "v.safetensors"), "--vocab", str(words), "--on-bad-row", "skip"]
    assert cli.run(["vectors", *arguments]) == 2
    said = capsys.readouterr().err
    assert """got 1 word ('{"zebra": 0, "quagga": 1, "and": "many m'), none of which is in it""" in said
    assert said.rstrip().endswith("check the language and the tokens")
    assert cli.run(["vectors", "https://example.org/glove.zip", "--out", str(tmp_path / "v.safetensors")]) == 2
    assert "got 'https://example.org/glove.zip'; download it first" in capsys.readouterr().err
