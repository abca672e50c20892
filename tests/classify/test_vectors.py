"""A cnn that starts from pretrained vectors: coverage, frozen rows, and a directory that needs the file no more."""

import dataclasses

import numpy as np
import pytest
import torch

from linkboy import LabelledTexts, TrainingOptions, cli, load_classifier, train_classifier
from linkboy.classify.encoding._tokens import TokenEncoder
from linkboy.embeddings import EmbeddingReport

GOOD, BAD = ("干净 舒服 热情 方便 安静", "脏 吵 冷漠 破旧 太差")
TEXTS = [f"{word}{other}" for words in (GOOD, BAD) for word in words.split() for other in words.split()]
LABELS = ["good"] * 25 + ["bad"] * 25
KNOWN = sorted(set("".join(TEXTS)) - {"冷"})
DIM = 12


@pytest.fixture
def data():
    return LabelledTexts("by hand", TEXTS, LABELS, range(1, 51))


@pytest.fixture
def vectors(tmp_path):
    rows = np.random.default_rng(0).normal(0, 0.3, (len(KNOWN), DIM)).astype(np.float32)
    path = tmp_path / "vectors.txt"
    path.write_text(
        "".join(f"{word} {' '.join(map(repr, row.tolist()))}\n" for word, row in zip(KNOWN, rows, strict=True))
    )
    return path, dict(zip(KNOWN, torch.from_numpy(rows), strict=True))


def trained(data, out, path, **options):
    shown = []
    settings = TrainingOptions(model="cnn", epochs=3, batch_size=8, vectors=str(path), **options)
    report = train_classifier(data, out, valid=data, test=data, options=settings, show=shown.append)
    return report, next(block for block in shown if isinstance(block, EmbeddingReport))


def rows_of(directory):
    classifier = load_classifier(directory)
    table = classifier.model.embedding.weight.detach()
    tokenizer = classifier.encoder.tokenizer
    return {tokenizer.id_to_token(number): table[number + 1] for number in range(tokenizer.vocab_size)}, table


@pytest.mark.parametrize("freeze", ["all", "known", "none", None])
def test_frozen_rows_are_saved_as_they_were_in_the_file(freeze, data, vectors, tmp_path):
    path, expected = vectors
    _, coverage = trained(data, tmp_path / "run", path, freeze=freeze)
    assert coverage.found == len(KNOWN)
    assert "冷" in coverage.missing
    assert coverage.text_coverage == pytest.approx(1 - sum(text.count("冷") for text in TEXTS) / len("".join(TEXTS)))
    path.unlink()  # what predicts needs the file no more
    rows, table = rows_of(tmp_path / "run")
    same = [torch.equal(rows[word], expected[word]) for word in KNOWN]
    assert all(same) if freeze in ("all", "known") else not any(same)
    assert table[0].tolist() == [0] * DIM
    assert load_classifier(tmp_path / "run").predict(TEXTS[:1] + TEXTS[-1:]).labels == ["good", "bad"]


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(data, vectors, tmp_path, monkeypatch):
    path, _ = vectors
    whole, _ = trained(data, tmp_path / "whole", path, freeze="known", checkpoint_every=3)
    collate, calls = TokenEncoder.collate, []

    def stopping(self, rows):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return collate(self, rows)

    monkeypatch.setattr(TokenEncoder, "collate", stopping)
    with pytest.raises(KeyboardInterrupt):
        trained(data, tmp_path / "stopped", path, freeze="known", checkpoint_every=3)
    monkeypatch.undo()
    options = TrainingOptions(
        model="cnn", epochs=3, batch_size=8, vectors=str(path), freeze="known", checkpoint_every=3
    )
    resumed = train_classifier(data, tmp_path / "stopped", valid=data, test=data, options=options, resume=True)
    assert resumed.metrics["test"] == whole.metrics["test"]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert weights[0] == weights[1]


def test_the_command_takes_vectors(data, vectors, tmp_path, capsys):
    path, _ = vectors
    file = tmp_path / "texts.tsv"
    file.write_text("".join(f"{text}\t{label}\n" for text, label in zip(TEXTS, LABELS, strict=True)), "utf-8")
    common = ["train", str(file), "--epochs", "1", "--out", str(tmp_path / "run"), "--vectors", str(path)]
    assert cli.run([*common, "--model", "cnn", "--freeze", "known"]) == 0
    assert "of the running text" in capsys.readouterr().out
    assert cli.run(common) == 2
    assert capsys.readouterr().err == "linkboy: --vectors are for --model cnn, got --model ngram; leave --vectors out\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vectors": "v", "model": "ngram"}, "vectors are for model='cnn', got model='ngram'; leave vectors out"),
        (
            {"vectors": "v", "freeze": "some"},
            "freeze must be one of ('all', 'known', 'none'), got 'some'",
        ),
        ({"freeze": "all"}, "freeze is for vectors, got freeze='all' without any; leave freeze out"),
    ],
)
def test_options_that_do_not_fit_are_told(options, message):
    with pytest.raises(ValueError) as caught:
        TrainingOptions(**{"model": "cnn", **options})
    assert str(caught.value) == message
    assert dataclasses.asdict(TrainingOptions())["vectors"] is None
