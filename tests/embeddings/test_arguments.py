"""Arguments that do not fit, and paths that are no file, end in one sentence."""

import os
from collections import Counter

import numpy as np
import pytest
import torch
from tests.embeddings.cases import vector, write_text

from linkboy import load_embeddings


def test_what_is_no_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load_embeddings(tmp_path / "nothing")
    assert str(caught.value) == f"there is no vectors file {str(tmp_path / 'nothing')!r}; check the path"
    with pytest.raises(IsADirectoryError) as caught:
        load_embeddings(tmp_path)
    assert str(caught.value) == (
        "path must be a vectors file or a folder with tokenizer.json and a safetensors file, got the directory "
        f"{str(tmp_path)!r}; name a file in it"
    )
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError) as caught:
        load_embeddings(tmp_path / "pipe")
    assert str(caught.value) == (
        f"path must be a regular file, got {str(tmp_path / 'pipe')!r}; write its content to a file"
    )


@pytest.mark.parametrize(
    ("vocab", "options", "error", "message"),
    [
        (
            "abc", {}, TypeError,
            "vocab must be a list of words or a mapping from word to row, got str; read the words of a file into a list first",
        ),
        (
            {"a", "b"}, {}, TypeError,
            "vocab must have an order, got a set, whose order is another in each run; pass sorted(vocab)",
        ),
        (
            Counter("aab"), {}, TypeError,
            "vocab must give each word its row, got a Counter, whose numbers are counts; pass list(vocab) and counts=vocab",
        ),
        ([b"a"], {}, TypeError, "vocab must hold words of type str, got b'a' of type bytes; decode them with .decode()"),
        ([], {}, ValueError, "vocab must hold at least one word, got none; pass vocab=None to load everything"),
        (["a", 1], {}, TypeError, "vocab must hold words of type str, got 1 of type int"),
        (["a", "b", "a"], {}, ValueError, "vocab must hold each word once, got 'a' at rows 0 and 2"),
        ({"a": 1, "b": 1}, {}, ValueError, "vocab must give each word its own row, got 1 for both 'a' and 'b'"),
        ({"a": -1}, {}, ValueError, "vocab must give each word a row of 0 or more, got -1 for 'a'"),
        (["a"], {"fallback": "lower"}, TypeError, "fallback must be a sequence of names, got the str 'lower'; write ('lower',)"),
        (
            ["a"], {"fallback": ("lower",)}, ValueError,
            "fallback must begin with 'exact' and name each form once, got ('lower',)",
        ),
        (
            ["a"], {"fallback": ("exact", "upper")}, ValueError,
            "fallback must be one of ('exact', 'lower', 'nfkc', 'casefold', 'subword'), got 'upper'",
        ),
        (["a"], {"unk_init": "normal"}, ValueError, "unk_init must be one of ('match', 'zeros', 'mean'), got 'normal'"),
        (
            ["a", "z"], {"unk_init": lambda rows: rows[0]}, ValueError,
            "unk_init must return a tensor of the shape (1, 6) that it is given, got (6,)",
        ),
        (["a"], {"duplicates": "all"}, ValueError, "duplicates must be one of ('first', 'last', 'raise'), got 'all'"),
        (["a"], {"on_bad_row": "keep"}, ValueError, "on_bad_row must be one of ('raise', 'skip'), got 'keep'"),
        (["a"], {"dtype": torch.int64}, TypeError, "dtype must be a floating-point torch.dtype, got torch.int64"),
        (
            ["a"], {"generator": 3}, TypeError,
            "generator must be a torch.Generator, got 3; pass torch.Generator().manual_seed(3)",
        ),
        (["a"], {"dim": 0}, ValueError, "dim must be an integer of at least 1, got 0"),
        (["a"], {"dim": 7}, ValueError, "dim must be that of the file, 6 in {path}, got 7; leave dim out"),
        (["a"], {"padding_idx": 1}, ValueError, "padding_idx must be an integer of at least -1 and of at most 0, got 1"),
        (
            None, {"padding_idx": 0}, ValueError,
            "padding_idx needs a vocab: without one it would erase a word of the file",
        ),
        (
            ["a"], {"format": "npz"}, ValueError,
            "format must be that of the file, got 'npz' for {path}, which is not an array file; leave format out",
        ),
        (
            ["y", "z"], {}, ValueError,
            "vocab must share a word with {path}, got 2 words ('y', 'z'), none of which is in it; its first words are 'a', "
            "'b'; check the language and the tokens, or pass unk_init='zeros'",
        ),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_told(vocab, options, error, message, tmp_path):
    path = write_text(tmp_path / "vectors", ["a", "b"])
    with pytest.raises(error) as caught:
        load_embeddings(path, vocab, **options)
    assert str(caught.value) == message.replace("{path}", repr(str(path)))


def test_nothing_found_is_allowed_where_it_was_asked_for(tmp_path):
    path = write_text(tmp_path / "vectors", ["a", "b"])
    weight, report = load_embeddings(path, ["z"], unk_init="zeros")
    assert (weight.tolist(), report.found, report.coverage) == ([[0] * 6], 0, 0.0)


def test_a_matrix_without_words_needs_a_vocabulary_of_its_length(tmp_path):
    path = tmp_path / "vectors"
    np.save(tmp_path / "vectors.npy", np.array([vector(0), vector(1)]))
    (tmp_path / "vectors.npy").rename(path)
    with pytest.raises(ValueError) as caught:
        load_embeddings(path)
    assert str(caught.value) == f"{str(path)!r} holds no words; pass vocab, in the order of its 2 rows"


def test_what_the_message_for_a_counter_says_runs(tmp_path):
    path = write_text(tmp_path / "vectors", ["a", "b"])
    vocab = Counter("aab")
    _, report = load_embeddings(path, list(vocab), counts=vocab)
    assert (report.words, report.text_coverage) == (["a", "b"], 1.0)


def test_rows_and_words_may_be_numpys(tmp_path):
    path = write_text(tmp_path / "vectors", ["a", "b"])
    _, report = load_embeddings(path, {"a": np.int64(1), "b": np.int32(0)})  # as scikit-learn numbers a vocabulary
    assert report.words == ["b", "a"]
    _, report = load_embeddings(path, np.array(["b", "z"]))
    assert {type(word) for word in [*report.words, *report.missing]} == {str}


def test_words_by_row_are_taken_by_their_rows(tmp_path):
    path = tmp_path / "vectors.npy"
    np.save(path, np.arange(6.0).reshape(3, 2))
    weight, _ = load_embeddings(path, ["a", "b"], words={"b": 2, "a": 0})
    assert weight.tolist() == [[0, 1], [4, 5]]
    for words, message in (
        ([b"a", "b", None], "words must hold words of type str, got b'a' of type bytes; decode them with .decode()"),
        (["a", 3, None], "words must hold words of type str, got 3 of type int"),
        (
            Counter("aab"),
            "words must give each word its row, got a Counter, whose numbers are counts; pass list(words)",
        ),
    ):
        with pytest.raises(TypeError) as caught:
            load_embeddings(path, ["a"], words=words)
        assert str(caught.value) == message


def test_an_array_of_strings_is_refused_as_that(tmp_path):
    path = tmp_path / "vectors.npy"
    np.save(path, np.array([["cat", "0.5"], ["dog", "1.5"]]))
    with pytest.raises(ValueError) as caught:
        load_embeddings(path, ["cat", "dog"])
    assert str(caught.value) == (
        f"{str(path)!r} must hold numbers, got <U3; save the numbers alone, as .astype(np.float32) gives them, and pass words"
    )
