"""Padding and class weights of a loss: the step divides by what the mean of the loss would divide by."""

import functools

import pytest
import torch
import torch.nn.functional as F
from tests.training.helpers import Recorder
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import linkboy as lb
from linkboy.training import evaluate, fit

WEIGHT = torch.tensor([1.0, 5.0, 0.2], dtype=torch.float64)


def tagged(ignored=-100):
    """Rows of labels, a different share of each ignored."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, 6, 4, dtype=torch.float64, generator=generator)
    labels = torch.randint(3, (8, 6), generator=generator)
    for row in range(8):
        labels[row, 1 + row % 6 :] = ignored
    return inputs, labels


class Tagger(nn.Linear):
    def forward(self, x):
        return super().forward(x).transpose(1, 2)  # (B, C, T)


def gradient_of_fit(loss_fn, inputs, labels, **options):
    torch.manual_seed(0)
    model = Tagger(4, 3, dtype=torch.float64)
    optimizer = Recorder(model.parameters())
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=2)
    history = fit(model, loss_fn, optimizer, loader, accumulate=4, progress=False, val_loader=loader, **options)
    report = evaluate(model, loader, {}, loss_fn=loss_fn)
    assert history.rows[0]["train_loss"] == pytest.approx(history.rows[0]["val_loss"]) == pytest.approx(report.loss)
    return model, optimizer.gradients[0][0], report.loss


@pytest.mark.parametrize(
    ("loss_fn", "reduced"),
    [
        (nn.CrossEntropyLoss(reduction="none"), F.cross_entropy),
        (nn.CrossEntropyLoss(reduction="none", weight=WEIGHT), functools.partial(F.cross_entropy, weight=WEIGHT)),
        (
            nn.CrossEntropyLoss(reduction="none", weight=WEIGHT, label_smoothing=0.1),
            functools.partial(F.cross_entropy, weight=WEIGHT, label_smoothing=0.1),
        ),
        (
            functools.partial(F.cross_entropy, reduction="none", weight=WEIGHT),
            functools.partial(F.cross_entropy, weight=WEIGHT),
        ),
        (lb.FocalLoss(reduction="none"), lb.focal_loss),
        (functools.partial(lb.focal_loss, reduction="none"), lb.focal_loss),
        (lb.FocalLoss(alpha=WEIGHT, reduction="none"), functools.partial(lb.focal_loss, alpha=WEIGHT)),
        (
            functools.partial(lb.focal_loss, reduction="none", alpha=[1.0, 5.0, 0.2]),
            functools.partial(lb.focal_loss, alpha=[1.0, 5.0, 0.2]),
        ),
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_the_mean_is_that_of_the_loss(loss_fn, reduced, whole):
    inputs, labels = tagged(1 if whole else -100)
    model, gradient, loss = gradient_of_fit(loss_fn, inputs, labels)
    right = reduced(model(inputs), labels)
    torch.testing.assert_close(gradient, torch.autograd.grad(right, model.weight)[0], rtol=1e-9, atol=1e-12)
    assert loss == pytest.approx(right.item(), rel=1e-9)


def test_labels_that_are_probabilities_count_one_each():
    weight, generator = WEIGHT, torch.Generator().manual_seed(1)
    inputs, _ = tagged()
    soft = torch.rand(8, 3, 6, dtype=torch.float64, generator=generator)
    model, gradient, _ = gradient_of_fit(nn.CrossEntropyLoss(weight, reduction="none"), inputs, soft)
    right = torch.autograd.grad(F.cross_entropy(model(inputs), soft, weight), model.weight)[0]
    torch.testing.assert_close(gradient, right, rtol=1e-9, atol=1e-12)


def test_weights_of_the_samples_multiply_those_of_the_labels():
    inputs, labels = tagged()
    samples = torch.arange(1.0, 9.0, dtype=torch.float64)[:, None]
    loader = [(inputs, labels, samples)]
    torch.manual_seed(0)
    model = Tagger(4, 3, dtype=torch.float64)
    optimizer = Recorder(model.parameters())
    fit(model, nn.CrossEntropyLoss(WEIGHT, reduction="none"), optimizer, loader, progress=False)
    losses = F.cross_entropy(model(inputs), labels, WEIGHT, reduction="none")
    counted = torch.where(labels < 0, 0, WEIGHT[labels.clamp(0)])
    right = (samples * losses).sum() / (samples * counted).sum()
    torch.testing.assert_close(optimizer.gradients[0][0], torch.autograd.grad(right, model.weight)[0])


class Own(nn.Module):
    ignore_index = -100

    def forward(self, output, target):
        return F.cross_entropy(output, target, reduction="none")


def test_a_loss_that_is_not_understood_is_refused_where_labels_are_ignored():
    inputs, labels = tagged()
    with pytest.raises(ValueError) as caught:
        gradient_of_fit(Own(), inputs, labels)
    assert str(caught.value) == (
        "Own has ignore_index=-100 and some labels are -100; whether its mean counts them cannot be known: "
        "pass sample_weight=, a function of the batch that returns 0 for them"
    )
    _, gradient, _ = gradient_of_fit(Own(), *tagged(1))
    assert gradient.isfinite().all()
    model = Tagger(4, 3, dtype=torch.float64)
    optimizer = Recorder(model.parameters())
    fit(
        model,
        Own(),
        optimizer,
        [(inputs, labels)],
        sample_weight=lambda batch: (batch[1] >= 0).double(),
        progress=False,
    )
    right = torch.autograd.grad(F.cross_entropy(model(inputs), labels), model.weight)[0]
    torch.testing.assert_close(optimizer.gradients[0][0], right)
