"""One training run from labelled texts to a directory that predicts."""

import dataclasses
import os
import signal
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

from linkboy._files import local_path
from linkboy._language import Language, chosen_language
from linkboy._progress import progress_shown
from linkboy._report import Block, Report, Table, format_percent, format_seconds, plural
from linkboy._version import __version__
from linkboy.classify.encoding._pretrained import OWNED
from linkboy.classify.encoding._tokens import TokenEncoder
from linkboy.classify.encoding._with_vectors import NgramsAndVectors
from linkboy.classify.judging.corrections import LabelCorrections, corrected_labels
from linkboy.classify.judging.metrics import ClassificationMetrics
from linkboy.classify.judging.multilabel import MultilabelMetrics
from linkboy.classify.judging.suspects import SuspectedLabels
from linkboy.classify.learning._candidate import TrainingStoppedError, traits_of
from linkboy.classify.learning._encoding import encoded_by, encoder_of
from linkboy.classify.learning._inputs import TrainingInputs
from linkboy.classify.learning._learner import METRIC_KEYS, Learner
from linkboy.classify.learning._outcome import Outcome, check_size, is_solved, solve, train_in_epochs
from linkboy.classify.learning._vectors import pretrained_embedding
from linkboy.classify.learning.calibration import Calibration
from linkboy.classify.learning.folds import CrossValidation, check_folds, cross_validate
from linkboy.classify.learning.search import SearchReport, Show
from linkboy.classify.linear._linear import LinearReport
from linkboy.classify.reading._parts import Parts, make_parts
from linkboy.classify.reading.labelled import LabelledTexts, labelled_of
from linkboy.classify.recipe import Recipe, TrainingOptions, choose_recipe
from linkboy.classify.results._judging import judge
from linkboy.classify.results._page import report_page
from linkboy.classify.results._results import CONTENTS, Judgement, result_files
from linkboy.classify.results._run_directory import (
    CHECKPOINTS,
    check_directory,
    check_same_run,
    fingerprint,
    finish_run,
    kept_precision,
    run_in,
)
from linkboy.classify.saved._classifier_files import write_files
from linkboy.classify.saved.classifier import Classifier
from linkboy.memory import ReleaseReport, release_memory
from linkboy.parameters import count_parameters
from linkboy.training import History, is_main_process, process_count, wait_for_everyone

WRITING = 3.0  # seconds that judging, charts, page and files take


@dataclasses.dataclass(frozen=True)
class TrainingReport(Report):
    """What a run did and how good the result is.

    Attributes:
        directory: where everything is.
        metrics: metrics of `train` (for more than 100,000 rows, of as many drawn evenly), `valid` and `test`:
            `ClassificationMetrics`, or `MultilabelMetrics` where a text may have several labels.
        history: the record of the training loop; `None` for an n-gram model, which is solved.
        recipe: the settings of the training loop; `None` for an n-gram model.
        seconds: how long `encoding` and `training` took, and the run in `total`.
        memory: what was released at the end.
        without_overlap: metrics of the test rows whose text does not occur in training; `None` if none does, or all do.
        calibration: what was done to the logits after training.
        suspects: rows whose label may be wrong: held-out ones, or, with folds, any of the training file.
        search: what the budget was spent on; `None` without one, and for an n-gram model.
        linear: what an n-gram model is made of; `None` for a model that is trained in epochs.
        macro_f1_point: metrics of the test part if macro-F1 were asked for, where classes are of very unequal size and it
            was not; else `None`.
        cross_validation: metrics of all rows of the training file, each judged by the model of a fold; `None` without folds.
        corrections: the labels that were replaced before training; `None` where no file of corrections was given.
    """

    directory: Path
    metrics: Mapping[str, Any]
    history: History | None
    recipe: Recipe | None
    seconds: Mapping[str, float]
    memory: ReleaseReport
    without_overlap: ClassificationMetrics | MultilabelMetrics | None = None
    calibration: Calibration | None = None
    suspects: SuspectedLabels | None = None
    search: SearchReport | None = None
    linear: LinearReport | None = None
    macro_f1_point: ClassificationMetrics | None = None
    cross_validation: CrossValidation | None = None
    corrections: LabelCorrections | None = None

    @property
    def stopped(self) -> str | None:
        """The signal or condition that ended training early; `None` where nothing did."""
        return None if self.history is None else self.history.stopped

    def _blocks(self) -> Iterator[Block]:
        if self.search is not None:
            yield from self.search._blocks()
        if self.linear is not None:
            yield from self.linear._blocks()
        yield "Test part"
        yield from self.metrics["test"]._blocks()
        yield from self._operating_points()
        if self.without_overlap is not None:
            yield f"without the rows whose text also occurs in training: {self.without_overlap.summary}"
        if self.calibration is not None:
            yield from self.calibration._blocks()
        if self.cross_validation is not None:
            yield from self.cross_validation._blocks()
        if self.suspects is not None:
            yield from self.suspects._blocks()
        yield Table(("file", "what it holds"), self._contents(), f"Everything is in {self.directory}")
        if self.history is not None:
            yield self.history.looked_at
        times = ", ".join(f"{what} {format_seconds(seconds)}" for what, seconds in self.seconds.items())
        yield f"{times}; {self.memory.summary}"

    def _contents(self) -> list[tuple[str, str]]:
        absent = () if self.history is not None else ("history.csv", "curves.svg")
        absent += () if getattr(self.metrics["test"], "confusion", ()) else ("confusion.svg",)
        absent += () if self.linear is not None and self.history is not None else (OWNED,)
        shown = (
            CONTENTS if self.cross_validation is None else {**CONTENTS, "suspects.csv": "rows whose label may be wrong"}
        )
        return [(name, what) for name, what in shown.items() if name not in absent]

    def _operating_points(self) -> Iterator[Block]:
        if self.macro_f1_point is not None:
            yield (
                f"the classes are of very unequal size: {_point(self.metrics['test'])}; with the metric macro-f1 it "
                f"would be {_point(self.macro_f1_point)}"
            )


def train_classifier(
    train: Any,
    out: str | os.PathLike[str],
    *,
    valid: Any = None,
    test: Any = None,
    class_names: Sequence[str] | None = None,
    options: TrainingOptions | None = None,
    encoder: str | os.PathLike[str] | None = None,
    folds: int | None = None,
    corrections: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    lang: Language | None = None,
    show: Show | None = None,
) -> TrainingReport:
    """Train a text classifier and write it, with its metrics and charts, into a directory.

    Under `torchrun` the processes train together and the first one writes.

    Args:
        train: the training texts: `LabelledTexts`, or what `read_labelled` takes: the path of a file, a polars or pandas
            frame, or a tuple of texts and labels.
        out: the directory; made if it is missing.
        valid: validation texts in one of these forms, which choose the epoch to keep; a tenth of `train` by default.
        test: test texts in one of these forms, which are only measured; a tenth of `train` by default.
        class_names: names of the classes where labels are numbers from 0.
        options: what to train and how; the defaults suit most data.
        encoder: a short form of the option of the same name: a local directory with a pretrained encoder.
        folds: a short form of the option of the same name: judge every row of `train` by a model that has not seen its text.
        corrections: `suspects.csv` of an earlier run on the same data, without the rows whose label is to stay: the others
            get the label in its column `suggested_label`.
        overwrite: replace what an earlier run wrote into `out`.
        resume: continue a run that was stopped.
        lang: language of the report page, `"en"` or `"zh"`; by default that of the environment (`LC_ALL`, `LC_MESSAGES`, `LANG`).
        show: called with each result as soon as it is available, for instance `print`; the progress of the training is then
            shown on standard error. Without it nothing is printed.

    Returns:
        What the run did and how good the result is.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed. A model that is trained in epochs is saved first, and `resume` continues it.
        SystemExit: the process was asked to end (SIGTERM); the same holds.
        FileExistsError: `out` is not empty and neither `overwrite` nor `resume` is given.
        FileNotFoundError: there is nothing to resume.
        NotADirectoryError: `out` is a file.
        PermissionError: `out` cannot be written.
        TypeError: `train`, `valid` or `test` is none of these forms.
        ValueError: the data or the options are wrong; the message says how.

    Examples:
        >>> import tempfile, linkboy as lb
        >>> texts = [f"{word} {n}" for n in range(20) for word in ("好吃", "难吃")]
        >>> data = lb.LabelledTexts("by hand", texts, ["good", "bad"] * 20, range(1, 41))
        >>> report = lb.train_classifier(data, tempfile.mkdtemp())
        >>> report.metrics["test"].accuracy
        1.0
        >>> again = lb.train_classifier((texts, [1, 0] * 20), tempfile.mkdtemp())
        >>> lb.load_classifier(again.directory).predict(["真好吃"]).labels
        ['1']
    """
    options, out = _given_once(options or TrainingOptions(), encoder, folds), local_path("out", out)
    started, language = time.perf_counter(), chosen_language(lang)
    train = labelled_of("train", train)
    valid, test = (
        part if part is None else labelled_of(name, part, known=train.text_columns, known_label=train.label_columns)
        for name, part in (("valid", valid), ("test", test))
    )
    given, corrected = {"train": train, "valid": valid, "test": test}, None
    if corrections is not None:
        given, corrected = corrected_labels(corrections, given, class_names)
    with progress_shown(show is not None):
        try:
            return _run(
                options,
                out,
                given,
                class_names,
                corrected=corrected,
                started=started,
                overwrite=overwrite,
                resume=resume,
                language=language,
                show=show or (lambda block: None),
            )
        except TrainingStoppedError as stop:
            raise _interruption(stop.history, out) from None


def _interruption(history: History, out: Path) -> BaseException:
    """Return what ends a training that a signal has stopped, as that signal ends a program; a note says what was saved."""
    number = signal.Signals[history.stopped or "SIGINT"]
    said = f"stopped by {number.name} after {plural(history.steps, 'step')}; the state is saved in {out}"
    by_hand = number == signal.SIGINT
    stopped = KeyboardInterrupt(f"{said}; go on with resume=True") if by_hand else SystemExit(128 + number)
    stopped.add_note(said)
    return stopped


def _run(
    options: TrainingOptions,
    out: Path,
    given: Mapping[str, LabelledTexts | None],
    class_names: Sequence[str] | None,
    *,
    corrected: LabelCorrections | None,
    started: float,
    overwrite: bool,
    resume: bool,
    language: Language,
    show: Show,
) -> TrainingReport:
    """Train on what was read.

    Raises:
        TrainingStoppedError: a signal came; the state is saved.
    """
    train = cast("LabelledTexts", given["train"])
    check_directory(out, overwrite=overwrite, resume=resume)
    options.check_machine()
    parts = make_parts(train, valid=given["valid"], test=given["test"], class_names=class_names, seed=options.seed)
    check_size(options, parts)
    if parts.several:
        options.check_several()
    check_folds(options, train, parts)
    if corrected is not None:
        show(corrected)
    show(parts)
    lower = kept_precision(out) if resume else None
    inputs, seconds = _encoded(options, parts, out / CHECKPOINTS, started=started, lower=lower, show=show)
    run = _run_of(inputs)
    if resume:
        check_same_run(out, run)
    wait_for_everyone()  # no process may find files that another has just written
    with run_in(out, run, overwrite=overwrite, resume=resume) if is_main_process() else nullcontext():
        inputs, judged = _trained(inputs, train, seconds)
        judged = dataclasses.replace(judged, corrections=corrected)
        if is_main_process():
            _write(out, run, inputs, judged, seconds, language)
        wait_for_everyone()
    gone = [weakref.ref(part) for part in inputs.data.values()]
    del inputs
    memory = release_memory(*gone, collect=any(part() is not None for part in gone))
    seconds["total"] = time.perf_counter() - started
    return _report(out, judged, seconds, memory)


def _encoded(
    options: TrainingOptions, parts: Parts, checkpoints: Path, *, started: float, lower: bool | None, show: Show
) -> tuple[TrainingInputs, dict[str, float]]:
    """Encode the texts; return what a training takes, and the seconds that it took."""
    encoding_started = time.perf_counter()
    encoder = encoder_of(options, parts, solved=is_solved(options, parts), lower=lower)
    data = encoded_by(encoder, parts)
    seconds = time.perf_counter() - encoding_started
    budget = options.budget_seconds
    deadline = None if budget is None else started + budget - WRITING - 2 * seconds
    return TrainingInputs(options, parts, encoder, data, checkpoints, deadline, show), {"encoding": seconds}


def _run_of(inputs: TrainingInputs) -> dict[str, Any]:
    """Return what a run is, as it is recorded and compared when one is resumed."""
    run: dict[str, Any] = {
        "linkboy": __version__,
        "options": inputs.options.to_dict(),
        "data": fingerprint(inputs.parts, inputs.encoder),
        "processes": process_count(),
    }
    if isinstance(inputs.encoder, NgramsAndVectors):
        run["bfloat16"] = inputs.encoder.pretrained.lower_precision
    return run


def _trained(
    inputs: TrainingInputs, train: LabelledTexts, seconds: dict[str, float]
) -> tuple[TrainingInputs, Judgement]:
    """Train and judge, and note how long each took.

    Returns:
        The inputs, encoded once more where the encoder was trained further, and the judgement.
    """
    started, options = time.perf_counter(), inputs.options
    outcome = (_solve if is_solved(options, inputs.parts) else _train)(inputs)
    if outcome.tuned is not None:
        data = encoded_by(outcome.tuned, inputs.parts)
        inputs = dataclasses.replace(inputs, encoder=outcome.tuned, data=data)
    judged = judge(inputs, outcome)
    seconds["training"] = time.perf_counter() - started
    if options.folds is not None:
        started = time.perf_counter()
        validated, suspects = cross_validate(options, train, inputs.parts, options.folds)
        judged = dataclasses.replace(judged, cross_validation=validated, suspects=suspects)
        seconds["cross-validation"] = time.perf_counter() - started
    return inputs, judged


def _write(
    out: Path,
    run: Mapping[str, Any],
    inputs: TrainingInputs,
    judged: Judgement,
    seconds: Mapping[str, float],
    language: Language,
) -> None:
    """Write the classifier and what is known about it, and remove what only an unfinished run needs."""
    options, parts, outcome, encoder = inputs.options, inputs.parts, judged.outcome, inputs.encoder
    if outcome.tuned is not None:
        saved = outcome.tuned.pretrained.save(inputs.checkpoints / OWNED)
        encoder = dataclasses.replace(outcome.tuned, pretrained=saved)
    training = {**run, "settings": outcome.settings.to_dict()}
    if outcome.history is not None:
        training["history"] = outcome.history.to_dict()
    trained = parts.texts["train"]
    columns = {"text_columns": list(trained.text_columns), "label_columns": list(trained.label_columns)}
    classifier = Classifier(
        options.model,
        outcome.model,
        encoder,
        parts.class_names,
        numbered=parts.numbered,
        about={"training": training, **columns},
        thresholds=outcome.thresholds,
        decisions=judged.decisions,
    )
    metric = METRIC_KEYS[options.metric_of(several=parts.several)]
    page = report_page(classifier, parts, judged, options=options, seconds=seconds, metric=metric, lang=language)
    write_files(out, result_files(classifier, parts, judged, metric, page))
    finish_run(out)


def _report(out: Path, judged: Judgement, seconds: Mapping[str, float], memory: ReleaseReport) -> TrainingReport:
    outcome = judged.outcome
    settings = outcome.settings
    return TrainingReport(
        directory=out,
        metrics=judged.metrics,
        history=outcome.history,
        recipe=settings if isinstance(settings, Recipe) else outcome.recipe,
        seconds=seconds,
        memory=memory,
        without_overlap=judged.without_overlap,
        calibration=judged.calibration,
        suspects=judged.suspects,
        search=outcome.search,
        linear=settings if isinstance(settings, LinearReport) else None,
        macro_f1_point=judged.macro_f1_point,
        cross_validation=judged.cross_validation,
        corrections=judged.corrections,
    )


def _given_once(options: TrainingOptions, encoder: str | os.PathLike[str] | None, folds: int | None) -> TrainingOptions:
    """Return the options with those that have an argument of their own, and the path of the encoder made absolute."""
    arguments = {"encoder": None if encoder is None else os.fspath(encoder), "folds": folds}
    given = {name: value for name, value in arguments.items() if value is not None}
    for name, value in given.items():
        if getattr(options, name) not in (None, value):
            raise ValueError(f"{name} must be given once, got {value!r} and in the options {getattr(options, name)!r}")
    options = dataclasses.replace(options, **given)
    if options.encoder is None:
        return options
    return dataclasses.replace(options, encoder=str(local_path("encoder", options.encoder).absolute()))


def _point(metrics: ClassificationMetrics) -> str:
    return f"accuracy {format_percent(metrics.accuracy)}, macro-F1 {format_percent(metrics.macro_f1)}"


def _solve(inputs: TrainingInputs) -> Outcome:
    """Solve the n-gram model, and name the options that have no part in it."""
    unused = [] if inputs.options.finetune else inputs.options.unused_by_solver()
    if unused:
        inputs.show(f"not used, since the n-gram model is solved and not trained in epochs: {', '.join(unused)}")
    return solve(inputs)


def _train(inputs: TrainingInputs) -> Outcome:
    """Train the model in epochs, and show the settings first."""
    options, encoder, show = inputs.options, inputs.encoder, inputs.show
    recipe = choose_recipe(options, traits_of(inputs.parts))
    show(recipe)
    embedding = None
    if options.vectors is not None:
        embedding, coverage = pretrained_embedding(options, cast("TokenEncoder", encoder), inputs.data["train"])
        show(coverage)
    learner = Learner(options, recipe, encoder, len(inputs.parts.class_names), embedding)
    show(count_parameters(learner.new_model()))
    return train_in_epochs(learner, inputs)
