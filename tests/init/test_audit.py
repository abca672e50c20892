"""`audit_activations`: sick nets are flagged where they are sick, healthy ones never, and the model is left alone."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from linkboy.init import audit_activations, initialize, kaiming, xavier

sys.path.insert(0, str(Path(__file__).parents[1] / "parameters"))
import zoo


def stack(std, depth=10, width=64, activation=None):
    torch.manual_seed(0)
    layers = []
    for _ in range(depth):
        layer = nn.Linear(width, width)
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
        layers += [layer] + ([activation()] if activation else [])
    return nn.Sequential(*layers)


def test_statistics_equal_those_worked_out_by_hand():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), nn.Tanh())
    x, y = torch.randn(16, 4), torch.randn(16, 3)
    with torch.no_grad():
        model[0].bias[:2] = -100
        model[2].weight *= 20
    audit = audit_activations(model, x, loss=lambda out: F.mse_loss(out, y))
    hidden = model[0](x)
    hidden.retain_grad()
    rectified = model[1](hidden)
    rectified.retain_grad()
    out = model[3](model[2](rectified))
    F.mse_loss(out, y).backward()
    rows = {row.name: row for row in audit.rows}
    assert rows["0"].std == pytest.approx(hidden.std(correction=0).item())
    assert rows["0"].mean == pytest.approx(hidden.mean().item())
    assert rows["1"].dead == pytest.approx((rectified == 0).all(0).float().mean().item())
    assert rows["1"].dead >= 0.25
    assert rows["3"].saturated == pytest.approx((out.abs() > 0.95).float().mean().item())
    assert rows["0"].gradient_std == pytest.approx(hidden.grad.std(correction=0).item(), rel=1e-4)
    assert rows["1"].gradient_std == pytest.approx(rectified.grad.std(correction=0).item(), rel=1e-4)


@pytest.mark.parametrize(
    ("model", "layer", "word"),
    [
        (stack(1.0), "3", "explodes"),
        (stack(0.01), "2", "vanishes"),
        (stack(3.0, activation=nn.Tanh), "1", "saturates"),
        (stack(10.0, activation=nn.Sigmoid), "1", "saturates"),
    ],
)
def test_exploding_vanishing_and_saturated_stacks_are_flagged(model, layer, word):
    audit = audit_activations(model, torch.randn(64, 64))
    assert audit.notes[0].startswith(word)
    assert audit.layer == layer


def test_dead_units_are_flagged_with_their_layer():
    model = stack(0.2, depth=3, activation=nn.ReLU)
    with torch.no_grad():
        model[2].bias[:40] = -100
    audit = audit_activations(model, torch.randn(64, 64))
    assert (audit.layer, audit.notes[0][:4]) == ("3", "dies")
    convolution = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    with torch.no_grad():
        convolution[0].bias[:3] = -100
    assert audit_activations(convolution, torch.randn(2, 1, 8, 8)).rows[1].dead == 0.75


def test_a_gradient_that_vanishes_is_flagged_though_the_signal_is_fine():
    model = stack(0.125, activation=nn.Sigmoid)
    audit = audit_activations(model, torch.randn(64, 64), loss=lambda out: out.square().mean())
    assert audit.notes[0].startswith("the gradient vanishes")


def test_the_first_layer_that_is_not_finite_is_named():
    model = stack(0.1, depth=4)
    with torch.no_grad():
        model[2].weight[0, 0] = float("inf")
    assert audit_activations(model, torch.ones(2, 64)).notes == ("not finite from 2 on",)
    audit = audit_activations(stack(0.1), torch.ones(2, 64), loss=lambda out: out.sum() * float("nan"))
    assert audit.notes == ("the gradient is not finite from 9 back",)


@pytest.mark.parametrize("name", sorted(zoo.ARCHITECTURES))
@pytest.mark.filterwarnings("ignore")
def test_fresh_architectures_are_healthy_and_left_bit_identical(name):
    torch.manual_seed(0)
    model, inputs = zoo.ARCHITECTURES[name]()
    inputs = tuple(i if isinstance(i, dict) or not i.is_floating_point() else torch.randn_like(i) for i in inputs)
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    before = zoo.fingerprint(model)
    batch = inputs[0] if isinstance(inputs[0], dict) else inputs
    audit = audit_activations(
        model, batch, loss=lambda out: getattr(out, "logits", _first(out)).float().square().mean()
    )
    assert zoo.fingerprint(model) == before
    assert audit.ok, audit


def _first(out):
    return out if isinstance(out, torch.Tensor) else next(iter(out.values()))


@pytest.mark.slow
@pytest.mark.parametrize("train", [True, False])
def test_full_size_fresh_resnet_and_bert_are_healthy(train):
    import transformers as hf

    torch.manual_seed(0)
    resnet = hf.ResNetForImageClassification(hf.ResNetConfig()).train(train)
    loss = lambda out: F.cross_entropy(out.logits, torch.zeros(len(out.logits), dtype=torch.long))  # noqa: E731
    assert audit_activations(resnet, torch.randn(4, 3, 96, 96), loss=loss).ok
    bert = hf.BertForSequenceClassification(hf.BertConfig()).train(train)
    assert audit_activations(bert, {"input_ids": torch.randint(0, 30000, (2, 32))}, loss=loss).ok


def test_batchnorm_and_dropout_in_training_mode_leave_no_trace_and_a_raising_model_neither():
    class Raises(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.drop = nn.BatchNorm1d(3), nn.Dropout()

        def forward(self, x):
            self.drop(self.norm(x))
            raise KeyboardInterrupt

    model, batch = Raises(), torch.randn(4, 3)
    before = zoo.fingerprint(model)
    with pytest.raises(KeyboardInterrupt):
        audit_activations(model, batch)
    assert zoo.fingerprint(model) == before


def test_modules_called_twice_and_nested_outputs_have_a_row_each():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.lstm = nn.Linear(4, 4), nn.LSTM(4, 4)

        def forward(self, x):
            return {"out": self.lstm(self.layer(self.layer(x)))}

    names = [row.name for row in audit_activations(Twice(), torch.randn(2, 3, 4)).rows]
    assert names == ["layer", "layer", "lstm", "lstm[1]", "lstm[2]"]


def test_an_activation_in_place_does_not_rewrite_the_row_before_it():
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    inplace = nn.Sequential(plain[0], nn.ReLU(inplace=True))
    x = torch.randn(8, 4)
    loss = lambda out: out.sum()  # noqa: E731
    one, other = audit_activations(plain, x, loss=loss), audit_activations(inplace, x, loss=loss)
    assert list(map(repr, one.rows)) == list(
        map(repr, other.rows)
    )  # on Python 3.13 rows that hold a NaN are never equal


def test_half_precision_and_autocast():
    model = stack(0.125, depth=3)
    with torch.autocast("cpu", torch.bfloat16):
        assert audit_activations(model, torch.randn(8, 64)).ok
    assert audit_activations(model.bfloat16(), torch.randn(8, 64).bfloat16()).ok


def test_initialize_shows_the_signal_before_and_after():
    model = stack(1.0, activation=nn.ReLU)
    report = initialize(model, kaiming(), audit=torch.randn(64, 64))
    assert report.before.notes[0].startswith("explodes")
    assert report.after.ok
    assert "signal before: explodes" in str(report)
    assert initialize(nn.Linear(2, 2), xavier(), audit=torch.randn(3, 2)).after.ok


def test_plot_is_a_figure_with_both_panels(tmp_path):
    audit = audit_activations(stack(0.125, activation=nn.Tanh), torch.randn(8, 64), loss=lambda out: out.sum())
    figure = audit.plot()
    scale, _ = figure.axes
    assert len(scale.lines) == 2
    assert list(scale.lines[0].get_ydata()) == [row.std for row in audit.rows]
    figure.savefig(tmp_path / "audit.png")
    assert (tmp_path / "audit.png").stat().st_size > 5000


def test_messages():
    with pytest.raises(TypeError) as caught:
        audit_activations(3, torch.zeros(1))
    assert str(caught.value) == "model must be an nn.Module, got int"
    with pytest.raises(ValueError) as caught:
        audit_activations(nn.Linear(2, 2), torch.zeros(1, 2), loss=lambda out: out)
    assert str(caught.value) == "loss must give a scalar tensor, got (1, 2)"


@pytest.mark.parametrize("container", [tuple, list])
def test_two_inputs_in_a_tuple_or_list_are_two_arguments(container):
    pair = [torch.randn(8, 4), torch.randn(8, 4)]
    assert len(audit_activations(nn.Bilinear(4, 4, 2), container(pair)).rows) == 1


def test_layers_that_return_a_dataclass_or_a_mapping_are_audited():
    import collections
    import dataclasses

    @dataclasses.dataclass
    class Output:
        hidden: torch.Tensor

    class Layer(nn.Module):
        def __init__(self, wrap):
            super().__init__()
            self.weight, self.wrap = nn.Parameter(torch.eye(4)), wrap

        def forward(self, x):
            return self.wrap(x @ self.weight)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = Layer(Output)
            self.second = Layer(lambda x: collections.UserDict(hidden=x))

        def forward(self, x):
            return self.second(self.first(x).hidden)["hidden"]

    assert [row.name for row in audit_activations(Net(), torch.randn(8, 4)).rows] == ["first", "second"]


def test_an_embedding_with_a_norm_is_not_renormalised_by_the_audit():
    model = nn.Embedding(3, 4, max_norm=0.1)
    before = model.weight.detach().clone()
    assert audit_activations(model, torch.tensor([0, 1]), loss=lambda out: out.sum()).rows[0].gradient_std == 0
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize(
    ("model", "batch", "error", "message"),
    [
        (nn.Linear(2, 2), (3, 2), TypeError, "batch must hold tensors, got what looks like a shape; pass torch.zeros(3, 2)"),
        (
            nn.Linear(2, 2, device="meta"), torch.ones(1, 2), ValueError,
            "model must have values, got one on the meta device; load its weights first",
        ),
        (
            nn.LazyLinear(2), torch.ones(1, 2), ValueError,
            "model must have no lazy parameters, which a run would fill, and 'weight' is one; "
            "run one batch through the model first",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_audited_is_named(model, batch, error, message):
    with pytest.raises(error) as caught:
        audit_activations(model, batch)
    assert str(caught.value) == message
