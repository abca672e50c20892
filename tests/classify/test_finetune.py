"""A pretrained encoder that is trained further: what it begins with, what it keeps, how it resumes, what is saved."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import linkboy as lb
from linkboy.classify.encoding._pretrained import PretrainedEncoder
from linkboy.classify.learning import _finetune
from linkboy.classify.learning._finetune import FinetunedEncoder, FinetuneLearner, PretrainedTokens, cut
from linkboy.classify.recipe import TrainingOptions, recipe_of_finetuning
from linkboy.parameters import compare_models

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def bert(make_rows, save_bert, tmp_path_factory) -> Path:
    return save_bert(tmp_path_factory.mktemp("encoder") / "bert", make_rows(240).texts, width=16)


@pytest.fixture
def encoder(bert) -> PretrainedEncoder:
    return PretrainedEncoder.load(bert, lower_precision=False)


def trained(data, out, bert, **options):
    chosen = {"encoder": str(bert), "finetune": True, "epochs": 1, "batch_size": 16, "precision": "fp32", **options}
    return lb.train_classifier(data, out, options=lb.TrainingOptions(**chosen))


@pytest.fixture(scope="module")
def run(bert, make_rows, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "model"
    return out, trained(make_rows(120), out, bert, layers=1, freeze="embeddings.*", lr=0.01)


def test_chunks_by_length_give_the_logits_of_each_text_alone(encoder):
    texts = ["球队 冠军 12", "goal", "match goal team league coach 5"] * 9
    model = FinetunedEncoder(encoder.model, ["mean"], torch.randn(16, 3), torch.randn(3)).eval()
    tokens = PretrainedTokens(encoder)
    with torch.no_grad():
        together = model(*tokens.collate(tokens.encode(texts)))
        alone = torch.cat([model(*tokens.collate(tokens.encode([text]))) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    expected = encoder.vectors(texts) @ model.head.weight.detach().T + model.head.bias.detach()
    torch.testing.assert_close(together, expected, atol=1e-5, rtol=1e-4)


def test_lower_layers_learn_more_slowly(encoder):
    options = TrainingOptions(encoder="d", finetune=True)
    model = FinetunedEncoder(encoder.model.requires_grad_(True), ["mean"], torch.zeros(16, 3), torch.zeros(3))
    learner = FinetuneLearner(options, recipe_of_finetuning(options), PretrainedTokens(encoder), 3)
    rates = {name: group["lr"] for group in learner.parameters_of(model) for name in group["param_names"]}
    assert rates["head.weight"] == pytest.approx(1e-4)
    assert rates["encoder.encoder.layer.1.output.dense.weight"] == pytest.approx(0.9e-4)
    assert rates["encoder.encoder.layer.0.output.dense.weight"] == pytest.approx(0.81e-4)
    assert rates["encoder.embeddings.word_embeddings.weight"] == pytest.approx(0.729e-4)


def test_the_first_layers_are_kept_and_the_configuration_follows(encoder):
    before = encoder.model.state_dict()
    cut(encoder, 1)
    after = encoder.model.state_dict()
    assert encoder.model.config.num_hidden_layers == 1
    assert not any(".layer.1." in name for name in after)
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    with pytest.raises(ValueError) as raised:
        cut(encoder, 3)
    assert str(raised.value) == "layers must be at most the 1 that the encoder has, got 3"


def test_a_run_is_saved_whole_and_predicts_elsewhere(run, tmp_path, make_rows):
    out, report = run
    assert report.history is not None
    assert report.recipe is not None
    assert report.linear is not None
    assert report.linear.members[-1].scale == "fine-tuned"
    assert "and a fine-tuned encoder" in str(report)
    assert "encoder" in str(report)
    classifier = lb.load_classifier(out)
    moved = lb.load_classifier(shutil.copytree(out, tmp_path / "moved"))
    texts = make_rows(20).texts
    assert moved.predict(texts).top == classifier.predict(texts).top
    moved.save(tmp_path / "again")
    assert lb.load_classifier(tmp_path / "again").predict(texts).top == classifier.predict(texts).top
    assert classifier.evaluate(make_rows(60)).accuracy > 0.9


def test_what_is_frozen_stays_and_the_rest_moves(run, bert):
    from transformers import AutoModel

    before, after = AutoModel.from_pretrained(bert), AutoModel.from_pretrained(run[0] / "encoder")
    assert after.config.num_hidden_layers == 1
    report = compare_models(before.embeddings, after.embeddings)
    assert report.ok
    assert not compare_models(before.encoder.layer[0], after.encoder.layer[0]).ok


def test_sentence_transformers_reads_what_was_trained(run):
    transformers = pytest.importorskip("sentence_transformers")
    theirs = transformers.SentenceTransformer(str(run[0] / "encoder"), device="cpu", local_files_only=True)
    texts = ["球队 冠军 12", "goal"]
    ours = lb.load_classifier(run[0]).encoder.pretrained.vectors(texts)
    np.testing.assert_allclose(theirs.encode(texts, show_progress_bar=False), ours.numpy(), atol=1e-4)


def test_a_changed_encoder_in_the_directory_is_refused(run, tmp_path, bert):
    out = Path(shutil.copytree(run[0], tmp_path / "model"))
    config = out / "encoder" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "do_lower_case": False}))
    with pytest.raises(ValueError) as raised:
        lb.load_classifier(out)
    assert str(raised.value).endswith("(its files have another hash); train the classifier again")
    shutil.rmtree(out / "encoder")
    with pytest.raises(FileNotFoundError) as missing:
        lb.load_classifier(out)
    assert str(missing.value) == (
        f"the encoder 'bert' that the classifier was trained with is no longer in {out / 'encoder'}; copy the whole directory"
    )
    with pytest.raises(ValueError) as given:
        lb.load_classifier(run[0], encoder=bert)
    assert str(given.value) == (
        f"{run[0]} has its encoder in it, which was trained with the classifier; leave encoder out"
    )


def test_too_many_layers_and_unknown_names_are_refused(bert, make_rows, tmp_path):
    with pytest.raises(ValueError) as layers:
        trained(make_rows(60), tmp_path / "a", bert, layers=5)
    assert str(layers.value) == "layers must be at most the 2 that the encoder has, got 5"
    with pytest.raises(ValueError) as names:
        trained(make_rows(60), tmp_path / "b", bert, freeze="nothing.*")
    assert str(names.value).startswith("pattern 'nothing.*' matches none of the ")
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b" / "config.json").exists()


def test_memory_that_runs_out_halves_the_batch_and_doubles_the_steps(encoder, make_rows, tmp_path, monkeypatch):
    options = TrainingOptions(encoder="d", finetune=True, device="cpu")
    model = FinetunedEncoder(encoder.model.requires_grad_(True), ["mean"], torch.zeros(16, 3), torch.zeros(3))
    tokens, forward = PretrainedTokens(encoder), model.forward
    rows = _finetune.EncodedTexts(tokens, tokens.encode(make_rows(60).texts), np.zeros(60, np.int64))

    def short_of_memory(ids, mask):
        if len(ids) > 8:
            raise MemoryError
        return forward(ids, mask)

    monkeypatch.setattr(model, "forward", short_of_memory)
    for _ in range(2):  # the second time it is read from beside the checkpoints
        found, recipe = _finetune._sized(options, recipe_of_finetuning(options), model, rows, tmp_path, lower=True)
        assert (recipe.batch_size, found.accumulate, found.precision) == (8, 4, "bf16")
        monkeypatch.setattr(model, "forward", forward)
    assert all(parameter.grad is None for parameter in model.parameters())


STOPPED = """
import os, signal, sys
import linkboy as lb
from linkboy.classify.learning import _finetune
from linkboy.classify.encoding import _pretrained
data, out, bert, stop = lb.read_labelled(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] == "stop"
seen = 0
forward = _finetune.FinetunedEncoder.forward
def counted(self, ids, mask):
    global seen
    seen += self.training
    if stop and seen == 17:
        os.kill(os.getpid(), signal.SIGTERM)
    return forward(self, ids, mask)
_finetune.FinetunedEncoder.forward = counted
_pretrained.PretrainedEncoder._is_faster_in_bfloat16 = lambda self, rows: False  # what a clock says is no part of the claim
options = lb.TrainingOptions(encoder=bert, finetune=True, epochs=2, batch_size=16, checkpoint_every=2, device="cpu")
lb.train_classifier(data, out, options=options, resume=sys.argv[5:] == ["resume"])
"""


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_same_bits(bert, tsv, tmp_path):
    def ran(out, *more):
        line = [sys.executable, "-c", STOPPED, str(tsv), str(tmp_path / out), str(bert), *more]
        run = subprocess.run(
            line, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert run.returncode in (0, 128 + signal.SIGTERM), run.stderr
        return run.returncode

    assert ran("whole", "go") == 0
    assert ran("stopped", "stop") == 128 + signal.SIGTERM
    assert not (tmp_path / "stopped" / "config.json").exists()
    assert ran("stopped", "go", "resume") == 0
    for name in ("model.safetensors", "encoder/model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()


@pytest.mark.slow
def test_two_processes_train_one_encoder(bert, tsv, tmp_path):
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "linkboy", "train", str(tsv)]
    line += ["--out", str(tmp_path / "m"), "--encoder", str(bert), "--finetune", "--epochs", "1", "--batch-size", "16"]
    run = subprocess.run(line, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stderr
    assert (
        json.loads((tmp_path / "m" / "config.json").read_text())["about"]["training"]["history"]["process_count"] == 2
    )
    assert lb.load_classifier(tmp_path / "m").evaluate(lb.read_labelled(tsv)).accuracy > 0.9
