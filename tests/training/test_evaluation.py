"""Every sample counts once, metrics see all outputs together, and evaluating leaves no trace."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.helpers import Plain, make_model, same_state
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
)

from linkboy import _random
from linkboy.training import evaluate, predict

SQUARED = nn.MSELoss(reduction="none")


class Numbered(Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return self.rows

    def __getitem__(self, index):
        return torch.tensor([float(index)]), torch.tensor([float(-index)])


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 50), batch_size=st.integers(1, 12), shuffle=st.booleans(), drop_last=st.booleans())
def test_every_sample_comes_once_in_dataset_order(rows, batch_size, shuffle, drop_last):
    loader = DataLoader(
        Numbered(rows), batch_size=batch_size, shuffle=shuffle, drop_last=drop_last and rows >= batch_size
    )
    expected = torch.arange(float(rows))[:, None]
    assert torch.equal(predict(nn.Identity(), loader), expected)
    seen = []

    def keep(output, target):
        seen.append((output, target))
        return output.sum()

    report = evaluate(nn.Identity(), loader, {"sum": keep}, loss_fn=SQUARED)
    assert same_state(seen, [(expected, -expected)])
    assert report.sample_count == rows
    assert report.metrics == {"sum": float(expected.sum())}
    assert report.loss == pytest.approx(float((2 * expected.double()).square().mean()), rel=1e-12)


def test_the_loss_is_weighted_and_metrics_are_not():
    data, model = Plain(21), nn.Linear(4, 2, dtype=torch.float64)
    with torch.no_grad():
        losses = SQUARED(model(data.inputs), data.targets)
    weights = data.weights.expand_as(losses)
    metrics = {"mse": lambda output, target: SQUARED(output, target).mean()}
    report = evaluate(model, DataLoader(data, batch_size=4), metrics, loss_fn=SQUARED)
    assert report.loss == pytest.approx(float((weights * losses).sum() / weights.sum()), rel=1e-14)
    assert report.metrics["mse"] == pytest.approx(float(losses.mean()), rel=1e-14)
    same = evaluate(
        model, DataLoader(data, batch_size=9), {}, loss_fn=SQUARED, unpack=lambda b: b[:2], sample_weight=lambda b: b[2]
    )
    assert same.loss == pytest.approx(report.loss, rel=1e-14)


def test_outputs_may_be_nested_and_inputs_named():
    class Two(nn.Module):
        def forward(self, *, left, right):
            return {"sum": left + right, "both": (left, right)}

    loader = DataLoader(
        [{"left": torch.tensor(float(i)), "right": torch.tensor(2.0 * i)} for i in range(5)], batch_size=2
    )
    out = predict(Two(), loader, unpack=lambda batch: (batch, None))
    n = torch.arange(5.0)
    assert same_state(out, {"sum": 3 * n, "both": (n, 2 * n)})


def test_a_subset_sampler_and_a_batch_sampler_are_followed():
    subset = DataLoader(Numbered(9), batch_size=2, sampler=SubsetRandomSampler([7, 1, 4]))
    assert sorted(predict(nn.Identity(), subset)[:, 0].tolist()) == [1, 4, 7]
    batches = DataLoader(Numbered(9), batch_sampler=[[3, 1], [8], [0, 2, 5]])
    assert predict(nn.Identity(), batches)[:, 0].tolist() == [3, 1, 8, 0, 2, 5]
    by_lists = DataLoader(
        Bulk(7), batch_size=None, sampler=BatchSampler(SequentialSampler(range(7)), 3, drop_last=False)
    )
    assert predict(nn.Identity(), by_lists).tolist() == [0, 1, 2, 3, 4, 5, 6]


class Bulk(Dataset):
    def __init__(self, rows):
        self.rows = torch.arange(rows)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, indices):
        return (self.rows[indices],)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(7.0))


def test_a_stream_and_a_list_of_batches_come_as_they_are():
    assert predict(nn.Identity(), DataLoader(Stream(), batch_size=3)).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert predict(nn.Identity(), [torch.ones(2), torch.zeros(1)]).tolist() == [1, 1, 0]


def test_workers_give_the_same_outputs():
    assert torch.equal(
        predict(nn.Identity(), DataLoader(Numbered(9), batch_size=2, num_workers=2))[:, 0], torch.arange(9.0)
    )


def test_modes_weights_and_gradients_are_as_before():
    model = make_model()
    model[1].eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    predict(model, DataLoader(torch.randn(9, 6), batch_size=2, shuffle=True))
    assert [module.training for module in model] == [True, False, True, True, True]
    assert same_state(before, dict(model.state_dict()))
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert torch.is_grad_enabled()


def test_streams_are_as_before():
    model, loader = make_model(), DataLoader(torch.randn(9, 6), batch_size=2, shuffle=True, num_workers=1)
    before = _random.capture()
    predict(model, loader)
    assert same_state(_random.capture(), before)


def test_bf16_returns_float32():
    assert predict(nn.Linear(4, 2), DataLoader(torch.randn(5, 4)), precision="bf16").dtype == torch.float32


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (
            ValueError,
            "loss_fn must return one loss per sample or element, got a scalar; "
            'use reduction="none", the loop divides by the total weight itself',
            lambda: evaluate(nn.Identity(), DataLoader(Numbered(1)), {}, loss_fn=nn.MSELoss()),
        ),
        (
            TypeError,
            "loss_fn must return a tensor with one loss per sample or element, got float",
            lambda: evaluate(nn.Identity(), DataLoader(Numbered(1)), {}, loss_fn=lambda o, t: 0.5),
        ),
        (
            ValueError,
            "the model must return one row per sample: 2 samples gave 1 row",
            lambda: predict(nn.Flatten(0), DataLoader(Numbered(2), batch_size=2), unpack=lambda b: (b[0][:1],)),
        ),
        (
            ValueError,
            "batches must agree in all dimensions but the first to be put together, got [(1,), (2,)]; "
            "pad them to one length, or return what does not depend on it",
            lambda: predict(nn.Identity(), [torch.ones(3, 1), torch.ones(3, 2)]),
        ),
        (
            ValueError,
            "the model must return a tensor with one row per sample, got NoneType",
            lambda: evaluate(Nothing(), DataLoader(Numbered(2)), {}),
        ),
        (
            ValueError,
            "metrics['m'] must return one number, got f32[2, 1]",
            lambda: evaluate(nn.Identity(), DataLoader(Numbered(2)), {"m": lambda o, t: o}),
        ),
        (
            TypeError,
            "metrics must map names to functions of (output, target), got list",
            lambda: evaluate(nn.Identity(), DataLoader(Numbered(2)), [len]),
        ),
        (
            TypeError,
            "metrics['m'] must be a function of (output, target), got float",
            lambda: evaluate(nn.Identity(), DataLoader(Numbered(2)), {"m": 0.5}),
        ),
        (
            TypeError,
            "loader must be a DataLoader or another iterable of batches, got int",
            lambda: predict(nn.Identity(), 3),
        ),
        (
            TypeError,
            "loader must be a DataLoader or another iterable of batches, got f32[3, 4]; to give one batch, pass it in a list",
            lambda: predict(nn.Identity(), torch.zeros(3, 4)),  # its rows are no batches
        ),
        (
            TypeError,
            "loader must be a DataLoader or another iterable of batches, got dict; to give one batch, pass it in a list",
            lambda: evaluate(nn.Identity(), {"input": torch.zeros(3, 4)}, {}, loss_fn=nn.MSELoss()),
        ),
        (ValueError, "loader has no batch", lambda: predict(nn.Identity(), [])),
        (ValueError, "loader has no batch", lambda: evaluate(nn.Identity(), [], {}, loss_fn=nn.MSELoss())),
        (TypeError, "model must be an nn.Module, got NoneType", lambda: predict(None, DataLoader(Numbered(2)))),
        (
            TypeError,
            "model must be an nn.Module, got builtin_function_or_method",
            lambda: evaluate(torch.relu, DataLoader(Numbered(2)), {}),
        ),
        (
            TypeError,
            "loss_fn must be a function, got str",
            lambda: evaluate(nn.Identity(), DataLoader(Numbered(2)), {}, loss_fn="mse"),
        ),
        (
            ValueError,
            "sample_weight has no effect without loss_fn: metrics are never weighted",
            lambda: evaluate(nn.Identity(), DataLoader(Numbered(2)), {}, sample_weight=len),
        ),
        (
            TypeError,
            "unpack must be a function, got int",
            lambda: predict(nn.Identity(), DataLoader(Numbered(2)), unpack=0),
        ),
        (
            ValueError,
            "what unpack returns must be (input, ...), got NoneType",
            lambda: predict(nn.Identity(), DataLoader(Numbered(2)), unpack=lambda batch: None),
        ),
        (
            ValueError,
            "outputs and targets must be tensors, or containers of tensors that are otherwise the same in every batch, got str",
            lambda: evaluate(nn.Identity(), [(torch.ones(1), "label")], {"m": lambda o, t: 0.0}),
        ),
        (
            ValueError,
            "precision must be one of ('fp32', 'bf16', 'fp16'), got 'fp8'",
            lambda: predict(nn.Identity(), [], precision="fp8"),
        ),
    ],
)
def test_messages(error, message, call):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


class Nothing(nn.Module):
    def forward(self, x):
        return None


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    note: str | None = None


class Classifier(nn.Module):
    """Returns a dataclass, and with labels a loss as well, as models of transformers do."""

    def __init__(self, kind=Output):
        super().__init__()
        self.linear, self.kind = nn.Linear(4, 3), kind

    def forward(self, x, labels=None):
        if labels is None:
            return self.kind(self.linear(x))
        return {"loss": nn.functional.cross_entropy(self.linear(x), labels), "logits": self.linear(x)}


def test_a_metric_that_fails_says_what_it_was_called_with():
    class Net(nn.Linear):
        def forward(self, x):
            return {"logits": super().forward(x), "hidden": x}

    rows = DataLoader(TensorDataset(torch.zeros(6, 3), torch.zeros(6, dtype=torch.long)), 4)
    with pytest.raises(AttributeError) as caught:
        evaluate(Net(3, 2), rows, {"accuracy": lambda output, target: (output.argmax(1) == target).double().mean()})
    assert caught.value.__notes__ == [
        "metrics['accuracy'] was called with dict(logits=f32[6, 2], hidden=f32[6, 3]) and i64[6]"
    ]


def test_outputs_in_a_dataclass_come_back_in_it_and_the_metric_sees_them():
    model, x = Classifier(), torch.randn(7, 4)
    output = predict(model, DataLoader(x, batch_size=2))
    assert type(output) is Output
    torch.testing.assert_close(output.logits, model(x).logits)
    data = DataLoader(TensorDataset(x, torch.arange(7)), batch_size=2)
    report = evaluate(model, data, {"rows": lambda output, target: len(output.logits) + len(target)})
    assert report.metrics == {"rows": 14.0}


def test_what_differs_between_batches_beside_tensors_is_refused():
    notes = iter("ab")
    model = Classifier(lambda logits: Output(logits, next(notes)))
    with pytest.raises(ValueError, match="otherwise the same in every batch, got Output"):
        predict(model, DataLoader(torch.randn(4, 4), batch_size=2))


def test_a_loss_among_the_outputs_is_refused_with_what_to_do():
    samples = [{"x": torch.zeros(4), "labels": torch.tensor(1)} for _ in range(4)]
    with pytest.raises(ValueError) as caught:
        predict(Classifier(), DataLoader(samples, batch_size=2))
    assert str(caught.value) == (
        "outputs and targets must have one row per sample, got f32[] beside others that have; "
        "a loss is among the outputs where a model is given labels: leave them out with unpack=, a function of the batch"
    )


def test_a_tensor_whose_first_dimension_is_not_the_samples_is_refused():
    class Recurrent(nn.GRU):
        def forward(self, x):
            return super().forward(x)  # the second output is (layers, B, H)

    with pytest.raises(ValueError, match=r"must have one row per sample, got f32\[1, 2, 3\] beside others"):
        predict(Recurrent(4, 3, batch_first=True), DataLoader(torch.randn(4, 5, 4), batch_size=2))
