"""Vocabularies and tokenizer files that are made to fill the memory or to be taken for something else."""

import json
import os
import pickle

import pytest

from linkboy import BertTokenizer


def sparse(path, size):
    """A file that claims `size` bytes and takes none on the disk."""
    path.touch()
    os.truncate(path, size)
    return path


def tokenizer_json(vocab):
    parts = {"normalizer": {"type": "BertNormalizer"}, "pre_tokenizer": {"type": "BertPreTokenizer"}}
    return json.dumps({"model": {"type": "WordPiece", "vocab": vocab}, **parts})


def test_a_vocabulary_of_a_terabyte_is_not_read(tmp_path, refusal):
    path = sparse(tmp_path / "vocab.txt", 2**40)
    assert refusal(lambda: BertTokenizer(path)) == f"{str(path)!r} must be a file of at most 64 MiB, and is larger"


def test_a_vocabulary_without_an_end_is_not_read_to_it(refusal):
    assert refusal(lambda: BertTokenizer("/dev/zero")) == "'/dev/zero' must be a file of at most 64 MiB, and is larger"


def test_millions_of_empty_lines_are_no_vocabulary(tmp_path, refusal):
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"[UNK]\n" + b"\n" * 2**22)
    assert refusal(lambda: BertTokenizer(path)) == (
        f"{str(path)!r} must be a file of at most 2097152 lines, and has more"
    )


def test_a_token_of_millions_of_characters_costs_no_level_a_character(tmp_path):
    from tests.attacks.conftest import MOST_MIB, peak_mib

    path = tmp_path / "vocab.txt"
    path.write_bytes(b"[UNK]\na\n##b\n" + b"a" * 8_000_000 + b"\n##" + b"b" * 300 + b"\n")
    tokenizers = []
    assert peak_mib(lambda: tokenizers.append(BertTokenizer(path))) < MOST_MIB
    assert tokenizers[0](["abb", "x"], add_special_tokens=False)["input_ids"] == [[1, 2, 2], [0]]


@pytest.mark.parametrize("limit", [100, 1000])
def test_a_piece_longer_than_the_array_path_reads_is_still_found(limit):
    vocab = ["[UNK]", "a", "##a", "a" * 256, "a" * 257, "##" + "a" * 300]
    tokenizer = BertTokenizer(vocab, max_input_chars_per_word=limit)
    for length in (1, 100, 256, 257, 300, 556, 557, 1000):
        one = tokenizer(["a" * length], add_special_tokens=False)["input_ids"][0]
        many = tokenizer(["a" * length] * 50 + ["a b"] * 50, add_special_tokens=False)["input_ids"]
        assert many[0] == one
        if length > limit:
            assert one == [0]
        else:
            assert sum(len(vocab[number].removeprefix("##")) for number in one) == length


def test_bytes_that_are_no_text_and_pickles_are_named(tmp_path, refusal):
    for name, data in {"random": b"\x80\x04\xff\xfe", "pickle": pickle.dumps({"[UNK]": 0})}.items():
        path = tmp_path / name
        path.write_bytes(data)
        assert refusal(lambda path=path: BertTokenizer(path)) == (
            f"{str(path)!r} line 1 is not UTF-8; save the file as UTF-8"
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 10**6, "{path!r} must hold a tokenizer, got JSON nested too deeply to be read"),
        (
            tokenizer_json({"[UNK]": 10**18}),
            "vocab must map every token to an id from 0 to 16777214, got '[UNK]': 1000000000000000000; read from "
            "{folder!r}",
        ),
        (tokenizer_json(["[UNK]"]), "model.vocab in {path!r} must map tokens to ids, got list"),
    ],
    ids=["deep", "an id beyond every array", "a list"],
)
def test_tokenizer_files_that_lie(tmp_path, refusal, content, message):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    assert refusal(lambda: BertTokenizer.from_pretrained(tmp_path)) == message.format(
        path=str(path), folder=str(tmp_path)
    )


def test_a_tokenizer_file_of_a_terabyte_is_not_read(tmp_path, refusal):
    path = sparse(tmp_path / "tokenizer.json", 2**40)
    assert refusal(lambda: BertTokenizer.from_pretrained(tmp_path)) == (
        f"{str(path)!r} must be a file of at most 64 MiB, and is larger"
    )
