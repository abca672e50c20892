"""`linkboy train`: from a file of labelled text to a directory with a classifier."""

import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from linkboy._report import Printable
from linkboy.classify.recipe import TrainingOptions
from linkboy.cli._printing import is_first_process, printer
from linkboy.cli._reading import Reading, ReadingOptions

if TYPE_CHECKING:  # importing what loads torch costs time that --help must not pay
    from linkboy.classify import LabelledTexts

DEMO_NAMES = ("Plattdüütsch", "尼德兰王国", "Ελληνόφωνα νησιά")


def train(
    file: Path | None = None,
    /,
    *,
    demo: bool = False,
    valid: Path | None = None,
    test: Path | None = None,
    out: Path | None = None,
    options: Annotated[TrainingOptions, Parameter(name="*", negative=None)] = TrainingOptions(),  # noqa: B008 (frozen)
    reading: Reading = ReadingOptions(),  # noqa: B008
    weight_column: str | None = None,
    class_names: Path | None = None,
    corrections: Path | None = None,
    lang: Literal["en", "zh"] | None = None,
    overwrite: bool = False,
    resume: bool = False,
) -> int:
    """Train a text classifier on labelled text and write it into a directory.

    FILE holds a text and a label per row: delimited text with or without a header, JSON, Parquet, an Excel workbook, or
    fastText's __label__ lines, each also packed; or FILE is a directory with a folder for each class and a text in each file.
    What was read is printed first; where a file can be read in two ways, both are listed with the option that chooses.

    Train on several processes with `torchrun --nproc-per-node 2 -m linkboy train FILE`.

    Parameters
    ----------
    file
        The labelled texts to learn from.
    demo
        Train on a task that needs no file: which of 32 languages is a name written in?
    valid
        Labelled texts that choose the epoch to keep; a tenth of FILE by default.
    test
        Labelled texts that are only measured; a tenth of FILE by default.
    out
        Directory for the classifier, its metrics and charts; by default FILE's name with -model behind it.
    weight_column
        Name of a column that holds the weight of each row.
    class_names
        File with one class name per line, for labels that are numbers from 0.
    corrections
        suspects.csv of an earlier run on FILE, without the rows whose label is to stay: the others get their suggested_label,
        which may be edited.
    lang
        Language of the report page: en or zh; by default that of the environment (LC_ALL, LC_MESSAGES, LANG).
    overwrite
        Replace what an earlier run wrote into the directory.
    resume
        Continue a run that was stopped; the other options must be those it was started with.
    """
    from linkboy import train_classifier
    from linkboy.classify._demo import demo_data
    from linkboy.classify.reading._parts import read_class_names

    if demo == (file is not None):
        raise ValueError("name one FILE of labelled text to train on, or pass --demo")
    if demo and (any((valid, test, class_names, weight_column, corrections)) or reading != ReadingOptions()):
        raise ValueError("--demo brings its own parts; leave out the options that say which files to read and how")

    def read(path: Path) -> "LabelledTexts":
        return reading.read(path, weight_column=weight_column)

    files = {"train": file, "valid": valid, "test": test}
    parts = demo_data() if file is None else {part: read(path) for part, path in files.items() if path is not None}
    directory = out or Path("demo-model" if file is None else f"{_stem(file)}-model")
    show = printer()
    try:
        report = train_classifier(
            parts["train"],
            directory,
            valid=parts.get("valid"),
            test=parts.get("test"),
            class_names=class_names and read_class_names(class_names),
            options=options,
            corrections=corrections,
            overwrite=overwrite,
            resume=resume,
            lang=lang,
            show=show,
        )
    except (KeyboardInterrupt, SystemExit) as stop:
        if not (directory / "run.json").exists():
            raise
        saved = next(iter(getattr(stop, "__notes__", ())), "interrupted")
        show(f"{saved}; continue with: {_resume_command()}")
        return stop.code if isinstance(stop, SystemExit) and isinstance(stop.code, int) else 128 + signal.SIGINT
    show(report)
    if demo:
        _show_demo(directory, show)
    else:
        predict = _predict_command(directory, parts["train"].text_columns)
        show(f"try next:  {predict}    {_program()} evaluate {directory} FILE")
    return 0


def _show_demo(directory: Path, show: Callable[[Printable | str], None]) -> None:
    from linkboy import load_classifier

    if not is_first_process():
        return
    show("Three names that it has never seen:")
    show(load_classifier(directory).predict(DEMO_NAMES))
    show(
        "try next:\n"
        f'  {_program()} predict {directory} "your own name"\n'
        f"  {_program()} train your.csv   (a text and a label per row)\n"
        f"  {_program()} train --demo --model cnn --out demo-cnn   (the same task with convolutions)"
    )


def _predict_command(directory: Path, columns: Sequence[str]) -> str:
    """Return a command that predicts one text, which is an object of JSON where the classifier reads several columns."""
    if len(columns) < 2:
        return f'{_program()} predict {directory} "a text"'
    row = json.dumps(dict.fromkeys(columns, "..."), ensure_ascii=False)
    return f"echo {shlex.quote(row)} | {_program()} predict {directory} -"


def _resume_command() -> str:
    """Return the command that was given, as it continues its run."""
    arguments = [argument for argument in sys.argv[1:] if argument not in ("--resume", "--overwrite")]
    return f"{_program()} {shlex.join([*arguments, '--resume'])}"


def _program() -> str:
    """Return how linkboy can be called again from where it was called."""
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1":
        return f"torchrun --nproc-per-node {processes} -m linkboy"
    if Path(sys.argv[0]).name != "linkboy":
        return f"{Path(sys.executable).name} -m linkboy"
    return "linkboy" if shutil.which("linkboy") else sys.argv[0]


def _stem(file: Path) -> str:
    """Return the name of a file of labelled texts without the endings that say its form."""
    from linkboy.classify.reading._content import unpacked_name

    return unpacked_name(file).stem or "linkboy"
