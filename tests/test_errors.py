"""Every message on the page about errors is raised, word by word, by what people do to meet it."""

import io
import itertools
import json
import re
import sys
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

import linkboy as lb
from linkboy import _compat
from linkboy._plots import new_figure
from linkboy.classify._given import texts_of_stream
from linkboy.classify.reading._columns import wanted_columns
from linkboy.classify.reading._tables import Reading
from linkboy.classify.serving import LOOPBACK, _check_host, server

DOCS = Path(__file__).resolve().parents[1] / "docs"
ROWS = "text,label\n" + "".join(f"good {n},p\nbad {n},n\n" for n in range(20))
WORDS = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}


def read(name, content, **keywords):
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return lb.read_labelled(name, **keywords)


def train(content=ROWS, *, label_separator=None, **keywords):
    return lb.train_classifier(read("rows.csv", content, label_separator=label_separator), "model", **keywords)


def abstain_where_the_surest_is_wrong():
    lb.classify.DecisionCurve.of(np.array([0.9, 0.8, 0.7]), np.array([False, True, True])).for_precision(0.9)


def series_with_different_indexes():
    pandas = pytest.importorskip("pandas")
    lb.read_labelled((pandas.Series(["good", "bad"]), pandas.Series(["n", "p"], index=[1, 0])))


def correct_another_text():
    Path("suspects.csv").write_text("line,label,suggested_label,text\n2,p,n,good 1\n")
    train(corrections="suspects.csv")


def vectors(content, **keywords):
    Path("v.txt").write_text(content)
    return lb.load_embeddings("v.txt", ["a", "b"], **keywords)


def watch_twice():
    with lb.watch_training(), lb.watch_training():
        pass


def bert(**files):
    Path("bert").mkdir()
    Path("bert", "vocab.txt").write_text("\n".join(WORDS))
    for name, content in files.items():
        Path("bert", f"{name}.json").write_text(json.dumps(content))
    return lb.BertTokenizer.from_pretrained("bert")


def encoder(**files):
    Path("encoder").mkdir()
    for name, content in files.items():
        Path("encoder", name.replace("_dot_", ".")).write_text(json.dumps(content))
    try:
        train(encoder="encoder")
    except ValueError as error:  # it names the whole path
        raise ValueError(str(error).replace(str(Path("encoder").absolute()), "encoder")) from None


def no_encoder():
    try:
        train(encoder="encoder")
    except FileNotFoundError as error:
        raise FileNotFoundError(str(error).replace(str(Path("encoder").absolute()), "encoder")) from None


def replace_several_by_one_module():
    with lb.surgery(nn.Sequential(nn.Dropout(), nn.Linear(4, 2), nn.Dropout())) as s:
        s.replace("*", nn.Identity(), kind="Dropout")


def train_into_a_directory_in_use():
    Path("model").mkdir()
    Path("model", "notes.txt").touch()
    train()


def resume_nothing():
    lb.train_classifier(read("rows.csv", ROWS), "nothing", resume=True)


def read_a_name_with_a_slip():
    read("rows.csv", ROWS)
    lb.read_labelled("rowz.csv")


def read_a_zip_of_two():
    with zipfile.ZipFile("rows.zip", "w") as archive:
        archive.writestr("train.csv", ROWS)
        archive.writestr("test.csv", ROWS)
    lb.read_labelled("rows.zip")


def count_a_file_of_another_kind():
    Path("w.bin").write_bytes(b"404: Not Found")
    lb.count_parameters("w.bin")


def model():
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def fit(batch, *, reduction="none", of_another=False):
    trained = model()
    optimizer = torch.optim.SGD((model() if of_another else trained).parameters(), lr=0.1)
    lb.fit(trained, nn.CrossEntropyLoss(reduction=reduction), optimizer, [batch], epochs=1, progress=False)


def fit_a_part():
    trained = model()
    optimizer = torch.optim.SGD(trained[0].parameters(), lr=0.1)
    loss = nn.CrossEntropyLoss(reduction="none")
    lb.fit(trained, loss, optimizer, [BATCH], epochs=1, progress=False, on_finding="raise")


def fit_in(directory="run", *, seed=0, optimizer=torch.optim.SGD, value=0.0, **options):
    trained = nn.Linear(4, 3)
    loss = nn.CrossEntropyLoss(reduction="none")
    batches = [(torch.full((2, 4), value), BATCH[1].new_zeros(2))] * 4
    options = {"checkpoint": directory, "seed": seed, "log": (), "progress": False, **options}
    lb.fit(trained, loss, optimizer(trained.parameters(), lr=0.1), batches, **options)


def fit_after_a_newer_linkboy():
    fit_in(max_steps=2)
    manifest = Path("run", "step-2", "manifest.json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    fit_in()


def plot_without_matplotlib():
    with mock.patch.dict(sys.modules, {"matplotlib": None, "matplotlib.figure": None}):
        new_figure(4, 3)


def pipe_a_table():
    asked = Reading(wanted_columns("body", None, None, needs_label=False))
    texts_of_stream(io.BytesIO(b"id,body\n"), asked, lambda line, reason: None, name="standard input")


def ask_a_server_by_another_name():
    from starlette.datastructures import Headers

    _check_host(Headers({"host": "models.example.org"}), LOOPBACK)


def serve_without_the_extra():
    with mock.patch.dict(sys.modules, {"uvicorn": None}):
        server()


BATCH = (torch.zeros(2, 4), torch.tensor([0, 1]))
LOGITS = torch.zeros(2, 3)
MEETINGS = [
    lambda: read("rows.csv", "评论,标签\n很好,正\n".encode("gb18030")),
    lambda: read("rows.csv", "id,heading,kind\n1,a,b\n"),
    lambda: read("rows.tsv", "".join(f"a text {n}\t{'PN'[n % 2]}\t{'pn'[n % 2]}\n" for n in range(10))),
    lambda: read("rows.tsv", "heading\tkind\n" + "".join(f"text {n}\t{'ab'[n % 2]}\n" for n in range(30))),
    lambda: read("rows.csv", "Tickets of 2026,,\nid,heading,kind\n1,a,b\n"),
    lambda: train(label_separator="|"),
    abstain_where_the_surest_is_wrong,
    lambda: read("rows.tsv", "good\tyes\nno tab\n"),
    lambda: train("text,label\na,b\nc,b\n"),
    lambda: train("text,label\n" + "".join(f"text {n},{'ab'[n > 10]}\n" for n in range(14)), folds=5),
    correct_another_text,
    lambda: read("rows.csv", "<!DOCTYPE html>\n<html>\n"),
    read_a_zip_of_two,
    read_a_name_with_a_slip,
    train_into_a_directory_in_use,
    resume_nothing,
    lambda: lb.load_classifier("nothing"),
    no_encoder,
    lambda: encoder(config_dot_json={"model_type": "bert"}, tokenizer_dot_json={}, pytorch_model_dot_bin=0),
    lambda: encoder(config_dot_json={"model_type": "bert", "auto_map": {"AutoModel": "model.Model"}}),
    lambda: lb.read_labelled((["good", "bad"], ["p"])),
    series_with_different_indexes,
    pipe_a_table,
    ask_a_server_by_another_name,
    serve_without_the_extra,
    lambda: lb.rmse_loss(torch.zeros(2, 1), torch.zeros(2)),
    lambda: lb.focal_loss(LOGITS, torch.tensor([0, 3])),
    lambda: lb.focal_loss(LOGITS, np.array([0, 2])),
    lambda: lb.focal_loss(LOGITS, torch.tensor([[1, 0, 0], [0, 0, 1]])),
    lambda: lb.focal_loss(torch.zeros(2, 5, 3), torch.zeros(2, 5, dtype=torch.int64)),
    lambda: lb.focal_loss(LOGITS[:, :1], torch.tensor([0, 1])),
    lambda: lb.focal_loss(torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]]), torch.tensor([0, 2])),
    lambda: lb.focal_loss(LOGITS, torch.tensor([0, 2]), reduction="sum", normalizer="count"),
    lambda: lb.focal_loss(LOGITS, torch.tensor([0, 2]), alpha=[1.0, 2.0]),
    lambda: lb.focal_loss(LOGITS, torch.tensor([0, 2]), weight=torch.ones(3)),
    lambda: lb.rmsle_loss(torch.tensor([-2.0]), torch.tensor([1.0])),
    lambda: fit(BATCH, reduction="mean"),
    lambda: fit(BATCH, of_another=True),
    lambda: fit({"input_ids": BATCH[0], "labels": BATCH[1]}),
    fit_a_part,
    lambda: fit_in(optimizer=torch.optim.LBFGS),
    lambda: (fit_in(max_steps=2), fit_in(seed=1)),
    lambda: (fit_in(max_steps=2), fit_in(resume="never")),
    fit_after_a_newer_linkboy,
    lambda: fit_in(None, value=float("nan")),
    lambda: lb.freeze(model(), "encoder.*"),
    lambda: lb.initialize(model(), [lb.Rule(nn.Conv2d, "weight", 0)], on_unmatched="raise"),
    lambda: lb.initialize(nn.Sequential(nn.LazyLinear(2)), lb.init.kaiming()),
    count_a_file_of_another_kind,
    lambda: lb.replace_layer(model(), "0", nn.Linear(4, 5), example=torch.zeros(1, 4)),
    replace_several_by_one_module,
    lambda: lb.check_batch(model(), torch.zeros(2, 4)),
    lambda: lb.initialize(model(), lb.init.kaiming(nonlinearity="gelu")),
    lambda: lb.assert_shape(LOGITS, "b t 4"),
    lambda: lb.BertTokenizer({"good": 0}),
    lambda: lb.BertTokenizer(WORDS)("good", truncation=True),
    lambda: bert(tokenizer_config={"max_position": 512}),
    lambda: bert(added_tokens={"[E1]": 1}),
    lambda: setattr(lb.BertTokenizer(WORDS), "padding_sides", "left"),
    lambda: vectors("a 1 2 3\nb 1 2\n"),
    lambda: vectors("hello\n"),
    lambda: vectors("a 1,2\n"),
    lambda: lb.PretrainedEmbedding(torch.zeros(3, 2), freeze=[True]),
    lambda: lb.CapsuleLinear(4, 8, 2, 16)(torch.zeros(1, 4, 7)),
    lambda: lb.encode_bits(LOGITS, bits=30),
    lambda: lb.watch_training(ignore=["same-bach"]),
    watch_twice,
    lambda: _compat.check_version("torch", "2.5.1+cu124", _compat.OLDEST_TORCH),
    plot_without_matplotlib,
]


def messages(page):
    return re.findall(r"^### `(.+)`$", page.read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize(("message", "meet"), list(zip(messages(DOCS / "errors.md"), MEETINGS, strict=True)))
def test_a_message_on_the_page_is_what_is_raised(message, meet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A softmax before the loss is looked for in the first calls of a process.
    monkeypatch.setattr("linkboy.losses._arguments._calls", itertools.count())
    with pytest.raises(
        (TypeError, ValueError, ArithmeticError, OSError, RuntimeError, AssertionError, AttributeError, ImportError)
    ) as caught:
        meet()
    assert re.sub(r"\b(add)?mm: ", "", str(caught.value)) == message  # torch 2.15 names the kernel as well


def test_both_languages_explain_the_same_messages():
    assert messages(DOCS / "errors.md") == messages(DOCS / "zh" / "errors.md")
