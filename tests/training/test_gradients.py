"""The gradient of a step is that of the full batch, however it is cut; and the reported loss is the sum over samples."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.helpers import Plain, Recorder, full_batch_gradient, relative_error
from torch import nn
from torch.utils.data import DataLoader

from linkboy.training import fit

SQUARED = nn.MSELoss(reduction="none")


def first_gradient(model, dataset, *, batch_size, accumulate, **options):
    optimizer = Recorder(model.parameters())
    loader = DataLoader(dataset, batch_size=batch_size, shuffle=True)
    history = fit(model, SQUARED, optimizer, loader, accumulate=accumulate, seed=0, progress=False, **options)
    return optimizer.gradients[0], history


def unweighted(batch):
    return batch[0], batch[1]


@settings(max_examples=40, deadline=None)
@given(batch_size=st.integers(1, 22), spare=st.integers(0, 3), weighted=st.booleans(), double=st.booleans())
def test_one_step_over_all_rows_has_the_full_batch_gradient(batch_size, spare, weighted, double):
    dtype = torch.float64 if double else torch.float32
    dataset, model = Plain(21, dtype), nn.Linear(4, 2, dtype=dtype)
    expected = full_batch_gradient(model, dataset, weighted=weighted)
    got, _ = first_gradient(
        model,
        dataset,
        batch_size=batch_size,
        accumulate=math.ceil(21 / batch_size) + spare,  # a group that stays short
        unpack=None if weighted else unweighted,
    )
    assert relative_error(got, expected) <= (1e-12 if double else 1e-6)


def test_the_check_above_can_fail():
    dataset, model = Plain(21), nn.Linear(4, 2, dtype=torch.float64)
    expected = full_batch_gradient(model, dataset, weighted=True)
    for rows in torch.arange(21).split(8):  # what `loss.mean() / accumulate` does, weights and all
        losses = SQUARED(model(dataset.inputs[rows]), dataset.targets[rows]) * dataset.weights[rows]
        (losses.sum() / dataset.weights[rows].expand_as(losses).sum() / 3).backward()
    assert relative_error([p.grad for p in model.parameters()], expected) > 0.1


def test_each_group_of_an_epoch_is_divided_by_its_own_weight():
    dataset = Plain(7)
    model = nn.Linear(4, 2, dtype=torch.float64)
    optimizer = Recorder(model.parameters())
    fit(model, SQUARED, optimizer, DataLoader(dataset, batch_size=2), accumulate=3, progress=False)
    for got, rows in zip(optimizer.gradients, (slice(0, 6), slice(6, 7)), strict=True):
        part = Plain(7)
        part.inputs, part.targets, part.weights = dataset.inputs[rows], dataset.targets[rows], dataset.weights[rows]
        assert relative_error(got, full_batch_gradient(model, part, weighted=True)) <= 1e-12


@pytest.mark.parametrize("accumulate", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [4, 21])
def test_the_reported_loss_is_that_of_all_samples(accumulate, batch_size):
    dataset, model = Plain(21), nn.Linear(4, 2, dtype=torch.float64)
    with torch.no_grad():
        losses = SQUARED(model(dataset.inputs), dataset.targets)
        weights = dataset.weights.expand_as(losses)
        expected = float((weights * losses).sum() / weights.sum())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    loader = DataLoader(dataset, batch_size=batch_size, shuffle=True)
    history = fit(
        model, SQUARED, optimizer, loader, val_loader=loader, accumulate=accumulate, log_every=1, progress=False
    )
    assert history.rows[0]["train_loss"] == pytest.approx(expected, rel=1e-14)
    assert history.rows[0]["val_loss"] == pytest.approx(expected, rel=1e-14)


def test_clipping_sees_the_normalised_gradient_of_the_whole_group_once():
    dataset, model = Plain(21), nn.Linear(4, 2, dtype=torch.float64)
    expected = full_batch_gradient(model, dataset, weighted=True)
    norm = float(torch.cat([g.flatten() for g in expected]).norm())
    for limit in (norm / 2, norm * 2):
        factor = min(1.0, limit / (norm + 1e-6))  # torch's own rule: it divides by the norm and a millionth
        got, _ = first_gradient(model, dataset, batch_size=4, accumulate=6, clip_grad_norm=limit)
        assert relative_error(got, [factor * g for g in expected]) <= 1e-12


def test_sample_weight_gives_the_gradient_that_a_weight_in_the_batch_gives():
    dataset, model = Plain(21), nn.Linear(4, 2, dtype=torch.float64)
    expected, _ = first_gradient(model, dataset, batch_size=5, accumulate=2)
    got, _ = first_gradient(
        model, dataset, batch_size=5, accumulate=2, unpack=unweighted, sample_weight=lambda batch: batch[2]
    )
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_a_group_of_weight_zero_makes_no_step_and_is_counted():
    dataset, model = Plain(6), nn.Linear(4, 2, dtype=torch.float64)
    dataset.weights[2:4] = 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    weights = []

    def note(event, state):
        if event == "step":
            weights.append((model.weight.detach().clone(), optimizer.param_groups[0]["lr"]))

    history = fit(
        model,
        SQUARED,
        optimizer,
        DataLoader(dataset, batch_size=2),
        scheduler=scheduler,
        callbacks=[note],
        progress=False,
    )
    assert (history.steps, history.skipped_steps) == (3, 1)
    assert torch.equal(weights[0][0], weights[1][0])
    assert not torch.equal(weights[1][0], weights[2][0])
    assert [rate for _, rate in weights] == [0.05, 0.05, 0.025]


def test_all_weights_zero_leaves_the_model_alone_and_reports_no_loss():
    dataset, model = Plain(6), nn.Linear(4, 2, dtype=torch.float64)
    dataset.weights[:] = 0
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    history = fit(model, SQUARED, optimizer, DataLoader(dataset, batch_size=4), progress=False)
    assert history.skipped_steps == 2
    assert math.isnan(history.rows[0]["train_loss"])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_sparse_gradients_are_normalised_too():
    def gradient(*, sparse, accumulate):
        torch.manual_seed(0)
        model = nn.EmbeddingBag(9, 3, mode="sum", sparse=sparse)
        optimizer = Recorder(model.parameters())
        data = [(torch.arange(i, i + 4).reshape(2, 2), torch.ones(2, 3) * i) for i in range(4)]
        fit(model, SQUARED, optimizer, data, accumulate=accumulate, progress=False)
        return optimizer.gradients[0][0].to_dense()

    assert torch.allclose(gradient(sparse=True, accumulate=4), gradient(sparse=False, accumulate=4))


def test_bf16_autocast_gives_nearly_the_gradient_of_float32():
    dataset, model = Plain(21, torch.float32), nn.Linear(4, 2)
    expected, _ = first_gradient(model, dataset, batch_size=5, accumulate=5)
    got, history = first_gradient(model, dataset, batch_size=5, accumulate=5, precision="bf16")
    assert 0 < relative_error(got, expected) < 0.02
    assert history.precision == "bf16"
    assert "forward" not in vars(model)  # the autocast wrapper is gone
