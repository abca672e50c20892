"""From encoded parts to the model that is kept, whichever kind it is: solved at once, or trained in epochs."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linkboy._progress import Progress
from linkboy.classify.encoding._dataset import EncodedTexts
from linkboy.classify.encoding._features import NgramEncoder
from linkboy.classify.encoding._with_vectors import FeaturesWithVectors, NgramsAndVectors
from linkboy.classify.judging._scored import evenly
from linkboy.classify.judging._thresholds import choose_thresholds
from linkboy.classify.learning._candidate import train_candidate, traits_of
from linkboy.classify.learning._finetune import Tuned, finetune
from linkboy.classify.learning._inputs import TrainingInputs
from linkboy.classify.learning._learner import Learner
from linkboy.classify.learning.calibration import Calibration, towards_rare_classes
from linkboy.classify.learning.search import SearchReport, search
from linkboy.classify.linear._linear import (
    ENOUGH_JUDGED,
    MOST_JUDGED,
    LinearFit,
    LinearReport,
    Task,
    Vectors,
    fit_linear,
    folds,
)
from linkboy.classify.linear._mixing import centred, mean_loss, mix
from linkboy.classify.linear._solver import MemberLoss, one_thread, rows_of
from linkboy.classify.models._centroids import CentroidClassifier, fit_centroids
from linkboy.classify.models._models import NgramAndVectorClassifier, NgramClassifier, SoftCap, TextModel
from linkboy.classify.reading._parts import Parts, keys_of, strata_of
from linkboy.classify.reading._proportions import other_proportions
from linkboy.classify.recipe import LARGE, Recipe, TrainingOptions
from linkboy.losses import class_weights
from linkboy.training import History, is_main_process

MOST_SOLVED_CLASSES, MOST_WEIGHTS = 2000, 2**28  # classes, and n-grams times classes, of a dense matrix
MOST_JUDGED_OF_CENTROIDS = 1000
MOST_SOLVED = 100_000_000  # characters of training and validation texts: some 2 GB of n-grams


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A model with what chose it.

    Args:
        model: gives calibrated logits.
        valid: gives calibrated logits `(rows, C)` of rows of the validation part, by models that have not learned from them.
        calibration: what is built into the model.
        settings: how it was trained.
        history: the record of the training loop; `None` for a model that was solved.
        search: what a budget was spent on; `None` without one.
        valid_rows: rows of the validation part that are judged; `None` for all.
        tuned: an encoder that was trained further, in the place of the one that encoded the texts; `None` where none was.
        recipe: how it was trained.
        thresholds: from which probability on each label is given; `None` where a text has one class.
        judged: calibrated logits and targets of the rows by which an operating point is chosen, where these are not `valid_rows`.
    """

    model: TextModel
    valid: Callable[[NDArray[np.int64]], Tensor]
    calibration: Calibration
    settings: Recipe | LinearReport
    history: History | None = None
    search: SearchReport | None = None
    valid_rows: NDArray[np.int64] | None = None
    tuned: NgramsAndVectors | None = None
    recipe: Recipe | None = None
    thresholds: tuple[float, ...] | None = None
    judged: tuple[Tensor, NDArray[np.int64]] | None = None


def is_solved(options: TrainingOptions, parts: Parts) -> bool:
    """Return whether the model is solved, and not trained in epochs: n-grams of a data set that fits the memory."""
    rows, characters = _size(parts)
    return options.model == "ngram" and rows < LARGE and characters <= MOST_SOLVED


def _size(parts: Parts) -> tuple[int, int]:
    """Return the rows that a model is made from, those of the training and validation part, and their characters."""
    texts = [parts.texts[part].texts for part in ("train", "valid")]
    return sum(map(len, texts)), sum(len(text) for part in texts for text in part)


def train_in_epochs(learner: Learner, inputs: TrainingInputs) -> Outcome:
    """Train with `fit`, with the recipe of the learner or, in a budget, with the best that is found.

    Raises:
        TrainingStoppedError: a signal came.
    """
    parts, data, checkpoints, deadline = inputs.parts, inputs.data, inputs.checkpoints, inputs.deadline
    if deadline is None:
        chosen, searched = train_candidate(learner, data, parts, checkpoints / "choosing"), None
    else:
        traits = traits_of(parts)
        chosen, searched = search(learner, traits, data, parts, checkpoints, deadline=deadline, show=inputs.show)
    made = Outcome(chosen.model, _by_rows(chosen.logits), chosen.calibration, chosen.recipe, chosen.history, searched)
    if not parts.several:
        return made
    return dataclasses.replace(made, thresholds=_thresholds(learner.options, chosen.logits, parts.targets["valid"]))


def _thresholds(options: TrainingOptions, logits: Tensor, targets: NDArray[np.bool_]) -> tuple[float, ...]:
    """Return from which probability on each label is given, chosen on rows that the model has not learned from."""
    return tuple(choose_thresholds(logits.double().numpy(), targets, macro=options.metric == "macro-f1").tolist())


def check_size(options: TrainingOptions, parts: Parts) -> None:
    """Raise if the data are too large for what only a model that is solved can do: learn from an encoder, or by folds."""
    classes = len(parts.class_names)
    if options.encoder is not None and classes > MOST_SOLVED_CLASSES:
        raise ValueError(
            f"encoder is for at most {MOST_SOLVED_CLASSES} classes, got {classes}; leave encoder out, or join classes"
        )
    if is_solved(options, parts):
        return
    rows, characters = _size(parts)
    for name, instead in (
        ("encoder", "leave encoder out, or train on fewer"),
        ("folds", "leave folds out, since so large a test part has small errors"),
    ):
        if getattr(options, name) is not None:
            raise ValueError(
                f"{name} is for fewer than {LARGE} training and validation rows with at most {MOST_SOLVED} characters in all, "
                f"got {rows} rows with {characters}; {instead}"
            )


def solve(inputs: TrainingInputs) -> Outcome:
    """Solve the linear model of n-grams; every process of several does the same work, with equal results.

    Raises:
        TrainingStoppedError: a signal came while the encoder was trained.
    """
    options, parts, both = inputs.options, inputs.parts, (inputs.data["train"], inputs.data["valid"])
    encoder = cast("NgramEncoder | NgramsAndVectors", inputs.encoder)
    train, valid = np.arange(len(both[0])), len(both[0]) + np.arange(len(both[1]))
    final = np.concatenate((train, valid)) if options.refit else train
    task = _task(options, encoder, both, len(parts.class_names))
    if task.classes > MOST_SOLVED_CLASSES or task.vocabulary * task.classes > MOST_WEIGHTS:
        return _centroids(task, _of_centroids(task, encoder, several=parts.several), train, valid, final)
    splits, prior = _splits(options, task, parts, train, valid, final)
    tuned = None
    if isinstance(encoder, NgramsAndVectors) and options.finetune:
        (split,) = splits
        tuned = finetune(inputs, encoder.pretrained, task, _vectors(both), split, final)
    elif isinstance(encoder, NgramsAndVectors):
        task = dataclasses.replace(task, vectors=_vectors(both))
    losses: tuple[MemberLoss, ...] = ("squared-hinge", "cross-entropy")
    losses = tuple(loss for loss in losses if loss == options.loss) or losses
    with one_thread(), Progress("solving", unit="fits", enabled=is_main_process()) as progress:
        fit = fit_linear(
            task,
            splits,
            final,
            losses=losses,
            prior=prior,
            given=None if tuned is None else (tuned.member, tuned.logits),
            deadline=inputs.deadline,
            progress=lambda what: progress.advance(1, fit=what),
        )
    made = _calibrated(options, fit, tuned, task, valid, parts)
    if tuned is None:
        return made
    trained = NgramsAndVectors(cast("NgramsAndVectors", encoder).ngrams, tuned.pretrained)
    return dataclasses.replace(made, history=tuned.history, tuned=trained, recipe=tuned.recipe)


def _task(
    options: TrainingOptions,
    encoder: NgramEncoder | NgramsAndVectors,
    both: tuple[EncodedTexts, EncodedTexts],
    classes: int,
) -> Task:
    """Return the rows of training and validation part as one task."""
    targets, weights = (torch.cat([getattr(part, what) for part in both]) for what in ("targets", "weights"))
    if options.class_weight != "none":
        weights = weights * class_weights(both[0].targets, options.class_weight, num_classes=classes)[targets].float()
    features = rows_of(piece for part in both for piece in part.pieces())
    return Task(features, len(encoder), targets.numpy(), classes, weights.numpy())


def _of_centroids(task: Task, encoder: NgramEncoder | NgramsAndVectors, *, several: bool) -> NgramEncoder:
    """Return the encoder of centroids, which take the place of weights that are too many; refuse what they cannot do."""
    if several:
        raise ValueError(
            f"several labels a text are for at most {MOST_SOLVED_CLASSES} labels and {MOST_WEIGHTS} weights, got "
            f"{task.classes} labels and {task.vocabulary} n-grams; join labels, or train on fewer rows"
        )
    if isinstance(encoder, NgramsAndVectors):
        raise ValueError(
            f"encoder is for a model of at most {MOST_WEIGHTS} weights of n-grams, got {task.vocabulary} n-grams and "
            f"{task.classes} classes; leave encoder out, or train on fewer rows"
        )
    return encoder


def _calibrated(
    options: TrainingOptions, fit: LinearFit, tuned: Tuned | None, task: Task, valid: NDArray[np.int64], parts: Parts
) -> Outcome:
    """Return the fitted model with its operating point: towards rare classes, or a threshold a label."""
    model = _model_of(fit if tuned is None else _with_tuned(fit, tuned))
    calibration = Calibration(None, None, (0.0,) * task.classes)
    if options.metric == "macro-f1" and not parts.several:
        calibration = towards_rare_classes(fit.logits, task.targets[fit.judged], parts.class_counts)
    calibration.build_into(model)
    logits, rows = _valid_logits(fit, task, valid)
    made = Outcome(model, _by_rows(calibration.apply(logits)), calibration, fit.report, valid_rows=rows)
    targets = task.targets[fit.judged]
    if parts.several:
        return dataclasses.replace(made, thresholds=_thresholds(options, fit.logits, targets))
    return dataclasses.replace(made, judged=(calibration.apply(fit.logits), targets))


def _vectors(parts: Sequence[EncodedTexts]) -> Vectors:
    pieces = [features for part in parts for features, _, _ in part.pieces()]
    return Vectors(torch.cat([piece.vectors for piece in pieces if isinstance(piece, FeaturesWithVectors)]))


def _with_tuned(fit: LinearFit, tuned: Tuned) -> LinearFit:
    """Return the fit with the linear layer of an encoder that was trained further, as much as it counts in the mix.

    Its logits are centred over the classes, as those by which the mix and a cap were chosen.
    """
    coefficient = next(member.coefficient for member in fit.report.members if member.scale == tuned.member.scale)
    of_vectors, weights = tuned.weights - tuned.weights.mean(1, keepdim=True), fit.weights.clone()
    weights[-1] += coefficient * (tuned.bias - tuned.bias.mean())
    return dataclasses.replace(fit, weights=weights, of_vectors=coefficient * of_vectors)


def _model_of(fit: LinearFit) -> NgramClassifier | NgramAndVectorClassifier:
    """Return the module that gives the logits of what was fitted."""
    vocabulary, classes = len(fit.weights) - 1, fit.weights.shape[1]
    if fit.of_vectors is None:
        model = ngrams = NgramClassifier(vocabulary, classes)
    else:
        model = NgramAndVectorClassifier(vocabulary, len(fit.of_vectors), classes)
        ngrams = model.ngrams
        with torch.no_grad():
            model.of_vectors.weight.copy_(fit.of_vectors.T)
    with torch.no_grad():
        ngrams.bag.weight[:vocabulary] = fit.weights[:-1]
        ngrams.bias.copy_(fit.weights[-1])
    if fit.correction.cap is not None:
        model.soft_cap = SoftCap(fit.correction.cap, classes)
        model.soft_cap.shift.copy_(fit.correction.intercepts)
    return model


def _centroids(
    task: Task, encoder: NgramEncoder, train: NDArray[np.int64], valid: NDArray[np.int64], final: NDArray[np.int64]
) -> Outcome:
    """Return the model of a centroid a class, whose temperature comes from rows that the centroids of `train` do not hold."""

    def centroids(rows: NDArray[np.int64]) -> CentroidClassifier:
        return fit_centroids(task.features, task.targets, rows, encoder.idf, task.classes)

    chosen = centroids(train)

    def valid_logits(rows: NDArray[np.int64]) -> Tensor:
        features = task.features.gather(valid[rows])
        lengths = np.diff(features.offsets)
        weights = np.repeat(1 / np.sqrt(np.maximum(lengths, 1)), lengths).astype(np.float32)
        with torch.no_grad():
            return chosen(*(torch.from_numpy(x) for x in (features.ids.astype(np.int64), features.offsets, weights)))

    judged = evenly(np.arange(len(valid)), MOST_JUDGED_OF_CENTROIDS)
    coefficient, loss = _scale_of(valid_logits(judged), task, valid[judged])
    report = LinearReport((), len(judged), "validation part", loss, 0, 0.0, len(final), class_count=task.classes)
    model, calibration = centroids(final), Calibration(None, None, (0.0,) * task.classes)
    for made in (model, chosen):
        made.adjust_(torch.zeros(task.classes), 1 / max(coefficient, 1e-6))
    return Outcome(model, valid_logits, calibration, report, valid_rows=judged)


def _scale_of(logits: Tensor, task: Task, rows: NDArray[np.int64]) -> tuple[float, float]:
    """Return the factor of the logits for which the rows are likeliest, and their mean loss then."""
    logits, targets = centred(logits), torch.from_numpy(task.targets[rows])
    weights = torch.from_numpy(task.weights[rows]).double()
    factor = float(mix([logits], targets, weights))
    return factor, float(mean_loss(logits.mul_(factor), targets, weights))


def _by_rows(logits: Tensor) -> Callable[[NDArray[np.int64]], Tensor]:
    return lambda rows: logits[torch.from_numpy(rows)]


def _valid_logits(fit: LinearFit, task: Task, valid: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.int64] | None]:
    """Return `(len(valid), C)`: logits as they were judged; and which rows were, `None` for all.

    Where folds of the training part alone judged, the result has not seen the validation part, and gives its logits.
    """
    place = np.full(len(task.targets), -1)
    place[fit.judged] = np.arange(len(fit.judged))
    judged = np.flatnonzero(place[valid] >= 0)
    if not len(judged):
        logits = task.sparse(valid).times(fit.weights)
        if task.vectors is not None and fit.of_vectors is not None:
            logits += task.vectors.rows[torch.from_numpy(valid)] @ fit.of_vectors
        return fit.capped(logits), None
    logits = torch.zeros(len(valid), task.classes)
    logits[torch.from_numpy(judged)] = fit.logits[torch.from_numpy(place[valid[judged]])]
    return logits, None if len(judged) == len(valid) else judged


def _splits(
    options: TrainingOptions,
    task: Task,
    parts: Parts,
    train: NDArray[np.int64],
    valid: NDArray[np.int64],
    final: NDArray[np.int64],
) -> tuple[list[tuple[NDArray[np.int64], NDArray[np.int64]]], tuple[NDArray[np.float64], NDArray[np.float64]] | None]:
    """Return what judges, and the class counts of training and validation part where their proportions differ.

    An encoder that is trained further is judged by the validation part however small it is: folds would train it three times.
    """
    if len(valid) < ENOUGH_JUDGED and not options.finetune:
        keys = np.concatenate([keys_of(parts.texts[part].texts) for part in ("train", "valid")])
        strata = strata_of(task.targets[final]) if parts.several else task.targets[final]
        made = folds(strata, keys[final], options.seed)
        most = MOST_JUDGED // task.classes // len(made)
        return [(final[fit], final[evenly(judged, most)]) for fit, judged in made], None
    counts = (np.ones(1), np.ones(1)) if parts.several else (task.counts(train), task.counts(valid))
    return [(train, evenly(valid, MOST_JUDGED // task.classes))], counts if other_proportions(*counts) else None
