"""What the console shows of a public object: one line that says what it is and where its result is."""

import inspect
from importlib import import_module

import pytest
import torch
from torch import nn

import linkboy as lb
from linkboy.training import TrainingState

ROOMS = sorted(lb._NAMES)


@pytest.mark.parametrize("room", ROOMS)
def test_no_public_class_is_shown_by_its_address(room):
    module = import_module(f"linkboy.{room}")
    kinds = [kind for name in module.__all__ if inspect.isclass(kind := getattr(module, name))]
    assert [kind.__name__ for kind in kinds if kind.__repr__ is object.__repr__ and kind is not lb.BasicTokenizer] == []


def test_a_record_of_memory_says_where_its_samples_are():
    memory = lb.track_memory(every_seconds=5)
    assert str(memory) == "<track_memory every 5 s: nothing recorded yet>"
    with memory:
        assert str(memory) == "<track_memory every 5 s: 1 sample; timeline() has them>"
    assert str(memory) == "<track_memory every 5 s: 2 samples; timeline() has them>"


def test_a_detector_of_leaks_says_what_it_found():
    detector = lb.LeakDetector(tolerance_mib=5)
    assert str(detector) == "<LeakDetector of growth above 5.0 MiB: no loop watched yet>"
    with detector:
        detector.step()
        assert str(detector) == "<LeakDetector of growth above 5.0 MiB: 1 step watched>"
    assert str(detector) == f"<LeakDetector of growth above 5.0 MiB: 1 step watched; {detector.report().summary}>"


def test_a_watch_says_what_it_found():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = lb.watch_training()
    with watch:
        assert str(watch) == "<watch_training: 0 steps watched, and the block has not ended>"
        model(torch.randn(4, 3)).sum().backward()
        optimizer.step()
        assert str(watch) == "<watch_training: 1 step watched, and the block has not ended>"
    assert str(watch) == f"<watch_training: {watch.report().summary}; report() has the findings>"


def test_a_transaction_says_how_far_it_is():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    edit = lb.surgery(model)
    assert str(edit) == "<surgery on Sequential: not begun; use it in a with statement>"
    with edit:
        edit.remove("1")
        assert str(edit) == "<surgery on Sequential: open, 1 edit so far>"
    assert str(edit) == "<surgery on Sequential: 1 edit; report has them>"
    failed = lb.surgery(model)
    with pytest.raises(ZeroDivisionError), failed:
        _ = 1 / 0
    assert str(failed) == "<surgery on Sequential: rolled back>"


def test_a_trace_of_shapes_says_how_much_it_holds():
    with lb.trace_shapes() as trace:
        torch.zeros(2, 3).unsqueeze(0)
    assert repr(trace) == f"<ShapeTrace: {trace.summary}>"


def test_a_checkpointer_is_shown_as_it_was_made(tmp_path):
    assert repr(lb.Checkpointer("run")) == "Checkpointer('run', keep=3)"
    made = lb.Checkpointer("run", every_steps=10, every_minutes=2.5, keep=1, keep_best="f1", best_mode="max")
    assert (
        repr(made) == "Checkpointer('run', every_steps=10, every_minutes=2.5, keep=1, keep_best='f1', best_mode='max')"
    )
    assert vars(eval(repr(made), {"Checkpointer": lb.Checkpointer})) == vars(made)


def test_the_state_of_a_run_says_where_it_is():
    seen = []

    def note(event: str, state: TrainingState) -> None:
        seen.append(repr(state))

    model = nn.Linear(3, 2)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.randn(8, 3), torch.arange(8) % 2), batch_size=4
    )
    lb.fit(
        model,
        nn.CrossEntropyLoss(reduction="none"),
        torch.optim.SGD(model.parameters(), lr=0.1),
        loader,
        epochs=1,
        callbacks=[note],
    )
    assert seen[0].startswith("<TrainingState after ")
    assert seen[-1] == "<TrainingState after 2 steps, 1 epoch finished>"


def test_a_classifier_says_what_it_tells_apart(tmp_path):
    texts = [f"{word} {n}" for n in range(20) for word in ("good", "bad")]
    lb.train_classifier((texts, ["yes", "no"] * 20), tmp_path / "m")
    assert repr(lb.load_classifier(tmp_path / "m")) == "<Classifier: ngram model, 2 classes: no, yes>"
