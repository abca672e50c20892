"""Rooms name the arguments of Python; the command line names its options."""

import ast
import re
from pathlib import Path

import pytest

from linkboy.cli import run
from linkboy.cli._wording import as_options
from linkboy.cli.app import _options, app

SENTENCES = {
    "rows.tsv line 2: the label is empty; correct the line or pass on_bad_row='skip'":
        "rows.tsv line 2: the label is empty; correct the line or pass --on-bad-row skip",
    "m is not empty; pass overwrite=True to replace it, resume=True to continue, or another directory":
        "m is not empty; pass --overwrite to replace it, --resume to continue, or another directory",
    "name one, such as text_column='my text', or write": "name one, such as --text-column 'my text', or write",
    "it was started with refit=True, and now it is run with refit=False":
        "it was started with --refit, and now it is run with --no-refit",
    "it was started with lr=None, and now it is run with lr=0.3; pass":
        "it was started without --lr, and now it is run with --lr 0.3; pass",
    "it was started with model='cnn'": "it was started with --model cnn",
    "pass device='cpu' or device='auto'": "pass --device cpu or --device auto",
    "too few rows; pass one as valid=...": "too few rows; pass one as --valid ...",
    "reduction='none' is not an option, and a = b neither": "reduction='none' is not an option, and a = b neither",
    "class_weight must be one of ('none', 'balanced'), got 'x'": "--class-weight must be one of ('none', 'balanced'), got 'x'",
    "f.csv: the labels are written as lists, so label_separator has no meaning; leave label_separator out":
        "f.csv: the labels are written as lists, so --label-separator has no meaning; leave --label-separator out",
    "encoder is for model='ngram', got model='cnn'; leave encoder or model out":
        "--encoder is for --model ngram, got --model cnn; leave --encoder or --model out",
    "the n-gram model needs n-grams; the encoder must be there": "the n-gram model needs n-grams; the encoder must be there",
    "gamma is for a focal loss; leave one out, or pass words": "--gamma is for a focal loss; leave one out, or pass words",
    "/data/class_names/text_column.csv holds no 'label_column here', \"class_names\" or a_thing":
        "/data/class_names/text_column.csv holds no 'label_column here', \"class_names\" or a_thing",
    "lr must be a number above 0, got -1.0": "--lr must be a number above 0, got -1.0",
}  # fmt: skip


@pytest.mark.parametrize("sentence", SENTENCES)
def test_arguments_become_options(sentence):
    assert as_options(sentence, _options("train")) == SENTENCES[sentence]


def test_an_option_is_named_only_where_the_command_has_it():
    assert "--threshold" in _options("predict")
    assert "--threshold" not in _options("train")
    assert not {"--no-json", "--empty-threshold"} & _options("predict")
    assert {"--no-header", "--no-refit"} <= _options("train")


SOURCES = Path(__file__).parents[2] / "src/linkboy"
NAMED = {
    name[2:].replace("-", "_") for command in app if command[0] != "-" for name in _options(command) if name[:2] == "--"
}


def refusals(path):
    """The messages with which a file of the room refuses arguments, values that are only known at run time left open."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            text = node.exc.args[0]
            parts = text.values if isinstance(text, ast.JoinedStr) else [text]
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "7"
                for part in parts
                if not isinstance(part, ast.BinOp)
            )


@pytest.mark.parametrize("path", sorted((SOURCES / "classify").rglob("*.py")), ids=lambda path: path.stem)
def test_no_refusal_of_the_classifier_names_an_argument_of_two_words_on_the_command_line(path):
    every = {f"--{name.replace('_', '-')}" for name in NAMED}
    for message in refusals(path):
        said = as_options(message, every)
        bare = re.sub(r"'[^']*'", "", said)
        assert not [name for name in re.findall(r"(?<![-\w])[a-z]+_[a-z_]+\b", bare) if name in NAMED], said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--class-weight", "balanced", "--model", "ngram", "--lr", "-1"], "--lr"),
        (["--batch-size", "0"], "--batch-size"),
        (["--gamma", "2"], "--gamma is for --loss focal"),
        (
            ["--encoder", "nowhere", "--model", "cnn"],
            "--encoder is for --model ngram, got --model cnn; leave --encoder or --model out",
        ),
        (["--separator", "ab"], "--separator must be one character"),
        (["--label-separator", ""], "--label-separator must be what stands between labels"),
        (["--vocab", "v.txt"], "--vocab is for a model that reads tokens"),
        (["--budget", "soon"], "--budget must be a time above 0"),
        (
            ["--text-column", "text", "--label-column", "text"],
            "--text-column, --label-column and --weight-column must be different",
        ),
    ],
)
def test_a_refusal_names_the_option(tmp_path, capsys, arguments, message):
    file = tmp_path / "rows.csv"
    file.write_text("text,label\n" + "".join(f"word {n},{'ab'[n % 2]}\n" for n in range(40)), "utf-8")
    assert run(["train", str(file), "--out", str(tmp_path / "m"), *arguments]) == 2
    assert message in capsys.readouterr().err
