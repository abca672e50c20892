"""What can be done with a directory that `linkboy train` has written: predict, evaluate, explain, export."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from linkboy.cli._lines import json_lines, lines_of, tab_lines
from linkboy.cli._printing import printer, show_report
from linkboy.cli._reading import Reading, ReadingOptions

if TYPE_CHECKING:
    from linkboy.classify.export import Form

_FILES: "dict[Form, str]" = {"onnx": "model.onnx", "torchscript": "model.pt", "torch-export": "model.pt2"}


def predict(
    directory: Path,
    /,
    *texts: str,
    file: Path | None = None,
    top: int = 1,
    json: bool = False,
    encoding: str = "utf-8",
) -> None:
    """Predict the class of texts: label, probability and text, one line each, separated by tabs.

    Parameters
    ----------
    directory
        A directory that linkboy train has written.
    texts
        The texts. A single - reads one text per line from standard input. Put -- before texts that begin with a dash.
    file
        A file with one text per line, any number of lines, or - for standard input; blank lines are answered too.
    top
        How many classes to print for each text.
    json
        Print one JSON object per line.
    encoding
        Encoding of the file or of standard input.
    """
    from linkboy import load_classifier

    if bool(texts) == (file is not None):
        raise ValueError('give texts to predict ("a text" ..., or - for standard input), or --file FILE')
    classifier = load_classifier(directory)
    for text in texts:
        if _names_a_file(text):
            print(
                f"linkboy: {text!r} is read as a text; to predict the lines of that file pass --file {text}",
                file=sys.stderr,
            )
    source = iter(texts) if file is None else lines_of(file, encoding)
    write = json_lines if json else tab_lines
    # Someone who types waits for the answer to each line.
    typed = file == Path("-") and sys.stdin.isatty()
    for predictions in classifier.predict_stream(source, top=top, batch_size=1 if typed else 4096):
        sys.stdout.write(write(predictions))
        sys.stdout.flush()


def _names_a_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or with a NUL in it
        return False


def evaluate(
    directory: Path,
    file: Path,
    /,
    *,
    json: bool = False,
    reading: Reading = ReadingOptions(),  # noqa: B008 (frozen)
) -> None:
    """Measure a classifier on labelled texts: precision, recall and F1 by class, accuracy and macro-F1.

    Parameters
    ----------
    directory
        A directory that linkboy train has written.
    file
        Labelled texts, in a form that linkboy train reads.
    json
        Print one JSON object.
    """
    from linkboy import load_classifier

    classifier = load_classifier(directory)
    data = reading.read(file)
    if not json:
        printer()(data)
    show_report(classifier.evaluate(data), json=json)


def explain(
    directory: Path,
    /,
    *texts: str,
    label: str | None = None,
    against: str | None = None,
    json: bool = False,
) -> None:
    """Show which pieces of a text decided: what each adds to the log-odds of one class against another.

    For the ngram model the figures are exact and add up. For the others each word (a character where words are not
    spaced) is left out in turn; such figures do not add up.

    Parameters
    ----------
    directory
        A directory that linkboy train has written.
    texts
        The texts. Put -- before texts that begin with a dash.
    label
        The class to explain; by default the likeliest one.
    against
        The class to compare it with; by default the likeliest other one.
    json
        Print one JSON object.
    """
    from linkboy import load_classifier

    if not texts:
        raise ValueError('give texts to explain ("a text" ...)')
    show_report(load_classifier(directory).explain(texts, label=label, against=against), json=json)


def export(
    directory: Path,
    /,
    *,
    onnx: bool = False,
    torchscript: bool = False,
    torch_export: bool = False,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Write the model as one file that runs without linkboy, and check that it gives the same answers.

    Parameters
    ----------
    directory
        A directory that linkboy train has written.
    onnx
        Write an ONNX file, for ONNX Runtime and other runtimes.
    torchscript
        Write a TorchScript file, for libtorch.
    torch_export
        Write a program of torch.export.
    out
        The file; by default model.onnx, model.pt or model.pt2 in the directory.
    json
        Print one JSON object.
    """
    from linkboy import load_classifier

    asked: list[Form] = [form for form, wanted in zip(_FILES, (onnx, torchscript, torch_export), strict=True) if wanted]
    if len(asked) != 1:
        raise ValueError("choose one form to write: --onnx, --torchscript or --torch-export")
    report = load_classifier(directory).export(out or directory / _FILES[asked[0]], form=asked[0])
    show_report(report, json=json)
