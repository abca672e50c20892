"""Focal loss against a 50-digit oracle, against torch at gamma 0, and at every edge."""

import itertools
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mpmath import mp, mpf
from torch._subclasses.fake_tensor import FakeTensorMode

from linkboy import focal_loss
from linkboy.losses import _arguments, _fused, _small

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


@pytest.mark.parametrize("way", ["sum, core", "sum, small", "sum, middle", "sum, chunks", "none"])
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize(("shape", "step"), [((1, 6), 4), ((1, 40), 16), ((1, 6, 2), 16)])  # columns, rows, a map
def test_loss_and_gradient_have_all_digits_of_float32_at_every_gap(shape, step, gamma, way, monkeypatch):
    reduction, _, size = way.partition(", ")
    if size != "core":
        monkeypatch.setattr(_small, "CORE", None)
    if size == "chunks":
        monkeypatch.setattr(_fused, "_SMALL", -1)
    if size == "middle":
        monkeypatch.setattr(_small, "_FEW", 0)
        monkeypatch.setattr(_small, "_FEW_ROWS", 0)
    generator = torch.Generator().manual_seed(0)
    for gap in (*range(0, 81, step), *range(-80, 0, 16)):
        logits = torch.randn(shape, generator=generator)
        first = logits.view(*shape[:2], -1)[0, :, 0]
        others = torch.arange(shape[1]) != 2
        first[2] = first[others].max() + gap
        logits.requires_grad_()
        target = torch.full((1, *shape[2:]), -100)
        target.view(-1)[0] = 2
        loss = focal_loss(logits, target, gamma=gamma, reduction=reduction)
        loss.sum().backward()
        exact, exact_gradient = exact_loss_and_gradient(first.tolist(), 2, gamma)
        assert relative_error(loss.sum().item(), exact) <= 1e-6, gap
        for got, want in zip(logits.grad.view(*shape[:2], -1)[0, :, 0].tolist(), exact_gradient, strict=True):
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


@pytest.mark.parametrize("gamma", GAMMAS)
def test_soft_targets_are_exact_at_large_gaps(gamma):
    shares = [0.05, 0.0, 0.95]
    for gap in (0, 4, 12, 25):
        logits = torch.tensor([[0.3, -1.0, 0.3 + gap]], requires_grad=True)
        loss = focal_loss(logits, torch.tensor([shares]), gamma=gamma)
        loss.backward()
        parts = [exact_loss_and_gradient(logits[0].tolist(), index, gamma) for index in range(3)]
        exact_shares = torch.tensor(shares).tolist()  # as rounded to float32
        exact = sum(share * part[0] for share, part in zip(exact_shares, parts, strict=True))
        assert relative_error(loss.item(), exact) <= 1e-6
        exact_gradient = [
            sum(share * part[1][j] for share, part in zip(exact_shares, parts, strict=True)) for j in range(3)
        ]
        largest = max(abs(float(value)) for value in exact_gradient)
        for got, want in zip(logits.grad[0].tolist(), exact_gradient, strict=True):
            assert abs(got - float(want)) <= 1e-6 * largest


@settings(deadline=None)
@given(
    arrays(np.float64, (5, 4), elements=st.floats(-50, 50)),
    st.lists(st.integers(0, 3), min_size=5, max_size=5),
    st.sampled_from(GAMMAS),
    st.sampled_from([1, 7, 2**19]),
    st.sampled_from([1, 30]),
)
def test_every_chunk_size_and_layout_gives_the_definition(logits, labels, gamma, chunk, short):
    x, target = torch.tensor(logits, requires_grad=True), torch.tensor(labels)
    p = x.softmax(1).gather(1, target[:, None]).squeeze(1)
    rest = x.softmax(1).scatter(1, target[:, None], 0.0).sum(1)
    expected = rest**gamma * -torch.where(p > 0.5, torch.log1p(-rest), p.log())
    small = focal_loss(x, target, gamma=gamma, reduction="sum")
    torch.testing.assert_close(small, expected.sum(), rtol=1e-9, atol=1e-25)
    chunks = {"_CHUNK": chunk, "_SAMPLES_IN_PLACE": max(1, chunk // 4), "SHORT_ROW": short}
    with mock.patch.object(_small, "CORE", None), mock.patch.multiple(_fused, _SMALL=-1, **chunks):
        each = focal_loss(x, target, gamma=gamma, reduction="none")
        whole = focal_loss(x, target, gamma=gamma, reduction="sum")
        by_sample, at_once, at_small = (torch.autograd.grad(loss.sum(), x)[0] for loss in (each, whole, small))
    torch.testing.assert_close(each, expected, rtol=1e-9, atol=1e-25)
    torch.testing.assert_close(whole, expected.sum(), rtol=1e-9, atol=1e-25)
    torch.testing.assert_close(by_sample, at_once, rtol=1e-12, atol=1e-25)
    torch.testing.assert_close(at_small, at_once, rtol=1e-9, atol=1e-25)


SUMS = {
    "plain": {},
    "alpha": {"alpha": [1.0, 0.0, 2.0, 3.0, 1.5]},
    "weights": {"sample_weight": torch.tensor([1.0, 0.0, 2.0, 0.5] * 10)},
    "both": {"alpha": [1.0, 0.5, 2.0, 3.0, 1.5], "sample_weight": torch.tensor([1.0, 0.0, 2.0, 0.5] * 10)},
}


@pytest.mark.parametrize("options", SUMS.values(), ids=SUMS.keys())
@pytest.mark.parametrize("ignored", [0, 7])
@pytest.mark.parametrize("normalizer", ["weights", "count", "positives", 7.0])
@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2])
def test_small_batches_and_chunks_are_one_loss(options, ignored, normalizer, gamma, monkeypatch):
    logits, target = make_batch(40, 5)
    target[:ignored] = -100
    losses = []
    for core, size in ((_small.CORE, 0), (None, 2**15), (None, -1)):
        monkeypatch.setattr(_small, "CORE", core)
        monkeypatch.setattr(_fused, "_SMALL", size)
        loss = focal_loss(logits, target, gamma=gamma, normalizer=normalizer, **options)
        losses.append((loss.detach(), *torch.autograd.grad(loss, logits)))
    for compiled, small, chunked in zip(*losses, strict=True):
        torch.testing.assert_close(small, chunked, rtol=1e-11, atol=1e-14)
        torch.testing.assert_close(compiled, chunked, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("small", [None, 2**15, -1])
def test_gradients_of_many_multiples_at_once_are_the_multiples(small, monkeypatch):
    if small is not None:
        monkeypatch.setattr(_small, "CORE", None)
        monkeypatch.setattr(_fused, "_SMALL", small)
    logits, target = make_batch(4, 3)
    factors = torch.tensor([1.0, -2.0], dtype=torch.float64)
    got = torch.autograd.grad(focal_loss(logits, target), logits, factors, is_grads_batched=True)[0]
    plain = torch.autograd.grad(focal_loss(logits, target), logits)[0]
    torch.testing.assert_close(got, torch.stack([plain, -2 * plain]))


def test_a_softmax_is_looked_for_in_the_first_calls_and_now_and_then_later(monkeypatch):
    shares, target = torch.rand(8, 3).softmax(1), torch.zeros(8, dtype=torch.long)
    for first, found in ((0, 1), (255, 1), (257, 0), (272, 1)):
        monkeypatch.setattr(_arguments, "_calls", itertools.count(first))
        if found:
            with pytest.raises(ValueError, match="leave out the softmax"):
                focal_loss(shares, target)
        else:
            focal_loss(shares, target)


INFINITE = -torch.inf
EDGES = [
    ([1e4, 0.0, -1e4], 0, 0.0, [0, 0, 0]),
    ([0.0, 1e4, -1e4], 0, 1e4, [-1, 1, 0]),
    ([3e38, -3e38, 0.0], 0, 0.0, [0, 0, 0]),
    ([5.0, INFINITE, INFINITE], 0, 0.0, [0, 0, 0]),
    ([INFINITE, 0.0, 0.0], 0, float("inf"), [-1, 0.5, 0.5]),
    ([torch.inf, 0.0, 0.0], 0, 0.0, [0, 0, 0]),
]


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize(("logits", "target", "loss", "gradient"), EDGES)
def test_extreme_and_masked_logits_stay_finite(logits, target, loss, gradient, gamma, reduction):
    x = torch.tensor([logits], requires_grad=True)
    got = focal_loss(x, torch.tensor([target]), gamma=gamma, reduction=reduction)
    got.sum().backward()
    assert got.sum().item() == loss
    assert x.grad[0].tolist() == gradient


@pytest.mark.parametrize("row", [[torch.nan, 0.0, 0.0], [0.0, torch.nan, 0.0], [0.0, torch.inf, 0.0], [INFINITE] * 3])
@pytest.mark.parametrize("options", [{}, {"gamma": 0.0}, {"label_smoothing": 0.1}], ids=str)
def test_broken_logits_are_never_hidden(row, options):
    logits = torch.tensor([row], dtype=torch.float64, requires_grad=True)
    compute = lambda x: focal_loss(x, torch.tensor([0]), **options)  # noqa: E731
    gradient, value = torch.func.grad_and_value(compute)(logits.detach())
    assert not value.isfinite()
    assert gradient.isnan().any()
    assert not compute(logits).isfinite()
    for create_graph in (False, True):
        (gradient,) = torch.autograd.grad(compute(logits), logits, create_graph=create_graph)
        assert gradient.isnan().any()


LOWEST = torch.finfo(torch.float32).min


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize(
    "row", [[INFINITE] * 3, [LOWEST] * 3, [LOWEST, 0.0, 0.0], [0.0, LOWEST, LOWEST], [torch.nan] * 3], ids=str
)
def test_rows_masked_as_a_whole_are_those_of_cross_entropy_on_every_path(row, reduction, small, monkeypatch):
    if not small:
        monkeypatch.setattr("linkboy.losses._fused.sum_by_core", lambda *_, **__: False)
        monkeypatch.setattr("linkboy.losses._fused.sum_by_arrays", lambda *_, **__: False)
    target = torch.zeros(2, dtype=torch.long)
    ours, theirs = (
        torch.tensor([row, [2.0, 1.0, 0.5]], dtype=dtype).requires_grad_() for dtype in (None, torch.float64)
    )
    loss = focal_loss(ours, target, gamma=0.0, reduction=reduction)
    expected = torch.nn.functional.cross_entropy(theirs, target, reduction=reduction)
    loss.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0, equal_nan=True)
    broken = theirs.grad.isnan().any(1)
    assert torch.equal(ours.grad.isnan().any(1), broken)
    torch.testing.assert_close(ours.grad[~broken].double(), theirs.grad[~broken], rtol=1e-6, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_tensors_without_values_pass(reduction):
    with FakeTensorMode():
        logits = torch.randn(4, 3, requires_grad=True)
        focal_loss(logits, torch.zeros(4, dtype=torch.long), reduction=reduction).sum().backward()
        assert logits.grad is not None
        assert logits.grad.shape == (4, 3)


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_masked_class_has_no_gradient(create_graph):
    x = torch.tensor([[1.0, INFINITE, 0.5]], dtype=torch.float64, requires_grad=True)
    loss = focal_loss(x, torch.tensor([0]), gamma=0.5)
    (gradient,) = torch.autograd.grad(loss, x, create_graph=create_graph)
    kept = torch.tensor([[1.0, 0.5]], dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(focal_loss(kept, torch.tensor([0]), gamma=0.5), kept)
    assert gradient[0, 1].item() == 0
    torch.testing.assert_close(gradient[0, [0, 2]].detach(), expected[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("gamma", [0.25, 2])
def test_half_precision_is_right_to_the_last_digit(dtype, reduction, gamma):
    logits = (torch.randn(64, 5) * 6).to(dtype).requires_grad_()
    exact = logits.detach().double().requires_grad_()
    target = torch.randint(0, 5, (64,))
    loss, truth = (focal_loss(x, target, gamma=gamma, reduction=reduction) for x in (logits, exact))
    assert loss.dtype == dtype
    tiny, eps = torch.finfo(dtype).smallest_normal, torch.finfo(dtype).eps
    torch.testing.assert_close(loss.double(), truth, rtol=eps, atol=tiny)
    scale = 1024.0  # as a gradient scaler does: what is lost to underflow before cannot be brought back
    loss.sum().mul(scale).backward()
    truth.sum().mul(scale).backward()
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=eps, atol=tiny)


def test_largest_float16_logits_are_finite():
    logits = torch.tensor([[65504.0, -65504.0], [-65504.0, 65504.0]], dtype=torch.float16, requires_grad=True)
    loss = focal_loss(logits, torch.tensor([0, 0]), reduction="none")
    loss.float().clamp(max=1).sum().backward()
    assert loss[0].item() == 0
    assert logits.grad.isfinite().all()


def test_autocast_gives_float32_as_cross_entropy_does():
    logits, target = torch.randn(3, 4, dtype=torch.bfloat16), torch.tensor([0, 1, 2])
    assert focal_loss(logits, target).dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert focal_loss(logits, target).dtype == F.cross_entropy(logits, target).dtype == torch.float32
        assert focal_loss(logits.double(), target).dtype == torch.float64


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
@pytest.mark.parametrize("ignored", ["weight", "label"])
@pytest.mark.parametrize("create_graph", [False, True])
def test_a_masked_sample_may_be_nan(reduction, ignored, create_graph):
    logits, target = make_batch(4, 3)
    x = logits.detach().clone()
    x[1] = torch.nan
    x.requires_grad_()
    options = {"reduction": reduction}
    if ignored == "label":
        target[1] = -100
    else:
        options["sample_weight"] = torch.tensor([1.0, 0.0, 1.0, 1.0])
    loss = focal_loss(x, target, **options).sum()
    (gradient,) = torch.autograd.grad(loss, x, create_graph=create_graph)
    kept = [0, 2, 3]
    expected = focal_loss(logits[kept], target[kept], reduction=reduction).sum()
    (wanted,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0), (4, 3)])
@pytest.mark.parametrize("normalizer", ["weights", "count", "positives"])
@pytest.mark.parametrize("kind", ["labels", "smoothed", "soft"])
def test_a_mean_over_nothing_is_0_with_a_gradient_of_0(shape, normalizer, kind):
    logits = torch.randn(shape, requires_grad=True)
    options = {"label_smoothing": 0.1} if kind == "smoothed" else {}
    if kind == "soft":
        if normalizer == "positives":
            return
        target = torch.rand(shape)
        options["sample_weight"] = torch.zeros(shape[0], *shape[2:])
    else:
        target = torch.full((shape[0], *shape[2:]), -100)
    loss = focal_loss(logits, target, normalizer=normalizer, **options)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_every_integer_dtype_is_a_label(dtype):
    logits, target = make_batch(5, 4)
    assert torch.equal(focal_loss(logits, target.to(dtype)), focal_loss(logits, target))


def test_ignore_index_may_be_a_class():
    logits, target = make_batch(9, 3)
    ours = focal_loss(logits, target, gamma=0, ignore_index=1)
    torch.testing.assert_close(ours, F.cross_entropy(logits, target, ignore_index=1))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_strides_do_not_matter(reduction):
    dense, target = make_batch(2, 3, 4, 5)
    expected = torch.autograd.grad(focal_loss(dense, target, reduction=reduction).sum(), dense)[0]
    versions = {
        "channels_last": dense.detach().contiguous(memory_format=torch.channels_last),
        "transposed": dense.detach().transpose(0, 3).contiguous().transpose(0, 3),
        "sliced": torch.stack([dense.detach()] * 2, dim=-1)[..., 0],
    }
    for x in versions.values():
        x.requires_grad_()
        loss = focal_loss(x, target, reduction=reduction)
        torch.testing.assert_close(torch.autograd.grad(loss.sum(), x)[0], expected)
    row = torch.randn(3, requires_grad=True)
    loss = focal_loss(row.expand(4, 3), torch.tensor([0, 1, 2, 0]), reduction=reduction).sum()
    each = sum(focal_loss(row[None], torch.tensor([label]), reduction="sum") for label in (0, 1, 2, 0))
    each = each / 4 if reduction == "mean" else each
    torch.testing.assert_close(torch.autograd.grad(loss, row), torch.autograd.grad(each, row))


VARIANTS = {
    "mean": lambda x, t: focal_loss(x, t, gamma=0.5, alpha=[1.0, 2.0, 3.0], sample_weight=torch.tensor([1.0, 0, 2, 3])),
    "none": lambda x, t: focal_loss(x, t, gamma=2, reduction="none"),
    "smoothed": lambda x, t: focal_loss(x, t, gamma=1.5, label_smoothing=0.1),
    "soft": lambda x, t: focal_loss(x, torch.full((4, 3), 1 / 3, dtype=x.dtype), gamma=0.5),
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_first_and_second_derivative_pass_finite_differences(variant):
    logits, target = make_batch(4, 3)
    target[0] = -100
    assert torch.autograd.gradcheck(lambda x: variant(x, target), logits)
    assert torch.autograd.gradgradcheck(lambda x: variant(x, target), logits)


def test_weights_can_be_learned():
    logits, target = make_batch(4, 3)
    weight = torch.rand(4, dtype=torch.float64, requires_grad=True)
    alpha = torch.rand(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w, a: focal_loss(x, target, sample_weight=w, alpha=a), (logits, weight, alpha)
    )


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_retained_graph_gives_the_same_gradient_again_and_takes_any_scale(variant):
    logits, target = make_batch(4, 3)
    loss = variant(logits, target)
    first, second, third = (
        torch.autograd.grad(loss, logits, factor * torch.ones_like(loss), retain_graph=True)[0]
        for factor in (1.0, -3.0, 1.0)
    )
    torch.testing.assert_close(second, -3 * first)
    assert torch.equal(first, third)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own, on the first jacfwd
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_torch_func_transforms_agree(variant):
    logits, target = make_batch(4, 3)
    x = logits.detach()
    expected = torch.autograd.grad(variant(logits, target).sum(), logits)[0]
    torch.testing.assert_close(torch.func.grad(lambda x: variant(x, target).sum())(x), expected)
    by_hessian = torch.func.hessian(lambda x: variant(x, target).sum())(x)
    by_autograd = torch.autograd.functional.hessian(lambda x: variant(x, target).sum(), x)
    torch.testing.assert_close(by_hessian, by_autograd)


def test_vmap_over_the_batch_gives_gradients_per_sample():
    logits, target = make_batch(4, 3)
    per_sample = torch.func.vmap(torch.func.grad(lambda x, t: focal_loss(x[None], t[None])))(logits.detach(), target)
    whole = torch.autograd.grad(focal_loss(logits, target, reduction="sum"), logits)[0]
    torch.testing.assert_close(per_sample, whole)


traced = pytest.mark.filterwarnings(  # torch's own, of every autograd.Function that torch.compile sees and of inductor
    "ignore:.*(should not be instantiated|torch.jit.script.*is deprecated):DeprecationWarning"
)


@traced
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_it_compiles_into_one_graph(variant):
    logits, target = make_batch(4, 3)
    compiled = torch.compile(variant, fullgraph=True, backend="aot_eager")
    expected, got = (torch.autograd.grad(f(logits, target).sum(), logits)[0] for f in (variant, compiled))
    torch.testing.assert_close(got, expected)


@traced
@pytest.mark.parametrize(
    ("gamma", "backend"),
    [(0, "aot_eager"), (2, "aot_eager"), (5, "aot_eager"), pytest.param(5, "inductor", marks=pytest.mark.slow)],
)
def test_a_compiled_loss_has_all_digits_of_float32_at_every_gap(gamma, backend):
    gaps = torch.arange(-80.0, 81, 5)
    logits = 20 * torch.randn(len(gaps), 6, generator=torch.Generator().manual_seed(0))
    logits[:, 2] = logits[:, [0, 1, 3, 4, 5]].amax(1) + gaps
    logits.requires_grad_()
    target = torch.full(gaps.shape, 2)
    call = lambda x, t: focal_loss(x, t, gamma=gamma, reduction="none")  # noqa: E731
    loss = torch.compile(call, fullgraph=True, backend=backend)(logits, target)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    for row, value, slopes in zip(logits.tolist(), loss.tolist(), gradient.tolist(), strict=True):
        exact = exact_loss_and_gradient(row, 2, gamma)
        for got, want in zip((value, *slopes), (exact[0], *exact[1]), strict=True):
            assert relative_error(got, want) <= 1e-6, row


@traced
@pytest.mark.parametrize(
    ("classes", "backend"),
    [(32, "aot_eager"), *(pytest.param(n, "inductor", marks=pytest.mark.slow) for n in (32, 300, 9000))],
)
def test_a_compiled_loss_has_all_digits_of_float32_with_many_classes(classes, backend):
    """The rounding of a sum over the classes counts five times where gamma is 5."""
    torch._dynamo.reset()
    rows = 4096 if classes < 1000 else 64
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=generator).mul(4).requires_grad_()
    target = torch.randint(classes, (rows,), generator=generator)
    loss = torch.compile(lambda x, t: focal_loss(x, t, gamma=5, reduction="none"), fullgraph=True, backend=backend)(
        logits, target
    )
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    exact = logits.detach().double().requires_grad_()
    others = exact.masked_fill(F.one_hot(target, classes).bool(), -torch.inf).logsumexp(1)
    gap = others - exact.gather(1, target.unsqueeze(1)).squeeze(1)
    value = gap.sigmoid() ** 5 * F.softplus(gap)
    (slope,) = torch.autograd.grad(value.sum(), exact)
    torch.testing.assert_close(loss.double(), value, rtol=5e-7, atol=0)
    torch.testing.assert_close(gradient.double(), slope, rtol=5e-7, atol=1e-30)


@traced
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_compiled_loss_equals_the_plain_one_at_every_edge(dtype):
    inf, nan = torch.inf, torch.nan
    rows = [
        [0, 1, 2],
        [2, -inf, 9],
        [-inf, 4, -inf],
        [-inf, 0, 0],
        [inf, 0, 0],
        [0, inf, 0],
        [-900, 0, 0],
        [nan, 0, 0],
        [1, inf, nan],
    ]
    logits = torch.tensor(rows, dtype=dtype)[:, :, None].expand(-1, -1, 2).clone().requires_grad_()  # a map
    target = torch.tensor([0, 0, 1, 0, 0, 0, 0, -100, 1])[:, None].expand(-1, 2)
    options = {
        "alpha": [1.0, 2.0, 3.0],
        "sample_weight": torch.tensor([[1.0], [2.0], *[[1.0]] * 6, [0.0]]).expand(-1, 2),
    }
    call = lambda x: focal_loss(x, target, gamma=1.5, reduction="none", **options)  # noqa: E731
    expected, got = (f(logits) for f in (call, torch.compile(call, fullgraph=True, backend="aot_eager")))
    torch.testing.assert_close(got, expected, equal_nan=True)
    expected, got = (torch.autograd.grad(loss, logits, torch.ones_like(loss))[0] for loss in (expected, got))
    torch.testing.assert_close(got, expected, equal_nan=True)


@traced
def test_learned_weights_have_the_plain_gradients_when_compiled():
    logits, target = make_batch(6, 3)
    target[1] = -100
    weights = torch.tensor([1.0, 2.0, 0.0, 0.5, 1.0, 3.0]).requires_grad_(), torch.rand(3).requires_grad_()
    call = lambda w, a: focal_loss(logits, target, sample_weight=w, alpha=a)  # noqa: E731
    expected, got = (
        torch.autograd.grad(f(*weights), (logits, *weights))
        for f in (call, torch.compile(call, fullgraph=True, backend="aot_eager"))
    )
    torch.testing.assert_close(got, expected)


def test_a_transform_compiles():
    logits, target = make_batch(4, 3)
    call = torch.func.vmap(torch.func.grad(lambda x, t: focal_loss(x[None], t[None])))
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits.detach(), target), call(logits.detach(), target))


@traced
@pytest.mark.slow
def test_it_compiles_with_dynamic_shapes():
    compiled = torch.compile(lambda x, t: focal_loss(x, t), fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (3, 5, 8):
        logits, target = make_batch(rows, 3)
        expected, got = focal_loss(logits, target), compiled(logits, target)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (got, expected)))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_meta_tensors_have_the_shape_and_no_value(reduction):
    logits = torch.empty(5, 3, 2, device="meta", dtype=torch.bfloat16, requires_grad=True)
    target = torch.empty(5, 2, device="meta", dtype=torch.int64)
    loss = focal_loss(logits, target, reduction=reduction, alpha=[1, 2, 3])
    loss.sum().backward()
    assert loss.shape == (() if reduction == "mean" else (5, 2))
    assert logits.grad.shape == logits.shape


LOGITS, LABELS = torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])
MESSAGES = [
    ({"alpha": [1.0, 2.0]},
     "alpha needs one number per class: input has 3 classes (shape (4, 3)), alpha has shape (2,)"),
    ({"alpha": [1.0, torch.inf, 1.0]}, "alpha must be finite, got inf"),
    ({"weight": torch.ones(3)},
     "focal_loss has no argument 'weight': weights per class are alpha, weights per sample sample_weight"),
    *(({other: 1}, f"focal_loss has no argument {other!r}: it is called {name} here") for other, name in (
        ("smoothing", "label_smoothing"), ("size_average", "reduction"), ("ignore_label", "ignore_index"), ("labels", "target"))),
    ({"alpha": "abc"}, "alpha must be a tensor or hold numbers, got str"),
    ({"sample_weight": torch.ones(4).cfloat()}, "sample_weight must hold real numbers, got c64[4]"),
    ({"sample_weight": torch.full((4,), torch.inf)}, "sample_weight must be finite, got inf"),
    ({"target": LOGITS - 0.5}, "soft targets must not be negative, got -0.5"),
    ({"alpha": [1.0, -2.0, 1.0]}, "alpha must not be negative or NaN, got -2"),
    ({"alpha": torch.ones(3, device="meta")},
     "alpha must be on the device of input (cpu), got meta; move it with .to()"),
    ({"gamma": -0.5}, "gamma must be a number of at least 0, got -0.5"),
    ({"gamma": "2"}, "gamma must be a number of at least 0, got '2' of type str"),
    ({"label_smoothing": 1.5}, "label_smoothing must be a number of at least 0 and of at most 1, got 1.5"),
    ({"sample_weight": -torch.ones(4)}, "sample_weight must not be negative or NaN, got -1"),
    ({"sample_weight": torch.ones(4, 1)},
     "sample_weight must have one number per sample, shape (4,), got (4, 1); bring it to that shape with "
     "sample_weight.reshape(4,)"),
    ({"sample_weight": [1, 1, 1, 1]}, "sample_weight must be a tensor, got list; "
     "convert it with torch.as_tensor(sample_weight)"),
    ({"reduction": "avg"}, "reduction must be one of ('none', 'mean', 'sum'), got 'avg'"),
    ({"reduction": "men"}, "reduction must be one of ('none', 'mean', 'sum'), got 'men'; did you mean 'mean'?"),
    ({"normalizer": "weight"},
     "normalizer must be one of ('weights', 'count', 'positives'), got 'weight'; did you mean 'weights'?"),
    ({"normalizer": 0}, "normalizer must be a number above 0, got 0"),
    ({"normalizer": "count", "reduction": "sum"},
     "normalizer divides only under reduction='mean', got normalizer='count' with reduction='sum'; "
     "leave one of them out"),
    ({"target": torch.tensor([0, 1, 3, 0])},
     "target must hold labels from 0 to 2 or ignore_index (-100), got 3"),
    ({"target": torch.tensor([0, -1, 1, 0])},
     "target must hold labels from 0 to 2 or ignore_index (-100), got -1; if it marks what is ignored, pass ignore_index=-1"),
    ({"target": LABELS[:, None]},
     "target must have shape (4,) for input of shape (4, 3), got (4, 1); "
     "drop the class dimension with target.squeeze(1)"),
    ({"target": LABELS[:3]}, "target must have shape (4,) for input of shape (4, 3), got (3,)"),
    ({"target": LABELS.float()},
     "soft targets must have the shape of input (4, 3), got f32[4]; "
     "class indices must be integers: convert them with .long()"),
    ({"target": LABELS.numpy()},
     "target must be a tensor of class indices, got a NumPy array i64[4]; convert it with torch.from_numpy(target)"),
    ({"target": torch.nn.functional.one_hot(LABELS, 3)},
     "target must have shape (4,) for input of shape (4, 3), got (4, 3); turn one-hot labels into class indices with "
     "target.argmax(1), or pass class probabilities with target.float()"),
    ({"input": torch.zeros(2, 5, 7), "target": torch.zeros(2, 5).long()},
     "target must have shape (2, 7) for input of shape (2, 5, 7), got (2, 5); "
     "classes belong to dimension 1: pass input.movedim(-1, 1)"),
    ({"input": LOGITS[:, :1]},
     "input must have at least two classes in dimension 1, got shape (4, 1); "
     "for one logit per label use binary_focal_loss"),
    ({"normalizer": torch.tensor(-1.0)}, "normalizer must be a number above 0, got -1.0"),
    ({"target": F.one_hot(LABELS, 3).bool()},
     "target must hold integer class indices, got bool[4, 3]; turn one-hot labels into class indices with "
     "target.int().argmax(1), or pass class probabilities with target.float()"),
    ({"target": LABELS.bool()}, "target must hold integer class indices, got bool[4]; convert them with .long()"),
    ({"target": [0, 1, 2, 0]}, "target must be a tensor of class indices, got list; convert it with torch.as_tensor(target)"),
    ({"target": LOGITS, "ignore_index": 1},
     "ignore_index needs class indices as target, got ignore_index=1 with soft targets f32[4, 3]; "
     "give those samples a sample_weight of 0"),
    ({"target": LOGITS, "normalizer": "positives"},
     "normalizer='positives' counts labels other than 0, the background; it needs class indices as target, "
     "got soft targets"),
    ({"ignore_index": 0.5}, "ignore_index must be an integer, got 0.5 of type float"),
    ({"input": [[0.0]]}, "input must be a floating point tensor, got list"),
    ({"input": torch.zeros(4, 3, dtype=torch.int64)},
     "input must be a floating point tensor, got i64[4, 3]; convert it with .float()"),
    ({"input": torch.zeros(3)},
     "input must have shape (N, C) or (N, C, d1, ...), got (3,); add the batch dimension with input[None]"),
    ({"input": torch.zeros(4, 0)}, "input must have at least two classes in dimension 1, got shape (4, 0); "
     "for one logit per label use binary_focal_loss"),
    ({"input": torch.tensor([[0.7, 0.2, 0.1]] * 4)},
     "input must be logits, got rows that sum to 1; leave out the softmax before the loss"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "message"), MESSAGES)
def test_wrong_arguments_get_a_sentence(wrong, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        focal_loss(**({"input": LOGITS, "target": LABELS} | wrong))
    assert str(caught.value) == message


@pytest.mark.parametrize("logits", [torch.eye(3), torch.full((3, 2), 0.5), torch.tensor([[0.7, 0.3], [2.0, 1.0]])])
def test_logits_that_only_resemble_probabilities_pass(logits):
    focal_loss(logits, torch.zeros(3 if len(logits) == 3 else 2, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_one_row_that_sums_to_one_is_no_softmax(dtype):
    loss = focal_loss(torch.tensor([[0.515625, 0.484375]], dtype=dtype), torch.tensor([0]))
    assert torch.isfinite(loss)
    with pytest.raises(ValueError, match="leave out the softmax"):
        focal_loss(torch.rand(8, 2).softmax(1).to(dtype), torch.zeros(8, dtype=torch.long))


def test_numbers_of_numpy_and_torch_are_taken_as_pythons():
    options = [{"gamma": 1.0, "normalizer": 16}]
    options += [{"gamma": kind(1), "normalizer": count} for kind in (np.float32, np.float64, torch.tensor)
                for count in (np.int64(16), torch.tensor(16), torch.tensor(16.0))]  # fmt: skip
    values = {focal_loss(LOGITS, LABELS, **each).item() for each in options}
    assert len(values) == 1


@traced
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_compiled_loss_refuses_labels_outside_the_classes(backend, wrong):
    compiled = torch.compile(lambda x, t: focal_loss(x, t), fullgraph=True, backend=backend)
    with pytest.raises((RuntimeError, IndexError), match="out of bounds"):
        compiled(LOGITS.clone(), torch.tensor([0, 1, wrong, 0]))
