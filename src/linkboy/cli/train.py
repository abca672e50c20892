"""`linkboy train`: from a file of labelled text to a directory with a classifier."""

import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from linkboy._report import Report
from linkboy.cli.printing import is_first_process, printer

if TYPE_CHECKING:  # importing a room costs time that --help must not pay
    from linkboy.classify.data import LabelledTexts

DEMO_NAMES = ("Plattdüütsch", "尼德兰王国", "Ελληνόφωνα νησιά")


def train(
    file: Path | None = None,
    /,
    *,
    demo: bool = False,
    valid: Path | None = None,
    test: Path | None = None,
    out: Path | None = None,
    model: Literal["ngram", "cnn", "capsule", "transformer"] = "ngram",
    loss: Literal["auto", "cross-entropy", "squared-hinge", "focal", "logit-adjusted"] = "auto",
    gamma: float | None = None,
    class_weight: Literal["none", "balanced", "sqrt", "effective"] = "none",
    metric: Literal["auto", "accuracy", "macro-f1"] = "auto",
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    accumulate: int = 1,
    vocab: Path | None = None,
    vectors: Path | None = None,
    freeze: Literal["all", "known", "none"] | None = None,
    early_stopping: int | None = None,
    ema: float | None = None,
    no_refit: bool = False,
    budget: str | None = None,
    compile: bool = False,
    checkpoint_every: int | None = None,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    seed: int = 0,
    text_column: str | None = None,
    label_column: str | None = None,
    weight_column: str | None = None,
    class_names: Path | None = None,
    encoding: str = "utf-8",
    on_bad_row: Literal["raise", "skip"] = "raise",
    overwrite: bool = False,
    resume: bool = False,
) -> int:
    """Train a text classifier on labelled text and write it into a directory.

    FILE holds one text and one label per row: .tsv or .txt (`text<TAB>label`, or with a header), .csv with a header,
    .jsonl or .parquet, each also with .gz behind it. Labels are words or numbers, text is UTF-8 in any script.

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
        Directory for the classifier, its figures and pictures; by default FILE's name with -model behind it.
    model
        ngram: a linear model over character and word n-grams, trained in seconds. cnn: convolutions over tokens.
        capsule: their features as capsules, routed to a capsule per class. transformer: two small layers of attention.
    loss
        What is made small. auto: logit-adjusted for classes of very unequal size, else squared-hinge or cross-entropy.
    gamma
        For --loss focal: how strongly it looks away from what is already right; 2 by default.
    class_weight
        Weigh rows by the size of their class.
    metric
        What is chosen by on the validation part; auto takes macro-f1 where classes are of very unequal size.
    epochs
        Passes over the training texts; chosen from their number by default.
    batch_size
        Rows per batch, over all processes; chosen from the number of texts by default.
    lr
        Peak learning rate; that of the model by default.
    accumulate
        Batches per step of the optimizer.
    vocab
        For models that read tokens, all but ngram: a BERT vocab.txt to use in place of a vocabulary learned from FILE.
    vectors
        For --model cnn: a file of pretrained vectors for the tokens, such as linkboy vectors reads.
    freeze
        Which rows of --vectors stay as they are: all, the known ones that the file has, or none, the default.
    early_stopping
        Stop after that many epochs in which the metric did not improve.
    ema
        Decay of a moving average of the weights, which is then what is kept; for instance 0.999.
    no_refit
        Save the model as trained on FILE alone, not trained once more on FILE and the validation texts together.
    budget
        Time to use, such as 60s, 2m or 1h: other settings are tried while there is time, and the best are kept.
    compile
        Run the model through torch.compile.
    checkpoint_every
        Save for --resume after that many steps; once a minute by default.
    precision
        Arithmetic of the model; bf16 and fp16 are mixed precision.
    device
        Where to train; auto takes the fastest there is.
    seed
        Of the split, the order of the rows and the initial weights.
    text_column
        Name of the column with the text, where it is not a usual one such as text, review or 文本.
    label_column
        Name of the column with the label, where it is not a usual one such as label, class or 标签.
    weight_column
        Name of a column with the weight of each row.
    class_names
        File with one class name per line, for labels that are numbers from 0.
    encoding
        Of text files, for instance gb18030.
    on_bad_row
        Stop at a row that cannot be read, or skip and count it.
    overwrite
        Replace what an earlier run wrote into the directory.
    resume
        Go on with a run that was stopped; the other options must be those it was begun with.
    """
    from linkboy import TrainingOptions, read_labelled, train_classifier
    from linkboy.classify.budget import seconds_of
    from linkboy.classify.demo import demo_data
    from linkboy.classify.split import read_class_names

    options = TrainingOptions(
        model=model, loss=loss, gamma=gamma, class_weight=class_weight, metric=metric, epochs=epochs,
        batch_size=batch_size, lr=lr, seed=seed, device=device, precision=precision, accumulate=accumulate,
        vocab=str(vocab) if vocab else None, vectors=str(vectors) if vectors else None, freeze=freeze,
        early_stopping=early_stopping, ema=ema, refit=not no_refit, budget=seconds_of(budget) if budget else None,
        compile=compile,
        checkpoint_every=checkpoint_every,
    )  # fmt: skip

    if demo == (file is not None):
        raise ValueError("name one FILE of labelled text to train on, or pass --demo")
    reading = (valid, test, class_names, text_column, label_column, weight_column)
    if demo and (any(reading) or encoding != "utf-8" or on_bad_row != "raise"):
        raise ValueError("--demo brings its own parts; leave out the options that say which files to read and how")

    def read(path: Path) -> "LabelledTexts":
        return read_labelled(
            path,
            text_column=text_column,
            label_column=label_column,
            weight_column=weight_column,
            on_bad_row=on_bad_row,
            encoding=encoding,
        )

    if file is None:
        parts = demo_data()
    else:
        parts = {"train": read(file), "valid": valid and read(valid), "test": test and read(test)}
    directory = out or Path("demo-model" if file is None else f"{_stem(file)}-model")
    show = printer()
    try:
        report = train_classifier(
            **parts,
            out=directory,
            class_names=class_names and read_class_names(class_names),
            options=options,
            overwrite=overwrite,
            resume=resume,
            show=show,
        )
    except KeyboardInterrupt:
        if not (directory / "run.json").exists():
            raise
        show(f"interrupted; go on with: {_resume_command()}")
        return 128 + signal.SIGINT
    show(report)
    if report.history.stopped in ("SIGINT", "SIGTERM"):
        show(f"go on with: {_resume_command()}")
        return 128 + signal.Signals[report.history.stopped]
    if demo:
        _show_demo(directory, show)
    else:
        show(f'try next:  {_program()} predict {directory} "a text"    {_program()} evaluate {directory} FILE')
    return 0


def _show_demo(directory: Path, show: Callable[[Report | str], None]) -> None:
    from linkboy import load_classifier

    if not is_first_process():
        return
    show("Three names it has never seen:")
    show(load_classifier(directory).predict(DEMO_NAMES))
    show(
        "try next:\n"
        f'  {_program()} predict {directory} "your own name"\n'
        f"  {_program()} train your.csv   (a text and a label per row)\n"
        f"  {_program()} train --demo --model cnn --out demo-cnn   (the same task with convolutions)"
    )


def _resume_command() -> str:
    """Return the command that was given, such that it goes on with its run."""
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
    name = file.name.removesuffix(".gz")
    return Path(name).stem or "linkboy"
