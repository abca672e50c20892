"""What `fit` finds wrong in its first steps, and the right programs in which it finds nothing."""

import warnings
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from linkboy._watch import FIT
from linkboy.training import _findings, fit

CROSS_ENTROPY = nn.CrossEntropyLoss(reduction="none")


def points(count=32):
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(count, 4, generator=generator), torch.randint(3, (count,), generator=generator))


class Model(nn.Module):
    def __init__(self, forward=None):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.spare = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(2, 2)
        self.how = forward or (lambda model, x: model.head(model.body(x)))

    def forward(self, x):
        return self.how(self, x)


def run(model, parameters, loss_fn=CROSS_ENTROPY, data=None, *, make=torch.optim.SGD, **options):
    optimizer = make(parameters, lr=0.1, weight_decay=options.pop("decay", 0.0))
    loader = DataLoader(points() if data is None else data, batch_size=8)
    return fit(model, loss_fn, optimizer, loader, **{"seed": 0, "log": (), "progress": False, **options})


def trained(model):
    return [*model.body.parameters(), *model.head.parameters()]


def sentence_of(call):
    with pytest.warns(UserWarning, match="parameter|losses") as caught:
        history = call()
    assert len(caught) == len(history.findings) == 1
    assert str(caught[0].message) == f"{history.findings[0].sentence}; {history.findings[0].fix}"
    return history.findings[0].word, str(caught[0].message)


def test_a_head_that_was_replaced_after_the_optimizer_was_made_is_named():
    model = Model()
    parameters = trained(model)
    model.head = nn.Linear(8, 3)
    assert sentence_of(lambda: run(model, parameters)) == (
        "unoptimized",
        "2 parameters of the loss are in no optimizer and never change: head.weight, head.bias (27 of 73 numbers); the optimizer "
        "holds 2 tensors that no model has any more; make the optimizer after the last change of the model, or call "
        "optimizer.add_param_group",
    )


def test_what_the_optimizer_was_not_given_is_named():
    model = Model()
    assert sentence_of(lambda: run(model, model.body.parameters())) == (
        "unoptimized",
        "2 parameters of the loss are in no optimizer and never change: head.weight, head.bias (27 of 73 numbers); give them "
        "to the optimizer, or set requires_grad_(False) on them if they are meant to be frozen",
    )


@pytest.mark.parametrize("steps", [2, 9])
def test_a_graph_that_is_cut_is_named(steps):
    model = Model(lambda model, x: model.head(model.body(x).detach()))
    word, sentence = sentence_of(lambda: run(model, trained(model), max_steps=steps))
    assert word == "cut"
    assert sentence.startswith(
        "2 parameters of layers that run get no gradient from any loss: body.weight, body.bias (40 numbers); between the layer "
    )


def test_frozen_parameters_that_move_are_named():
    class Careless(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            with torch.no_grad():
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter.mul_(0.9)

    model = Model()
    model.body.requires_grad_(False)
    assert sentence_of(lambda: run(model, trained(model), make=Careless)) == (
        "frozen-moved",
        "2 parameters with requires_grad=False changed in a step: body.weight, body.bias; leave them out of the optimizer: "
        "weight decay and momentum move what still has a gradient",
    )


def classes(count=160, *, shuffle=True, target=None, by_class=False):
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(2))
    y = x[:, :3].argmax(1) if target is None else target(x)
    order = y.argsort() if by_class else torch.arange(count)
    return DataLoader(TensorDataset(x[order], y[order]), 16, shuffle=shuffle)


class Held(nn.Module):
    """A layer in a list, which no module knows."""

    def __init__(self):
        super().__init__()
        self.body, self.inner, self.head = nn.Linear(4, 8), [nn.Linear(8, 8)], nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.inner[0](self.body(x)))


class Rooted(nn.Module):
    """A logarithm of what is zero for some rows."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 3)

    def forward(self, x):
        return self.body(x).relu().log()


def loud():
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(60)
    return model


def into_eval_mode(event, state):
    state.model.eval()


def net(*last):
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Linear(8, 3), *last)


def of_one(*last):
    return nn.Sequential(nn.Linear(4, 1), *last)


BINARY = nn.BCEWithLogitsLoss(reduction="none")
PLANTED = {
    "unregistered": lambda: (Held(), CROSS_ENTROPY, classes(), {}),
    "unused": lambda: (Model(), CROSS_ENTROPY, classes(), {}),
    "double-softmax": lambda: (net(nn.Softmax(1)), CROSS_ENTROPY, classes(), {}),
    "double-sigmoid": lambda: (
        of_one(nn.Sigmoid()), BINARY, classes(target=lambda x: (x[:, :1] > 0).float()), {},
    ),
    "raw-nll": lambda: (net(nn.Softmax(1)), nn.NLLLoss(reduction="none"), classes(), {}),
    "broadcast": lambda: (of_one(), lambda o, t: (o - t) ** 2, classes(target=lambda x: x[:, 0]), {}),
    "ignored-samples": lambda: (net(), lambda o, t: CROSS_ENTROPY(o[:5], t[:5]), classes(), {}),
    "nan": lambda: (Rooted(), CROSS_ENTROPY, classes(), {"on_nan": "skip"}),
    "exploding": lambda: (loud(), CROSS_ENTROPY, classes(), {}),
    "eval-in-training": lambda: (net(), CROSS_ENTROPY, classes(), {"callbacks": [into_eval_mode]}),
    "unshuffled": lambda: (net(), CROSS_ENTROPY, classes(shuffle=False, by_class=True), {}),
}  # fmt: skip


@pytest.mark.parametrize("word", PLANTED)
def test_each_kind_is_named_in_one_line_and_alone(word):
    torch.manual_seed(0)
    model, loss_fn, loader, options = PLANTED[word]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with pytest.warns(UserWarning, match=".") as caught:
        history = fit(model, loss_fn, optimizer, loader, seed=0, log=(), progress=False, **options)
    assert [finding.word for finding in history.findings] == [word]
    (line,) = [str(each.message) for each in caught if str(each.message).endswith(history.findings[0].fix)]
    assert "\n" not in line
    assert line.startswith(history.findings[0].sentence)


def test_every_check_that_fit_runs_has_a_planted_fault_here():
    assert set(PLANTED) | {"unoptimized", "cut", "frozen-moved"} == set(FIT)


@pytest.mark.parametrize("word", ["unregistered", "double-softmax", "unshuffled"])
def test_bits_are_those_of_a_run_without_checks(word):
    results = []
    for on_finding in ("warn", "off"):
        torch.manual_seed(0)
        model, loss_fn, loader, options = PLANTED[word]()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit(model, loss_fn, optimizer, loader, seed=0, log=(), progress=False, on_finding=on_finding, **options)
        results.append([*model.state_dict().values(), torch.get_rng_state()])
    assert all(map(torch.equal, *results))


def of_tokens(loss_fn, **options):
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(3, (16, 5), generator=generator)
    labels[:, 3:] = -100
    data = TensorDataset(torch.randn(16, 5, 4, generator=generator), labels)
    model = Model()
    return run(model, trained(model), loss_fn, data, **options)


def flat(output, target):
    return F.cross_entropy(output.transpose(1, 2), target, reduction="none")


def test_padding_that_the_mean_counts_is_named():
    assert sentence_of(lambda: of_tokens(flat)) == (
        "padding-counted",
        "16 of 40 losses are 0 because their label is below 0 (such as -100), and the mean counts them: loss and gradient are "
        "too small by that share; pass the loss itself and not a function around it, or sample_weight=, a function of the batch "
        "that is 0 there",
    )


class Tagger(nn.Module):
    def forward(self, output, target):
        return F.cross_entropy(output.transpose(1, 2), target, reduction="none")


def right_programs():
    model = Model()
    yield "plain", lambda: run(model, trained(model))
    frozen = Model()
    frozen.body.requires_grad_(False)
    yield "frozen and left out", lambda: run(frozen, frozen.head.parameters())
    held = Model()
    held.body.requires_grad_(False)
    yield "frozen and held, with decay", lambda: run(held, trained(held), make=torch.optim.AdamW, decay=0.1)
    yield "weighted padding", lambda: of_tokens(flat, sample_weight=lambda batch: (batch[1] >= 0).float())
    turns = iter(range(10**6))
    switch = Model(
        lambda model, x: model.head(model.body(x)) + (model.spare.weight.sum() * 0 if next(turns) % 2 else 0)
    )
    yield "a part that the batch chooses", lambda: run(switch, [*trained(switch), switch.spare.weight])
    regression = TensorDataset(torch.randn(8, 4), -torch.ones(8, 3))
    another = Model()
    yield "targets below 0", lambda: run(another, trained(another), nn.MSELoss(reduction="none"), regression)


@pytest.mark.parametrize(
    ("name", "call"), list(right_programs()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_right_programs_are_silent(name, call):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert call().findings == ()


def test_a_finding_can_end_the_run_or_be_left_alone():
    model = Model()
    before = model.body.weight.clone()
    with pytest.raises(
        ValueError, match=r'^2 parameters of the loss are in no optimizer .*; on_finding="warn" goes on in spite of it$'
    ):
        run(model, model.body.parameters(), on_finding="raise")
    assert not torch.equal(model.body.weight, before)  # one step was made
    model = Model()
    assert run(model, model.body.parameters(), on_finding="off").findings == ()
    with pytest.raises(ValueError, match=r"^on_finding must be one of \('warn', 'raise', 'off'\), got 'ignore'$"):
        run(model, model.body.parameters(), on_finding="ignore")


def test_nothing_is_looked_at_after_the_first_steps_and_no_bit_changes(monkeypatch):
    looked = []
    for name in ("calls", "saw_losses", "stepped"):
        plain = getattr(_findings.Examination, name)
        counted = lambda *a, plain=plain, name=name, **k: looked.append(name) or plain(*a, **k)  # noqa: E731
        monkeypatch.setattr(_findings.Examination, name, counted)
    results = []
    for on_finding in ("warn", "off"):
        model = Model()
        run(model, trained(model), epochs=3, on_finding=on_finding)
        results.append(model.state_dict())
    assert Counter(looked) == dict.fromkeys(("calls", "saw_losses", "stepped"), _findings.STEPS)
    assert all(torch.equal(a, b) for a, b in zip(results[0].values(), results[1].values(), strict=True))
