"""The sums of the compiled core beside those without it, in float64 and at every shape, and the numbers it may be given."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from linkboy import (
    binary_focal_loss,
    focal_loss,
    huber_loss,
    logit_adjusted_loss,
    mae_loss,
    mse_loss,
    quantile_loss,
    rmse_loss,
    rmsle_loss,
)
from linkboy.losses import _arguments, _small

pytestmark = pytest.mark.usefixtures("compiled")
SHAPES = [
    (1, 2),
    (33, 2),
    (64, 32),
    (7, 33),
    (5, 100),
    (70, 100),
    (3, 9000),
    (3, 4, 2),
    (2, 40, 3),
    (2, 3, 16),
    (3, 5, 7, 9),
    (2, 2, 1, 1, 70),
]


def make_batch(shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(len(shape) + shape[1])
    logits = 4 * torch.randn(shape, generator=generator, dtype=dtype)
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)
    return logits.requires_grad_(), target, torch.rand(target.shape, generator=generator)


def value_and_gradient(loss, logits):
    value = loss(logits)
    return value.detach(), *torch.autograd.grad(value, logits)


def without_core(loss, logits):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_small, "CORE", None)
        return value_and_gradient(loss, logits)


def assert_same(loss, logits, rtol=1e-11):
    for with_core, plain in zip(value_and_gradient(loss, logits), without_core(loss, logits), strict=True):
        torch.testing.assert_close(with_core, plain, rtol=rtol, atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_shape_gives_the_sums_of_the_plain_path(shape, gamma, dtype):
    logits, target, weight = make_batch(shape, dtype)
    alpha = torch.linspace(0, 2, shape[1])
    rtol = 1e-11 if dtype == torch.float64 else 2e-6
    for options in ({}, {"alpha": alpha}, {"sample_weight": weight}, {"alpha": alpha, "sample_weight": weight}):
        for normalizer in ("weights", "count"):
            assert_same(lambda x: focal_loss(x, target, gamma=gamma, normalizer=normalizer, **options), logits, rtol)  # noqa: B023
    target.view(-1)[::3] = -100
    assert_same(lambda x: focal_loss(x, target, gamma=gamma, alpha=alpha), logits, rtol)


def test_the_core_computes_the_sums(compiled, monkeypatch):
    called = []

    class Counting:
        def __getattr__(self, name):
            called.append(name)
            return getattr(compiled, name)

    monkeypatch.setattr(_small, "CORE", Counting())
    logits, target, _ = make_batch((64, 10))
    focal_loss(logits, target, alpha=torch.ones(10)).backward()
    assert called.count("label_sum") == called.count("weight_sum") == 1
    monkeypatch.setattr(_small, "_FEW_FOR_CORE", 639)
    focal_loss(logits, target).backward()
    assert called.count("label_sum") == 1 + (torch.get_num_threads() == 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_priors_are_added_to_the_logits(shape):
    logits, target, weight = make_batch(shape)
    priors = torch.linspace(1, 5, shape[1])
    loss = lambda x: logit_adjusted_loss(x, target, priors=priors, tau=0.5, sample_weight=weight)  # noqa: E731
    assert_same(loss, logits)
    along = priors.double().view(-1, *[1] * (len(shape) - 2))
    plain = F.cross_entropy(logits + 0.5 * along.log(), target, reduction="none")
    torch.testing.assert_close(loss(logits), (plain * weight.double()).sum() / weight.double().sum())


@pytest.mark.parametrize("kind", [torch.int64, torch.float32, torch.float64, torch.int32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logarithms_of_priors_are_those_of_the_plain_path(kind, dtype):
    logits, target, _ = make_batch((7, 5), dtype)
    priors = torch.tensor([1, 70, 3, 9, 1000, 2]).to(kind)[1:]
    for tau in (1, 0.7, 0):
        rtol = 1e-11 if dtype == torch.float64 else 2e-6
        assert_same(lambda x: logit_adjusted_loss(x, target, priors=priors, tau=tau), logits, rtol)  # noqa: B023
    for wrong, message in ((0, "got 0 for class 2"), (-3, "must not be negative or NaN, got -3")):
        priors[2] = wrong
        with pytest.raises(ValueError, match=message):
            logit_adjusted_loss(logits, target, priors=priors)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("gamma", [0, 0.5, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_shares_give_the_sums_of_the_plain_path(shape, gamma, dtype):
    logits, target, weight = make_batch(shape, dtype)
    share = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).softmax(1)
    share.select(1, 0).zero_()
    alpha = torch.linspace(0, 2, shape[1])
    weight.view(-1)[::4] = 0
    rtol = 1e-10 if dtype == torch.float64 else 2e-6
    for options in ({}, {"alpha": alpha}, {"sample_weight": weight, "alpha": alpha}):
        for smoothing in (0.0, 0.1, 1.0):
            for given in (share, share.float(), target):
                options = options | {"gamma": gamma, "label_smoothing": smoothing}
                assert_same(lambda x: focal_loss(x, given, **options), logits, rtol)  # noqa: B023


def test_a_row_without_shares_may_be_broken_and_any_other_shows():
    logits, _, _ = make_batch((4, 3))
    share = torch.ones(4, 3, dtype=torch.float64) / 3
    share[1] = 0
    with torch.no_grad():
        logits[1] = torch.nan
    value, gradient = value_and_gradient(lambda x: focal_loss(x, share), logits)
    assert value.isfinite()
    assert gradient[1].eq(0).all()
    assert gradient.isfinite().all()
    share[1, 0] = 1
    assert not focal_loss(logits, share).isfinite()


@pytest.mark.parametrize("shape", [(40, 6), (4, 70), (3, 5, 20)], ids=str)
def test_a_sample_of_weight_0_may_be_broken_and_any_other_shows(shape):
    logits, target, weight = make_batch(shape)
    for broken in (torch.nan, torch.inf):
        with torch.no_grad():
            logits[1].fill_(broken)
        weight[1] = 0
        value, gradient = value_and_gradient(lambda x: focal_loss(x, target, sample_weight=weight), logits)
        assert value.isfinite()
        assert gradient[1].eq(0).all()
        assert gradient.isfinite().all()
        assert not focal_loss(logits, target).isfinite()


@pytest.mark.parametrize("shape", [(3, 40), (40, 3), (1, 3, 40)], ids=str)
def test_classes_far_below_the_largest_keep_their_digits(shape):
    generator = torch.Generator().manual_seed(0)
    logits = 15 * torch.randn(shape, generator=generator)
    target = torch.zeros(shape[0], *shape[2:], dtype=torch.long)
    loss = lambda x: focal_loss(x, target, gamma=5.0, reduction="sum")  # noqa: E731
    _, gradient = value_and_gradient(loss, logits.requires_grad_())
    _, exact = without_core(loss, logits.detach().double().requires_grad_())
    normal = exact.abs() > 1e-30
    assert ((gradient - exact).abs() / exact.abs())[normal].max() <= 1e-6


@pytest.mark.parametrize("size", [1, 31, 64, 4097])
@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sums_of_labels_0_and_1_are_those_of_the_plain_path(size, gamma, dtype):
    generator = torch.Generator().manual_seed(size)
    logits = (4 * torch.randn(size, generator=generator, dtype=dtype)).requires_grad_()
    label, weight = torch.randint(0, 2, (size,), generator=generator), torch.rand(size, generator=generator)
    weight[::3] = 0
    ignored = label.masked_fill(torch.rand(size, generator=generator) < 0.2, -1)
    rtol = 1e-11 if dtype == torch.float64 else 5e-7
    for options in ({}, {"alpha": 0.25}, {"sample_weight": weight}, {"alpha": 0.9, "pos_weight": 3.0}):
        for given in (label, label.to(dtype), label.bool()):
            assert_same(lambda x: binary_focal_loss(x, given, gamma=gamma, **options), logits, rtol)  # noqa: B023
        assert_same(lambda x: binary_focal_loss(x, ignored, gamma=gamma, ignore_index=-1, **options), logits, rtol)  # noqa: B023
    with torch.no_grad():
        logits[0] = torch.nan  # its weight is 0
    assert_same(lambda x: binary_focal_loss(x, label, gamma=gamma, sample_weight=weight), logits, rtol)
    assert not binary_focal_loss(logits, label, gamma=gamma).isfinite()


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 5000])
def test_only_zeros_and_ones_are_0_or_1(dtype, size, compiled):
    label = torch.randint(0, 2, (size,)).to(dtype)
    assert _small.are_0_or_1(label)
    for wrong in (2, -1, 0.5, torch.nan):
        if dtype.is_floating_point or isinstance(wrong, int):
            label[-1] = wrong
            assert not _small.are_0_or_1(label)


def test_views_are_read_as_they_are():
    logits, target, _ = make_batch((12, 8))
    alpha = torch.linspace(0, 2, 16)[::2]
    for view in (
        lambda x: x.t()[:8, :8],
        lambda x: x[::2],
        lambda x: x[:1].expand(6, 8),
        lambda x: torch.view_as_complex(torch.stack([x, x], -1)).conj().imag,
    ):
        labels = target[: len(view(logits))]
        assert_same(lambda x: focal_loss(view(x), labels, alpha=alpha), logits)  # noqa: B023


def test_a_tensor_without_memory_is_refused_before_it_is_read():
    logits, target, _ = make_batch((4, 3))
    logits.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError):
        focal_loss(logits, target)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 31, 32, 33, 1000])
def test_bounds_are_the_lowest_and_the_highest(dtype, size, compiled):
    numbers = (1000 * torch.randn(size)).to(dtype)
    assert _arguments.bounds(numbers) == (numbers.min().item(), numbers.max().item())
    if dtype.is_floating_point:
        numbers[size // 2] = torch.inf
        assert _arguments.bounds(numbers) == (numbers.min().item(), torch.inf)
        numbers[-1] = torch.nan
        assert all(bound != bound for bound in _arguments.bounds(numbers))


REGRESSION = {
    "mse": mse_loss,
    "mae": mae_loss,
    "rmse": rmse_loss,
    "rmsle": rmsle_loss,
    "huber": lambda *tensors, **options: huber_loss(*tensors, delta=0.7, **options),
    "quantile": lambda *tensors, **options: quantile_loss(*tensors, quantile=0.9, **options),
}


def make_errors(size, dtype=torch.float64):
    input, target, weight = 3 * torch.rand(3, size, generator=torch.Generator().manual_seed(size), dtype=dtype)  # noqa: A001
    target[::4] = input[::4]
    weight[::3] = 0
    return input.requires_grad_(), target, weight


@pytest.mark.parametrize("loss", REGRESSION.values(), ids=REGRESSION)
@pytest.mark.parametrize("size", [2, 32, 33, 1000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_errors_give_the_sums_of_the_plain_path(loss, size, dtype):
    input, target, weight = make_errors(size, dtype)  # noqa: A001
    rtol = 1e-11 if dtype == torch.float64 else 2e-6
    for options in ({}, {"sample_weight": weight}, {"sample_weight": weight > 0}, {"sample_weight": 0 * weight}):
        for reduction in ({}, {"reduction": "sum"}) if loss not in (rmse_loss, rmsle_loss) else ({},):
            assert_same(lambda x: loss(x, target, **options, **reduction), input, rtol)  # noqa: B023


@pytest.mark.parametrize("loss", REGRESSION.values(), ids=REGRESSION)
def test_every_tensor_of_an_error_may_be_learned_and_a_graph_kept(loss):
    tensors = [tensor.requires_grad_() for tensor in make_errors(9)]
    total = lambda: loss(*tensors[:2], sample_weight=tensors[2])  # noqa: E731
    learned = torch.autograd.grad(total(), tensors)
    for tensor in tensors[1:]:
        tensor.requires_grad_(False)
    value = total()
    for _ in range(2):
        torch.testing.assert_close(*torch.autograd.grad(2 * value, tensors[0], retain_graph=True), 2 * learned[0])


def test_the_core_computes_the_errors(compiled, monkeypatch):
    counting = mock.Mock(wraps=compiled)
    monkeypatch.setattr(_small, "CORE", counting)
    input, target, weight = make_errors(9)  # noqa: A001
    for loss in REGRESSION.values():
        loss(input, target, sample_weight=weight).backward()
    assert counting.error_sum.call_count == len(REGRESSION)


def test_a_wrong_number_of_arguments_is_an_error(compiled):
    for function in (
        compiled.label_sum,
        compiled.share_sum,
        compiled.element_sum,
        compiled.error_sum,
        compiled.weight_sum,
        compiled.bounds,
        compiled.are_0_or_1,
        compiled.logarithms,
    ):
        with pytest.raises(TypeError, match="expected"):
            function(1)
