"""Parameters that come, go and lie outside the model are divided, clipped, averaged, saved and restored like the rest."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.training.helpers import same_state
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import linkboy as lb
from linkboy.training import Checkpointer, EarlyStopping, fit, lr_find

CROSS_ENTROPY = nn.CrossEntropyLoss(reduction="none")


def points(batch_size=16, **options):
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(64, 4, generator=generator), torch.randint(3, (64,), generator=generator))
    return DataLoader(data, batch_size=batch_size, **options)


def frozen():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    model[0].requires_grad_(False)
    return model, torch.optim.SGD(model[3].parameters(), lr=0.1, momentum=0.9)


def unfreeze(how):
    """A callback that trains the first layer from the second epoch on."""

    def callback(event, state):
        if event == "epoch" and state.epoch == 1:
            state.model[0].requires_grad_(True)
            if how == "group":
                state.optimizer.add_param_group({"params": list(state.model[0].parameters()), "lr": 0.05})
            elif how == "extend":
                state.optimizer.param_groups[0]["params"].extend(state.model[0].parameters())

    return callback


def run(directory=None, how="group", max_steps=None, loader=None, **options):
    model, optimizer = frozen()
    history = fit(
        model, CROSS_ENTROPY, optimizer, loader or points(shuffle=True), epochs=3, max_steps=max_steps,
        callbacks=[unfreeze(how)], checkpoint=directory, seed=0, log=(), progress=False, **options,
    )  # fmt: skip
    return model.state_dict(), optimizer.state_dict(), history


@pytest.mark.parametrize("how", ["group", "extend"])
@pytest.mark.parametrize("cut", [4, 5, 9])
def test_a_resume_after_a_callback_gave_the_optimizer_parameters_is_bit_identical(tmp_path, how, cut):
    whole = run(None, how, ema=0.9)
    run(tmp_path, how, cut, ema=0.9)
    again = run(tmp_path, how, ema=0.9)
    assert same_state(again[:2], whole[:2])
    assert again[2].steps == 12


def test_what_was_trained_before_the_optimizer_held_it_leaves_no_gradient_behind():
    model, optimizer = frozen()
    model[0].requires_grad_(True)  # trainable, but in no group: its gradients must not pile up until it is
    norms = []

    def callback(event, state):
        if event == "epoch" and state.epoch == 1:
            assert model[0].weight.grad is not None
            state.optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 0.0})
        if event == "log":
            norms.append(state.log[-1]["loss"])

    options = {"callbacks": [callback], "log_every": 1, "seed": 0, "progress": False, "on_finding": "off"}
    fit(model, CROSS_ENTROPY, optimizer, points(), epochs=2, **options)
    momentum = optimizer.state[model[0].weight]["momentum_buffer"]
    assert momentum.norm() < 4 * 10  # four steps with momentum, not the sum of the four before as well


class Temperature(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, output, target):
        return F.cross_entropy(output * self.log_scale.exp(), target, reduction="none")


@pytest.mark.parametrize("as_module", [True, False])
def test_parameters_of_the_loss_are_saved_and_restored(tmp_path, as_module):
    def train(directory, max_steps=None):
        model, _ = frozen()
        loss = Temperature()
        optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], lr=0.05)
        loss_fn = loss if as_module else lambda output, target: loss(output, target)  # a function hides its module
        fit(
            model, loss_fn, optimizer, points(shuffle=True), epochs=3, max_steps=max_steps, checkpoint=directory, seed=0,
            log=(), progress=False,
        )  # fmt: skip
        return model.state_dict(), loss.state_dict()

    whole = train(None)
    train(tmp_path, 7)
    assert same_state(train(tmp_path), whole)


class Counting(nn.Linear):
    """State that is not a tensor, by torch's own protocol."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)

    def get_extra_state(self):
        return {"calls": self.calls}

    def set_extra_state(self, state):
        self.calls = state["calls"]


@pytest.mark.parametrize(("state", "kind"), [(b"bytes", "bytes"), (np.ones(2), "ndarray"), ({"seen": [{1, 2}]}, "set")])
def test_extra_state_that_no_checkpoint_can_hold_is_refused_before_the_first_step(tmp_path, state, kind):
    class Odd(nn.Linear):
        def get_extra_state(self):
            return state

    model = Odd(4, 3)
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError) as caught:
        fit(model, CROSS_ENTROPY, optimizer, points(), checkpoint=tmp_path, progress=False)
    assert str(caught.value).startswith("state.model._extra_state")
    assert f"must be a tensor, a plain value or a dict, list or tuple of them, got {kind}; " in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    fit(model, CROSS_ENTROPY, optimizer, points(), max_steps=1, progress=False)  # nothing is to be saved


def test_extra_state_is_restored_by_a_resume_by_the_best_epoch_and_by_lr_find(tmp_path):
    def train(max_steps=None):
        model = Counting(4, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        options = {"val_loader": points(), "early_stopping": EarlyStopping(restore_best=False), "epochs": 2, "log": ()}
        fit(
            model,
            CROSS_ENTROPY,
            optimizer,
            points(),
            max_steps=max_steps,
            checkpoint=tmp_path,
            progress=False,
            **options,
        )
        return model.calls

    assert train(3) == 7  # three steps and the four batches of a validation, which the next start does again
    assert train() == 16
    model = Counting(4, 3)
    lr_find(model, CROSS_ENTROPY, torch.optim.SGD(model.parameters(), lr=0.1), points(), max_steps=5)
    assert model.calls == 0


class Plateau:
    """A callback with state of its own."""

    def __init__(self):
        self.seen = []

    def __call__(self, event, state):
        if event == "step":
            self.seen.append(state.step)

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def with_state(directory, max_steps=None, **options):
    model, optimizer = frozen()
    plateau = Plateau()
    options = {"state": {"plateau": plateau}, **options}
    fit(
        model, CROSS_ENTROPY, optimizer, points(), epochs=2, max_steps=max_steps, callbacks=[plateau], checkpoint=directory,
        log=(), progress=False, **options,
    )  # fmt: skip
    return plateau.seen


def test_objects_with_state_are_saved_and_restored(tmp_path):
    with_state(tmp_path, 3)
    assert with_state(tmp_path) == list(range(1, 9))
    with pytest.raises(ValueError) as caught:
        with_state(tmp_path, state={})
    assert (
        str(caught.value)
        == "the checkpoint was made with state for ['plateau'], this run has state for []; they must agree"
    )


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([1], "state must map names to objects with a state_dict, got list"),
        ({"a": 1}, "state['a'] must have state_dict and load_state_dict, got int"),
    ],
)
def test_what_has_no_state_is_refused(state, message):
    with pytest.raises(TypeError) as caught:
        with_state(None, state=state)
    assert str(caught.value) == message


def test_another_order_of_parameters_is_refused_by_name(tmp_path):
    run(tmp_path, max_steps=2)
    model, _ = frozen()
    optimizer = torch.optim.SGD(reversed(list(model[3].parameters())), lr=0.1, momentum=0.9)
    with pytest.raises(ValueError) as caught:
        fit(model, CROSS_ENTROPY, optimizer, points(shuffle=True), checkpoint=tmp_path, seed=0, log=(), progress=False)
    assert str(caught.value) == (
        "the checkpoint's optimizer has 'model:3.weight' at place 0 of group 0, this one has 'model:3.bias'; they must agree"
    )


def test_a_loss_with_and_one_without_parameters_are_not_the_same_run(tmp_path):
    run(tmp_path, max_steps=2)
    model, optimizer = frozen()
    with pytest.raises(ValueError) as caught:
        fit(model, Temperature(), optimizer, points(shuffle=True), checkpoint=tmp_path, seed=0, log=(), progress=False)
    assert str(caught.value) == "this run has a loss_fn with parameters or buffers, the other has not; they must agree"


def of_the_next_format(path):
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 3}))


def test_a_checkpoint_of_another_format_is_neither_replaced_nor_removed(tmp_path):
    keeper = Checkpointer(tmp_path, keep=1)
    of_the_next_format(newest := keeper.save({"a": 1}, 5))
    with pytest.raises(ValueError) as caught:
        keeper.latest()
    assert str(caught.value) == (
        f"{newest} has format 3, and this linkboy reads formats up to 2; update linkboy, or use another directory"
    )
    with pytest.raises(FileExistsError):
        keeper.save({"a": 1}, 5)
    keeper.save({"a": 1}, 6)
    keeper.save({"a": 1}, 7)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-5", "step-7"]


def test_an_error_in_a_validation_costs_no_epoch(tmp_path):
    def faulty(output, target):
        return output.no_such_attribute

    def train(metrics):
        model, optimizer = frozen()
        return fit(
            model, CROSS_ENTROPY, optimizer, points(), val_loader=points(), metrics=metrics, checkpoint=tmp_path, seed=0,
            log=(), progress=False, sanity=False,
        )  # fmt: skip

    with pytest.raises(AttributeError):
        train({"faulty": faulty})
    history = train({"rows": lambda output, target: len(output)})
    assert (history.resumed_from, history.steps) == (str(tmp_path / "step-4"), 4)
    assert history.rows[0]["rows"] == 64.0


def test_options_of_linkboys_losses_are_those_of_the_present_call(tmp_path):
    def train(alpha, max_steps=None):
        model, optimizer = frozen()
        loss_fn = lb.FocalLoss(alpha=alpha, reduction="none")
        fit(
            model,
            loss_fn,
            optimizer,
            points(),
            max_steps=max_steps,
            checkpoint=tmp_path,
            seed=0,
            log=(),
            progress=False,
        )
        return loss_fn.alpha.tolist()

    train([1.0, 1.0, 1.0], 2)
    assert train([1.0, 2.0, 3.0]) == [1.0, 2.0, 3.0]


def test_what_a_callback_adds_right_before_a_checkpoint_is_in_it(tmp_path):
    def train(directory, max_steps=None):
        model, optimizer = frozen()

        def callback(event, state):
            if event == "step" and state.step == 2:
                model[0].requires_grad_(True)
                state.optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 0.05})

        keeper = None if directory is None else Checkpointer(directory, every_steps=2)
        fit(
            model, CROSS_ENTROPY, optimizer, points(), max_steps=max_steps, callbacks=[callback], ema=0.9,
            checkpoint=keeper, seed=0, log=(), progress=False,
        )  # fmt: skip
        return model.state_dict()

    whole = train(None)
    train(tmp_path, 2)
    assert same_state(train(tmp_path), whole)
