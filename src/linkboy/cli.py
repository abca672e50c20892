"""The command line: every command calls one public function and prints its report."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from linkboy import __version__
from linkboy._report import Report

if TYPE_CHECKING:  # importing a room costs time that --help must not pay
    from linkboy.classify.classifier import Predictions
    from linkboy.classify.data import LabelledTexts

app = App(
    name="linkboy",
    help="Practical PyTorch, done right: train a text classifier, predict with it, and look into models and memory.",
    version=__version__,
    default_parameter=Parameter(negative=()),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
DEMO_NAMES = ("Plattdüütsch", "尼德兰王国", "Ελληνόφωνα νησιά")


@app.command
def train(
    file: Path | None = None,
    /,
    *,
    demo: bool = False,
    valid: Path | None = None,
    test: Path | None = None,
    out: Path | None = None,
    model: Literal["ngram", "cnn", "capsule"] = "ngram",
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
        capsule: their features as capsules, routed to a capsule per class.
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
        For --model cnn or capsule: a BERT vocab.txt to use in place of a vocabulary learned from FILE.
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
    from linkboy.classify.demo import demo_data
    from linkboy.classify.split import read_class_names

    options = TrainingOptions(
        model=model, loss=loss, gamma=gamma, class_weight=class_weight, metric=metric, epochs=epochs,
        batch_size=batch_size, lr=lr, seed=seed, device=device, precision=precision, accumulate=accumulate,
        vocab=str(vocab) if vocab else None, vectors=str(vectors) if vectors else None, freeze=freeze,
        early_stopping=early_stopping, ema=ema, refit=not no_refit, compile=compile,
        checkpoint_every=checkpoint_every,
    )  # fmt: skip

    def read(path: Path | None) -> "LabelledTexts | None":
        if path is None:
            return None
        return read_labelled(
            path,
            text_column=text_column,
            label_column=label_column,
            weight_column=weight_column,
            on_bad_row=on_bad_row,
            encoding=encoding,
        )

    if demo == (file is not None):
        raise ValueError("name one FILE of labelled text to train on, or pass --demo")
    reading = (valid, test, class_names, text_column, label_column, weight_column)
    if demo and (any(reading) or encoding != "utf-8" or on_bad_row != "raise"):
        raise ValueError("--demo brings its own parts; leave out the options that say which files to read and how")
    train_part = read(file)
    parts = demo_data() if train_part is None else {"train": train_part, "valid": read(valid), "test": read(test)}
    directory = out or Path("demo-model" if file is None else f"{_stem(file)}-model")
    show = _printer()
    try:
        report = train_classifier(
            parts["train"],
            directory,
            valid=parts["valid"],
            test=parts["test"],
            class_names=read_class_names(class_names) if class_names else None,
            options=options,
            overwrite=overwrite,
            resume=resume,
            show=show,
        )
    except KeyboardInterrupt:
        if not (directory / "run.json").exists():
            raise
        show(f"interrupted; go on with: {_same_command('--resume', without='--overwrite')}")
        return 128 + signal.SIGINT
    show(report)
    if report.history.stopped in ("SIGINT", "SIGTERM"):
        show(f"go on with: {_same_command('--resume', without='--overwrite')}")
        return 128 + signal.Signals[report.history.stopped]
    if demo:
        _show_demo(directory, show)
    else:
        show(f'try next:  {_program()} predict {directory} "a text"    {_program()} evaluate {directory} FILE')
    return 0


@app.command
def predict(
    directory: Path,
    /,
    *texts: str,
    file: Path | None = None,
    top: int = 1,
    json: bool = False,
    encoding: str = "utf-8",
) -> None:
    """Tell the class of texts: label, probability and text, one line each, with tabs between.

    Parameters
    ----------
    directory
        What linkboy train has written.
    texts
        The texts. A single - reads one text per line from standard input. Put -- before texts that begin with a dash.
    file
        A file with one text per line, any number of lines, or - for standard input; blank lines are answered too.
    top
        How many classes to tell per text.
    json
        Print one JSON object per line.
    encoding
        Of the file or of standard input.
    """
    from linkboy import load_classifier

    if bool(texts) == (file is not None):
        raise ValueError('give texts to predict ("a text" ..., or - for standard input), or --file FILE')
    classifier = load_classifier(directory)
    source = iter(texts) if file is None else _lines_of(file, encoding)
    write = _json_lines if json else _tab_lines
    # Someone who types waits for the answer to each line.
    typed = file == Path("-") and sys.stdin.isatty()
    for predictions in classifier.predict_stream(source, top=top, batch_size=1 if typed else 4096):
        sys.stdout.write(write(predictions))
        sys.stdout.flush()


@app.command
def evaluate(
    directory: Path,
    file: Path,
    /,
    *,
    json: bool = False,
    text_column: str | None = None,
    label_column: str | None = None,
    encoding: str = "utf-8",
    on_bad_row: Literal["raise", "skip"] = "raise",
) -> None:
    """Measure a classifier on labelled texts: precision, recall and F1 by class, accuracy and macro-F1.

    Parameters
    ----------
    directory
        What linkboy train has written.
    file
        Labelled texts, in a form that linkboy train reads.
    json
        Print one JSON object.
    text_column
        Name of the column with the text.
    label_column
        Name of the column with the label.
    encoding
        Of text files.
    on_bad_row
        Stop at a row that cannot be read, or skip and count it.
    """
    from linkboy import load_classifier, read_labelled

    classifier = load_classifier(directory)
    data = read_labelled(
        file, text_column=text_column, label_column=label_column, on_bad_row=on_bad_row, encoding=encoding
    )
    if not json:
        _show_report(data)
    _show_report(classifier.evaluate(data), json=json)


@app.command
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
        What linkboy train has written.
    texts
        The texts. Put -- before texts that begin with a dash.
    label
        The class to explain; by default the likeliest one.
    against
        The class to hold it against; by default the likeliest other one.
    json
        Print one JSON object.
    """
    from linkboy import load_classifier

    if not texts:
        raise ValueError('give texts to explain ("a text" ...)')
    _show_report(load_classifier(directory).explain(texts, label=label, against=against), json=json)


@app.command
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
        What linkboy train has written.
    onnx
        Write an ONNX file, for ONNX Runtime and its kin.
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
    from linkboy.classify.export import FORMS

    asked = [form for form, wanted in zip(FORMS, (onnx, torchscript, torch_export), strict=True) if wanted]
    if len(asked) != 1:
        raise ValueError("say in one form what to write: --onnx, --torchscript or --torch-export")
    report = load_classifier(directory).export(out or directory / FORMS[asked[0]], form=asked[0])
    _show_report(report, json=json)


@app.command
def summary(model: str, /, *, json: bool = False, depth: int = 3) -> None:
    """Count the parameters of a checkpoint, or show what a model is made of.

    Parameters
    ----------
    model
        A .safetensors, .pt or .bin file, a directory of a model, or package.module:factory, a function that returns a
        module. Of a file only the header is read and nothing in it is executed; a factory is called.
    json
        Print one JSON object.
    depth
        Levels of modules below the root to show.
    """
    from linkboy import describe_target

    sys.path.insert(0, "")  # as `python -m` does: a module beside the user is found
    _show_report(describe_target(model, depth=depth), json=json)


@app.command
def shapes(target: str, /, *, input: list[str], train: bool = False, json: bool = False) -> int:
    """Check that a model treats its batch as a batch; end with 1 where it does not.

    Parameters
    ----------
    target
        package.module:factory, a function that returns a module; it is called.
    input
        Shape of an input, batch first, such as 2,3,224,224, or 2,16:int64; once for each positional argument.
    train
        Check the model in training mode; by default it is put into eval mode.
    json
        Print one JSON object.
    """
    from linkboy import check_target

    sys.path.insert(0, "")  # as `python -m` does: a module beside the user is found
    report = check_target(target, input, train=train)
    _show_report(report, json=json)
    return 0 if report.ok else 1


@app.command
def tokenize(
    vocab: Path,
    file: Annotated[Path, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    tokens: bool = False,
    special_tokens: bool = False,
    cased: bool = False,
) -> None:
    """Turn each line of a file into BERT's ids, separated by spaces.

    Parameters
    ----------
    vocab
        A vocab.txt, a tokenizer.json, or a directory that holds one of them.
    file
        A text file, or - for standard input.
    tokens
        Print the tokens in place of their ids.
    special_tokens
        Begin each line with [CLS] and end it with [SEP].
    cased
        Keep upper case and accents; for a vocab.txt, which does not say.
    """
    from linkboy import BertTokenizer, tokenize_file

    if vocab.is_dir():
        tokenizer = BertTokenizer.from_pretrained(vocab)
    elif cased and vocab.suffix == ".json":
        raise ValueError("--cased is for a vocab.txt; a tokenizer.json says itself whether it is cased")
    elif vocab.suffix == ".json":
        tokenizer = BertTokenizer.from_tokenizer_json(vocab)
    else:
        tokenizer = BertTokenizer(vocab, do_lower_case=not cased)
    report = tokenize_file(
        tokenizer,
        str(file),
        sys.stdout,
        output="tokens" if tokens else "ids",
        add_special_tokens=special_tokens,
        progress=not sys.stdout.isatty(),
    )
    print(report, file=sys.stderr)


@app.command
def vectors(
    file: Path,
    /,
    *,
    out: Path,
    vocab: Path | None = None,
    dim: int | None = None,
    format: Literal[
        "auto", "glove", "word2vec-text", "word2vec-bin", "fasttext-vec", "npy", "npz", "safetensors"
    ] = "auto",
    on_bad_row: Literal["raise", "skip"] = "skip",
    json: bool = False,
) -> None:
    """Convert pretrained vectors to safetensors, all of them or those of a vocabulary, and say what was found.

    Parameters
    ----------
    file
        GloVe, word2vec (text or binary), fastText .vec, .npy, .npz or safetensors; also in .gz, .bz2, .xz or .zip.
    out
        The file to write, for instance emb.safetensors.
    vocab
        A file with one word per line; row i of the result is that of word i.
    dim
        Numbers per word, where the file must have so many.
    format
        What FILE holds, where its content does not tell.
    on_bad_row
        Stop at a row that cannot be read, or skip and count it.
    json
        Print one JSON object.
    """
    from linkboy import convert_embeddings

    report = convert_embeddings(file, out, vocab, dim=dim, format=format, on_bad_row=on_bad_row)
    _show_report(report, json=json)


@app.command
def check_op(
    target: str,
    /,
    *,
    input: list[str] | None = None,
    inputs_from: str | None = None,
    surrogate: str | None = None,
    no_compile: bool = False,
    json: bool = False,
) -> int:
    """Prove an operator right, or say what is wrong with it: a row per check, with cause and mend.

    The inputs are one random float32 matrix of 4 x 3, or what --input or --inputs-from say:

    linkboy check-op my_ops:swish

    linkboy check-op my_ops:scaled_matmul --input 4,3 --input 3,2

    linkboy check-op my_ops:masked_loss --inputs-from my_ops:example_inputs

    The exit status is 0 where the operator is right, 1 where it is wrong.

    Parameters
    ----------
    target
        package.module:name of a function of tensors, an autograd.Function or a module instance; the module is executed.
    input
        Sizes of one input, such as 4,3; once for each input, in order. Drawn from a standard normal distribution.
    inputs_from
        package.module:name of a function without arguments that returns the inputs, a tensor or a tuple; what has
        requires_grad is differentiated.
    surrogate
        package.module:name of the function whose gradient the operator is meant to have, where that is not its derivative.
    no_compile
        Leave out torch.compile, which takes some seconds.
    json
        Print one JSON object.
    """
    from linkboy.autograd.named import check_named_op

    sys.path.insert(0, "")  # as `python -m` does: a module beside the user is found
    report = check_named_op(
        target, shapes=input or [], inputs_from=inputs_from, surrogate=surrogate, compile=not no_compile
    )
    _show_report(report, json=json)
    return 0 if report.ok else 1


@app.command
def memory(*, json: bool = False) -> None:
    """Say what memory this environment can release and measure, and what it cannot and why.

    Parameters
    ----------
    json
        Print one JSON object.
    """
    from linkboy import memory_environment

    _show_report(memory_environment(), json=json)


def main() -> None:
    """Run the command line; end with 0, 2 for a mistake of the caller, 128 + the signal for a run that was stopped."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return the exit status; a mistake of the caller is told in one sentence."""
    try:
        result = app(_dash_as_file(arguments), exit_on_error=False, print_error=False)
        return result if isinstance(result, int) else 0
    except CycloptsError as error:
        return _complain(" ".join(str(error).split()))
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError) as error:
        if isinstance(error, BrokenPipeError):
            # The reader (`| head`) has had enough; nothing may be written at exit either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        if os.environ.get("LINKBOY_DEBUG"):
            raise
        return _complain(_sentence(error))
    except KeyboardInterrupt:
        print("linkboy: interrupted; nothing was written", file=sys.stderr)
        return 128 + signal.SIGINT


def _dash_as_file(arguments: list[str]) -> list[str]:
    """Write a lone `-` for `predict`, which the parser takes for an option without a name, as `--file=-`."""
    if arguments[:1] != ["predict"]:
        return arguments
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return [
        "--file=-" if argument == "-" and before != "--file" and place < end else argument
        for place, (before, argument) in enumerate(zip(["", *arguments], arguments, strict=False))
    ]


def _complain(sentence: str) -> int:
    if _is_first_process():
        print(f"linkboy: {sentence}", file=sys.stderr)
    return 2


def _is_first_process() -> bool:
    """Say whether this process prints; asked before torch is loaded, so the environment of torchrun has to answer."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return (
            f"cannot use {error.filename}: {error.strerror.lower()}; check the path"
            if error.filename
            else error.strerror
        )
    return " ".join(str(error).split())


def _printer() -> Callable[[Report | str], None]:
    """Return a function that prints reports, on the first of several processes only."""
    from rich.console import Console

    console = Console(highlight=False)

    def show(block: Report | str) -> None:
        if not _is_first_process():
            return
        if sys.stdout.isatty():
            console.print(block, markup=False)
        else:
            print(block)
        print(flush=True)

    return show


def _show_report(report: Report, *, json: bool = False) -> None:
    if json:
        print(report.to_json())
    else:
        _printer()(report)


def _same_command(addition: str, *, without: str) -> str:
    import shlex

    arguments = [argument for argument in sys.argv[1:] if argument not in (addition, without)]
    return f"{_program()} {shlex.join([*arguments, addition])}"


def _program() -> str:
    """Return how linkboy can be called again from where it was called."""
    import shutil

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


def _show_demo(directory: Path, show: Callable[[Report | str], None]) -> None:
    from linkboy import load_classifier

    if not _is_first_process():
        return
    show("Three names it has never seen:")
    show(load_classifier(directory).predict(DEMO_NAMES))
    show(
        "try next:\n"
        f'  {_program()} predict {directory} "your own name"\n'
        f"  {_program()} train your.csv   (a text and a label per row)\n"
        f"  {_program()} train --demo --model cnn --out demo-cnn   (the same task with convolutions)"
    )


def _lines_of(file: Path, encoding: str) -> Iterator[str]:
    """Yield the lines of a file, or for `-` of standard input, as they come; only a line feed ends a line."""
    import codecs
    import io

    from_stdin = file == Path("-")
    name = "standard input" if from_stdin else str(file)
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise ValueError(
            f"encoding must be one that Python knows, such as 'utf-8' or 'gb18030', got {encoding!r}"
        ) from None
    stream = sys.stdin.buffer if from_stdin else file.open("rb")
    number = 0
    try:
        with stream:
            if len("\n".encode(encoding)) == 1:  # a line feed is one byte, so each line stands for itself
                for number, raw in enumerate(stream, 1):
                    yield _ended(raw.decode(encoding), number)
            else:
                with io.TextIOWrapper(stream, encoding, newline="\n") as lines:
                    for number, line in enumerate(lines, 1):
                        yield _ended(line, number)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} line {number}: byte {error.start + 1} is not {encoding.upper()}; mend the line or pass --encoding"
        ) from None


def _ended(line: str, number: int) -> str:
    return (line.removeprefix("\ufeff") if number == 1 else line).rstrip("\r\n")


def _tab_lines(predictions: "Predictions") -> str:
    lines = []
    for text, top in zip(predictions.texts, predictions.top, strict=True):
        if not text.isprintable():  # which is quickly asked, and one line and one field is due to each text
            text = " ".join(text.splitlines()).replace("\t", " ")
        pairs = "\t".join(f"{label}\t{probability:.2%}" for label, probability in top)
        lines.append(f"{pairs}\t{text}\n")
    return "".join(lines)


def _json_lines(predictions: "Predictions") -> str:
    import math
    from json.encoder import encode_basestring as quoted  # twice as fast as an encoder called for each record

    def pair(label: str, share: float) -> str:
        # JSON has no NaN, which a model that has come apart may give.
        return f'"label": {quoted(label)}, "probability": {share if math.isfinite(share) else "null"}'

    lines = []
    for text, top in zip(predictions.texts, predictions.top, strict=True):
        ranked = ", ".join(f"{{{pair(*entry)}}}" for entry in top) if len(top) > 1 else ""
        more = f', "top": [{ranked}]' if ranked else ""
        lines.append(f'{{"text": {quoted(text)}, {pair(*top[0])}{more}}}\n')
    return "".join(lines)
