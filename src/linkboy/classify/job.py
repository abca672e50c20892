"""One training run from labelled texts to a directory that predicts."""

import dataclasses
import os
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from linkboy._report import Block, Printable, Report, Table, format_count, format_percent, format_seconds
from linkboy._version import __version__
from linkboy.classify._candidate import Candidate, TrainingStoppedError, train_again, train_candidate, traits_of
from linkboy.classify._dataset import EncodedTexts, Encoder, features_of
from linkboy.classify._learner import METRIC_KEYS, Learner
from linkboy.classify._page import report_page
from linkboy.classify._parts import PARTS, Parts, make_parts
from linkboy.classify._results import CONTENTS, Judgement, result_files
from linkboy.classify._run_directory import (
    CHECKPOINTS,
    check_directory,
    check_same_run,
    fingerprint,
    finish_run,
    run_in,
)
from linkboy.classify._tokens import TokenEncoder
from linkboy.classify._vectors import pretrained_embedding
from linkboy.classify.calibration import Calibration
from linkboy.classify.classifier import Classifier, make_encoder, write_files
from linkboy.classify.labelled import LabelledTexts
from linkboy.classify.metrics import ClassificationMetrics, classification_metrics
from linkboy.classify.recipe import Recipe, TrainingOptions, choose_recipe
from linkboy.classify.search import SearchReport, can_train_again, search
from linkboy.classify.suspects import SuspectedLabels, suspected_labels
from linkboy.memory import ReleaseReport, release_memory
from linkboy.parameters import count_parameters
from linkboy.training import History, is_main_process, process_count, wait_for_everyone

WRITING = 3.0  # seconds that judging, charts, page and files take
MOST_JUDGED = 100_000  # training rows, evenly drawn, that the figures of the training part are from
Show = Callable[[Printable | str], None]


@dataclasses.dataclass(frozen=True)
class TrainingReport(Report):
    """What a run did and how good the result is.

    Attributes:
        directory: where everything is.
        metrics: metrics of `train` (for more than 100,000 rows, of as many drawn evenly), `valid` and `test`; empty for a
            run that was stopped.
        history: the record of the training loop.
        recipe: the settings used.
        seconds: how long `encoding` and `training` took, and the run in `total`.
        memory: what was released at the end; `None` for a run that was stopped.
        without_overlap: metrics of the test rows whose text does not occur in training; `None` if none does, or all do.
        calibration: what was done to the logits after training.
        suspects: held-out rows whose label may be wrong.
        before_refit: metrics of the test part before the model was trained again; `None` if it was not.
        search: what the budget was spent on; `None` without one.
    """

    directory: Path
    metrics: Mapping[str, ClassificationMetrics]
    history: History
    recipe: Recipe
    seconds: Mapping[str, float]
    memory: ReleaseReport | None
    without_overlap: ClassificationMetrics | None = None
    calibration: Calibration | None = None
    suspects: SuspectedLabels | None = None
    before_refit: ClassificationMetrics | None = None
    search: SearchReport | None = None

    def _blocks(self) -> Iterator[Block]:
        if not self.metrics:
            yield f"stopped by {self.history.stopped} after {format_count(self.history.steps)} steps; the state is saved"
            return
        if self.search is not None:
            yield from self.search._blocks()
        yield "Test part"
        yield from self.metrics["test"]._blocks()
        if self.before_refit is not None:
            yield (
                "the saved model was trained again on the training and validation parts together; before that, the test part "
                f"had accuracy {format_percent(self.before_refit.accuracy)}, macro-F1 "
                f"{format_percent(self.before_refit.macro_f1)}; the metrics of the validation part and the curves are from before"
            )
        if self.without_overlap is not None:
            yield f"without the rows whose text also occurs in training: {self.without_overlap.summary}"
        if self.calibration is not None:
            yield from self.calibration._blocks()
        if self.suspects is not None:
            yield from self.suspects._blocks()
        yield Table(("file", "what it holds"), list(CONTENTS.items()), f"Everything is in {self.directory}")
        times = ", ".join(f"{what} {format_seconds(seconds)}" for what, seconds in self.seconds.items())
        yield times + (f"; {self.memory.summary}" if self.memory is not None else "")


def train_classifier(
    train: LabelledTexts,
    out: str | os.PathLike[str],
    *,
    valid: LabelledTexts | None = None,
    test: LabelledTexts | None = None,
    class_names: Sequence[str] | None = None,
    options: TrainingOptions | None = None,
    overwrite: bool = False,
    resume: bool = False,
    show: Show | None = None,
) -> TrainingReport:
    """Train a text classifier and write it, with its metrics and charts, into a directory.

    Under `torchrun` the processes train together and the first one writes.

    Args:
        train: the training texts, as `read_labelled` returns them.
        out: the directory; made if it is missing.
        valid: validation texts, which choose the epoch to keep; a tenth of `train` by default.
        test: test texts, which are only measured; a tenth of `train` by default.
        class_names: names of the classes where labels are numbers from 0.
        options: what to train and how; the defaults suit most data.
        overwrite: replace what an earlier run wrote into `out`.
        resume: continue a run that was stopped.
        show: called with each result as soon as it is available, for instance `print`; nothing is shown by default.

    Returns:
        What the run did and how good the result is.

    Raises:
        FileExistsError: `out` is not empty and neither `overwrite` nor `resume` is given.
        FileNotFoundError: there is nothing to resume.
        NotADirectoryError: `out` is a file.
        PermissionError: `out` cannot be written.
        TypeError: `train`, `valid` or `test` is not `LabelledTexts`, for instance a path.
        ValueError: the data or the options are wrong; the message says how.

    Examples:
        >>> import tempfile, linkboy as lb
        >>> texts = [f"{word} {n}" for n in range(20) for word in ("好吃", "难吃")]
        >>> data = lb.LabelledTexts("by hand", texts, ["good", "bad"] * 20, range(1, 41))
        >>> report = lb.train_classifier(data, tempfile.mkdtemp(), options=lb.TrainingOptions(epochs=4))
        >>> report.metrics["test"].accuracy
        1.0
    """
    options, show, out = options or TrainingOptions(), show or (lambda block: None), Path(out)
    started = time.perf_counter()
    for name, texts in (("train", train), ("valid", valid), ("test", test)):
        _check_texts(name, texts, required=name == "train")
    check_directory(out, overwrite=overwrite, resume=resume)
    options.check_machine()
    parts = make_parts(train, valid=valid, test=test, class_names=class_names, seed=options.seed)
    show(parts)
    learner, data, seconds = _prepare(options, parts, show)
    run = {"linkboy": __version__, "options": options.to_dict(), "data": fingerprint(parts, learner.encoder)}
    run["processes"] = process_count()
    if resume:
        check_same_run(out, run)
    wait_for_everyone()  # no process may find files that another has just written
    with run_in(out, run, overwrite=overwrite, resume=resume) if is_main_process() else nullcontext():
        try:
            training_started = time.perf_counter()
            deadline = (
                None
                if options.budget_seconds is None
                else started + options.budget_seconds - WRITING - 2 * seconds["encoding"]
            )
            chosen, classifier, judged = _train(learner, data, parts, out / CHECKPOINTS, deadline, show)
        except TrainingStoppedError as stop:
            return TrainingReport(out, {}, stop.history, learner.recipe, seconds, None)
        seconds["training"] = time.perf_counter() - training_started
        training = {**run, "recipe": chosen.recipe.to_dict(), "history": chosen.history.to_dict()}
        classifier.about = {"training": training, "text_columns": list(train.text_columns)}
        if is_main_process():
            metric = METRIC_KEYS[chosen.recipe.metric]
            page = report_page(
                classifier,
                parts,
                judged,
                chosen.history,
                options=options,
                recipe=chosen.recipe,
                seconds=seconds,
                metric=metric,
            )
            write_files(out, result_files(classifier, parts, judged, chosen.history, metric, page))
            finish_run(out)
        wait_for_everyone()
    gone = [weakref.ref(part) for part in data.values()]
    del data
    memory = release_memory(*gone)
    seconds["total"] = time.perf_counter() - started
    return TrainingReport(
        out,
        judged.metrics,
        chosen.history,
        chosen.recipe,
        seconds,
        memory,
        judged.without_overlap,
        judged.calibration,
        judged.suspects,
        judged.before_refit,
        judged.search,
    )


def _check_texts(name: str, texts: object, *, required: bool) -> None:
    if isinstance(texts, LabelledTexts) or (texts is None and not required):
        return
    fix = f"pass read_labelled({os.fspath(texts)!r})" if isinstance(texts, (str, os.PathLike)) else "see read_labelled"
    raise TypeError(f"{name} must be LabelledTexts, got {type(texts).__name__}; {fix}")


def _prepare(
    options: TrainingOptions, parts: Parts, show: Show
) -> tuple[Learner, dict[str, EncodedTexts], dict[str, float]]:
    """Choose the settings and encode the parts; return who trains, on what, and the seconds it took."""
    recipe = choose_recipe(options, traits_of(parts))
    show(recipe)
    started = time.perf_counter()
    encoder = make_encoder(options.model, parts.texts["train"].texts, vocab=options.vocab, binary=recipe.scaled)
    data = _encode(encoder, parts)
    seconds = {"encoding": time.perf_counter() - started}
    embedding = None
    if options.vectors is not None:
        embedding, coverage = pretrained_embedding(options, cast("TokenEncoder", encoder), data["train"])
        show(coverage)
    learner = Learner(options, recipe, encoder, len(parts.class_names), embedding)
    show(count_parameters(learner.new_model()))
    return learner, data, seconds


def _encode(encoder: Encoder, parts: Parts) -> dict[str, EncodedTexts]:
    def weights(part: str) -> NDArray[np.float32] | None:
        own = parts.texts[part].weights
        return None if own is None else np.array(own, np.float32)

    features = features_of(encoder, {part: parts.texts[part].texts for part in PARTS})
    return {part: EncodedTexts(encoder, features[part], parts.targets[part], weights(part)) for part in PARTS}


def _train(
    learner: Learner,
    data: Mapping[str, EncodedTexts],
    parts: Parts,
    checkpoints: Path,
    deadline: float | None,
    show: Show,
) -> tuple[Candidate, Classifier, Judgement]:
    """Return the attempt that was chosen, the classifier to save, and how good it is."""
    searched = None
    if deadline is None:
        chosen = train_candidate(learner, data, parts, checkpoints / "choosing")
    else:
        chosen, searched = search(learner, traits_of(parts), data, parts, checkpoints, deadline=deadline, show=show)
    model, before = chosen.model, None
    if chosen.recipe.refit and (deadline is None or can_train_again(chosen, data, deadline)):
        predicted = learner.predict(model, data["test"]).argmax(1).numpy()
        before = classification_metrics(parts.targets["test"], predicted, parts.class_names)
        model = train_again(learner, chosen, data, checkpoints / "final", latest=deadline)
    judged = np.unique(np.linspace(0, len(data["train"]) - 1, MOST_JUDGED).astype(np.int64))
    logits = {
        "train": learner.predict(model, data["train"].take(judged)),
        "valid": chosen.logits,
        "test": learner.predict(model, data["test"]),
    }
    targets = {**parts.targets, "train": parts.targets["train"][judged]}
    classifier = Classifier(learner.options.model, model, learner.encoder, parts.class_names, numbered=parts.numbered)
    judgement = _judge(logits, targets, parts, chosen.calibration)
    return chosen, classifier, dataclasses.replace(judgement, before_refit=before, search=searched)


def _judge(
    logits: Mapping[str, Tensor],
    targets: Mapping[str, NDArray[np.int64]],
    parts: Parts,
    calibration: Calibration,
) -> Judgement:
    """Measure calibrated logits of every part."""
    predicted = {part: rows.argmax(1).numpy() for part, rows in logits.items()}
    names, held_out = parts.class_names, {part: logits[part] for part in ("valid", "test")}
    clean = ~parts.overlap["test"]
    return Judgement(
        logits=logits,
        metrics={part: classification_metrics(targets[part], predicted[part], names) for part in PARTS},
        without_overlap=classification_metrics(targets["test"][clean], predicted["test"][clean], names)
        if 0 < clean.sum() < len(clean)
        else None,
        calibration=calibration.measured(held_out, targets),
        suspects=suspected_labels(parts, {part: rows.softmax(1).numpy() for part, rows in held_out.items()}),
    )
