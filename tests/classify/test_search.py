"""A budget of time: what it is spent on, what is kept, and that it is kept to."""

import dataclasses

import numpy as np
import pytest

import linkboy as lb
from linkboy import cli
from linkboy.classify.learning import search
from linkboy.classify.learning._candidate import Candidate
from linkboy.classify.recipe import DataTraits, choose_recipe


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("60s", 60), ("2m", 120), ("1.5h", 5400), (" .5 M ", 30), ("10S", 10)]
)
def test_times_are_read_as_people_write_them(text, seconds):
    assert lb.TrainingOptions(budget=text).budget_seconds == seconds


@pytest.mark.parametrize("text", ["", "s", "0", "0s", "-5s", "2 days", "1m30s", "1e3", "inf", "nan"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError) as caught:
        lb.TrainingOptions(budget=text)
    assert str(caught.value) == f"budget must be a time above 0 such as 90, 60s, 2m or 1h, got {text!r}"


def test_the_command_refuses_it_before_anything_is_read(capsys):
    assert cli.run(["train", "no-such-file.tsv", "--budget", "soon"]) == 2
    assert "budget must be a time above 0 such as 90, 60s, 2m or 1h, got 'soon'" in capsys.readouterr().err


def test_bad_budgets_of_the_options_are_refused():
    with pytest.raises(ValueError) as caught:
        lb.TrainingOptions(budget=0)
    assert str(caught.value) == "budget must be a number above 0, got 0"
    with pytest.raises(TypeError) as caught:
        lb.TrainingOptions(budget=[60])
    assert str(caught.value) == "budget must be a number above 0, got [60] of type list"


def test_several_processes_cannot_share_a_budget(monkeypatch):
    monkeypatch.setattr("linkboy.training.process_count", lambda: 2)
    with pytest.raises(ValueError) as caught:
        lb.TrainingOptions(budget=5).check_machine()
    assert str(caught.value) == "budget is for one process, got 2; leave budget out"


@pytest.fixture
def clock(monkeypatch):
    """A training that takes a second an epoch on a clock of its own, and scores what `best` says."""

    class Clock:
        now, made = 0.0, []

        def perf_counter(self):
            return self.now

        def attempt(self, learner, data, parts, checkpoints, *, latest):
            recipe = learner.recipe
            self.made.append((recipe, checkpoints.name))
            seconds = min(float(recipe.epochs), latest - self.now)
            self.now += seconds
            stopped = "callback" if seconds < recipe.epochs else None
            history = dataclasses.make_dataclass("History", ["stopped"])(stopped)
            logits = dataclasses.make_dataclass("Logits", ["score"])(0)
            return Candidate(recipe, None, history, None, logits, self.best(recipe), seconds)

        def best(self, recipe):
            return -abs(np.log2(recipe.lr / 0.08))

    clock = Clock()
    clock.made = []
    monkeypatch.setattr(search, "time", clock)
    monkeypatch.setattr(search, "train_candidate", clock.attempt)
    monkeypatch.setattr(search, "_summary", lambda trials, *rest: trials)
    return clock


def searched(options, traits, deadline):
    recipe = choose_recipe(options, traits)
    learner = dataclasses.make_dataclass("Learner", ["options", "recipe"])(options, recipe)
    return search.search(
        learner, traits, {"train": range(90), "valid": range(10)}, None, FOLDER, deadline=deadline, show=print
    )


class Folder:
    def __truediv__(self, name):
        return dataclasses.make_dataclass("Path", ["name"])(name)


FOLDER, TRAITS = Folder(), DataTraits(1000, 10, 100, 100)


def test_time_is_used_to_the_end(clock):
    best, trials = searched(lb.TrainingOptions(epochs=6), TRAITS, deadline=100.0)
    assert 100 - 1.15 * 6 - 6 < clock.now <= 100  # nothing more would have fitted in
    assert len(trials) == len({trial.recipe for trial in trials}) == len(clock.made)
    assert trials[0].recipe == choose_recipe(lb.TrainingOptions(epochs=6), TRAITS)
    assert [trial.recipe.loss for trial in trials[:2]] == ["squared-hinge", "cross-entropy"]
    assert 0.06 < best.recipe.lr < 0.11, [trial.recipe.lr for trial in trials]
    assert [name for _, name in clock.made] == [f"attempt-{number}" for number in range(len(trials))]


def test_what_the_options_name_is_not_varied(clock):
    options = lb.TrainingOptions(epochs=3, lr=0.5, loss="cross-entropy")
    _, trials = searched(options, TRAITS, deadline=60.0)
    assert len(trials) > 3
    assert {(trial.recipe.epochs, trial.recipe.lr, trial.recipe.loss) for trial in trials} == {
        (3, 0.5, "cross-entropy")
    }


def test_a_budget_that_is_too_short_for_one_training_ends_it_in_time(clock):
    best, trials = searched(lb.TrainingOptions(epochs=50), TRAITS, deadline=5.0)
    assert (len(trials), clock.now, best.history.stopped) == (1, 5.0, "callback")


@pytest.fixture(scope="module")
def warm(tmp_path_factory, make_rows):
    """What is imported at the first training must not eat the time of a budget."""
    lb.train_classifier(
        make_rows(60), tmp_path_factory.mktemp("warm") / "model", options=lb.TrainingOptions(model="cnn", epochs=1)
    )


def test_a_run_with_a_budget_reports_what_was_tried(tmp_path, make_rows, warm):
    options = lb.TrainingOptions(model="cnn", epochs=2, batch_size=32, budget=15)
    report = lb.train_classifier(make_rows(240), tmp_path / "model", options=options)
    found, text = report.search, str(report)
    assert found is not None
    assert len(found.trials) > 1
    assert "Tried in a budget of 15.0 s" in text
    assert text.count("kept  ") == 1
    assert found.trials[found.chosen].score == max(trial.score for trial in found.trials)
    assert report.recipe == found.trials[found.chosen].recipe
    assert lb.load_classifier(tmp_path / "model").predict(["冠军 进球"]).labels == ["体育"]
    assert "Tried in a budget of 15.0 s" in (tmp_path / "model" / "report.html").read_text("utf-8")


def test_a_training_that_is_cut_short_still_gives_a_classifier(tmp_path, make_rows, warm):
    options = lb.TrainingOptions(model="cnn", epochs=100_000, batch_size=32, budget=5)
    report = lb.train_classifier(make_rows(240), tmp_path / "model", options=options)
    assert report.history.stopped == "callback"
    assert "the budget was enough for one training only" in str(report)
    assert report.metrics["test"].row_count == 24


def test_a_budget_of_the_n_gram_model_tries_other_strengths(tmp_path, make_rows):
    report = lb.train_classifier(make_rows(240), tmp_path / "model", options=lb.TrainingOptions(budget=30))
    assert report.search is None
    assert report.linear.tried_count > 0
    assert "other strengths were tried in the budget" in str(report)
