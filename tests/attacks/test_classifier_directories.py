"""Directories that claim to hold a classifier, and are made to fill the memory, to execute something, or to deceive a reader."""

import hashlib
import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save

import linkboy as lb
from linkboy import cli


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    texts = [f"{word} {n}" for n in range(40) for word in ("好吃", "难吃")]
    data = lb.LabelledTexts("made up", texts, ["good", "bad"] * 40, range(1, 81))
    out = tmp_path_factory.mktemp("trained") / "model"
    lb.train_classifier(data, out, options=lb.TrainingOptions(epochs=2))
    return out


@pytest.fixture
def directory(trained, tmp_path):
    """A copy of the trained classifier, to be changed."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    return tmp_path


def change_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def change_weights(directory, content):
    """Put other bytes in place of the weights, and their hash into the configuration, as an attacker would."""
    (directory / "model.safetensors").write_bytes(content)
    change_config(directory, weights_sha256=hashlib.sha256(content).hexdigest())


def attacked(directory, refusal):
    """Load the directory, which must be refused, and so must the command be."""
    message = refusal(lambda: lb.load_classifier(directory))
    assert cli.run(["predict", str(directory), "a text"]) == 2
    return message


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, "9" * 10_000])
def test_a_configuration_that_no_parser_bears_is_damaged(directory, refusal, content):
    (directory / "config.json").write_text(content)
    assert attacked(directory, refusal).startswith(f"{directory / 'config.json'} is damaged (")


def test_a_configuration_of_a_gibibyte_is_not_read(directory, refusal):
    os.truncate(directory / "config.json", 2**30)
    assert "must be a file of at most 64 MiB, and is larger" in attacked(directory, refusal)


@pytest.mark.parametrize(
    "changes",
    [
        {"class_names": "good"}, {"class_names": ["good"]}, {"class_names": [1, 2]}, {"class_names": None},
        {"model": "os.system"}, {"model": ["ngram"]}, {"model": None}, {"model": "cnn"}, {"model": "transformer"},
        {"encoder": None}, {"encoder": []}, {"encoder": {"longest": 10**9, "words": True}},
        {"encoder": {"longest": "5", "words": True}}, {"weights_sha256": None},
    ],
    ids=str,
)  # fmt: skip
def test_values_of_a_wrong_type_are_one_sentence(directory, refusal, changes):
    change_config(directory, **changes)
    assert str(directory) in attacked(directory, refusal)


def test_a_token_model_is_not_made_to_open_a_file(directory, refusal):
    change_config(directory, model="cnn", encoder={"vocabulary": "/etc/passwd", "max_length": 9})
    assert "the encoder needs a list of tokens" in attacked(directory, refusal)


def test_a_pickle_in_place_of_the_weights_is_not_executed(directory, refusal):
    class Planted:
        def __reduce__(self):
            return os.mkdir, (str(directory / "executed"),)

    change_weights(directory, pickle.dumps(Planted()))
    assert "is not a safetensors file" in attacked(directory, refusal)
    assert not (directory / "executed").exists()


def test_weights_of_a_terabyte_are_not_read(directory, refusal):
    os.truncate(directory / "model.safetensors", 2**40)
    assert attacked(directory, refusal) == (
        f"{directory / 'model.safetensors'} must be a file of at most 8 GiB, and is larger; train it again"
    )


def test_a_header_of_4_gib_is_not_read(directory, refusal):
    with (directory / "model.safetensors").open("wb") as file:
        file.write((2**32).to_bytes(8, "little"))
        file.truncate(2**32 + 8)
    assert "is not a safetensors file" in attacked(directory, refusal)


def test_weights_that_claim_another_shape_are_refused_before_they_are_read(directory, refusal):
    path = directory / "model.safetensors"
    rows = 2**26
    header = json.dumps({"bag.weight": {"dtype": "F32", "shape": [rows, 8], "data_offsets": [0, rows * 32]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + rows * 32)
    assert attacked(directory, refusal) == (
        f"{directory} holds a classifier whose config.json and model.safetensors do not belong together (2 classes, weights of "
        f"shape ({rows}, 8)); train it again"
    )


@pytest.mark.parametrize("name", ["bag.weight", "bias", "encoder.hashes", "encoder.idf"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_weights_of_another_dtype_are_refused(directory, refusal, name, dtype):
    tensors = load_file(directory / "model.safetensors")
    due = "U64" if name == "encoder.hashes" else "F32"
    got = {torch.float64: "F64", torch.float16: "F16", torch.int64: "I64"}[dtype]
    change_weights(directory, save({**tensors, name: torch.ones(tensors[name].shape, dtype=dtype)}))
    assert attacked(directory, refusal) == (
        f"{directory / 'model.safetensors'} must hold {due} under {name!r}, got {got}; train it again"
    )


@pytest.mark.parametrize("name", ["bag.weight", "bias", "encoder.hashes", "encoder.idf"])
@pytest.mark.parametrize("shape", [(), (0,), (2,), (3, 2), (1, 1, 2)])
def test_weights_of_another_shape_are_refused(directory, refusal, name, shape):
    tensors = load_file(directory / "model.safetensors")
    if tuple(tensors[name].shape) == shape:
        pytest.skip("this is the shape that it has")
    change_weights(directory, save({**tensors, name: torch.ones(shape).to(tensors[name].dtype)}))
    assert str(directory) in attacked(directory, refusal)


def test_what_a_label_says_to_a_terminal_is_not_said(directory, capsys):
    change_config(directory, class_names=["\x1b[2Jgood", "bad\x9b31m\x07"])
    capsys.readouterr()
    assert cli.run(["predict", str(directory), "好吃", "难吃\x1b]0;title\x07"]) == 0
    assert cli.run(["explain", str(directory), "好吃\x1b[31m"]) == 0
    printed = capsys.readouterr().out
    assert "good" in printed
    assert not {"\x1b", "\x9b", "\x07"} & set(printed)
