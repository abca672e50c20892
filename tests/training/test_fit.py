"""What `fit` does besides the gradient: rows, best weights, averages, logs, callbacks, faults; and what it refuses."""

import copy
import csv
import math
import re

import numpy as np
import pytest
import torch
from tests.training.helpers import Augmented, Plain, make_model, same_state
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, TensorDataset

from linkboy import _random
from linkboy.training import Checkpointer, EarlyStopping, _non_finite, _processes, evaluate, fit, lr_find
from linkboy.training._moving_average import MovingAverage
from linkboy.training._placement import Placement
from linkboy.training._session import Session
from linkboy.training._sources import IterableSource, KeyedDataset
from linkboy.training.report import epoch_line

SQUARED = nn.MSELoss(reduction="none")


def linear(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    model = nn.Linear(4, 2, dtype=dtype)
    return model, torch.optim.SGD(model.parameters(), lr=0.05)


def rows(count=8, batch_size=2, dtype=torch.float32, **options):
    return DataLoader(Plain(count, dtype), batch_size=batch_size, **options)


# --- what it gives back


def test_one_step_an_epoch_is_the_bare_loop_to_the_bit():
    model, optimizer = linear()
    bare, bare_optimizer = linear()
    data = Plain(8, torch.float32)
    fit(model, SQUARED, optimizer, DataLoader(data, batch_size=4), unpack=lambda b: b[:2], epochs=2, progress=False)
    for _ in range(2):
        for part in torch.arange(8).split(4):
            bare_optimizer.zero_grad()
            SQUARED(bare(data.inputs[part]), data.targets[part]).mean().backward()
            bare_optimizer.step()
    assert same_state(model.state_dict(), bare.state_dict())


def test_history_has_a_row_per_epoch_and_can_be_printed_and_written(tmp_path):
    model, optimizer = linear()
    metrics = {"worst": lambda output, target: (output - target).abs().max()}
    history = fit(
        model, SQUARED, optimizer, rows(), val_loader=rows(5), metrics=metrics, epochs=2, seed=3, progress=False
    )
    names = ["epoch", "step", "train_loss", "val_loss", "worst", "lr", "seconds", "examples_per_second"]
    assert [list(row) for row in history.rows] == [names, names]
    assert [(row["epoch"], row["step"], row["lr"]) for row in history.rows] == [(1, 4, 0.05), (2, 8, 0.05)]
    assert str(history).splitlines()[0] == "finished after 8 steps, 2 epochs; seed 3, fp32 on 1 x cpu"
    assert (history.stopped, history.resume_hint, history.checkpoint) == (None, "", None)
    history.to_csv(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [{key: float(value) for key, value in row.items()} for row in read] == [*history.rows]


def test_log_lines_hold_the_loss_since_the_line_before():
    model, optimizer = linear()
    losses = []

    def noted(output, target):
        loss = SQUARED(output, target)
        losses.append(loss.detach().double().mean())
        return loss

    history = fit(model, noted, optimizer, rows(), unpack=lambda b: b[:2], log_every=3, progress=False)
    assert [line["step"] for line in history.log] == [3]
    assert history.log[0]["loss"] == pytest.approx(float(torch.stack(losses[:3]).mean()), rel=1e-12)


def test_inputs_are_called_by_place_by_name_or_alone():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.ones(()))

        def forward(self, left, right=0.0):
            return self.factor * (left + right)

    one, seen = torch.ones(2), []

    def loss_fn(output, target):
        seen.append(output.detach().clone())
        return (output - target).square()

    for inputs in ((one, 2 * one), [one, one], {"right": one, "left": 4 * one}, one):
        model = Sum()
        fit(model, loss_fn, torch.optim.SGD(model.parameters(), lr=0.1), [(inputs, one)], progress=False)
    assert same_state(seen, [3 * one, 2 * one, 5 * one, one])


class Ready(Dataset):
    """A dataset that makes whole batches from index lists."""

    def __init__(self, data):
        self.data, self.asked = data, []

    def __len__(self):
        return len(self.data)

    def __getitems__(self, indices):
        self.asked.append(indices)
        return self.data.inputs[indices], self.data.targets[indices], self.data.weights[indices]


def same(batch):
    return batch


def test_a_dataset_of_ready_batches_gets_its_index_lists_untouched():
    data = Ready(Plain(7, torch.float32))
    model, optimizer = linear()
    fit(model, SQUARED, optimizer, DataLoader(data, batch_size=3, collate_fn=same), progress=False)
    assert data.asked == [[0, 1, 2], [3, 4, 5], [6]]
    model, optimizer = linear()
    data.asked.clear()
    fit(
        model,
        SQUARED,
        optimizer,
        DataLoader(data, batch_size=3, shuffle=True, drop_last=True, collate_fn=same),
        progress=False,
    )
    assert [len(asked) for asked in data.asked] == [3, 3]
    assert len({index for asked in data.asked for index in asked}) == 6


def test_shuffled_epochs_differ_and_repeat_with_the_seed():
    orders = []
    for seed in (1, 1, 2):
        data = Ready(Plain(30, torch.float32))
        model, optimizer = linear()
        fit(
            model,
            SQUARED,
            optimizer,
            DataLoader(data, batch_size=30, shuffle=True, collate_fn=same),
            epochs=2,
            seed=seed,
            progress=False,
        )
        orders.append(data.asked)
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][0] != orders[0][1]
    assert sorted(orders[0][0]) == sorted(orders[0][1]) == list(range(30))


def test_a_collate_function_that_draws_is_keyed_too():
    def mixed(samples):
        inputs, targets = torch.utils.data.default_collate(samples)
        return inputs + torch.randn(()), targets

    results = []
    for workers in (0, 1):
        model = make_model()
        data = DataLoader(Augmented(), batch_size=8, shuffle=True, collate_fn=mixed, num_workers=workers)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        fit(model, nn.CrossEntropyLoss(reduction="none"), optimizer, data, seed=5, progress=False)
        results.append(model.state_dict())
    assert same_state(*results)


# --- weights other than the last


def scripted(values):
    """A metric that reads its value off a list, one per epoch."""
    values = iter(values)
    return {"score": lambda output, target: next(values)}


class Jittered(TensorDataset):
    def __getitem__(self, index):
        return tuple(part + torch.rand(()) for part in super().__getitem__(index))


def test_only_a_tensor_dataset_as_torch_makes_it_is_not_keyed_and_that_changes_no_bit():
    parts = (torch.ones(4, 2), torch.ones(4, 1))
    collate = torch.utils.data.default_collate
    assert not KeyedDataset(TensorDataset(*parts), collate, one_by_one=False).draws
    assert KeyedDataset(Jittered(*parts), collate, one_by_one=False).draws
    assert KeyedDataset(TensorDataset(*parts), lambda rows: collate(rows), one_by_one=False).draws

    def weights(**loader):
        data = TensorDataset(torch.arange(36.0).reshape(6, 6).sin(), torch.arange(6) % 3)
        model = make_model()
        fit(
            model, nn.CrossEntropyLoss(reduction="none"), torch.optim.SGD(model.parameters(), lr=0.1),
            DataLoader(data, batch_size=2, shuffle=True, **loader), epochs=2, seed=3, progress=False,
        )  # fmt: skip
        return dict(model.state_dict())

    assert same_state(weights(), weights(collate_fn=lambda rows: collate(rows)))


def test_the_weights_of_the_best_epoch_come_back():
    model, optimizer = linear()
    kept = []

    def keep(event, state):
        if event == "epoch":
            kept.append({name: tensor.clone() for name, tensor in state.model.state_dict().items()})

    history = fit(
        model, SQUARED, optimizer, rows(), val_loader=rows(), metrics=scripted([0.1, 0.7, 0.6, 0.2]), epochs=4,
        early_stopping=EarlyStopping("score", mode="max"), callbacks=[keep], progress=False, sanity=False,
    )  # fmt: skip
    assert (history.best_epoch, history.best_value, history.stopped, len(history.rows)) == (2, 0.7, None, 4)
    assert same_state(model.state_dict(), kept[1])


def test_of_equal_epochs_the_one_with_the_lowest_validation_loss_is_kept_and_patience_counts_on():
    model, optimizer = linear()
    history = fit(
        model, SQUARED, optimizer, rows(), val_loader=rows(), metrics=scripted([0.7, 0.7, 0.7, 0.7, 0.7]), epochs=5,
        early_stopping=EarlyStopping("score", mode="max", patience=3), progress=False, sanity=False,
    )  # fmt: skip
    losses = [row["val_loss"] for row in history.rows]
    assert history.stopped == "early stopping"
    assert len(losses) == 4
    assert history.best_epoch == 1 + losses.index(min(losses)) > 1


def test_patience_ends_the_run_and_nan_is_never_the_best():
    model, optimizer = linear()
    history = fit(
        model, SQUARED, optimizer, rows(), val_loader=rows(), metrics=scripted([math.nan, 0.5, 0.4, 0.41, 0.39, 0.3]),
        epochs=9, early_stopping=EarlyStopping("score", mode="min", patience=2, min_delta=0.05), progress=False,
        sanity=False,
    )  # fmt: skip
    assert (history.best_epoch, history.best_value, history.stopped, history.epochs) == (3, 0.4, "early stopping", 5)


def test_the_average_is_that_of_the_formula_and_is_what_is_validated_and_returned():
    model, optimizer = linear(torch.float64)
    trail = [model.weight.detach().clone()]

    def note(event, state):
        if event == "step":
            trail.append(model.weight.detach().clone())

    validated = []
    data = rows(dtype=torch.float64)
    fit(
        model, SQUARED, optimizer, data, val_loader=data, epochs=1, ema=0.3, callbacks=[note], progress=False,
        metrics={"keep": lambda output, target: validated.append(output) or 0.0}, sanity=False,
    )  # fmt: skip
    expected = trail[0]
    for count, weight in enumerate(trail[1:], 1):
        decay = min(0.3, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * weight
    assert torch.allclose(model.weight, expected, rtol=1e-14)
    with torch.no_grad():
        assert torch.allclose(validated[0], model(Plain(8).inputs), rtol=1e-14)


def test_the_last_weights_return_to_the_bit_after_the_average_was_in_the_model():
    model, _ = linear()
    average = MovingAverage(model.parameters(), 0.9)
    with torch.no_grad():
        model.weight.normal_()
    before = model.weight.detach().clone()
    with average.in_model():
        assert not torch.equal(model.weight, before)
    assert torch.equal(model.weight, before)


def compiled_and_plain():
    weights = []
    for compiled in (False, True):
        model, optimizer = linear()
        fit(model, SQUARED, optimizer, rows(), compile=compiled, progress=False)
        weights.append(model.weight.detach().clone())
    return weights


def test_compile_calls_the_compiled_model_and_gives_the_plain_one_back(monkeypatch):
    compiled, called = [], []

    def compile_nothing(model):
        compiled.append(model)
        return lambda inputs: called.append(1) or model(inputs)

    monkeypatch.setattr(torch, "compile", compile_nothing)
    assert torch.equal(*compiled_and_plain())
    assert [type(model) for model in compiled] == [nn.Linear]
    assert len(called) == 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # raised inside torch
def test_compile_gives_the_weights_of_the_plain_model():
    assert torch.allclose(*compiled_and_plain())


# --- callbacks and logs


def test_callbacks_hear_of_steps_lines_epochs_and_checkpoints_and_may_stop(tmp_path):
    events = []

    def note(event, state):
        events.append((event, state.step, state.epoch, len(state.rows), len(state.log)))
        if event == "step" and state.step == 6:
            state.stop()

    model, optimizer = linear()
    history = fit(
        model,
        SQUARED,
        optimizer,
        rows(),
        epochs=5,
        log_every=3,
        checkpoint=tmp_path,
        callbacks=[note],
        log=(),
        progress=False,
    )
    assert history.stopped == "callback"
    assert history.steps == 6
    assert events == [
        ("step", 1, 0, 0, 0), ("step", 2, 0, 0, 0), ("log", 3, 0, 0, 1), ("step", 3, 0, 0, 1), ("step", 4, 0, 0, 1),
        ("checkpoint", 4, 0, 0, 1), ("epoch", 4, 1, 1, 1), ("step", 5, 1, 1, 1), ("log", 6, 1, 1, 2), ("step", 6, 1, 1, 2),
        ("checkpoint", 6, 1, 1, 2),
    ]  # fmt: skip


def test_csv_and_tensorboard_logs_go_on_after_a_resume_without_a_gap_or_a_repeat(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for max_steps in (6, None):
        model, optimizer = linear()
        history = fit(
            model, SQUARED, optimizer, rows(), epochs=3, max_steps=max_steps, log_every=1, checkpoint=tmp_path, seed=0,
            progress=False,
        )  # fmt: skip
    assert history.notes == ()
    with (tmp_path / "history.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 13))
    assert [event.step for event in events.Scalars("epoch/train_loss")] == [4, 8, 12]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([line["loss"] for line in history.log])


def test_a_missing_tensorboard_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    model, optimizer = linear()
    history = fit(model, SQUARED, optimizer, rows(), checkpoint=tmp_path, progress=False)
    assert history.notes == (
        "no TensorBoard log was written: tensorboard is not installed; pip install 'linkboy[tensorboard]'",
    )
    assert (tmp_path / "history.csv").exists()


def test_progress_is_lines_on_standard_error_and_nothing_when_off(capsys):
    for shown in (False, True):
        model, optimizer = linear()
        fit(model, SQUARED, optimizer, rows(), val_loader=rows(), epochs=2, progress=shown)
        out, err = capsys.readouterr()
        assert out == ""
        lines = err.splitlines()
        assert len(lines) == (2 if shown else 0)
    assert re.fullmatch(
        r"epoch 2/2  step 8  train_loss \d\.\d{4}  val_loss \d\.\d{4}  lr 0.05  \d+ ms  [\d,]+ examples/s", lines[1]
    )


def test_an_epochs_line_reads_well():
    row = {"epoch": 3, "step": 528, "train_loss": 12.5, "val_loss": math.nan, "f1": 1.0, "lr": 1.23456e-5}
    assert epoch_line({**row, "seconds": 75.0, "examples_per_second": 1234567.8}, 10) == (
        "epoch 3/10  step 528  train_loss 12.5000  val_loss nan  f1 1.0000  lr 1.23e-05  1 min 15 s  1,234,568 examples/s"
    )


# --- saving


def test_checkpoints_come_every_so_many_steps_and_at_the_end(tmp_path):
    model, optimizer = linear()
    history = fit(
        model,
        SQUARED,
        optimizer,
        rows(),
        epochs=5,
        checkpoint=Checkpointer(tmp_path, every_steps=7, keep=9),
        progress=False,
    )
    assert sorted(path.name for path in Checkpointer(tmp_path).paths()) == ["step-14", "step-20", "step-7"]
    assert history.checkpoint == str(tmp_path / "step-20")


def test_checkpoints_come_by_the_clock(tmp_path):
    model, optimizer = linear()
    fit(
        model, SQUARED, optimizer, rows(), checkpoint=Checkpointer(tmp_path, every_minutes=1e-9, keep=9), progress=False
    )
    assert [path.name for path in Checkpointer(tmp_path).paths()] == ["step-1", "step-2", "step-3", "step-4"]


def test_a_damaged_checkpoint_is_passed_over_and_noted(tmp_path):
    whole, optimizer = linear()
    fit(whole, SQUARED, optimizer, rows(), epochs=3, seed=0, progress=False)
    model, optimizer = linear()
    fit(model, SQUARED, optimizer, rows(), epochs=2, seed=0, checkpoint=tmp_path, progress=False, log=())
    (tmp_path / "step-8" / "process-0.json").unlink()
    model, optimizer = linear()
    history = fit(model, SQUARED, optimizer, rows(), epochs=3, seed=0, checkpoint=tmp_path, progress=False, log=())
    assert history.notes == ("step-8 is damaged: process-0.json is missing; went on from step-4",)
    assert history.resumed_from == str(tmp_path / "step-4")
    assert same_state(model.state_dict(), whole.state_dict())


def test_a_path_to_resume_from_is_followed_without_writing_there(tmp_path):
    model, optimizer = linear()
    fit(model, SQUARED, optimizer, rows(), epochs=2, seed=0, checkpoint=tmp_path, progress=False, log=())
    for path in (tmp_path, tmp_path / "step-4"):
        model, optimizer = linear()
        history = fit(model, SQUARED, optimizer, rows(), epochs=3, resume=path, progress=False)
        assert history.steps == 12
        assert history.resumed_from == str(tmp_path / ("step-8" if path == tmp_path else "step-4"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-4", "step-8"]


# --- faults


class Poisoned(nn.Module):
    """A square root that meets a negative number once the input says so."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 2)
        self.root = Root()

    def forward(self, x):
        return self.root(self.first(x), x[:, :1])


class Root(nn.Module):
    def forward(self, x, switch):
        return x + torch.where(switch > 100, switch, torch.ones_like(switch)).neg().add(1).sqrt()


def poisoned_run(on_nan, **options):
    torch.manual_seed(0)
    data = Plain(8, torch.float32)
    data.inputs[5, 0] = 101.0
    model = Poisoned()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return model, fit(
        model, SQUARED, optimizer, DataLoader(data, batch_size=2), on_nan=on_nan, progress=False, **options
    )


def test_nan_stops_with_the_step_the_sample_the_layer_and_the_last_good_checkpoint(tmp_path):
    keeper = Checkpointer(tmp_path, every_steps=2)
    with pytest.raises(FloatingPointError) as caught:
        poisoned_run("raise", checkpoint=keeper, log=())
    assert str(caught.value) == (
        "the loss is not finite in step 3 of epoch 1; it began in 'root' (Root), samples [5]; "
        f"the last good checkpoint is {tmp_path / 'step-2'}"
    )
    assert [path.name for path in keeper.paths()] == ["step-2"]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_nan_is_skipped_and_counted(accumulate):
    model, history = poisoned_run("skip", accumulate=accumulate)
    assert history.skipped_steps == 1
    assert history.steps == 4 // accumulate
    assert math.isfinite(history.rows[0]["train_loss"])
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_gradient_that_is_not_finite_is_caught_when_clipping():
    model, optimizer = linear()
    data = Plain(4, torch.float32)

    def loss_fn(output, target):
        return (output - output.detach()).square().sum(1).sqrt()  # a finite loss with an infinite slope

    with pytest.raises(FloatingPointError) as caught:
        fit(model, loss_fn, optimizer, DataLoader(data), unpack=lambda b: b[:2], clip_grad_norm=1.0, progress=False)
    assert str(caught.value) == (
        "the gradient is not finite in step 1 of epoch 1; it began at the parameter 'bias'; there is no checkpoint"
    )


def test_no_checkpoint_holds_a_parameter_that_is_not_finite(tmp_path):
    calls = []

    def loss_fn(output, target):  # the gradient of the root is infinite at 0; that of the first step is looked at
        calls.append(1)
        return (output - output.detach()).square().sum(1).sqrt() if len(calls) == 2 else output.square().sum(1)

    model, optimizer = linear()
    with pytest.raises(FloatingPointError) as caught:
        fit(
            model,
            loss_fn,
            optimizer,
            rows(),
            unpack=lambda b: b[:2],
            max_steps=2,
            checkpoint=tmp_path,
            log=(),
            progress=False,
        )
    assert str(caught.value) == "the parameter 'weight' is not finite after step 2"
    assert Checkpointer(tmp_path).latest() is None


@pytest.mark.parametrize(
    ("poison", "message"),
    [
        (
            lambda model, data: model.bias.data.fill_(math.nan),
            "the parameter 'bias' was not finite before it, samples [0, 1]",
        ),
        (lambda model, data: data.inputs[1].fill_(math.inf), "the input of the batch is not finite, samples [1]"),
        (
            lambda model, data: data.targets[0].fill_(math.nan),
            "the loss function made it from a finite output, samples [0]",
        ),
    ],
)
def test_the_message_says_where_a_nan_began(poison, message):
    model, optimizer = linear()
    data = Plain(2, torch.float32)
    poison(model, data)
    with pytest.raises(FloatingPointError) as caught:
        fit(model, SQUARED, optimizer, DataLoader(data, batch_size=2), progress=False)
    assert str(caught.value) == f"the loss is not finite in step 1 of epoch 1; {message}; there is no checkpoint"


def test_where_values_are_not_read_in_each_step_a_nan_stops_at_the_next_log_line(monkeypatch):
    begin = Session.begin

    def as_on_a_gpu(session, loop):
        loop.check_each = False
        begin(session, loop)

    monkeypatch.setattr(Session, "begin", as_on_a_gpu)
    model, optimizer = linear()
    data = Plain(8, torch.float32)
    data.inputs[3] = math.nan
    with pytest.raises(FloatingPointError) as caught:
        fit(model, SQUARED, optimizer, DataLoader(data, batch_size=2), log_every=3, progress=False)
    assert str(caught.value) == "the loss is not finite; it became so in one of the steps up to 3"


def test_a_process_without_a_batch_of_a_stream_is_named(monkeypatch):
    monkeypatch.setattr(_processes, "add_up", lambda *numbers: [1.0])  # another process has one
    source = IterableSource([], 0, rank=1, world=2)
    with pytest.raises(ValueError) as caught:
        next(source.batches(0, None))
    assert str(caught.value) == "train_loader gave process 1 no batch, while others have some"


def test_the_diagnosis_names_the_loss_function_the_norm_or_the_layer():
    model = nn.Linear(1, 1)
    placement = Placement(model, torch.device("cpu"), "fp32")
    assert _non_finite.where_it_began(placement, torch.ones(1, 1)) == "the loss function made it from a finite output"
    assert _non_finite.non_finite_gradient(model) == "its norm is too large for its type"
    deep = nn.Sequential(nn.Identity(), Late())
    placement = Placement(deep, torch.device("cpu"), "fp32")
    assert _non_finite.where_it_began(placement, torch.ones(1, 1)) == "it began in '1' (Late)"


class Late(nn.Module):
    def forward(self, x):
        return x / 0


def test_out_of_memory_says_how_to_make_the_batch_fit():
    class Greedy(nn.Linear):
        def forward(self, x):
            return torch.empty(2**46)

    model = Greedy(4, 2)
    with pytest.raises(RuntimeError, match="allocate") as caught:
        fit(model, SQUARED, torch.optim.SGD(model.parameters(), lr=0.1), rows(), progress=False)
    assert caught.value.__notes__ == [
        "the batch does not fit: halve the loader's batch size and double accumulate, which gives the same gradients; "
        "linkboy.retry_on_oom does that around a function that makes model, loader and fit"
    ]


# --- lr_find


def test_lr_find_suggests_a_rate_that_trains_and_leaves_no_trace():
    model, optimizer = linear()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    fit(model, SQUARED, optimizer, rows(), progress=False, max_steps=1)
    before = copy.deepcopy([model.state_dict(), optimizer.state_dict(), _random.capture()])
    found = lr_find(model, SQUARED, optimizer, rows(), max_steps=60, seed=0)
    assert same_state([model.state_dict(), optimizer.state_dict(), _random.capture()], before)
    assert 1e-4 < found.suggestion < 1
    assert len(found.rates) == len(found.losses) == len(found.smoothed)


def test_lr_find_ends_where_the_loss_rises_or_is_not_finite():
    model, _ = linear()
    found = lr_find(
        model, SQUARED, torch.optim.SGD(model.parameters(), lr=0.1), rows(), max_steps=80, max_lr=1e6, seed=0
    )
    assert 0.05 < found.diverged_at < 100
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = lr_find(model, SQUARED, optimizer, rows(), max_steps=8, min_lr=1e30, max_lr=1e38)
    assert (found.suggestion, found.diverged_at, len(found.losses)) == (None, pytest.approx(1e30 * 1e8 ** (1 / 7)), 1)


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("min_lr must be a number above 0, got 0", {"min_lr": 0}),
        ("max_lr must be a number above 0.1, got 0.1", {"min_lr": 0.1, "max_lr": 0.1}),
        ("max_steps must be an integer of at least 2, got 1", {"max_steps": 1}),
    ],
)
def test_lr_find_refuses_a_range_that_is_none(message, changes):
    model, optimizer = linear()
    with pytest.raises(ValueError) as caught:
        lr_find(model, SQUARED, optimizer, rows(), **changes)
    assert str(caught.value) == message


def test_lr_find_refuses_what_is_no_model_and_no_optimizer():
    model, optimizer = linear()
    with pytest.raises(TypeError) as caught:
        lr_find(None, SQUARED, optimizer, rows())
    assert str(caught.value) == "model must be an nn.Module, got NoneType"
    with pytest.raises(TypeError) as caught:
        lr_find(model, SQUARED, "adam", rows())
    assert str(caught.value) == "optimizer must be a torch.optim.Optimizer, got str"


# --- what is refused


def call(**changes):
    model, optimizer = linear()
    arguments = {"model": model, "loss_fn": SQUARED, "optimizer": optimizer, "train_loader": rows(), "progress": False}
    return fit(
        **{
            **arguments,
            **{
                name: value(model, optimizer) if callable(value) and name in LAZY else value
                for name, value in changes.items()
            },
        }
    )


LAZY = ("scheduler", "optimizer")
HALF = DistributedSampler(Plain(4), num_replicas=2, rank=0)
PLATEAU = torch.optim.lr_scheduler.ReduceLROnPlateau
OTHER = nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("error", "message", "changes"),
    [
        (TypeError, "model must be an nn.Module, got function", {"model": same}),
        (
            ValueError,
            "model is on the meta device, where weights have no values; make it on a real one and load them",
            {
                "model": (meta := nn.Linear(4, 2, device="meta")),
                "optimizer": lambda m, o: torch.optim.SGD(meta.parameters()),
            },
        ),
        (TypeError, "compile must be True or False, got 'yes'", {"compile": "yes"}),
        (TypeError, "progress must be True or False, got None", {"progress": None}),
        (TypeError, "callbacks must be a list of functions, got builtin_function_or_method", {"callbacks": print}),
        (TypeError, "log must be a list of names, got NoneType", {"log": None}),
        (TypeError, "metrics must map names to functions of (output, target), got list", {"metrics": []}),
        (TypeError, 'resume must be "auto", "never" or a path, got int', {"resume": 3}),
        (TypeError, "directory must be a path, got int", {"checkpoint": 3}),
        (ValueError, "train_loader has no batch to train on", {"train_loader": []}),
        (ValueError, "val_loader has no batch", {"val_loader": []}),
        (
            ValueError,
            "the losses depend on no parameter that trains: all of the model is frozen, or the output was detached "
            "or turned into integers on the way to the loss",
            {"loss_fn": lambda output, target: SQUARED(output.detach(), target)},
        ),
        (TypeError, "optimizer must be a torch.optim.Optimizer, got str", {"optimizer": "adam"}),
        (ValueError, "epochs must be an integer of at least 1, got 0", {"epochs": 0}),
        (ValueError, "max_steps must be an integer of at least 1, got 0", {"max_steps": 0}),
        (TypeError, "accumulate must be an integer of at least 1, got 1.5 of type float", {"accumulate": 1.5}),
        (TypeError, "accumulate must be an integer of at least 1, got None of type NoneType", {"accumulate": None}),
        (ValueError, "log_every must be an integer of at least 1, got 0", {"log_every": 0}),
        (TypeError, "log_every must be an integer of at least 1, got None of type NoneType", {"log_every": None}),
        (TypeError, "loss_fn must be a function, got str", {"loss_fn": "mse"}),
        (TypeError, "unpack must be a function, got int", {"unpack": 1}),
        (TypeError, "sample_weight must be a function, got f32[2]", {"sample_weight": torch.ones(2)}),
        (TypeError, "callbacks[1] must be a function, got NoneType", {"callbacks": [print, None]}),
        (TypeError, "early_stopping must be an EarlyStopping, got int", {"early_stopping": 3}),
        (
            TypeError,
            f"epochs must be an integer of at least 1, got {np.int64(2)!r} of type int64; pass int(epochs)",
            {"epochs": np.int64(2)},
        ),
        (ValueError, "clip_grad_norm must be a number above 0, got 0", {"clip_grad_norm": 0}),
        (ValueError, "ema must be a number above 0 and of at most 1, got 2", {"ema": 2}),
        (ValueError, "seed must be an integer of at least 0, got -1", {"seed": -1}),
        (
            ValueError,
            "precision must be one of ('fp32', 'bf16', 'fp16'), got 'fp8'",
            {"precision": "fp8"},
        ),
        (
            ValueError,
            'precision="fp16" needs a GPU (its loss scaler has no CPU form); use "bf16" or "fp32" on a CPU',
            {"precision": "fp16", "device": "cpu"},
        ),
        (ValueError, "on_nan must be one of ('raise', 'skip'), got 'ignore'", {"on_nan": "ignore"}),
        (ValueError, "log must be one of ('csv', 'tensorboard'), got 'wandb'", {"log": ("wandb",)}),
        (ValueError, "log must be one of ('csv', 'tensorboard'), got 'wandb'", {"log": "wandb"}),
        (ValueError, "metrics are computed on val_loader, which is missing", {"metrics": {"m": len}}),
        (
            ValueError,
            "early_stopping needs one of the epoch's figures ['train_loss'], got metric 'val_loss'",
            {"early_stopping": EarlyStopping()},
        ),
        (
            ValueError,
            "scheduler has mode=\"max\" and would follow 'train_loss', of which less is better; name its figure with "
            'early_stopping=EarlyStopping(metric, mode="max")',
            {"scheduler": lambda model, optimizer: PLATEAU(optimizer, mode="max")},
        ),
        (
            ValueError,
            "scheduler follows 'train_loss' with mode='max', early_stopping with mode='min'; they must agree",
            {
                "scheduler": lambda model, optimizer: PLATEAU(optimizer, mode="max"),
                "early_stopping": EarlyStopping("train_loss"),
            },
        ),
        (
            ValueError,
            "optimizer LBFGS computes the loss several times in a step and needs a closure, which fit does not have; "
            "use an optimizer that steps once with the gradient, or write the loop for this one",
            {"optimizer": lambda model, optimizer: torch.optim.LBFGS(model.parameters())},
        ),
        (ValueError, "validate_every validates on val_loader, which is missing", {"validate_every": 2}),
        (ValueError, "max_minutes must be a number above 0, got 0", {"max_minutes": 0}),
        (TypeError, "ddp must map options of DistributedDataParallel to values, got str", {"ddp": "all"}),
        (
            TypeError,
            "val_loader must be iterable once per epoch, got an iterator, which ends after the first",
            {"val_loader": iter(())},
        ),
        (
            ValueError,
            "scheduler belongs to another optimizer than the one passed",
            {"scheduler": lambda m, o: torch.optim.lr_scheduler.StepLR(torch.optim.SGD(m.parameters()), 1)},
        ),
        (
            TypeError,
            "scheduler must be a torch.optim.lr_scheduler.LRScheduler, got str",
            {"scheduler": "cosine"},
        ),
        (
            ValueError,
            "optimizer holds no parameter of model; make it from model.parameters()",
            {"optimizer": lambda m, o: torch.optim.SGD(OTHER.parameters())},
        ),
        (
            TypeError,
            "train_loader must be a DataLoader or another iterable of batches, got int",
            {"train_loader": 3},
        ),
        (
            TypeError,
            "train_loader must be a DataLoader or another iterable of batches, got f32[3, 2]; "
            "to give one batch, pass it in a list",
            {"train_loader": torch.zeros(3, 2)},
        ),
        (
            TypeError,
            "val_loader must be a DataLoader or another iterable of batches, got int",
            {"val_loader": 3},
        ),
        (
            TypeError,
            "train_loader must be iterable once per epoch, got an iterator, which ends after the first",
            {"train_loader": iter([])},
        ),
        (ValueError, "train_loader has no batch to train on", {"train_loader": rows(1, 2, drop_last=True)}),
        (
            ValueError,
            "train_loader has a DistributedSampler, which repeats samples; pass shuffle=True instead: "
            "fit shares the samples out over the processes itself",
            {"train_loader": DataLoader(Plain(4), sampler=HALF)},
        ),
        (
            ValueError,
            "train_loader has a DistributedSampler, which repeats samples; pass shuffle=True instead: "
            "fit shares the samples out over the processes itself",
            {"train_loader": DataLoader(Plain(4), batch_sampler=BatchSampler(HALF, 2, drop_last=False))},
        ),
        (
            ValueError,
            "the loader to evaluate has a DistributedSampler, which repeats samples; leave it out: "
            "linkboy shares the samples out over the processes itself",
            {"val_loader": DataLoader(Plain(4), sampler=HALF)},
        ),
        (
            ValueError,
            "loss_fn must return one loss per sample or element, got a scalar; "
            'use reduction="none", the loop divides by the total weight itself',
            {"loss_fn": nn.MSELoss(), "train_loader": rows(1, 1)},
        ),
        (
            ValueError,
            "a batch must be (input, target) or (input, target, weight), got list of 1; pass unpack=, a function of the batch",
            {"train_loader": [[torch.ones(2, 4)]]},
        ),
        (
            ValueError,
            "what unpack returns must be (input, target) or (input, target, weight), got f32[2, 4]; "
            "pass unpack=, a function of the batch",
            {"unpack": lambda batch: batch[0]},
        ),
        (
            ValueError,
            "sample_weight cannot be given when the batch already holds a weight as its third part",
            {"sample_weight": lambda batch: batch[2]},
        ),
        (
            ValueError,
            "weight must have the dimensions of the losses, each equal or 1: the losses are f32[2, 2], weight is f32[2]; "
            "where the third part of a batch is something else, pass unpack=",
            {"sample_weight": lambda batch: torch.ones(2), "unpack": lambda batch: batch[:2]},
        ),
        (
            ValueError,
            "the third part of a batch is its weight, got i64[4] with as many different whole numbers, as places in a dataset "
            "are; pass unpack=, a function of the batch that leaves them out, or weights as floating point",
            {"train_loader": [(torch.ones(4, 4), torch.ones(4, 2), torch.tensor([7, 3, 5, 0]))]},
        ),
        (
            ValueError,
            "metrics must have names of their own, got 'val_loss', which every epoch has; choose another one",
            {"metrics": {"val_loss": lambda output, target: 0.0}, "val_loader": [(torch.ones(2, 4), torch.ones(2, 2))]},
        ),
        (
            ValueError,
            "the weights of a batch must add up to a finite number of at least 0, got -4.0",
            {"sample_weight": lambda batch: -torch.ones(2, 1), "unpack": lambda batch: batch[:2]},
        ),
    ],
)
def test_messages(error, message, changes):
    with pytest.raises(error) as caught:
        call(**changes)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "device must be one that this machine has (cpu), got 'cuda'; leave it out for the fastest"),
        ("meta", "device must be one that this machine has (cpu), got 'meta'; leave it out for the fastest"),
        ("cpu:3", "device must have an index below 1, got 'cpu:3'"),
        ("gpu", "device must be one that torch knows, such as \"cpu\", got 'gpu'"),
        (3.5, 'device must be one that torch knows, such as "cpu", got 3.5'),
    ],
)
def test_a_device_that_is_not_here_is_refused_before_anything_moves(monkeypatch, device, message):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    for use in (lambda: call(device=device), lambda: evaluate(*linear()[:1], rows(), {}, device=device)):
        with pytest.raises(ValueError) as caught:
            use()
        assert str(caught.value) == message


def saved(directory, **changes):
    model, optimizer = linear()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    arguments = {
        "model": model, "loss_fn": SQUARED, "optimizer": optimizer, "train_loader": rows(), "seed": 1, "checkpoint": directory,
        "scheduler": scheduler, "max_steps": 2, "log": (), "progress": False,
    }  # fmt: skip
    return fit(**{**arguments, **changes})


class Wider(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)
        self.bias2 = nn.Parameter(torch.zeros(2))


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("the checkpoint was made with seed=1, this run has seed=2; they must agree", {"seed": 2}),
        (
            "the checkpoint was made with batch_size=2, this run has batch_size=4; they must agree",
            {"train_loader": rows(8, 4)},
        ),
        ("the checkpoint was made with samples=8, this run has samples=9; they must agree", {"train_loader": rows(9)}),
        ("the checkpoint was made with accumulate=1, this run has accumulate=2; they must agree", {"accumulate": 2}),
        ("the checkpoint was made with ema=False, this run has ema=True; they must agree", {"ema": 0.9}),
        (
            "the checkpoint was made with drop_last=False, this run has drop_last=True; they must agree",
            {"train_loader": rows(8, 2, drop_last=True)},
        ),
        (
            "the checkpoint was made with scheduler='StepLR', this run has scheduler=None; they must agree",
            {"scheduler": None},
        ),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_nothing_is_changed(tmp_path, message, changes):
    saved(tmp_path)
    model, optimizer = linear(seed=9)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    with pytest.raises(ValueError) as caught:
        saved(tmp_path, **{"model": model, "optimizer": optimizer, "scheduler": scheduler, **changes})
    assert str(caught.value) == message
    assert same_state(model.state_dict(), before)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Wider(), "the checkpoint has no 'bias2', which the model needs; did you mean 'bias'?"),
        (nn.Linear(4, 2, bias=False), "the checkpoint has 'bias', which the model does not"),
        (nn.Linear(4, 1), "'weight' has shape (2, 4) in the checkpoint and (1, 4) in the model"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_with_the_names(tmp_path, model, message):
    saved(tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError) as caught:
        saved(tmp_path, model=model, optimizer=optimizer, scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 5))
    assert str(caught.value) == message


def test_another_grouping_of_parameters_is_refused(tmp_path):
    saved(tmp_path)
    model, _ = linear()
    optimizer = torch.optim.SGD([{"params": [model.weight]}, {"params": [model.bias]}], lr=0.1)
    with pytest.raises(ValueError) as caught:
        saved(tmp_path, model=model, optimizer=optimizer, scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 5))
    assert str(caught.value) == "the checkpoint's optimizer has groups of [2] parameters, this one has [1, 1]"


def test_going_back_to_an_earlier_checkpoint_needs_another_directory(tmp_path):
    saved(tmp_path / "first")
    saved(tmp_path / "first", max_steps=4)
    with pytest.raises(FileExistsError) as caught:
        saved(tmp_path / "first", resume=tmp_path / "first" / "step-2")
    assert str(caught.value) == (
        "resume names step-2 but the checkpoint directory holds step-4 already; use another directory"
    )
    assert saved(tmp_path / "second", resume=tmp_path / "first" / "step-2", max_steps=4).steps == 4


def test_a_directory_that_cannot_be_resumed_is_said_to_be_so(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        saved(None, resume=tmp_path)
    assert str(caught.value) == (
        f'resume must be "auto", "never", a checkpoint or a directory of them, found none in {tmp_path}'
    )
    saved(tmp_path)
    with pytest.raises(FileExistsError) as caught:
        saved(tmp_path, resume="never")
    assert str(caught.value) == f'resume="never" but {tmp_path} holds step-2; use another directory or resume="auto"'
    (tmp_path / "step-2" / "process-0.json").unlink()
    with pytest.raises(ValueError) as caught:
        saved(tmp_path)
    assert str(caught.value) == f"no checkpoint in {tmp_path} is whole; step-2 is damaged: process-0.json is missing"
    with pytest.raises(ValueError) as caught:
        saved(None, resume=tmp_path / "step-2")
    assert str(caught.value) == f"{tmp_path / 'step-2'} is not a whole checkpoint: process-0.json is missing"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "best"}, "mode must be one of ('min', 'max'), got 'best'"),
        ({"patience": 0}, "patience must be an integer of at least 1, got 0"),
        ({"min_delta": -1}, "min_delta must be a number of at least 0, got -1"),
    ],
)
def test_a_wrong_rule_is_refused(changes, message):
    with pytest.raises(ValueError) as caught:
        EarlyStopping(**changes)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (torch.tensor([0, 5, 1]), "loss_fn was called with f32[3, 3] and i64[3] from 0 to 5"),
        (torch.tensor([0.0, 1.0, 2.0]), "loss_fn was called with f32[3, 3] and f32[3]"),
    ],
)
def test_an_error_of_a_loss_says_what_it_was_called_with(target, told):
    model = nn.Linear(2, 3)
    loader = DataLoader(TensorDataset(torch.zeros(3, 2), target), batch_size=3)
    with pytest.raises((IndexError, RuntimeError)) as caught:
        fit(
            model,
            nn.CrossEntropyLoss(reduction="none"),
            torch.optim.SGD(model.parameters(), 0.1),
            loader,
            progress=False,
        )
    assert caught.value.__notes__ == [told]


@pytest.mark.parametrize(
    "weight", [torch.tensor([0, 1, 1, 0]), torch.tensor([2.0, 1.0, 0.5, 4.0]), torch.tensor([2, 2, 3, 9])]
)
def test_weights_of_any_dtype_are_taken(weight):
    weight = weight[:, None]
    assert call(train_loader=[(torch.ones(4, 4), torch.ones(4, 2), weight)]).steps == 1


@pytest.mark.parametrize(
    ("figure", "mode", "note"),
    [
        ("accuracy", "min", 'takes less accuracy for better; pass {}="max" if more is'),
        ("macro_f1", "min", 'takes less macro_f1 for better; pass {}="max" if more is'),
        ("val_loss", "max", 'takes more val_loss for better; pass {}="min" if less is'),
        ("accuracy", "max", None),
        ("val_loss", "min", None),
        ("brier", "min", None),
        ("accuracy_error", "min", None),
    ],
)
def test_the_wrong_end_of_a_figure_is_noted(tmp_path, figure, mode, note):
    batch = torch.ones(2, 4), torch.ones(2, 2)
    options = {"train_loader": [batch], "val_loader": [batch]}
    if figure != "val_loss":
        options["metrics"] = {figure: lambda output, target: 0.5}
    stopped = call(**options, early_stopping=EarlyStopping(figure, mode=mode))
    kept = call(**options, checkpoint=Checkpointer(tmp_path, keep_best=figure, best_mode=mode))
    assert stopped.notes == (() if note is None else (f"early_stopping {note.format('mode')}",))
    assert kept.notes == (() if note is None else (f"keep_best {note.format('best_mode')}",))
