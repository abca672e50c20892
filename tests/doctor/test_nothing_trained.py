"""Trainings that run to their end and change nothing: no gradient arrives, or the rate is zero."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import linkboy as lb


def net(outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, outputs))


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=1e-2)


def found_in(model, loss, optimizer, *, steps=20, again=None, schedule=None):
    """Train with `loss(output, labels)`, and return what the doctor says; `again` makes another model every ten steps."""
    inputs = torch.randn(64, 6)
    labels = inputs[:, :3].argmax(1)
    with lb.watch_training() as watch:
        scheduler = None if schedule is None else torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        for step in range(steps):
            if again is not None and step % 10 == 0:
                model = again()
            optimizer.zero_grad()
            loss(model(inputs[step % 4 :: 4]), labels[step % 4 :: 4]).backward()
            optimizer.step()
            if scheduler is not None and step % 10 == 9:
                scheduler.step()
    return [(each.word, each.severity) for each in watch.report().findings if each.severity != "NOTE"]


def classes(output, labels):
    return F.cross_entropy(output, labels)


@pytest.mark.parametrize(
    "loss",
    [
        lambda out, y: torch.tensor(F.cross_entropy(out, y).item(), requires_grad=True),
        lambda out, y: F.cross_entropy(out, y).detach().requires_grad_(),
        lambda out, y: F.mse_loss(out.argmax(1).float().requires_grad_(), y.float()),
        lambda out, y: F.cross_entropy(torch.from_numpy(out.detach().numpy()).requires_grad_(), y),
        lambda out, y: 1 - ((out.sigmoid() > 0.5).float().requires_grad_() * F.one_hot(y, 3)).mean(),
    ],
)
def test_a_loss_that_no_gradient_leaves_is_named(loss):
    model = net()
    assert found_in(model, loss, adam(model)) == [("cut", "FAULT")]


def test_fit_names_a_loss_that_no_gradient_leaves():
    model = net()
    batches = [(torch.randn(8, 6), torch.randint(3, (8,))) for _ in range(4)]

    def loss(output, labels):
        return (output.argmax(1) - labels).float().square().requires_grad_()

    history = lb.fit(model, loss, adam(model), batches, seed=0, progress=False, log=(), on_finding="off")
    assert history.findings == ()
    with pytest.raises(
        ValueError, match="no loss reaches a tensor that Adam holds: its 4 steps had no gradient at all"
    ):
        lb.fit(model, loss, adam(model), batches, seed=0, progress=False, log=(), on_finding="raise")


@pytest.mark.parametrize("closes", [False, True])
def test_a_backward_that_is_never_called_is_named(closes):
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters()) if closes else adam(model)
    with lb.watch_training() as watch:
        for _ in range(5):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(torch.randn(16, 6)), torch.randint(3, (16,)))
            _ = loss.backward
            optimizer.step(lambda loss=loss: loss) if closes else optimizer.step()
    (found,) = watch.report().findings
    assert (found.word, found.severity) == ("cut", "FAULT")
    assert found.fix == "call loss.backward(), with its brackets, before optimizer.step()"


def test_gradients_without_a_backward_pass_may_be_estimates():
    model, optimizer = net(), None
    with lb.watch_training() as watch:
        optimizer = adam(model)
        for _ in range(10):
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
    assert watch.report().findings == ()


def reloaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("other", [copy.deepcopy, reloaded, lambda model: net()])
def test_a_model_made_after_its_optimizer_is_named(other):
    first = net()
    assert found_in(other(first), classes, adam(first)) == [("unoptimized", "FAULT")]


def test_a_model_made_again_for_each_fold_is_named():
    assert found_in(None, classes, adam(net()), steps=30, again=net) == [("unoptimized", "FAULT")]


@pytest.mark.parametrize(
    ("outputs", "loss"),
    [
        (1, lambda out, y: F.binary_cross_entropy(out.softmax(1)[:, 0], (y == 0).float())),
        (1, lambda out, y: F.mse_loss(out.round(), y[:, None].float())),
        (3, lambda out, y: F.cross_entropy(out.sign(), y)),
    ],
)
def test_gradients_that_are_all_zero_are_named(outputs, loss):
    model = net(outputs)
    assert found_in(model, loss, adam(model)) == [("vanishing", "FAULT")]


class Rounds(nn.Module):
    """Rounds between its layers, straight through where that is wanted."""

    def __init__(self, *, straight):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.straight = nn.Linear(6, 16), nn.Linear(16, 3), straight

    def forward(self, x):
        hidden = 4 * self.first(x)
        rounded = hidden.round()
        return self.last(hidden + (rounded - hidden).detach() if self.straight else rounded)


@pytest.mark.parametrize(("straight", "words"), [(False, [("vanishing", "LIKELY")]), (True, [])])
def test_a_layer_behind_something_flat_is_named(straight, words):
    model = Rounds(straight=straight)
    assert found_in(model, classes, adam(model)) == words


def test_a_last_layer_of_zeros_is_not_flat():
    model = net()
    nn.init.zeros_(list(model.parameters())[2])
    assert found_in(model, classes, torch.optim.SGD(model.parameters(), lr=0.1)) == []


def test_gradients_that_the_program_writes_itself_are_gradients():
    """Asynchronous workers differentiate a copy of the model and hand the gradient over."""
    shared = net()
    copied, optimizer = copy.deepcopy(shared), adam(shared)
    with lb.watch_training() as watch:
        for _ in range(20):
            copied.load_state_dict(shared.state_dict())
            copied.zero_grad()
            F.cross_entropy(copied(torch.randn(16, 6)), torch.randint(3, (16,))).backward()
            for mine, theirs in zip(shared.parameters(), copied.parameters(), strict=True):
                mine.grad = theirs.grad
            optimizer.step()
    assert [each.word for each in watch.report().findings] == []


@pytest.mark.parametrize("rate", [0.0, 1e-30])
def test_a_rate_that_changes_nothing_is_named(rate):
    model = net()
    assert found_in(model, classes, torch.optim.Adam(model.parameters(), lr=rate)) == [("lr-low", "FAULT")]


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (lambda epoch: epoch // 1000, [("lr-low", "LIKELY")]),
        (lambda epoch: epoch / 5, []),  # a warm-up that begins at 0
        (lambda epoch: 1e-3 * 0.95**epoch, [("scheduler-pace", "LIKELY")]),  # a rate, where a factor is meant
        (lambda epoch: 0.95**epoch, []),
    ],
)
def test_a_schedule_that_keeps_the_rate_at_nothing_is_named(factor, words):
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    assert found_in(model, classes, optimizer, steps=30, schedule=factor) == words
