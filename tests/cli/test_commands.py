"""The command line: what it prints, what it refuses, how it ends."""

import csv
import datetime
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import linkboy as lb
from linkboy import cli
from linkboy.classify.reading._content import Content
from linkboy.cli._lines import json_lines
from linkboy.cli._train import DEMO_NAMES


@pytest.fixture(scope="module")
def tsv(tmp_path_factory):
    words = {"好评": "干净 舒服 热情 方便", "差评": "脏 吵 冷漠 破旧"}
    generator = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "reviews.tsv"
    labels = [list(words)[n % 2] for n in range(200)]
    texts = [" ".join(generator.choice(words[label].split(), 2)) + f" {n}" for n, label in enumerate(labels)]
    path.write_text("".join(f"{text}\t{label}\n" for text, label in zip(texts, labels, strict=True)), "utf-8")
    return path


@pytest.fixture(scope="module")
def model(tsv, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "model"
    assert cli.run(["train", str(tsv), "--out", str(out), "--epochs", "4"]) == 0
    return out


def refused(capsys, *arguments):
    """Run a command that must fail and return its one sentence."""
    capsys.readouterr()
    assert cli.run([str(argument) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("linkboy: ")
    assert printed.err.count("\n") == 1
    return printed.err.removeprefix("linkboy: ").rstrip("\n")


def test_train_prints_data_parameters_epochs_table_and_where_everything_is(tsv, tmp_path, capsys):
    out = tmp_path / "model"
    assert cli.run(["train", str(tsv), "--out", str(out), "--model", "cnn", "--epochs", "2"]) == 0
    printed = capsys.readouterr()
    order = [
        "part",
        "2 classes",
        "held out",
        "training: 2 epochs",
        "parameters",
        "class  precision",
        "Everything is in",
    ]
    places = [printed.out.index(piece) for piece in order]
    assert places == sorted(places)
    assert "epoch 1/2" in printed.err
    assert "epoch 2/2" in printed.err


def test_train_writes_beside_where_it_is_called_by_default(tsv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["train", str(tsv), "--epochs", "1"]) == 0
    assert (tmp_path / "reviews-model" / "config.json").exists()


def test_predict_prints_label_probability_and_text(model, capsys):
    assert cli.run(["predict", str(model), "房间 干净", "太 吵 了"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [(label, text) for label, _, text in lines] == [("好评", "房间 干净"), ("差评", "太 吵 了")]
    assert all(share.endswith("%") and 50 < float(share[:-1]) <= 100 for _, share, _ in lines)


def test_predict_json_and_top(model, capsys):
    assert cli.run(["predict", str(model), "房间 干净", "--json", "--top", "2"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["text"], record["label"]) == ("房间 干净", "好评")
    assert [entry["label"] for entry in record["top"]] == ["好评", "差评"]
    assert sum(entry["probability"] for entry in record["top"]) == pytest.approx(1)


def test_json_lines_are_what_the_json_module_reads_back():
    from linkboy.classify import Predictions

    texts = ['a"b\\c', "\u2028\x00\n", "体育 😀"]
    top = [[('x"', 0.75), ("y", 1e-20)], [("体育", float("nan")), ("y", 0.5)], [("z", 1.0), ("y", 0.0)]]
    lines = json_lines(Predictions(texts, [row[0][0] for row in top], [row[0][1] for row in top], top, [True] * 3))
    for line, text, row in zip(lines[:-1].split("\n"), texts, top, strict=True):
        pairs = [{"label": label, "probability": None if share != share else share} for label, share in row]
        assert json.loads(line) == {"text": text, **pairs[0], "top": pairs}


def test_predict_answers_every_line_of_a_file_and_of_standard_input(model, tmp_path, capsys, monkeypatch):
    path = tmp_path / "texts.txt"
    path.write_bytes("\ufeff干净\r\n\r\n吵".encode())
    assert cli.run(["predict", str(model), "--file", str(path)]) == 0
    from_file = capsys.readouterr().out
    assert [line.split("\t")[2] for line in from_file.splitlines()] == ["干净", "", "吵"]
    with path.open("rb") as file:
        monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": file, "isatty": lambda: False}))
        assert cli.run(["predict", str(model), "-"]) == 0
    assert capsys.readouterr().out == from_file


@pytest.mark.parametrize("how", ["by hand", "file", "json", "out"])
def test_predict_says_how_many_texts_hold_nothing_that_it_knows(model, tmp_path, capsys, how):
    path = tmp_path / "texts.txt"
    path.write_text("干净\n\nققق\n", "utf-8")
    given = ["--file", str(path)] if how != "by hand" else ["干净", " ", "ققق"]
    more = {"json": ["--json"], "out": ["--out", str(tmp_path / "out.csv")]}.get(how, [])
    assert cli.run(["predict", str(model), *given, *more]) == 0
    printed = capsys.readouterr().err
    assert printed.endswith(
        "linkboy: 2 texts hold nothing that the classifier knows, and got the answer for an empty one\n"
    )
    assert cli.run(["predict", str(model), "太吵"]) == 0
    assert capsys.readouterr().err == ""


def test_explain_prints_the_pieces_and_json(model, capsys):
    assert cli.run(["explain", str(model), "房间 干净", "--against", "差评"]) == 0
    printed = capsys.readouterr().out
    assert "好评" in printed
    assert "干净" in printed
    assert "add up to the log-odds" in printed
    assert cli.run(["explain", str(model), "房间 干净", "太 吵", "--json"]) == 0
    explanations = json.loads(capsys.readouterr().out)["explanations"]
    assert [explanation["label"] for explanation in explanations] == ["好评", "差评"]
    assert refused(capsys, "explain", model) == 'give texts to explain ("a text" ...)'


def test_export_writes_one_file_and_says_what_it_takes(model, tmp_path, capsys):
    assert cli.run(["export", str(model), "--torch-export", "--out", str(tmp_path / "m.pt2"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (tmp_path / "m.pt2").stat().st_size == report["nbytes"]
    assert list(report["inputs"]) == ["ids", "weights"]
    for arguments in ((), ("--onnx", "--torchscript")):
        assert refused(capsys, "export", model, *arguments) == (
            "choose one form to write: --onnx, --torchscript or --torch-export"
        )


def test_evaluate_prints_the_table_and_json(model, tsv, capsys):
    assert cli.run(["evaluate", str(model), str(tsv)]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert cli.run(["evaluate", str(model), str(tsv), "--json"]) == 0
    assert (
        json.loads(capsys.readouterr().out)["accuracy"]
        == lb.load_classifier(model).evaluate(lb.read_labelled(tsv)).accuracy
    )


def test_demo_reaches_what_a_linear_svm_reaches(tmp_path, capsys):
    pytest.importorskip("babel")
    assert cli.run(["train", "--demo", "--out", str(tmp_path / "demo")]) == 0
    printed = capsys.readouterr().out
    metrics = json.loads((tmp_path / "demo" / "metrics.json").read_text("utf-8"))["test"]
    assert metrics["accuracy"] >= 0.888
    assert metrics["macro_f1"] >= 0.858
    assert "Three names that it has never seen" in printed
    assert "try next" in printed


def test_the_three_names_of_the_demo_are_in_no_part():
    pytest.importorskip("babel")
    from linkboy.classify._demo import demo_data

    known = {text for part in demo_data().values() for text in part.texts}
    assert not known & set(DEMO_NAMES)


# --- mistakes ------------------------------------------------------------------------------------------------------------


def test_mistakes_are_one_sentence_and_exit_code_2(capsys, tmp_path, tsv, model):
    missing = tmp_path / "no.tsv"
    out = ("--out", tmp_path / "new")
    assert refused(capsys, "train", missing, *out) == f"there is no file {missing}; check the path"
    assert refused(capsys, "train", tmp_path, *out) == (
        f"{tmp_path} is a directory; name the file with the labelled texts in it, or a directory that has a folder for each "
        "class, with a text in each file"
    )
    assert refused(capsys, "train") == "name one FILE of labelled text to train on, or pass --demo"
    assert refused(capsys, "train", tsv, "--demo") == "name one FILE of labelled text to train on, or pass --demo"
    assert refused(capsys, "train", "--demo", "--valid", tsv) == (
        "--demo brings its own parts; leave out the options that say which files to read and how"
    )
    assert refused(capsys, "train", tsv, "--out", model) == (
        f"{model} is not empty; pass --overwrite to replace it, --resume to continue, or another directory"
    )
    assert refused(capsys, "predict", tmp_path / "none", "x") == (
        f"there is no directory {tmp_path / 'none'}; name one that linkboy train has written"
    )
    assert refused(capsys, "predict", model) == (
        'give texts to predict ("a text" ..., or - for standard input), or --file FILE'
    )
    assert refused(capsys, "predict", model, "-", "x") == (
        "give texts or a file (- is standard input), not both; put -- before a text that is a dash, as in: -- -"
    )
    assert refused(capsys, "predict", model, "--file", missing) == f"there is no file {missing}; check the path"
    assert not (tmp_path / "new").exists()


def test_an_unknown_option_value_names_the_choices(capsys, tsv):
    assert refused(capsys, "train", tsv, "--loss", "focl") == (
        'Invalid value "focl" for --loss. Choose from: "auto", "cross-entropy", "squared-hinge", "focal", "logit-adjusted". '
        'Did you mean "focal"?'
    )
    assert refused(capsys, "train", tsv, "--epochs", "0") == "--epochs must be an integer of at least 1, got 0"
    assert "--epoch" in refused(capsys, "train", tsv, "--epoch", "3")


def test_a_file_given_as_a_text_is_noticed(model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("one\ntwo\n")
    assert cli.run(["predict", str(model), "texts.txt", "x" * 5000]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 2
    assert printed.err.splitlines() == [
        "linkboy: 'texts.txt' is read as a text; to predict the texts of that file pass --file texts.txt",
        "linkboy: 2 texts hold nothing that the classifier knows, and got the answer for an empty one",
    ]


def test_a_broken_line_in_a_file_to_predict_is_named(capsys, model, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes(b"b\xe4d\n")
    assert refused(capsys, "predict", model, "--file", path) == (
        f"{path} line 1: byte 2 is not UTF-8 (0xe4), but the line reads 'bäd' with --encoding cp1252; correct the line or pass "
        "--on-bad-row skip"
    )


def test_every_text_gets_one_line_and_a_dash_can_be_a_text(model, capsys):
    assert cli.run(["predict", str(model), "--", "-", "a\tb\nc"]) == 0
    assert [line.split("\t")[2] for line in capsys.readouterr().out.splitlines()] == ["-", "a b c"]


def test_files_in_other_encodings_are_predicted(model, tmp_path, capsys):
    path = tmp_path / "texts.txt"
    for encoding in ("utf-16", "gb18030"):
        path.write_bytes("干净\n吵\n".encode(encoding))
        assert cli.run(["predict", str(model), "--file", str(path), "--encoding", encoding]) == 0
        assert [line.split("\t")[2] for line in capsys.readouterr().out.splitlines()] == ["干净", "吵"]
    assert refused(capsys, "predict", model, "--file", path, "--encoding", "nosuch") == (
        "--encoding must be one that Python knows, such as 'utf-8' or 'gb18030', got 'nosuch'"
    )


@pytest.mark.parametrize("out", ["answers.csv", "answers.tsv"])
@pytest.mark.parametrize(
    ("name", "encoding", "options", "marked"),
    [
        ("rows.csv", "utf-8", [], False),
        ("rows.csv", "utf-8-sig", [], True),
        ("rows.csv", "gb18030", ["--encoding", "gb18030"], True),
        ("rows.csv", "utf-16", [], True),
        ("rows.csv", "ascii", ["--encoding", "ascii"], False),
        ("rows.csv", "utf-8", ["--bom"], True),
        ("rows.csv", "utf-8-sig", ["--no-bom"], False),
        ("lines.txt", "utf-8-sig", [], True),
        ("lines.txt", "utf-8", [], False),
    ],
)
def test_a_table_is_marked_where_the_program_of_its_texts_needs_it(
    model, tmp_path, name, encoding, options, marked, out
):
    word = "clean" if encoding == "ascii" else "干净"
    path, out = tmp_path / name, tmp_path / out
    rows = f"{word}\n" if name.endswith("txt") else f"text,city\n{word},a\n"
    path.write_bytes(rows.encode(encoding))
    assert cli.run(["predict", str(model), "--file", str(path), "--out", str(out), *options]) == 0
    content = out.read_bytes()
    assert content.startswith(b"\xef\xbb\xbf") == marked
    assert content.count(b"\xef\xbb\xbf") == marked
    assert content.decode("utf-8-sig").splitlines()[1].startswith(word)
    assert cli.run(["predict", str(model), "--file", str(out), "--text-column", "text"]) == 0


@pytest.mark.parametrize(("kind", "marked"), [("xlsx", True), ("parquet", False)])
def test_a_table_of_a_workbook_is_marked_and_one_of_parquet_is_not(kind, marked):
    assert Content(Path("rows"), kind, io.BytesIO(), b"", packed=False).is_marked(None) == marked


def test_other_forms_have_no_mark(model, capsys, tmp_path):
    path, out = tmp_path / "rows.csv", tmp_path / "answers.jsonl"
    path.write_bytes("text,city\n干净,a\n".encode("utf-8-sig"))
    assert cli.run(["predict", str(model), "--file", str(path), "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b'{"text"')
    for arguments in (["--out", out, "--bom"], ["--bom"], ["--no-bom"]):
        message = "--bom is for a .csv or .tsv file of --out; leave it out"
        assert refused(capsys, "predict", model, "--file", path, *arguments) == message


def test_a_rate_that_explodes_is_one_sentence(capsys, tsv, tmp_path):
    arguments = ["train", str(tsv), "--out", str(tmp_path / "m"), "--epochs", "3", "--lr", "1e38", "--model", "cnn"]
    assert cli.run(arguments) == 2
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    assert "linkboy: " in printed


def test_skipped_rows_are_counted_and_shown(capsys, tmp_path, tsv):
    path = tmp_path / "broken.tsv"
    path.write_bytes(tsv.read_bytes() + b"no tab here\n\xff\tgood\n")
    assert refused(capsys, "train", path, "--out", tmp_path / "m") == (
        f"{path} line 201: there is no tab between text and label; correct the line or pass --on-bad-row skip"
    )
    assert cli.run(["train", str(path), "--out", str(tmp_path / "m"), "--epochs", "1", "--on-bad-row", "skip"]) == 0
    printed = capsys.readouterr().out
    assert "2 rows skipped" in printed
    assert "there is no tab between text and label" in printed


def test_without_babel_the_demo_says_how_to_install_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "babel", None)
    assert refused(capsys, "train", "--demo") == (
        "the demo task needs the package babel, which is not installed; run: pip install 'linkboy[demo]'"
    )


# --- as a process --------------------------------------------------------------------------------------------------------


def test_help_is_quick_and_loads_no_torch():
    code = (
        "import sys, contextlib, io\nfrom linkboy import cli\n"
        "with contextlib.redirect_stdout(io.StringIO()): cli.run(['--help'])\nprint('torch' in sys.modules)"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
    assert time.perf_counter() - started < 5  # 0.3 s on an idle machine


@pytest.mark.parametrize("command", ["train", "predict", "evaluate"])
def test_every_command_has_help(command, capsys):
    assert cli.run([command, "--help"]) == 0
    printed = capsys.readouterr().out
    assert "Usage: linkboy " + command in printed
    if command == "train":
        assert "torchrun" in printed


def test_ctrl_c_saves_and_tells_how_to_resume(tsv, tmp_path):
    out = tmp_path / "model"
    command = [
        sys.executable,
        "-m",
        "linkboy",
        "train",
        str(tsv),
        "--out",
        str(out),
        "--model",
        "cnn",
        "--epochs",
        "100000",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert any(line.startswith("epoch 1/") for line in process.stderr)  # from here on it trains
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in errors
    assert "stopped by SIGINT" in printed
    assert f"-m linkboy train {tsv} --out {out} --model cnn --epochs 100000 --resume" in printed
    assert list((out / "checkpoints" / "choosing").glob("step-*"))
    assert not (out / "config.json").exists()


def test_two_processes_train_together_and_write_one_directory(tsv, tmp_path):
    out = tmp_path / "model"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "linkboy"]
    command = [*torchrun, "train", str(tsv), "--out", str(out), "--model", "cnn", "--epochs", "6"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Everything is in") == 1
    assert "Traceback" not in done.stderr
    metrics = json.loads((out / "metrics.json").read_text("utf-8"))
    assert metrics["test"]["accuracy"] > 0.9
    lines = (out / "predictions.csv").read_text("utf-8").splitlines()
    assert len(lines) - 1 == metrics["test"]["row_count"] == len(set(lines)) - 1


# --- the commands of other rooms -----------------------------------------------------------------------------------------


def test_summary_counts_a_file_and_shows_a_model(model, capsys):
    assert cli.run(["summary", str(model / "model.safetensors")]) == 0
    assert "parameters" in capsys.readouterr().out
    assert cli.run(["summary", "torch.nn:Identity"]) == 0
    assert capsys.readouterr().out.startswith("Identity: 0 parameters")
    assert cli.run(["summary", str(model / "model.safetensors"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"] == lb.count_parameters(model / "model.safetensors").total
    assert cli.run(["summary", "torch.nn:Identity", "--input", "2,3"]) == 0
    assert "Identity  Identity  2 x 3            0      0" in capsys.readouterr().out
    message = f"--input needs a model that runs, package.module:name, got the file or folder {str(model)!r}"
    assert refused(capsys, "summary", str(model), "--input", "2,3") == message
    assert refused(capsys, "summary", "torch.nn:Idntity") == "'torch.nn' has no 'Idntity'; did you mean 'Identity'?"


def test_tokenize_writes_a_line_for_a_line(tmp_path, capsys):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n你\n好\nplay\n##ing\n", "utf-8")
    (tmp_path / "text.txt").write_text("你好\n\nPlaying x\n", "utf-8")
    arguments = ["tokenize", str(tmp_path / "vocab.txt"), str(tmp_path / "text.txt")]
    assert cli.run(arguments) == 0
    assert capsys.readouterr().out == "4 5\n\n6 7 1\n"
    assert cli.run([*arguments, "--tokens", "--special-tokens"]) == 0
    assert capsys.readouterr().out == "[CLS] 你 好 [SEP]\n[CLS] [SEP]\n[CLS] play ##ing [UNK] [SEP]\n"


def test_memory_says_what_can_be_released(capsys):
    assert cli.run(["memory"]) == 0
    assert "reference cycles" in capsys.readouterr().out


def test_a_vocabulary_goes_with_the_cnn_only(capsys, tsv, tmp_path):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("[PAD]\n[UNK]\n" + "\n".join("干净舒服热情方便脏吵冷漠破旧") + "\n", "utf-8")
    assert refused(capsys, "train", tsv, "--vocab", vocab) == (
        "--vocab is for a model that reads tokens, one of ('cnn', 'capsule', 'transformer'), got --model ngram; leave --vocab out"
    )
    arguments = [
        "train",
        str(tsv),
        "--model",
        "cnn",
        "--vocab",
        str(vocab),
        "--epochs",
        "2",
        "--out",
        str(tmp_path / "m"),
    ]
    assert cli.run(arguments) == 0
    assert len(lb.load_classifier(tmp_path / "m").encoder) == 16 + 1


# --- tables in, tables out -----------------------------------------------------------------------------------------------

GIVEN = [("1", "房间 干净", "好评"), ("2", "太 吵", "差评"), ("3", "热情, 方便", "好评")]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text(
        "id,评论,标签\n" + "".join(f'{number},"{text}",{label}\n' for number, text, label in GIVEN), "utf-8"
    )
    return path


def test_predict_reads_the_column_of_texts_of_a_table(model, table, capsys):
    assert cli.run(["predict", str(model), "--file", str(table)]) == 0
    printed = capsys.readouterr()
    lines = [line.split("\t") for line in printed.out.splitlines()]
    assert [(label, text) for label, _, text in lines] == [(label, text) for _, text, label in GIVEN]
    assert printed.err == "linkboy: text from column '评论'; comma, with header, UTF-8\n"


def test_a_title_above_the_names_is_left_out_by_predict_and_evaluate(model, table, capsys):
    table.write_text(f"客服工单汇总表,,\n{table.read_text('utf-8')}", "utf-8")
    form = "comma, with header in line 2 below '客服工单汇总表', UTF-8"
    assert cli.run(["predict", str(model), "--file", str(table)]) == 0
    printed = capsys.readouterr()
    assert [line.split("\t")[2] for line in printed.out.splitlines()] == [text for _, text, _ in GIVEN]
    assert printed.err == f"linkboy: text from column '评论'; {form}\n"
    assert cli.run(["evaluate", str(model), str(table)]) == 0
    assert form in capsys.readouterr().out
    table.write_text(table.read_text("utf-8").replace("评论", "说法"), "utf-8")
    assert cli.run(["predict", str(model), "--file", str(table)]) != 0
    assert capsys.readouterr().err == (
        f"linkboy: {table}: only one cell is filled above line 2, '客服工单汇总表', and several in that line, 'id', '说法', "
        "'标签'; if it is a title, delete the lines above the names of the columns, else pass --header where it names a "
        "column, or --no-header where it is a row\n"
    )


def test_predict_reads_the_file_that_it_was_trained_on(model, tsv, capsys):
    assert cli.run(["predict", str(model), "--file", str(tsv)]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [text for _, _, text in lines] == list(lb.read_labelled(tsv).texts)


def test_a_dash_is_standard_input_for_file_too(model, capsys, monkeypatch):
    monkeypatch.setattr(
        sys, "stdin", type("Stdin", (), {"buffer": io.BytesIO("干净\n".encode()), "isatty": lambda: False})
    )
    assert cli.run(["predict", str(model), "--file", "-"]) == 0
    assert capsys.readouterr().out.startswith("好评\t")


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_predict_writes_the_given_columns_and_the_answers(model, table, tmp_path, capsys, ending):
    out = tmp_path / f"answers{ending}"
    assert cli.run(["predict", str(model), "--file", str(table), "--out", str(out)]) == 0
    assert capsys.readouterr().err.endswith(f"linkboy: 3 rows in {out}\n")
    read = {".csv": pl.read_csv, ".jsonl": pl.read_ndjson, ".parquet": pl.read_parquet}
    frame = pl.read_csv(out, separator="\t") if ending == ".tsv" else read[ending](out)
    assert frame.columns == ["id", "评论", "标签", "predicted_label", "probability"]
    assert frame["评论"].to_list() == [text for _, text, _ in GIVEN]
    assert frame["predicted_label"].to_list() == frame["标签"].to_list()
    expected = lb.load_classifier(model).predict([text for _, text, _ in GIVEN]).probabilities
    assert frame["probability"].to_list() == pytest.approx(expected, abs=1e-6)
    assert "column '评论'" in str(lb.read_labelled(out, text_column="评论", label_column="标签"))


def test_lines_and_nested_json_are_written_too(model, tmp_path, capsys):
    lines, nested, out = tmp_path / "lines.txt", tmp_path / "rows.jsonl", tmp_path / "o.csv"
    lines.write_text("干净\n\n吵, 脏\n", "utf-8")
    assert cli.run(["predict", str(model), "--file", str(lines), "--out", str(out)]) == 0
    assert pl.read_csv(out)["text"].to_list() == ["干净", None, "吵, 脏"]
    nested.write_text('{"review": {"text": "干净"}, "n": [1]}\n{"review": {"text": null}}\n', "utf-8")
    assert (
        cli.run(["predict", str(model), "--file", str(nested), "--out", str(out), "--text-column", "review.text"]) == 0
    )
    assert pl.read_csv(out).columns == ["review.text", "n", "predicted_label", "probability"]


def test_given_columns_are_written_as_they_are(model, tmp_path, capsys):
    rows, out = tmp_path / "rows.parquet", tmp_path / "o.csv"
    given = {
        "text": ["干净"],
        "tiny": [1.5e-9],
        "long": [1234567.123456789],
        "yes": [True],
        "none": pl.Series([None], dtype=pl.String),
        "labels": [["卫生", "a|b"]],
        "days": [[datetime.date(2026, 1, 2)]],
    }
    pl.DataFrame(given).write_parquet(rows)
    assert cli.run(["predict", str(model), "--file", str(rows), "--out", str(out)]) == 0
    ((header, line),) = [list(csv.reader(out.read_text("utf-8").splitlines()))]
    assert header[:7] == list(given)
    assert line[:7] == ["干净", "1.5e-09", "1234567.123456789", "true", "", '["卫生", "a|b"]', '["2026-01-02"]']


def test_what_cannot_be_written_is_refused_before_anything_is(model, table, tmp_path, capsys):
    wrong = {
        (
            "--out",
            tmp_path / "o.xls",
        ): "--out must end in one of ('.csv', '.tsv', '.jsonl', '.ndjson', '.parquet'), got 'o.xls'",
        ("--out", tmp_path / "o.csv", "--json"): "--json and --top are for what is printed; leave them out with --out",
        ("--out", table): f"--out must be another file than the one that is read, got {table} for both",
        ("--label-map", "1=a"): "--label-map is for labels that are read, and predict reads none; leave it out",
    }
    for arguments, sentence in wrong.items():
        capsys.readouterr()
        assert cli.run(["predict", str(model), "--file", str(table), *map(str, arguments)]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"linkboy: {sentence}"
    answered = tmp_path / "o.csv"
    answered.write_text("text,predicted_label\na b,x\n")
    assert cli.run(["predict", str(model), "--file", str(answered), "--out", str(tmp_path / "p.csv")]) == 2
    assert capsys.readouterr().err.endswith(
        "the given rows have a column 'predicted_label' already, which the answers need; rename it or leave it out\n"
    )
    assert not (tmp_path / "p.csv").exists()
    assert refused(capsys, "predict", model, "a text", "--separator", "tab") == (
        "the options that say how to read a file need --file FILE; leave them out for texts"
    )


def test_a_map_of_labels_is_pairs(tsv, tmp_path, capsys):
    assert refused(capsys, "train", tsv, "--label-map", "好评", "--out", tmp_path / "m") == (
        "--label-map must be pairs such as 1=bad,2=good, got '好评'"
    )


def test_training_goes_on_where_the_reader_of_its_output_has_gone(tmp_path):
    rows = "".join(f"{word} {n}\t{label}\n" for n in range(30) for word, label in (("干净", "好评"), ("太吵", "差评")))
    (tmp_path / "rows.tsv").write_text(rows, "utf-8")
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "linkboy", "train", str(tmp_path / "rows.tsv"), "--out", str(tmp_path / "model")]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(write)
    assert done.returncode == 0, done.stderr
    assert lb.load_classifier(tmp_path / "model").predict(["干净"]).labels[0] == "好评"
