"""What can be done with a directory that `linkboy train` has written: predict, evaluate, explain, export."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from linkboy._report import plural, visible
from linkboy.cli._lines import json_lines, tab_lines
from linkboy.cli._printing import printer, show_report
from linkboy.cli._reading import READING_OPTIONS, Reading, ReadingOptions
from linkboy.cli._wording import as_options

if TYPE_CHECKING:
    from linkboy.classify._given import GivenTexts
    from linkboy.classify.saved._thresholds import Threshold
    from linkboy.classify.saved.export import Form

Thresholds = Annotated[tuple[str, ...], Parameter(allow_leading_hyphen=True, show_default=False)]
_FILES: "dict[Form, str]" = {"onnx": "model.onnx", "torchscript": "model.pt", "torch-export": "model.pt2"}


def predict(
    directory: Path,
    /,
    *texts: str,
    file: Path | None = None,
    out: Path | None = None,
    bom: Annotated[bool | None, Parameter(negative="--no-bom")] = None,
    top: int = 1,
    threshold: Thresholds = (),
    abstain: float | None = None,
    json: bool = False,
    encoder: Path | None = None,
    reading: Reading = ReadingOptions(),  # noqa: B008 (frozen)
) -> None:
    """Predict the class of texts: label, probability and text, one line each, separated by tabs.

    Parameters
    ----------
    directory
        A directory that linkboy train has written.
    texts
        The texts. A single - reads standard input, as --file - does. Put -- before texts that begin with a dash.
    file
        A table in any form that linkboy train reads, of which the texts are predicted; or a file with one text per line,
        any number of lines, blank ones too; or - for standard input, of which each line is answered as it comes: a text, a
        JSON object, or with --separator a row of a table.
    out
        Write the given columns with predicted_label and probability into this file: .csv, .tsv, .jsonl or .parquet.
    bom
        Whether a .csv or .tsv of --out begins with a byte order mark, by which Excel tells UTF-8; by default where the file
        of texts is a workbook, begins with one, or is not UTF-8.
    top
        How many classes to print for each text.
    threshold
        Give no class to a text whose likeliest one is below this probability, such as 0.8; where a text may have several
        labels, give those that are at or above it. With the name of a class, such as fraud=0.2, a text gets that class from
        there on, even where another is likelier, and below it the likeliest of the others; once for each class.
    abstain
        Give no class where that is needed for this precision, such as 0.95; the threshold is chosen on rows that the model
        has not learned from, and its coverage is said.
    json
        Print one JSON object per line.
    encoder
        Where the pretrained encoder is now that the classifier was trained with, if it has been moved.
    """
    from linkboy import load_classifier
    from linkboy.classify._given import answers, texts_by_hand, write_answers
    from linkboy.classify.saved._thresholds import check_threshold, threshold_note
    from linkboy.classify.saved.predictions import unknown_texts

    _check_predict(texts, file, out, printed=json or top != 1, reading=reading)
    if bom is not None and (out is None or out.suffix.lower() not in (".csv", ".tsv")):
        raise ValueError("--bom is for a .csv or .tsv file of --out; leave it out")
    least = _threshold_of(threshold)
    if least is not None and top != 1 and not json:
        raise ValueError(
            "--top prints the likeliest classes whatever the threshold; add --json, which shows both, or leave one out"
        )
    classifier = load_classifier(directory, encoder=encoder)
    for text in texts:
        if _names_a_file(text):
            say(f"{text!r} is read as a text; to predict the texts of that file pass --file {text}")
    with (
        nullcontext(texts_by_hand(texts)) if file is None else _opened(file, reading, classifier.text_columns) as given
    ):
        if given.note:
            say(given.note)
        if abstain is not None:
            if least is not None:
                raise ValueError(
                    "--threshold and --abstain cannot go together: --abstain chooses a threshold; leave one out"
                )
            decided = classifier.decision_for(abstain)
            say(str(decided))
            least = decided.threshold
        elif least is not None:
            check_threshold(least, classifier.class_names, several=classifier.several)
            say(threshold_note(least, several=classifier.several))
        if out is not None:
            count = write_answers(classifier, given, out, threshold=least, mark=bom)
            say(f"{plural(count, 'row')} in {out}")
        else:
            write = json_lines if json else tab_lines
            for predictions in answers(classifier, given, top=top, threshold=least):
                sys.stdout.write(write(predictions))
                sys.stdout.flush()
        if given.unknown_count:
            say(unknown_texts(given.unknown_count))


def _check_predict(
    texts: tuple[str, ...], file: Path | None, out: Path | None, *, printed: bool, reading: ReadingOptions
) -> None:
    """Refuse options of predict that do not go together."""
    if texts and file is not None:
        raise ValueError(
            "give texts or a file (- is standard input), not both; put -- before a text that is a dash, as in: -- -"
        )
    if not texts and file is None:
        raise ValueError('give texts to predict ("a text" ..., or - for standard input), or --file FILE')
    if out is not None and printed:
        raise ValueError("--json and --top are for what is printed; leave them out with --out")
    if out is not None and file is not None and out.exists() and file.exists() and out.samefile(file):
        raise ValueError(f"--out must be another file than the one that is read, got {out} for both")
    if texts and reading != ReadingOptions():
        raise ValueError("the options that say how to read a file need --file FILE; leave them out for texts")


def say(sentence: str) -> None:
    """Print a remark beside the answers, which standard output is for."""
    print(f"linkboy: {visible(as_options(sentence, READING_OPTIONS))}", file=sys.stderr)


@contextmanager
def _opened(file: Path, reading: ReadingOptions, known: list[str]) -> "Iterator[GivenTexts]":
    """Open a file of texts, or standard input, which is read as it comes."""
    from linkboy.classify._given import texts_of_file, texts_of_stream
    from linkboy.classify.reading.labelled import SkippedRow, bad_row_of

    asked = reading.for_texts(known)
    skipped: list[SkippedRow] = []
    if file == Path("-"):
        name = "standard input"
        bad_row = bad_row_of(Path(name), reading.on_bad_row, skipped)
        yield texts_of_stream(sys.stdin.buffer, asked, bad_row, name=name)
    else:
        with texts_of_file(file, asked, bad_row_of(file, reading.on_bad_row, skipped)) as given:
            yield given
    for row in skipped[:10]:
        say(f"line {row.line} was skipped: {row.reason}")
    if skipped:
        say(f"{plural(len(skipped), 'row')} skipped")


def _threshold_of(given: Sequence[str]) -> "Threshold | None":
    """Return the threshold that `0.8` gives, or those that `fraud=0.2` and others of its form give."""
    pairs = [text.rpartition("=") for text in given]  # the name of a class may hold an =
    if len(pairs) > 1 and not all(equals for _, equals, _ in pairs):
        raise ValueError(
            f"--threshold must be one probability, or CLASS=PROBABILITY for each, got {' and '.join(given)}"
        )
    names = [name for name, _, _ in pairs]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise ValueError(f"--threshold names {twice!r} twice; leave one out")
    values = [_probability(number, text) for (_, _, number), text in zip(pairs, given, strict=True)]
    if pairs and pairs[0][1]:
        return dict(zip(names, values, strict=True))
    return values[0] if values else None


def _probability(number: str, given: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise ValueError(f"--threshold must be a probability, or CLASS=PROBABILITY, got {given!r}") from None


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
    threshold: Thresholds = (),
    json: bool = False,
    encoder: Path | None = None,
    reading: Reading = ReadingOptions(),  # noqa: B008 (frozen)
) -> None:
    """Measure a classifier on labelled texts: precision, recall and F1 by class, accuracy and macro-F1.

    Parameters
    ----------
    directory
        A directory that linkboy train has written.
    file
        Labelled texts, in a form that linkboy train reads.
    threshold
        Measure what predict gives with --threshold CLASS=PROBABILITY; where a text may have several labels, also one
        probability for all.
    json
        Print one JSON object.
    encoder
        Where the pretrained encoder is now that the classifier was trained with, if it has been moved.
    """
    from linkboy import load_classifier
    from linkboy.classify.saved._thresholds import threshold_note

    least = _threshold_of(threshold)
    classifier = load_classifier(directory, encoder=encoder)
    data = reading.read(file, known=classifier.text_columns, known_label=classifier.label_columns)
    metrics = classifier.evaluate(data, threshold=least)
    if not json:
        printer()(data)
    if least is not None:
        (say if json else printer())(threshold_note(least, several=classifier.several))
    show_report(metrics, json=json)


def explain(
    directory: Path,
    /,
    *texts: str,
    label: str | None = None,
    against: str | None = None,
    json: bool = False,
    encoder: Path | None = None,
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
    encoder
        Where the pretrained encoder is now that the classifier was trained with, if it has been moved.
    """
    from linkboy import load_classifier

    if not texts:
        raise ValueError('give texts to explain ("a text" ...)')
    show_report(load_classifier(directory, encoder=encoder).explain(texts, label=label, against=against), json=json)


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
