"""A pretrained encoder as a member of the mix: its directory, its vectors, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import linkboy as lb
from linkboy.classify.encoding import _pretrained
from linkboy.classify.encoding._encoder_files import read_encoder
from linkboy.classify.encoding._features import FlatFeatures
from linkboy.classify.encoding._pretrained import PretrainedEncoder, pooled
from linkboy.classify.linear._linear import Judge, Member, Task, Vectors, fit_linear, solve_vectors
from linkboy.cli import app as cli

pytest.importorskip("transformers")
TEXTS = ["球队 冠军 12", "bank", "", "match goal team league coach 5", "利率 涨停"]


@pytest.fixture(scope="module")
def bert(make_rows, save_bert, tmp_path_factory) -> Path:
    return save_bert(tmp_path_factory.mktemp("encoder") / "bert", make_rows(240).texts)


@pytest.fixture
def copy(bert, tmp_path) -> Path:
    """The encoder in a directory that a test may damage."""
    return Path(shutil.copytree(bert, tmp_path / "copy"))


@pytest.fixture(scope="module")
def run(bert, make_rows, tmp_path_factory):
    """A classifier with the encoder, and its report."""
    out = tmp_path_factory.mktemp("run") / "model"
    return out, lb.train_classifier(make_rows(240), out, encoder=bert)


def message(kind, call) -> str:
    with pytest.raises(kind) as raised:
        call()
    assert "\n" not in str(raised.value)
    return str(raised.value)


# ---------------------------------------------------------------- vectors
def test_vectors_are_those_of_transformers(bert):
    """Mean over the tokens, unit length, whatever the batch; texts one by one through transformers' own tokenizer."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(bert).eval(), AutoTokenizer.from_pretrained(bert)
    vectors = PretrainedEncoder.load(bert, lower_precision=False).vectors(TEXTS)
    with torch.no_grad():
        for text, vector in zip(TEXTS, vectors, strict=True):
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            torch.testing.assert_close(vector, F.normalize(hidden.mean(0), dim=0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_padding_does_not_count_in_any_pooling(pooling):
    hidden = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    alone = pooled(hidden, torch.ones(1, 3, dtype=torch.int64), [pooling])
    beside = pooled(F.pad(hidden, (0, 0, 0, 2), value=9.0), torch.tensor([[1, 1, 1, 0, 0]]), [pooling])
    torch.testing.assert_close(alone, beside)


def test_two_poolings_stand_one_behind_the_other():
    hidden, mask = torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.int64)
    both = pooled(hidden, mask, ["mean", "max"])
    torch.testing.assert_close(both, torch.cat((hidden.mean(1), hidden.amax(1)), 1))


def test_a_text_is_read_once(bert, monkeypatch):
    encoder, counts = PretrainedEncoder.load(bert, lower_precision=False), []
    read = encoder.tokenize
    monkeypatch.setattr(encoder, "tokenize", lambda texts: counts.append(len(texts)) or read(texts))
    encoder.vectors(["a", "b", "a"])
    again = encoder.vectors(["c", "a"])
    assert counts == [2, 1]
    torch.testing.assert_close(again, encoder.vectors(["c", "a"]))


def test_batches_that_the_memory_does_not_hold_are_halved(bert, monkeypatch):
    encoder = PretrainedEncoder.load(bert, lower_precision=False)
    expected, forward = encoder.vectors(TEXTS), encoder.model.forward

    def short_of_memory(input_ids, attention_mask):
        if len(input_ids) > 1:
            raise MemoryError
        return forward(input_ids=input_ids, attention_mask=attention_mask)

    monkeypatch.setattr(encoder.model, "forward", short_of_memory)
    monkeypatch.setattr(encoder, "_cache", {})
    torch.testing.assert_close(encoder.vectors(TEXTS), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("seconds", "cosine", "lower"), [(0.1, 1.0, True), (3.0, 1.0, False), (0.1, 0.99, False)])
def test_bfloat16_is_used_where_it_is_faster_and_gives_the_same(bert, monkeypatch, seconds, cosine, lower):
    encoder, clock = PretrainedEncoder.load(bert), [0.0]

    def timed(rows, *, lower):
        clock[0] += seconds if lower else 1.0
        return F.normalize(torch.tensor([[1.0, 0.0 if not lower else (1 / cosine**2 - 1) ** 0.5]]), dim=1)

    monkeypatch.setattr(encoder, "_run", timed)
    monkeypatch.setattr(_pretrained.time, "perf_counter", lambda: clock[0])
    assert encoder._is_faster_in_bfloat16(FlatFeatures(np.zeros(1, np.int64), None, np.array([0, 1]))) is lower


# ---------------------------------------------------------------- the member
def test_the_member_over_vectors_is_a_logistic_regression():
    """Its gradient vanishes where it is solved long enough: the formula of a penalised cross-entropy, in float64."""
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(120, 6, generator=generator), dim=1)
    targets = (vectors[:, :3].argmax(1)).numpy()
    empty = FlatFeatures(np.zeros(0, np.int32), None, np.zeros(121, np.int64))
    task, rows = Task(empty, 1, targets, 3, np.ones(120, np.float32)), Vectors(vectors)
    problem = task.problem(np.arange(120), vectors=rows)
    ((_, weights),) = problem.solve("cross-entropy", "vectors", 4.0, 200)
    x = torch.cat((rows.dense(np.arange(120)).vectors, torch.ones(120, 1)), 1).double()
    u = weights.double().requires_grad_(True)
    (u.square().sum() / 2 + 4.0 * F.cross_entropy(x @ u, torch.from_numpy(targets), reduction="sum")).backward()
    assert u.grad.abs().max() < 1e-2
    member, ((of_vectors, bias),) = solve_vectors(task, rows, (np.arange(90), np.arange(90, 120)), [np.arange(120)])
    expected = problem.solve("cross-entropy", "vectors", member.strength, 40)
    z = x @ next(expected)[1].double()
    ours = vectors.double() @ of_vectors.double() + bias.double()
    torch.testing.assert_close(ours.log_softmax(1), z.log_softmax(1), atol=1e-4, rtol=1e-4)


def test_a_given_member_is_mixed_by_its_logits(make_rows):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 5, 200)
    ids = np.concatenate([rng.choice(30, n, replace=False) for n in lengths]).astype(np.int32)
    features = FlatFeatures(ids, None, np.concatenate(([0], np.cumsum(lengths))))
    targets = rng.integers(0, 2, 200)
    task = Task(features, 30, targets, 2, np.ones(200, np.float32))
    fit, judged = np.arange(100), np.arange(100, 200)
    right = torch.eye(2)[torch.from_numpy(targets[judged])] * 4
    made = fit_linear(task, [(fit, judged)], np.arange(200), given=(Member("cross-entropy", "fine-tuned", 0.0), right))
    assert made.report.members[-1].scale == "fine-tuned"
    assert made.report.members[-1].coefficient > 0.5
    assert (made.logits.argmax(1).numpy() == targets[judged]).mean() == 1
    assert made.of_vectors is None
    assert Judge(task, [(fit, judged)], None, 5).dense == []


# ---------------------------------------------------------------- a whole run
def test_what_is_saved_predicts_what_was_reported(run, make_rows):
    import polars as pl

    out, report = run
    classifier = lb.load_classifier(out)
    rows = pl.read_csv(out / "predictions.csv")
    predicted = classifier.predict(rows["text"].to_list())
    assert list(predicted.labels) == rows["predicted"].to_list()
    assert predicted.probabilities == pytest.approx(rows["probability"].to_list(), abs=1e-3)
    assert report.linear is not None
    assert [member.scale for member in report.linear.members][-1] == "vectors"
    assert "and the vectors of an encoder" in str(report)
    assert "vectors of an encoder" in (out / "report.html").read_text("utf-8")
    assert classifier.evaluate(make_rows(60)).accuracy > 0.9


def test_batches_of_any_size_give_the_same_logits(run):
    classifier = lb.load_classifier(run[0])
    torch.testing.assert_close(classifier.logits(TEXTS, batch_size=2), classifier.logits(TEXTS))


def test_an_encoder_is_explained_by_leaving_out(run):
    explanation = lb.load_classifier(run[0]).explain(["球队 冠军"]).explanations[0]
    assert not explanation.exact
    assert {piece.kind for piece in explanation.pieces} == {"left out"}


def test_the_configuration_names_the_encoder(run, bert):
    kept = json.loads((run[0] / "config.json").read_text("utf-8"))["encoder"]["pretrained"]
    assert kept["path"] == str(bert)
    assert kept["sha256"] == read_encoder(bert).fingerprint()
    assert sum(path.stat().st_size for path in run[0].glob("*.safetensors")) < 2**20


def test_a_moved_encoder_is_named_and_another_one_refused(run, bert, copy, tmp_path, make_rows):
    out = Path(shutil.copytree(run[0], tmp_path / "model"))
    config = (out / "config.json").read_text("utf-8").replace(str(bert), "/gone/bert")
    (out / "config.json").write_text(config, "utf-8")
    assert message(FileNotFoundError, lambda: lb.load_classifier(out)) == (
        "the encoder 'bert' that the classifier was trained with is no longer in /gone/bert; pass "
        "encoder=... with its directory"
    )
    moved = lb.load_classifier(out, encoder=copy)
    assert moved.predict(TEXTS).top == lb.load_classifier(run[0]).predict(TEXTS).top
    edit(copy / "tokenizer_config.json", do_lower_case=False)
    assert message(ValueError, lambda: lb.load_classifier(out, encoder=copy)) == (
        f"encoder must be the one that the classifier was trained with, 'bert', got another one in "
        f"{copy} (its files have another "
        "hash); pass encoder=... with its directory"
    )


def test_an_encoder_for_a_classifier_without_one_is_refused(make_rows, bert, tmp_path):
    lb.train_classifier(make_rows(60), tmp_path / "m")
    assert message(ValueError, lambda: lb.load_classifier(tmp_path / "m", encoder=bert)) == (
        f"{tmp_path / 'm'} was trained without an encoder; leave encoder out"
    )


def test_export_is_refused_by_a_sentence(run, tmp_path):
    said = message(ValueError, lambda: lb.load_classifier(run[0]).export(tmp_path / "m.pt2", form="torch-export"))
    assert said == (
        "a model with a pretrained encoder cannot be exported as torch-export, since its encoder stays "
        "in a directory of its own; "
        "load it with load_classifier"
    )
    assert not list(tmp_path.iterdir())


def test_the_command_takes_a_moved_encoder(run, bert, copy, capsys):
    assert cli.run(["predict", str(run[0]), "球队 冠军", "--encoder", str(copy)]) == 0
    assert capsys.readouterr().out.startswith("体育\t")


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one(bert, tsv, tmp_path):
    """What is encoded and solved by each of two processes is equal to what one gives."""
    import os
    import subprocess
    import sys

    files = []
    for name, start in (("one", ["-m"]), ("two", ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"])):
        line = [
            sys.executable,
            *start,
            "linkboy",
            "train",
            str(tsv),
            "--out",
            str(tmp_path / name),
            "--encoder",
            str(bert),
        ]
        subprocess.run(line, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=300)
        files.append((tmp_path / name / "model.safetensors").read_bytes())
    assert files[0] == files[1]


# ---------------------------------------------------------------- refusals
def refused(directory) -> str:
    kinds = (ValueError, OSError, MemoryError, ImportError)
    return message(kinds, lambda: PretrainedEncoder.load(directory)).replace(str(directory), "DIR")


def edit(path: Path, **entries) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **entries}), "utf-8")


def test_no_directory_and_a_file_are_refused(tmp_path, copy):
    assert refused(tmp_path / "none") == (
        "there is no directory DIR; encoder names a local directory with a pretrained encoder, and "
        "nothing is downloaded"
    )
    assert refused(copy / "vocab.txt") == (
        "encoder must name a directory, got the file DIR; name the directory it is in"
    )


def test_a_directory_that_holds_no_encoder_is_refused(tmp_path):
    assert refused(tmp_path) == (
        "DIR holds no encoder (there is no config.json in it); name a directory that transformers or "
        "sentence-transformers has saved"
    )
    (tmp_path / "config.json").write_text("{}")
    assert refused(tmp_path) == "DIR/config.json names no model_type; name a directory that transformers has saved"
    (tmp_path / "config.json").write_text("[]")
    assert refused(tmp_path) == "DIR/config.json is damaged (it must hold a dict); save the encoder again"
    (tmp_path / "config.json").write_text("{")
    assert refused(tmp_path).startswith("DIR/config.json is damaged (")


def test_pickles_are_refused(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    assert refused(copy) == (
        "DIR has its weights as pytorch_model.bin, and only safetensors are read, which cannot run "
        "code; load the model where you "
        "trust it and save it again with save_pretrained"
    )
    (copy / "pytorch_model.bin").unlink()
    assert refused(copy) == "DIR holds no weights (there is no model.safetensors in it); copy the whole directory"


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_in_the_directory_is_refused_and_not_run(copy, name):
    (copy / "modeling.py").write_text(f"open({str(copy / 'ran')!r}, 'w')")
    edit(copy / name, auto_map={"AutoModel": "modeling.Model", "AutoTokenizer": ["modeling.Model", None]})
    assert refused(copy) == (
        f"DIR needs code of its own (auto_map in {name}), and no code of an encoder is ever run; name an "
        "encoder whose architecture "
        "transformers has"
    )
    assert not (copy / "ran").exists()


def test_modules_with_code_and_other_modules_are_refused(copy, add_sentence_modules):
    add_sentence_modules(copy)
    modules = json.loads((copy / "modules.json").read_text())
    modules[1]["type"] = "my_pooling.Pooling"
    (copy / "modules.json").write_text(json.dumps(modules))
    assert refused(copy).startswith("DIR needs code of its own (my_pooling.Pooling in modules.json), ")
    add_sentence_modules(copy, None, "Dense")
    assert refused(copy) == (
        "DIR consists of Transformer and Pooling and Dense, and an encoder must consist of Transformer, "
        "Pooling and at most "
        "Normalize; name another one, or the directory of the transformers model alone"
    )
    add_sentence_modules(copy, {"pooling_mode": "magic"})
    assert refused(copy) == (
        "DIR/1_Pooling/config.json must pool by one of ('mean', 'cls', 'max', 'mean_sqrt_len_tokens', "
        "'weightedmean', 'lasttoken'), "
        "got ['magic']; name another encoder"
    )
    modules[1] = {"type": "sentence_transformers.models.Pooling", "path": "../outside"}
    (copy / "modules.json").write_text(json.dumps(modules))
    assert (
        refused(copy)
        == "DIR/modules.json names '../outside', which is outside of the directory; save the encoder again"
    )
    (copy / "modules.json").write_text('["Transformer"]')
    assert refused(copy) == "DIR/modules.json is damaged: each module needs a type and a path; save the encoder again"


def test_the_pooling_of_sentence_transformers_is_followed(copy, add_sentence_modules):
    plain = PretrainedEncoder.load(copy, lower_precision=False).vectors(TEXTS)
    add_sentence_modules(copy, None, "Normalize")
    torch.testing.assert_close(PretrainedEncoder.load(copy, lower_precision=False).vectors(TEXTS), plain)
    add_sentence_modules(copy, {"pooling_mode": "cls"})
    first = PretrainedEncoder.load(copy, lower_precision=False).vectors(TEXTS)
    assert not torch.allclose(first, plain, atol=1e-3)
    add_sentence_modules(copy, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    torch.testing.assert_close(PretrainedEncoder.load(copy, lower_precision=False).vectors(TEXTS), first)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "t5"}, "DIR is an encoder with a decoder ('t5'); name the directory of an encoder alone"),
        ({"model_type": "vit"}, "DIR is no encoder of texts ('vit'); name the directory of one, such as a BERT"),
        (
            {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]},
            "DIR is a language model that reads from left to right ('gpt2'), not an encoder; name a "
            "directory of a BERT or of "
            "sentence-transformers",
        ),
    ],
)
def test_other_architectures_are_refused(copy, config, said):
    (copy / "config.json").write_text(json.dumps(config))
    assert refused(copy) == said


def test_an_architecture_that_transformers_does_not_have_is_refused(copy):
    import transformers

    edit(copy / "config.json", model_type="bert9000")
    assert refused(copy) == (
        f"DIR is of the architecture 'bert9000', which transformers {transformers.__version__} does not "
        "have; name another encoder, or "
        "update transformers"
    )


def test_weights_of_another_model_are_refused(copy):
    edit(copy / "config.json", num_hidden_layers=3)
    assert refused(copy).startswith("DIR has no weights for 'encoder.layer.2.")
    edit(copy / "config.json", num_hidden_layers=2, hidden_size=16)
    assert refused(copy).startswith("DIR cannot be loaded (")
    (copy / "model.safetensors").write_bytes(b"no tensors")
    assert refused(copy).startswith("DIR cannot be loaded (")


def test_a_vocabulary_that_does_not_fit_is_refused(copy):
    rows = json.loads((copy / "config.json").read_text())["vocab_size"]
    with (copy / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("more\nand more\n")
    assert refused(copy) == (
        f"DIR has a vocabulary of {rows + 2} tokens, and its model has {rows} of them; name a directory "
        "whose files belong together"
    )
    (copy / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
    assert refused(copy).startswith("DIR has a vocabulary of 4 tokens, and its model has ")
    (copy / "vocab.txt").unlink()
    assert refused(copy) == (
        "DIR has no tokenizer (no tokenizer.json or vocab.txt or vocab.json or spiece.model in it); "
        "copy the whole directory"
    )
    (copy / "tokenizer.json").write_text("{}")
    assert refused(copy).startswith("DIR has no tokenizer that can be loaded (")


def test_an_adapter_is_refused(copy):
    (copy / "adapter_config.json").write_text("{}")
    assert refused(copy) == (
        "DIR holds an adapter, not a whole encoder; merge it into its model, save that and name its directory"
    )


def test_too_little_memory_is_said_in_one_sentence(copy, monkeypatch):
    encoder = PretrainedEncoder.load(copy, lower_precision=False)
    size = sum(path.stat().st_size for path in encoder.files.files) >> 20

    def no_memory(**arguments):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(encoder.model, "forward", no_memory)
    assert message(MemoryError, lambda: encoder.vectors(["a"])) == (
        f"the memory does not hold the encoder {copy} ({size} MiB) and a batch; name a smaller encoder"
    )


def test_vectors_that_are_not_finite_are_refused(copy):
    encoder = PretrainedEncoder.load(copy, lower_precision=False)
    with torch.no_grad():
        encoder.model.get_input_embeddings().weight.fill_(torch.inf)
    assert message(ValueError, lambda: encoder.vectors(["a"])) == (
        f"{copy} gives vectors that are not finite; name another encoder"
    )


def test_a_missing_transformers_is_named(copy, monkeypatch):
    find = _pretrained.importlib.util.find_spec
    monkeypatch.setattr(_pretrained.importlib.util, "find_spec", lambda n: None if n == "transformers" else find(n))
    assert refused(copy) == "a pretrained encoder needs transformers; run: pip install 'linkboy[encoder]'"


def test_a_refused_encoder_leaves_nothing_behind(copy, make_rows, tmp_path, capsys, tsv):
    (copy / "model.safetensors").unlink()
    out = tmp_path / "out"
    message(ValueError, lambda: lb.train_classifier(make_rows(60), out, encoder=copy))
    assert not out.exists()
    assert cli.run(["train", str(tsv), "--out", str(out), "--encoder", str(copy)]) == 2
    assert not out.exists()
    assert "holds no weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "cnn", "encoder": "d"}, "encoder is for model='ngram', got model='cnn'; leave encoder or model out"),
        (
            {"finetune": True},
            "finetune is for an encoder, got none; name its directory with encoder=..., or leave finetune out",
        ),
        (
            {"encoder": "d", "layers": 2},
            "layers is for finetune=True, got layers=2 without it; leave layers out",
        ),
        (
            {"encoder": "d", "finetune": True, "budget": 60},
            "budget is not for finetune, which takes the epochs that it is given; leave budget out",
        ),
        (
            {"encoder": "d", "finetune": True, "loss": "squared-hinge"},
            "loss must be another one than 'squared-hinge' with finetune=True; leave loss out",
        ),
        (
            {"encoder": "d", "freeze": "embeddings.*"},
            "freeze must be one of ('all', 'known', 'none'), got 'embeddings.*'",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, said):
    assert message(ValueError, lambda: lb.TrainingOptions(**options)) == said


def test_an_encoder_named_twice_is_refused(make_rows, tmp_path):
    options = lb.TrainingOptions(encoder="a")
    assert message(
        ValueError, lambda: lb.train_classifier(make_rows(60), tmp_path / "m", options=options, encoder="b")
    ) == ("encoder must be given once, got 'b' and in the options 'a'")


def test_too_many_classes_or_rows_are_refused_before_anything_is_read(tmp_path, monkeypatch):
    from linkboy.classify.learning import _outcome

    labels = [f"c{n // 3}" for n in range(60)]
    data = lb.LabelledTexts("made up", [f"text {n}" for n in range(60)], labels, range(1, 61))
    monkeypatch.setattr(_outcome, "MOST_SOLVED_CLASSES", 10)
    assert message(ValueError, lambda: lb.train_classifier(data, tmp_path / "m", encoder="nowhere")) == (
        "encoder is for at most 10 classes, got 20; leave encoder out, or join classes"
    )
    monkeypatch.setattr(_outcome, "MOST_SOLVED_CLASSES", 100)
    monkeypatch.setattr(_outcome, "MOST_SOLVED", 100)
    assert message(ValueError, lambda: lb.train_classifier(data, tmp_path / "m", encoder="nowhere")) == (
        "encoder is for fewer than 200000 training and validation rows with at most 100 characters in all, got 40 rows with "
        "273; leave encoder out, or train on fewer"
    )
