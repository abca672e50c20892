"""What `fit` finds wrong in its first steps, and the right programs in which it finds nothing."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

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
        "2 parameters with a gradient are not in the optimizer and will not change: head.weight, head.bias (27 of 73 numbers), "
        "while the optimizer holds 2 tensors that the model does not have; make the optimizer after the last change of the model",
    )


def test_what_the_optimizer_was_not_given_is_named():
    model = Model()
    assert sentence_of(lambda: run(model, model.body.parameters())) == (
        "unoptimized",
        "2 parameters with a gradient are not in the optimizer and will not change: head.weight, head.bias (27 of 73 numbers); "
        "give them to the optimizer, or set requires_grad_(False) on them if they are meant to be frozen",
    )


@pytest.mark.parametrize("steps", [1, 4])
def test_a_graph_that_is_cut_is_named(steps):
    model = Model(lambda model, x: model.head(model.body(x).detach()))
    word, sentence = sentence_of(lambda: run(model, trained(model), max_steps=steps))
    assert word == "cut"
    assert sentence.startswith(
        "2 parameters in the optimizer had no gradient in the first steps: body.bias, body.weight (40 numbers); the layer is "
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
        ValueError, match=r'^2 parameters with a gradient are not in .*; on_finding="warn" goes on in spite of it$'
    ):
        run(model, model.body.parameters(), on_finding="raise")
    assert not torch.equal(model.body.weight, before)  # one step was made
    model = Model()
    assert run(model, model.body.parameters(), on_finding="off").findings == ()
    with pytest.raises(ValueError, match=r"^on_finding must be one of \('warn', 'raise', 'off'\), got 'ignore'$"):
        run(model, model.body.parameters(), on_finding="ignore")


def test_nothing_is_looked_at_after_three_steps_and_no_bit_changes(monkeypatch):
    looked = []
    plain = _findings.Examination.stepped
    monkeypatch.setattr(_findings.Examination, "stepped", lambda *arguments: looked.append(1) or plain(*arguments))
    results = []
    for on_finding in ("warn", "off"):
        model = Model()
        run(model, trained(model), epochs=3, on_finding=on_finding)
        results.append(model.state_dict())
    assert len(looked) == 3
    assert all(torch.equal(a, b) for a, b in zip(results[0].values(), results[1].values(), strict=True))
