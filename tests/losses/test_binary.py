"""Binary and multi-label focal loss."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from mpmath import mp, mpf

from linkboy import asymmetric_loss, binary_focal_loss, focal_loss
from linkboy.losses import _binary, _fused, _small

mp.dps = 50


def make_batch(*shape: int):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    return logits, torch.randint(0, 2, shape, generator=generator)


@pytest.mark.parametrize("gamma", [0, 0.25, 0.5, 1, 2, 5])
@pytest.mark.parametrize("soft", [False, True])
def test_loss_and_gradient_have_all_digits_of_float32_at_every_logit(gamma, soft):
    tiny = torch.finfo(torch.float32).tiny
    for value in (-80.0, -20.0, -4.0, -0.5, 0.0, 0.7, 3.0, 17.0, 45.0, 80.0):
        logit = torch.tensor([value], requires_grad=True)
        binary_focal_loss(logit, torch.tensor([1.0 if soft else 1]), gamma=gamma).backward()
        loss = binary_focal_loss(logit, torch.tensor([1.0 if soft else 1]), gamma=gamma).item()
        x, g = mpf(logit.item()), mpf(gamma)
        p, q = 1 / (1 + mp.exp(-x)), 1 / (1 + mp.exp(x))
        exact = -(q**g) * mp.log(p)
        exact_slope = g * q**g * p * mp.log(p) - q ** (g + 1)
        for got, want in ((loss, exact), (logit.grad.item(), exact_slope)):
            assert abs(mpf(got) - want) <= max(tiny, 1e-6 * abs(want))


@pytest.mark.parametrize("way", ["core", "small", "chunks", "none"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_thousands_of_float32_logits_have_all_digits(gamma, way, monkeypatch):
    if way != "core":
        monkeypatch.setattr(_small, "CORE", None)
    monkeypatch.setattr(_binary, "_SMALL", -1 if way == "chunks" else 2**17)
    monkeypatch.setattr(_fused, "_CHUNK", 1000)
    generator = torch.Generator().manual_seed(3)
    logits = (8 * torch.randn(4000, generator=generator)).requires_grad_()
    label = torch.randint(0, 2, (4000,), generator=generator)
    binary_focal_loss(logits, label, gamma=gamma, reduction="none" if way == "none" else "sum").sum().backward()
    deficit = torch.where(label == 1, -logits.detach().double(), logits.detach().double())
    q, p = deficit.exp() / (1 + deficit.exp()), 1 / (1 + deficit.exp())
    exact = torch.where(label == 1, -1, 1) * q**gamma * (q + gamma * p * deficit.exp().log1p())
    normal = exact.abs() > torch.finfo(torch.float32).tiny
    assert ((logits.grad - exact) / exact)[normal].abs().max() <= 3e-7


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("labels", ["bool", "int64", "uint8", "float64", "soft"])
@pytest.mark.parametrize("weighted", [False, True])
def test_gamma_0_is_binary_cross_entropy(reduction, labels, weighted):
    logits, target = make_batch(5, 3)
    target = torch.rand(5, 3, dtype=torch.float64) if labels == "soft" else target.to(getattr(torch, labels))
    options = {"pos_weight": torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)} if weighted else {}
    ours = binary_focal_loss(logits, target, gamma=0, reduction=reduction, **options)
    theirs = F.binary_cross_entropy_with_logits(logits, target.double(), reduction=reduction, **options)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    ours, theirs = (torch.autograd.grad(loss.sum(), logits)[0] for loss in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_two_classes_equal_one_logit_of_the_difference():
    logits, target = make_batch(9)
    pair = torch.stack([torch.zeros_like(logits), logits], dim=1)
    torch.testing.assert_close(binary_focal_loss(logits, target), focal_loss(pair, target))


def test_alpha_weighs_positives_and_the_rest_of_1_negatives():
    logits, target = make_batch(6)
    plain = binary_focal_loss(logits, target, reduction="none")
    expected = torch.where(target == 1, 0.3, 0.7) * plain
    torch.testing.assert_close(binary_focal_loss(logits, target, alpha=0.3, reduction="none"), expected)
    as_float = binary_focal_loss(logits, target.double(), alpha=0.3, reduction="none")
    torch.testing.assert_close(as_float, expected)


def test_normalizers_divide_by_what_they_say():
    logits, target = make_batch(2, 4)
    target[0, 0] = -1
    weight = torch.tensor([[1.0, 2.0, 0.0, 1.0]] * 2)
    options = {"sample_weight": weight, "ignore_index": -1, "pos_weight": 3.0}
    total = binary_focal_loss(logits, target, reduction="sum", **options)
    kept = (target != -1) & (weight > 0)
    effective = torch.where(kept, weight * torch.where(target == 1, 3.0, 1.0), 0.0).sum()
    expected = {"count": kept.sum(), "weights": effective, "positives": (kept & (target == 1)).sum(), 5.0: 5.0}
    for normalizer, divisor in expected.items():
        got = binary_focal_loss(logits, target, normalizer=normalizer, **options)
        torch.testing.assert_close(got, total / divisor)


@pytest.mark.parametrize("normalizer", ["count", "weights", "positives"])
def test_a_mean_over_nothing_is_0(normalizer):
    for target in (torch.full((3,), -1), torch.zeros(0, dtype=torch.int64)):
        logits = torch.randn(len(target), requires_grad=True)
        loss = binary_focal_loss(logits, target, ignore_index=-1, normalizer=normalizer)
        loss.backward()
        assert loss.item() == 0
        assert not logits.grad.any()


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_masked_element_may_be_nan(create_graph):
    logits = torch.tensor([1.0, torch.nan, 2.0], requires_grad=True)
    target = torch.tensor([1.0, torch.nan, 0.0])
    loss = binary_focal_loss(logits, target, sample_weight=torch.tensor([1.0, 0.0, 1.0]))
    (gradient,) = torch.autograd.grad(loss, logits, create_graph=create_graph)
    assert loss.isfinite()
    assert gradient[1] == 0
    assert gradient.isfinite().all()


@pytest.mark.parametrize("logit", [torch.inf, -torch.inf, 3e38, -3e38])
@pytest.mark.parametrize("label", [0, 1, 0.0, 1.0])
@pytest.mark.parametrize("gamma", [0, 0.5, 2])
def test_infinite_logits_have_a_loss_and_finite_gradients(logit, label, gamma):
    x = torch.tensor([logit], requires_grad=True)
    loss = binary_focal_loss(x, torch.tensor([label]), gamma=gamma, reduction="sum")
    loss.backward()
    wrong = (logit > 0) != (label == 1)
    assert loss.item() == (x.abs().item() if wrong else 0)
    assert x.grad.item() == (0 if not wrong else 1 if logit > 0 else -1)


@pytest.mark.parametrize("labels", ["int64", "float64"])
def test_first_and_second_derivative_pass_finite_differences(labels):
    logits, target = make_batch(4, 3)
    target = target.to(getattr(torch, labels))
    assert torch.autograd.gradcheck(lambda x: binary_focal_loss(x, target, gamma=0.5, alpha=0.3), logits)
    assert torch.autograd.gradgradcheck(lambda x: binary_focal_loss(x, target, gamma=0.5, alpha=0.3), logits)


def test_soft_labels_and_weights_can_be_learned():
    logits, _ = make_batch(4)
    target = torch.rand(4, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(4, dtype=torch.float64, requires_grad=True)
    call = lambda x, t, w: binary_focal_loss(x, t, sample_weight=w, normalizer="weights")  # noqa: E731
    assert torch.autograd.gradcheck(call, (logits, target, weight))


def test_func_compile_meta_and_autocast():
    logits, target = make_batch(4, 3)
    expected = torch.autograd.grad(binary_focal_loss(logits, target), logits)[0]
    torch.testing.assert_close(torch.func.grad(lambda x: binary_focal_loss(x, target))(logits.detach()), expected)
    compiled = torch.compile(lambda x: binary_focal_loss(x, target), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(logits), logits)[0], expected)
    assert binary_focal_loss(logits.detach().to("meta"), target.to("meta")).shape == ()
    half = logits.detach().bfloat16()
    assert binary_focal_loss(half, target).dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert binary_focal_loss(half, target).dtype == torch.float32


def asymmetric(logits, label, gamma_positive, gamma_negative, margin):
    """Ridnik et al. 2021, eq. 7, in float64."""
    p = torch.sigmoid(logits)
    shifted = (p - margin).clamp(min=0)
    of_one, of_zero = (1 - p) ** gamma_positive * -p.log(), shifted**gamma_negative * -torch.log1p(-shifted)
    return label * of_one + (1 - label) * of_zero


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("gammas", [(0.0, 4.0), (1.0, 0.5), (2.0, 2.0), (0.0, 0.0)])
@pytest.mark.parametrize("labels", ["int64", "float64", "soft"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_exponents_of_both_labels_and_a_margin_are_the_asymmetric_loss(margin, gammas, labels, reduction):
    logits, target = make_batch(6, 5)
    target = torch.rand(6, 5, dtype=torch.float64) if labels == "soft" else target.to(getattr(torch, labels))
    options = {"gamma_positive": gammas[0], "gamma_negative": gammas[1], "margin": margin, "reduction": reduction}
    ours, theirs = binary_focal_loss(logits, target, **options), asymmetric(logits, target, *gammas, margin)
    torch.testing.assert_close(ours, theirs if reduction == "none" else theirs.mean(), rtol=1e-9, atol=1e-15)
    ours, theirs = (torch.autograd.grad(loss.sum(), logits)[0] for loss in (ours, theirs))
    theirs = theirs if reduction == "none" else theirs / 30
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-15)


def test_a_negative_below_the_margin_has_no_loss_and_a_finite_gradient():
    logits = torch.tensor([-5.0, -2.944438979166, 3.0], requires_grad=True)
    loss = asymmetric_loss(logits, torch.zeros(3), gamma_neg=0.5, reduction="none")
    loss.sum().backward()
    assert loss[0].item() == 0
    assert logits.grad[0].item() == 0
    assert logits.grad.isfinite().all()


def test_the_asymmetric_loss_is_the_binary_one_by_its_own_names():
    logits, target = make_batch(4, 3)
    expected = binary_focal_loss(logits, target, gamma_positive=1.0, gamma_negative=4.0, margin=0.05)
    assert torch.equal(asymmetric_loss(logits, target), expected)
    for wrong in ({"gamma_neg": -1}, {"gamma_pos": "a"}, {"clip": 1.0}):
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            asymmetric_loss(logits, target, **wrong)


@pytest.mark.parametrize("labels", ["int64", "float64"])
def test_smoothed_labels_are_soft_labels(labels):
    logits, target = make_batch(4, 3)
    soft = target.double() * 0.8 + 0.1
    ours = binary_focal_loss(logits, target.to(getattr(torch, labels)), label_smoothing=0.2)
    torch.testing.assert_close(ours, binary_focal_loss(logits, soft), rtol=1e-12, atol=0)


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 5])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("chunk", [3, 2**15])
def test_the_sum_in_one_pass_is_the_sum_of_the_elements(gamma, weighted, chunk):
    logits, target = make_batch(7, 4)
    options = {"alpha": 0.3, "pos_weight": torch.rand(4), "sample_weight": torch.rand(7, 4).round(decimals=1)}
    options = options if weighted else {}
    each = binary_focal_loss(logits, target, gamma=gamma, reduction="none", **options)
    core, small = (None, -1) if chunk == 3 else (_small.CORE, 2**17)
    with mock.patch.multiple(_binary, _CHUNK=chunk, _SMALL=small), mock.patch.object(_small, "CORE", core):
        whole = binary_focal_loss(logits, target, gamma=gamma, reduction="sum", **options)
        got = torch.autograd.grad(whole, logits, retain_graph=True)[0]
        again = torch.autograd.grad(whole, logits, torch.tensor(3.0, dtype=torch.float64))[0]
    torch.testing.assert_close(whole, each.sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(got, torch.autograd.grad(each.sum(), logits)[0], rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(again, 3 * got, rtol=1e-12, atol=0)


X, Y = torch.zeros(2, 3), torch.zeros(2, 3)
MESSAGES = [
    ({"target": torch.zeros(2)}, "target must have the shape of input (2, 3), got (2,); class indices belong to focal_loss"),
    ({"target": Y.cfloat()}, "target must hold real numbers, got c64[2, 3]"),
    ({"pos_weight": "a"}, "pos_weight must be a tensor or hold numbers, got str"),
    ({"pos_weight": torch.inf}, "pos_weight must be finite, got inf"),
    ({"target": [0]}, "target must be a tensor of labels from 0 to 1, got list; convert it with torch.as_tensor(target)"),
    ({"target": Y + 2}, "target must hold labels from 0 to 1, got 2; if they count from 1, pass target - 1"),
    ({"target": Y - 1}, "target must hold labels from 0 to 1, got -1; if it marks what is ignored, pass ignore_index=-1"),
    ({"target": Y.bool(), "ignore_index": -1},
     "ignore_index needs numbers as target, got bool, which cannot hold it; use sample_weight"),
    ({"alpha": 1.5}, "alpha must be from 0 to 1, got 1.5"),
    ({"alpha": -0.5}, "alpha must not be negative or NaN, got -0.5"),
    ({"pos_weight": [1.0, 2.0]},
     "pos_weight must broadcast to the shape of input (2, 3), got (2,); "
     "one number per class belongs to the last dimension"),
    ({"pos_weight": -1.0}, "pos_weight must not be negative or NaN, got -1"),
    ({"sample_weight": torch.ones(2)},
     "sample_weight must have one number per sample, shape (2, 3), got (2,); say which dimensions they belong to, for "
     "example sample_weight[:, None].expand(2, 3)"),
    ({"gamma": -1}, "gamma must be a number of at least 0, got -1"),
    ({"gamma_positive": -1}, "gamma_positive must be a number of at least 0, got -1"),
    ({"gamma_negative": "a"}, "gamma_negative must be a number of at least 0, got 'a' of type str"),
    ({"margin": 1.0}, "margin must be a number from 0 up to, not including, 1, got 1.0"),
    ({"label_smoothing": 1.5}, "label_smoothing must be a number of at least 0 and of at most 1, got 1.5"),
    ({"weight": torch.ones(3)},
     "binary_focal_loss has no argument 'weight': weights per element are sample_weight, the weight of label 1 is pos_weight"),
    ({"normalizer": "weights", "reduction": "none"},
     "normalizer divides only under reduction='mean', got normalizer='weights' with reduction='none'; "
     "leave one of them out"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "message"), MESSAGES)
def test_wrong_arguments_get_a_sentence(wrong, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        binary_focal_loss(**({"input": X, "target": Y} | wrong))
    assert str(caught.value) == message
