"""Use the time that is given: try neighbours of the best recipe while there is time, and keep the best."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from linkboy._report import Block, Printable, Report, Table, format_percent, format_seconds
from linkboy.classify.encoding._dataset import EncodedTexts
from linkboy.classify.learning._candidate import Candidate, train_candidate
from linkboy.classify.learning._learner import Learner
from linkboy.classify.learning.calibration import SCORES, gain_standard_error
from linkboy.classify.reading._parts import Parts
from linkboy.classify.recipe import DataTraits, Recipe, TrainingOptions, choose_recipe

DRAWS = 50
Show = Callable[[Printable | str], None]
SLOWER = 1.15  # how much longer than expected a training may well take


@dataclasses.dataclass(frozen=True)
class TriedRecipe:
    """A recipe that was tried.

    Attributes:
        recipe: the settings.
        score: its metric on the validation part.
        seconds: how long the training took.
    """

    recipe: Recipe
    score: float
    seconds: float

    def line(self, number: int, best: float) -> str:
        """Return a line about how the attempt went, given the best score so far."""
        name, _ = SCORES[self.recipe.metric]
        return (
            f"attempt {number}: {name} of validation {format_percent(self.score)} after {format_seconds(self.seconds)}"
            + (", the best so far" if self.score == best else "")
        )


@dataclasses.dataclass(frozen=True)
class SearchReport(Report):
    """What a budget was spent on.

    Attributes:
        budget_seconds: the budget.
        metric: the metric that chose, on the validation part.
        trials: what was tried, in order; the first is what would have been used without a budget.
        chosen: the number of the best trial.
        standard_error: standard error of its gain over the first, by resampling the rows; 0 if it is the first.
    """

    budget_seconds: float
    metric: str
    trials: tuple[TriedRecipe, ...]
    chosen: int
    standard_error: float

    def _blocks(self) -> Iterator[Block]:
        name, _ = SCORES[self.metric]
        columns = ("", "loss", "epochs", "rate", "decay", "smoothing", f"{name} of validation", "time")
        rows = [
            (
                "kept" if number == self.chosen else "",
                trial.recipe.loss,
                trial.recipe.epochs,
                f"{trial.recipe.lr:.3g}",
                f"{trial.recipe.weight_decay:.3g}",
                f"{trial.recipe.label_smoothing:.3g}",
                format_percent(trial.score),
                format_seconds(trial.seconds),
            )
            for number, trial in enumerate(self.trials)
        ]
        yield Table(columns, rows, f"Tried in a budget of {format_seconds(self.budget_seconds)}")
        if self.chosen:
            gain = self.trials[self.chosen].score - self.trials[0].score
            yield (
                f"the best gains {format_percent(gain)} on the validation part, standard error "
                f"{format_percent(self.standard_error)}; the best of many looks better there than it is"
            )
        elif len(self.trials) > 1:
            yield "none is better than the first, which is what is used without a budget"
        else:
            yield "the budget was enough for one training only"


def search(
    learner: Learner,
    traits: DataTraits,
    data: Mapping[str, EncodedTexts],
    parts: Parts,
    checkpoints: Path,
    *,
    deadline: float,
    show: Show,
) -> tuple[Candidate, SearchReport]:
    """Train by one recipe after the other until the time is spent; return the best attempt, and what was tried.

    The first recipe is that of a run without a budget, then come those of other losses, then neighbours of the best so far.

    Args:
        learner: holds the options and the first recipe.
        traits: what the settings of that recipe follow from.
        data: the encoded parts.
        parts: the same before encoding.
        checkpoints: a directory; every attempt is kept in it, so that a run that was stopped does not make one twice.
        deadline: when all training must be over, on the clock of `time.perf_counter`.
        show: called with a line about each attempt.

    Raises:
        TrainingStoppedError: a signal came.
    """
    generator = np.random.default_rng(learner.options.seed)
    first = best = train_candidate(learner, data, parts, checkpoints / "attempt-0", latest=deadline)
    trials = [TriedRecipe(first.recipe, first.score, first.seconds)]
    show(trials[0].line(1, first.score))
    starts = _with_other_losses(learner.options, traits, first.recipe)

    def fits(recipe: Recipe) -> bool:
        return time.perf_counter() + SLOWER * first.seconds * recipe.epochs / first.recipe.epochs < deadline

    while not first.history.stopped:
        drawn = starts + [neighbour(best.recipe, learner.options, generator) for _ in range(DRAWS)]
        tried = {trial.recipe for trial in trials}
        recipe = next((recipe for recipe in drawn if recipe not in tried and fits(recipe)), None)
        if recipe is None:
            break
        other = dataclasses.replace(learner, recipe=recipe)
        made = train_candidate(other, data, parts, checkpoints / f"attempt-{len(trials)}", latest=deadline)
        trials.append(TriedRecipe(recipe, made.score, made.seconds))
        best = made if made.score > best.score else best
        show(trials[-1].line(len(trials), best.score))
    return best, _summary(trials, first, best, parts, learner.options.budget_seconds or 0.0)


def neighbour(recipe: Recipe, options: TrainingOptions, generator: np.random.Generator) -> Recipe:
    """Draw a recipe near another one; what the options set stays unchanged."""
    rate, decay, length, smoothing = generator.normal(0, (0.7, 0.7, 0.4, 0.05))
    return dataclasses.replace(
        recipe,
        lr=recipe.lr if options.lr else _two_digits(recipe.lr * 2**rate),
        weight_decay=_two_digits(recipe.weight_decay * 2**decay),
        epochs=recipe.epochs if options.epochs else max(1, round(recipe.epochs * 2**length)),
        label_smoothing=max(0.0, _two_digits(recipe.label_smoothing + smoothing)) if recipe.label_smoothing else 0.0,
    )


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


def _with_other_losses(options: TrainingOptions, traits: DataTraits, recipe: Recipe) -> list[Recipe]:
    """Return the recipes of the losses that the n-gram model could also be trained with, over the same features."""
    if options.loss != "auto" or options.model != "ngram":
        return []
    others = (
        choose_recipe(dataclasses.replace(options, loss=loss), traits) for loss in ("cross-entropy", "squared-hinge")
    )
    return [other for other in others if other.loss != recipe.loss and other.scaled == recipe.scaled]


def _summary(trials: list[TriedRecipe], first: Candidate, best: Candidate, parts: Parts, budget: float) -> SearchReport:
    metric = first.recipe.metric
    _, score = SCORES[metric]
    chosen = next(number for number, trial in enumerate(trials) if trial.recipe == best.recipe)
    before, after = (made.logits.argmax(1).numpy() for made in (first, best))
    standard_error = gain_standard_error(parts.targets["valid"], before, after, score) if chosen else 0.0
    return SearchReport(budget, metric, tuple(trials), chosen, standard_error)
