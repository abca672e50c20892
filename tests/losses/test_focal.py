"""Focal loss against a 50-digit oracle, against torch at gamma 0, and at every edge."""

import pytest
import torch
import torch.nn.functional as F
from mpmath import mp, mpf

from linkboy import focal_loss

mp.dps = 50
GAMMAS = (0, 0.25, 0.5, 1, 2, 5)
SMALLEST_NORMAL = torch.finfo(torch.float32).tiny


def exact_loss_and_gradient(logits: list[float], target: int, gamma: float):
    """The definition in 50 digits: `-(1 - p)**gamma * log(p)`, its gradient by the chain rule over `p`."""
    powers = [mp.exp(mpf(value)) for value in logits]
    total = mp.fsum(powers)
    others = mp.fsum(power for index, power in enumerate(powers) if index != target)
    p, q, gamma = powers[target] / total, others / total, mpf(gamma)
    slope_in_p = gamma * q ** (gamma - 1) * mp.log(p) - q**gamma / p
    gradient = [slope_in_p * p * ((index == target) - power / total) for index, power in enumerate(powers)]
    return -(q**gamma) * mp.log(p), gradient


def relative_error(value: float, exact) -> float:
    if abs(exact) < SMALLEST_NORMAL:  # below the normal numbers of float32 only the absolute error can be asked for
        return 0.0 if abs(mpf(value) - exact) <= SMALLEST_NORMAL else float("inf")
    return float(abs(mpf(value) - exact) / abs(exact))


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_loss_and_gradient_have_all_digits_of_float32_at_every_gap(gamma, reduction):
    generator = torch.Generator().manual_seed(0)
    for gap in (*range(0, 81, 4), *range(-80, 0, 16)):
        logits = torch.randn(1, 6, generator=generator)
        logits[0, 2] = logits[0, [0, 1, 3, 4, 5]].max() + gap
        logits.requires_grad_()
        loss = focal_loss(logits, torch.tensor([2]), gamma=gamma, reduction=reduction)
        loss.sum().backward()
        exact, exact_gradient = exact_loss_and_gradient(logits[0].tolist(), 2, gamma)
        assert relative_error(loss.item(), exact) <= 1e-6, gap
        for got, want in zip(logits.grad[0].tolist(), exact_gradient, strict=True):
            assert relative_error(got, want) <= 1e-6, gap


def test_the_oracle_condemns_the_snippet():
    logits = torch.tensor([[14.0, 0.0, 0.0]])
    exact, _ = exact_loss_and_gradient([14.0, 0.0, 0.0], 0, 2)
    log_p = F.log_softmax(logits, 1)[0, 0]
    assert relative_error(((1 - log_p.exp()) ** 2 * -log_p).item(), exact) > 1e-3


def make_batch(*shape: int, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(shape, generator=generator, dtype=dtype, requires_grad=True)
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)
    return logits, target


@pytest.mark.parametrize("shape", [(7, 5), (4, 5, 3), (2, 5, 3, 4), (1, 5, 2, 1, 3)])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_gamma_0_is_cross_entropy(shape, label_smoothing, weighted, reduction):
    logits, target = make_batch(*shape)
    target.view(-1)[1] = -100
    alpha = torch.rand(5, dtype=torch.float64) if weighted else None
    options = {"reduction": reduction, "label_smoothing": label_smoothing}
    ours = focal_loss(logits, target, gamma=0, alpha=alpha, **options)
    theirs = F.cross_entropy(logits, target, weight=alpha, **options)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    ours, theirs = (torch.autograd.grad(loss.sum(), logits)[0] for loss in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("shape", [(7, 5), (4, 5, 3)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_gamma_0_is_cross_entropy_with_soft_targets(shape, weighted, reduction):
    logits, _ = make_batch(*shape)
    shares = torch.rand(shape, dtype=torch.float64).softmax(1)
    alpha = torch.rand(5, dtype=torch.float64) if weighted else None
    ours = focal_loss(logits, shares, gamma=0, alpha=alpha, reduction=reduction)
    theirs = F.cross_entropy(logits, shares, weight=alpha, reduction=reduction)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_one_hot_soft_targets_equal_labels():
    logits, target = make_batch(7, 5)
    shares = F.one_hot(target, 5).double()
    torch.testing.assert_close(focal_loss(logits, shares), focal_loss(logits, target), rtol=1e-12, atol=0)


def test_weights_multiply_and_the_normalizer_divides():
    logits, target = make_batch(6, 3)
    target[0] = -100
    alpha, weight = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0, 3.0])
    plain = focal_loss(logits, target, reduction="none")
    effective = torch.where(target == -100, 0.0, alpha[target.clamp(min=0)] * weight).double()
    arguments = {"alpha": alpha, "sample_weight": weight}
    total = (effective * plain).sum()
    counted = (target != -100) & (weight > 0)
    expected = {
        "weights": total / effective.sum(),
        "count": total / counted.sum(),
        "positives": total / (counted & (target > 0)).sum(),
        12.5: total / 12.5,
    }
    for normalizer, value in expected.items():
        torch.testing.assert_close(focal_loss(logits, target, **arguments, normalizer=normalizer), value)
    torch.testing.assert_close(focal_loss(logits, target, **arguments, reduction="sum"), total)
    torch.testing.assert_close(focal_loss(logits, target, **arguments, reduction="none"), effective * plain)
