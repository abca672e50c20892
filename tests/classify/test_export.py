"""Exported models give the classifier's answers, on any number of texts of any length, without linkboy's model code."""

import sys

import numpy as np
import pytest
import torch

import linkboy as lb

FORMS = ("onnx", "torchscript", "torch-export")
TEXTS = ["球队 夺冠", "", "x", "股市 大涨 " * 40, "the match", "新词 never seen"]


@pytest.fixture(scope="module", params=["ngram", "cnn", "transformer"])
def classifier(request, tmp_path_factory, make_rows):
    options = lb.TrainingOptions(model=request.param, epochs=2, batch_size=16)
    out = tmp_path_factory.mktemp("export") / "model"
    lb.train_classifier(make_rows(120), out, options=options)
    return lb.load_classifier(out)


def run_file(path, form, inputs):
    if form == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(["probabilities"], {name: x.numpy() for name, x in inputs.items()})[0])
    if form == "torchscript":
        return torch.jit.load(path)(*inputs.values())
    return torch.export.load(path).module()(**inputs)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.filterwarnings("ignore:.*get_attr:UserWarning")  # torch 2.6, of a program that it wrote itself
@pytest.mark.parametrize("form", FORMS)
def test_an_exported_model_gives_the_same_answers(classifier, tmp_path, form):
    if form == "onnx":
        for package in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(package)
    path = tmp_path / "model"
    report = classifier.export(path, form=form)
    assert report.nbytes == path.stat().st_size
    assert report.largest_difference <= 1e-5
    assert list(report.inputs) == list(classifier.export_inputs(TEXTS))
    for texts in (TEXTS, TEXTS[:1], TEXTS[1:2], TEXTS[3:4] * 9):
        expected = classifier.logits(texts).softmax(1)
        got = run_file(str(path), form, classifier.export_inputs(texts))
        np.testing.assert_allclose(got.detach().numpy(), expected.numpy(), atol=1e-5)
    assert "probabilities differ by at most" in str(report)


def test_inputs_are_rows_of_one_length_with_padding_that_counts_for_nothing(classifier):
    inputs = classifier.export_inputs(["球队 夺冠", "x"])
    assert {x.shape for x in inputs.values()} == {inputs["ids"].shape}
    assert inputs["ids"].dtype == torch.int64
    if classifier.kind == "ngram":
        encoded = classifier.encoder.encode(["球队 夺冠", "x"])
        assert inputs["weights"].sum(1).tolist() == pytest.approx(
            [encoded.weights[: encoded.offsets[1]].sum(), encoded.weights[encoded.offsets[1] :].sum()]
        )
    assert classifier.export_inputs([""])["ids"].shape == (1, 1)


def test_what_cannot_be_exported_is_said_and_leaves_nothing(classifier, tmp_path, monkeypatch):
    with pytest.raises(ValueError) as caught:
        classifier.export(tmp_path / "model", form="onx")
    assert str(caught.value) == (
        "form must be one of ('onnx', 'torchscript', 'torch-export'), got 'onx'; did you mean 'onnx'?"
    )
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else True)
    with pytest.raises(ModuleNotFoundError) as caught:
        classifier.export(tmp_path / "model", form="onnx")
    assert str(caught.value) == (
        "an export to ONNX needs onnxscript, not installed here; run: pip install 'linkboy[onnx]'"
    )
    monkeypatch.setattr("linkboy.classify.saved.export._torchscript", lambda *_: (b"x", lambda _: torch.zeros(1, 3)))
    with pytest.raises(ArithmeticError) as caught:
        classifier.export(tmp_path / "model", form="torchscript")
    assert str(caught.value).startswith("the exported model differs from the classifier by ")

    def refuse(*_):
        raise RuntimeError("\nno such operation\nmore")

    monkeypatch.setattr("linkboy.classify.saved.export._torchscript", refuse)
    with pytest.raises(ValueError) as caught:
        classifier.export(tmp_path / "model", form="torchscript")
    assert str(caught.value) == (
        f"a model of kind {classifier.kind!r} cannot be exported as torchscript (no such operation); "
        "export another kind of model"
    )
    assert list(tmp_path.iterdir()) == []
