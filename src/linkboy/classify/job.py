"""One training run from labelled texts to a directory that predicts."""

import dataclasses
import os
import signal
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linkboy._language import Language, chosen_language
from linkboy._progress import progress_shown
from linkboy._report import Block, Report, Table, format_count, format_percent, format_seconds
from linkboy._version import __version__
from linkboy.classify._candidate import TrainingStoppedError, traits_of
from linkboy.classify._classifier_files import write_files
from linkboy.classify._dataset import EncodedTexts, Encoder
from linkboy.classify._encoding import encoded_by, encoder_of
from linkboy.classify._features import NgramEncoder
from linkboy.classify._learner import METRIC_KEYS, Learner, logits_by
from linkboy.classify._linear import LinearReport
from linkboy.classify._outcome import Outcome, check_size, is_solved, solve, train_in_epochs
from linkboy.classify._page import report_page
from linkboy.classify._parts import PARTS, Parts, make_parts
from linkboy.classify._pretrained import OWNED
from linkboy.classify._results import CONTENTS, Judgement, result_files
from linkboy.classify._run_directory import (
    CHECKPOINTS,
    check_directory,
    check_same_run,
    fingerprint,
    finish_run,
    kept_precision,
    run_in,
)
from linkboy.classify._scored import Scored, evenly, in_pieces
from linkboy.classify._several import ScoredLabels, doubtful_labels
from linkboy.classify._tokens import TokenEncoder
from linkboy.classify._vectors import pretrained_embedding
from linkboy.classify._with_vectors import NgramsAndVectors
from linkboy.classify.calibration import Calibration, towards_rare_classes
from linkboy.classify.classifier import Classifier
from linkboy.classify.corrections import LabelCorrections, corrected_labels
from linkboy.classify.decisions import DecisionCurve, thresholds_by_class, thresholds_by_label
from linkboy.classify.folds import CrossValidation, check_folds, cross_validate
from linkboy.classify.labelled import LabelledTexts, labelled_of
from linkboy.classify.metrics import MOST_IN_TABLE, ClassificationMetrics, classification_metrics
from linkboy.classify.multilabel import MultilabelMetrics
from linkboy.classify.recipe import Recipe, TrainingOptions, choose_recipe
from linkboy.classify.search import SearchReport, Show
from linkboy.classify.suspects import SuspectedLabels, suspected_labels
from linkboy.memory import ReleaseReport, release_memory
from linkboy.parameters import count_parameters
from linkboy.training import History, is_main_process, process_count, wait_for_everyone

WRITING = 3.0  # seconds that judging, charts, page and files take
MOST_PAIRS = 2**25  # of a row and a label, of the training part
MOST_JUDGED = 100_000  # training rows, evenly drawn, that the figures of the training part are from


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
    options, out = _given_once(options or TrainingOptions(), encoder, folds), Path(out)
    started, language = time.perf_counter(), chosen_language(lang)
    train = labelled_of("train", train)
    valid, test = (
        part if part is None else labelled_of(name, part, known=train.text_columns)
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
    said = f"stopped by {number.name} after {format_count(history.steps)} steps; the state is saved in {out}"
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
    train, valid, test = cast("LabelledTexts", given["train"]), given["valid"], given["test"]
    check_directory(out, overwrite=overwrite, resume=resume)
    options.check_machine()
    parts = make_parts(train, valid=valid, test=test, class_names=class_names, seed=options.seed)
    check_size(options, parts)
    if parts.several:
        options.check_several()
    check_folds(options, train, parts)
    if corrected is not None:
        show(corrected)
    show(parts)
    solved = is_solved(options, parts)
    encoding_started = time.perf_counter()
    features = encoder_of(options, parts, solved=solved, lower=kept_precision(out) if resume else None)
    data = encoded_by(features, parts)
    seconds = {"encoding": time.perf_counter() - encoding_started}
    run = {"linkboy": __version__, "options": options.to_dict(), "data": fingerprint(parts, features)}
    run["processes"] = process_count()
    if isinstance(features, NgramsAndVectors):
        run["bfloat16"] = features.pretrained.lower_precision
    if resume:
        check_same_run(out, run)
    wait_for_everyone()  # no process may find files that another has just written
    with run_in(out, run, overwrite=overwrite, resume=resume) if is_main_process() else nullcontext():
        training_started = time.perf_counter()
        deadline = (
            None
            if options.budget_seconds is None
            else started + options.budget_seconds - WRITING - 2 * seconds["encoding"]
        )
        train_by = _solve if solved else _train
        outcome = train_by(options, features, data, parts, out / CHECKPOINTS, deadline, show)
        if outcome.tuned is not None:
            features = outcome.tuned
            data = encoded_by(features, parts)
        judged = (_judge_labels if parts.several else _judge)(options, outcome, data, parts)
        seconds["training"] = time.perf_counter() - training_started
        if options.folds is not None:
            judged = _judge_by_folds(options, judged, train, parts, options.folds, seconds)
        judged = dataclasses.replace(judged, corrections=corrected)
        if is_main_process():
            if outcome.tuned is not None:
                features = dataclasses.replace(
                    outcome.tuned, pretrained=outcome.tuned.pretrained.save(out / CHECKPOINTS / OWNED)
                )
            about: dict[str, Any] = {"training": {**run, "settings": outcome.settings.to_dict()}}
            about["text_columns"] = list(train.text_columns)
            if outcome.history is not None:
                about["training"]["history"] = outcome.history.to_dict()
            classifier = Classifier(
                options.model,
                outcome.model,
                features,
                parts.class_names,
                numbered=parts.numbered,
                about=about,
                thresholds=outcome.thresholds,
                decisions=judged.decisions,
            )
            metric = METRIC_KEYS[options.metric_of(several=parts.several)]
            page = report_page(
                classifier, parts, judged, options=options, seconds=seconds, metric=metric, lang=language
            )
            write_files(out, result_files(classifier, parts, judged, metric, page))
            finish_run(out)
        wait_for_everyone()
    gone = [weakref.ref(part) for part in data.values()]
    del data
    memory = release_memory(*gone)
    seconds["total"] = time.perf_counter() - started
    return TrainingReport(
        out,
        judged.metrics,
        outcome.history,
        outcome.settings if isinstance(outcome.settings, Recipe) else outcome.recipe,
        seconds,
        memory,
        judged.without_overlap,
        judged.calibration,
        judged.suspects,
        outcome.search,
        outcome.settings if isinstance(outcome.settings, LinearReport) else None,
        judged.macro_f1_point,
        judged.cross_validation,
        judged.corrections,
    )


def _judge_by_folds(
    options: TrainingOptions,
    judged: Judgement,
    train: LabelledTexts,
    parts: Parts,
    count: int,
    seconds: dict[str, float],
) -> Judgement:
    """Return the judgement with that of all rows of the training file, by models of folds that have not seen their texts."""
    started = time.perf_counter()
    validated, suspects = cross_validate(options, train, parts, count)
    seconds["cross-validation"] = time.perf_counter() - started
    return dataclasses.replace(judged, cross_validation=validated, suspects=suspects)


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
    return dataclasses.replace(options, encoder=str(Path(options.encoder).absolute()))


def _point(metrics: ClassificationMetrics) -> str:
    return f"accuracy {format_percent(metrics.accuracy)}, macro-F1 {format_percent(metrics.macro_f1)}"


def _solve(
    options: TrainingOptions,
    encoder: Encoder,
    data: Mapping[str, EncodedTexts],
    parts: Parts,
    checkpoints: Path,
    deadline: float | None,
    show: Show,
) -> Outcome:
    """Solve the n-gram model, and name the options that have no part in it."""
    unused = [] if options.finetune else options.unused_by_solver()
    if unused:
        show(f"not used, since the n-gram model is solved and not trained in epochs: {', '.join(unused)}")
    return solve(options, cast("NgramEncoder | NgramsAndVectors", encoder), data, parts, checkpoints, deadline, show)


def _train(
    options: TrainingOptions,
    encoder: Encoder,
    data: Mapping[str, EncodedTexts],
    parts: Parts,
    checkpoints: Path,
    deadline: float | None,
    show: Show,
) -> Outcome:
    """Train the model in epochs, and show the settings first."""
    recipe = choose_recipe(options, traits_of(parts))
    show(recipe)
    embedding = None
    if options.vectors is not None:
        embedding, coverage = pretrained_embedding(options, cast("TokenEncoder", encoder), data["train"])
        show(coverage)
    learner = Learner(options, recipe, encoder, len(parts.class_names), embedding)
    show(count_parameters(learner.new_model()))
    return train_in_epochs(learner, data, parts, checkpoints, deadline, show)


def _judge(options: TrainingOptions, outcome: Outcome, data: Mapping[str, EncodedTexts], parts: Parts) -> Judgement:
    """Measure a model on every part."""
    most = MOST_JUDGED if outcome.valid_rows is None else len(outcome.valid_rows)
    rows = {part: np.arange(len(parts.targets[part])) for part in PARTS}
    rows["train"] = evenly(rows["train"], most)
    if outcome.valid_rows is not None:
        rows["valid"] = outcome.valid_rows
    targets, calibration = {part: parts.targets[part][rows[part]] for part in PARTS}, outcome.calibration

    def logits_of(part: str, chosen: NDArray[np.int64]) -> Tensor:
        chosen = rows[part][chosen]
        return outcome.valid(chosen) if part == "valid" else logits_by(options, outcome.model, data[part].take(chosen))

    scored: dict[str, Scored] = {}
    before: dict[str, Scored] = {}
    for part in PARTS:
        now, then = [], []
        for where, z in in_pieces(len(rows[part]), len(parts.class_names), partial(logits_of, part)):
            now.append(Scored.of(z, targets[part][where]))
            if calibration.temperature is not None and part != "train":
                then.append(Scored.of(calibration.undo(z.double()), targets[part][where]))
        scored[part] = Scored.joined(now)
        if then:
            before[part] = Scored.joined(then)
    names, held_out = parts.class_names, {part: scored[part] for part in ("valid", "test")}
    predicted, clean = {part: rows.predicted for part, rows in scored.items()}, ~parts.overlap["test"]
    metrics = {part: classification_metrics(targets[part], predicted[part], names) for part in PARTS}
    useful = metrics["test"].is_better_than_guessing
    return Judgement(
        scored=scored["test"],
        before=before.get("test"),
        metrics=metrics,
        without_overlap=classification_metrics(targets["test"][clean], predicted["test"][clean], names)
        if 0 < clean.sum() < len(clean)
        else None,
        calibration=calibration.measured(before, held_out),
        suspects=suspected_labels(parts, held_out, rows) if useful else SuspectedLabels(0, 0, ()),
        macro_f1_point=_macro_f1_point(options, outcome, logits_of, parts),
        outcome=outcome,
        decisions=DecisionCurve.of(scored["valid"].confidence, scored["valid"].right),
        test_decisions=DecisionCurve.of(scored["test"].confidence, scored["test"].right),
        by_class=thresholds_by_class(
            scored["valid"].predicted,
            scored["valid"].confidence,
            scored["valid"].right,
            names,
            [c.f1 for c in metrics["test"].per_class],
        ),
    )


def _judge_labels(
    options: TrainingOptions, outcome: Outcome, data: Mapping[str, EncodedTexts], parts: Parts
) -> Judgement:
    """Measure a model on every part where a text may have several labels."""
    names, thresholds = parts.class_names, outcome.thresholds or ()
    rows = {part: np.arange(len(parts.targets[part])) for part in PARTS}
    rows["train"] = evenly(rows["train"], min(MOST_JUDGED, MOST_PAIRS // len(names)))
    if outcome.valid_rows is not None:
        rows["valid"] = outcome.valid_rows
    scored: dict[str, ScoredLabels] = {}
    for part in PARTS:
        shares = np.empty((len(rows[part]), len(names)), np.float32)

        def logits_of(chosen: NDArray[np.int64], part: str = part) -> Tensor:
            chosen = rows[part][chosen]
            taken = None if part == "valid" else data[part].take(chosen)
            return outcome.valid(chosen) if taken is None else logits_by(options, outcome.model, taken)

        for where, z in in_pieces(len(rows[part]), len(names), logits_of):
            shares[where] = z.sigmoid().numpy()
        scored[part] = ScoredLabels(parts.targets[part][rows[part]], shares, shares >= np.array(thresholds))
    test, clean = scored["test"], ~parts.overlap["test"]
    without = ScoredLabels(test.target[clean], test.shares[clean], test.given[clean])
    metrics = {part: each.metrics(names, thresholds) for part, each in scored.items()}
    held_out = {part: scored[part] for part in ("valid", "test")}
    useful = metrics["test"].is_better_than_guessing
    return Judgement(
        scored=test,
        before=None,
        metrics=metrics,
        without_overlap=without.metrics(names, thresholds) if 0 < clean.sum() < len(clean) else None,
        calibration=dataclasses.replace(
            outcome.calibration,
            temperature=None,
            calibration_error_after={part: each.reliability().calibration_error for part, each in held_out.items()},
        ),
        suspects=doubtful_labels(parts, held_out, rows) if useful else SuspectedLabels(0, 0, ()),
        macro_f1_point=None,
        outcome=outcome,
        by_class=thresholds_by_label(metrics["test"]),
    )


def _macro_f1_point(
    options: TrainingOptions,
    outcome: Outcome,
    logits_of: Callable[[str, NDArray[np.int64]], Tensor],
    parts: Parts,
) -> ClassificationMetrics | None:
    """Return the metrics of the test part if the decisions were moved for macro-F1, as the validation part chooses."""
    if options.metric != "auto" or not traits_of(parts).tailed or len(parts.class_names) > MOST_IN_TABLE:
        return None
    rows = np.arange(len(parts.targets["valid"])) if outcome.valid_rows is None else outcome.valid_rows
    shift = towards_rare_classes(outcome.valid(rows), parts.targets["valid"][rows], parts.class_counts).shift
    test = logits_of("test", np.arange(len(parts.targets["test"])))
    moved = (test.double() + torch.tensor(shift)).argmax(1).numpy()
    return classification_metrics(parts.targets["test"], moved, parts.class_names)
