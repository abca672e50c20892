"""Weighted regression losses against scikit-learn and torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics

import linkboy
from linkboy import huber_loss, mae_loss, mse_loss, msle_loss, quantile_loss, rmse_loss, rmsle_loss

ALL = [mse_loss, mae_loss, rmse_loss, msle_loss, rmsle_loss, quantile_loss, huber_loss]
WITH_REDUCTION = [loss for loss in ALL if loss not in (rmse_loss, rmsle_loss)]
ORACLES = {
    mse_loss: metrics.mean_squared_error,
    mae_loss: metrics.mean_absolute_error,
    rmse_loss: metrics.root_mean_squared_error,
    msle_loss: metrics.mean_squared_log_error,
    rmsle_loss: metrics.root_mean_squared_log_error,
    quantile_loss: metrics.mean_pinball_loss,
}
positive = st.floats(0, 1e6)


@pytest.mark.parametrize("loss", ORACLES, ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("weighted", [False, True])
@settings(deadline=None)
@given(
    arrays(np.float64, 8, elements=positive),
    arrays(np.float64, 8, elements=positive),
    arrays(np.float64, 8, elements=st.floats(0.1, 10)),
)
def test_it_equals_scikit_learn(loss, weighted, output, target, weight):
    options = {"sample_weight": torch.from_numpy(weight)} if weighted else {}
    expected = ORACLES[loss](target, output, sample_weight=weight if weighted else None)
    got = loss(torch.from_numpy(output), torch.from_numpy(target), **options).item()
    assert got == pytest.approx(expected, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_the_quantile_is_that_of_scikit_learn(quantile):
    output, target = torch.randn(2, 50, dtype=torch.float64)
    expected = metrics.mean_pinball_loss(target, output, alpha=quantile)
    assert quantile_loss(output, target, quantile=quantile).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("delta", [0.5, 2.0])
def test_huber_equals_torch(delta):
    output, target = torch.randn(2, 50, dtype=torch.float64) * 3
    torch.testing.assert_close(huber_loss(output, target, delta=delta), F.huber_loss(output, target, delta=delta))


@pytest.mark.parametrize("loss", WITH_REDUCTION, ids=lambda loss: loss.__name__)
def test_reductions_are_weighted(loss):
    output, target, weight = torch.rand(3, 4, 2)
    plain = loss(output, target, reduction="none")
    torch.testing.assert_close(loss(output, target, sample_weight=weight, reduction="none"), plain * weight)
    torch.testing.assert_close(loss(output, target, sample_weight=weight, reduction="sum"), (plain * weight).sum())
    expected = (plain * weight).sum() / weight.sum()
    torch.testing.assert_close(loss(output, target, sample_weight=weight), expected)


@pytest.mark.parametrize("loss", [msle_loss, rmsle_loss])
def test_the_log_scale_may_be_given(loss):
    output, target = torch.rand(2, 5, dtype=torch.float64) * 100
    expected = loss(output, target)
    torch.testing.assert_close(loss(output.log1p(), target, log_input=True), expected)
    torch.testing.assert_close(loss(output, target.log1p(), log_target=True), expected)
    torch.testing.assert_close(loss(output.log1p(), target.log1p(), log_input=True, log_target=True), expected)


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.__name__)
def test_derivatives_pass_finite_differences(loss):
    output, target, weight = torch.rand(3, 6, dtype=torch.float64) + 0.1
    output.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, target, sample_weight=weight), output)
    assert torch.autograd.gradgradcheck(lambda x: loss(x, target, sample_weight=weight), output)


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.__name__)
def test_a_perfect_fit_has_value_0_and_gradient_0(loss):
    output = torch.tensor([1.0, 2.0], requires_grad=True)
    value = loss(output, output.detach().clone())
    value.backward()
    assert value.item() == 0
    # At the kink of the pinball loss each side of the tie gets half of its slope: 0 at the median.
    assert output.grad.tolist() == [0, 0]


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -5.0])
def test_masked_elements_reach_neither_value_nor_gradient(loss, bad):
    weight = torch.tensor([1.0, 0.0, 2.0])
    for place in ("input", "target"):
        values = {"input": torch.tensor([1.0, 2.0, 3.0]), "target": torch.tensor([2.0, 2.0, 2.0])}
        values[place][1] = bad
        values["input"].requires_grad_()
        value = loss(**values, sample_weight=weight)
        value.backward()
        kept = [0, 2]
        expected = loss(values["input"][kept], values["target"][kept], sample_weight=weight[kept])
        torch.testing.assert_close(value, expected)
        assert values["input"].grad[1] == 0
        assert values["input"].grad.isfinite().all()


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.__name__)
def test_a_mean_over_nothing_is_0(loss):
    for size, options in ((0, {}), (3, {"sample_weight": torch.zeros(3)})):
        output = torch.rand(size, requires_grad=True)
        value = loss(output, torch.rand(size), **options)
        value.backward()
        assert value.item() == 0
        assert not output.grad.any()


def test_half_precision_neither_overflows_nor_stays_half():
    big = torch.tensor([300.0, 0.0], dtype=torch.float16)
    value = mse_loss(big, torch.zeros_like(big))
    assert value.item() == 45_000
    assert value.dtype == torch.float32
    assert F.mse_loss(big, torch.zeros_like(big), reduction="none").isinf().any()


def test_integer_targets_are_numbers():
    assert mse_loss(torch.tensor([1.0, 2.0]), torch.tensor([1, 4])).item() == 2


def test_the_copied_snippet_is_wrong_where_ours_is_right():
    # What is copied around as a weighted RMSE: without weights it forgets the root.
    snippet = lambda output, target: torch._C._nn.mse_loss(output, target, 1)  # noqa: E731
    output, target = torch.tensor([1.0, 2.0, 6.0]), torch.zeros(3)
    assert snippet(output, target).item() == pytest.approx(rmse_loss(output, target).item() ** 2)
    assert snippet(torch.zeros(3, 1), torch.arange(3.0)).item() > 0  # and (3, 1) against (3,) is nine errors


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.__name__)
def test_func_compile_and_meta(loss):
    output, target, weight = torch.rand(3, 5, dtype=torch.float64)
    call = lambda x: loss(x, target, sample_weight=weight)  # noqa: E731
    x = output.clone().requires_grad_()
    expected = torch.autograd.grad(call(x), x)[0]
    torch.testing.assert_close(torch.func.grad(call)(output), expected)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(x), x)[0], expected)
    assert loss(output.to("meta"), target.to("meta"), sample_weight=weight.to("meta")).shape == ()


X, Y = torch.zeros(3), torch.ones(3)
MESSAGES = [
    (lambda: mse_loss(torch.zeros(3, 1), Y),
     "target must have the shape of input (3, 1), got (3,); "
     "bring them to one shape with input.squeeze(-1) or target.reshape(input.shape)"),
    (lambda: mse_loss(X, Y.cfloat()), "target must hold real numbers, got c64[3]"),
    (lambda: mse_loss(X, torch.ones(2)), "target must have the shape of input (3,), got (2,)"),
    (lambda: mse_loss(X.int(), Y), "input must be a floating point tensor, got i32[3]; convert it with .float()"),
    (lambda: mse_loss(X, [1.0]), "target must be a tensor, got list; convert it with torch.as_tensor(target)"),
    (lambda: mse_loss(X, Y, sample_weight=[1.0]), "sample_weight must be a tensor, got list; "
     "convert it with torch.as_tensor(sample_weight)"),
    (lambda: mse_loss(torch.zeros(2, 3), torch.zeros(2, 3), sample_weight=torch.ones(3)),
     "sample_weight must have the shape of target (2, 3), got (3,); "
     "say which dimensions they belong to, for example sample_weight[None, :].expand_as(target)"),
    (lambda: mse_loss(X, Y, sample_weight=-Y), "sample_weight must not be negative or NaN, got -1"),
    (lambda: mse_loss(torch.zeros(3, 2), torch.zeros(3, 2), sample_weight=Y),
     "sample_weight must have the shape of target (3, 2), got (3,); "
     "say which dimensions they belong to, for example sample_weight[:, None].expand_as(target)"),
    (lambda: mse_loss(X, Y, sample_weight=torch.ones(3, 1)),
     "sample_weight must have the shape of target (3,), got (3, 1)"),
    (lambda: mse_loss(X, Y, reduction="average"), "reduction must be one of ('none', 'mean', 'sum'), got 'average'"),
    (lambda: msle_loss(X, -2 * Y),
     "target must be above -1 for a logarithmic loss, got -2; "
     "pass what is already on the log scale with log_target=True"),
    (lambda: rmsle_loss(X - 1, Y),
     "input must be above -1 for a logarithmic loss, got -1; "
     "pass what is already on the log scale with log_input=True"),
    (lambda: quantile_loss(X, Y, quantile=1.0), "quantile must be a number above 0 and below 1, got 1.0"),
    (lambda: quantile_loss(X, Y, quantile=0.0), "quantile must be a number above 0, got 0.0"),
    (lambda: huber_loss(X, Y, delta=0.0), "delta must be a number above 0, got 0.0"),
    (lambda: mse_loss(X, Y.to("meta")), "target must be on the device of input (cpu), got meta; move it with .to()"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), MESSAGES)
def test_wrong_arguments_get_a_sentence(call, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert str(caught.value) == message


def test_several_quantiles_are_the_mean_of_their_losses():
    predicted, truth = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    shares, weight = [0.1, 0.5, 0.9], torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0, 3.0])
    each = [
        linkboy.quantile_loss(predicted[:, k], truth, quantile=q, sample_weight=weight) for k, q in enumerate(shares)
    ]
    expected = torch.stack(each).mean()
    whole = truth[:, None].expand(6, 3)
    for quantile in (shares, tuple(shares), torch.tensor(shares), np.array(shares)):
        for target, of_target in ((truth, weight), (whole, weight[:, None].expand(6, 3))):
            got = linkboy.quantile_loss(predicted, target, quantile=quantile, sample_weight=of_target)
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)
    assert linkboy.quantile_loss(predicted, truth, quantile=shares, reduction="none").shape == (6, 3)
    module = linkboy.QuantileLoss(quantile=shares)
    assert torch.equal(module(predicted, truth), linkboy.quantile_loss(predicted, truth, quantile=shares))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: linkboy.quantile_loss(x, x, quantile=[0.1, 0.9]),
         "quantile must hold one number for each prediction in the last dimension of input (4, 3), got shape (2,)"),
        (lambda x: linkboy.quantile_loss(x, x, quantile=[0.1, 0.5, 1.0]), "quantile must be a number above 0 and below 1, got 1"),
        (lambda x: linkboy.quantile_loss(x, x, quantiles=[0.1]),
         "quantile_loss has no argument 'quantiles': one or several are quantile"),
        (lambda x: linkboy.mse_loss(x, x, weight=x), "mse_loss has no argument 'weight': weights per element are sample_weight"),
    ],
)  # fmt: skip
def test_wrong_quantiles_and_names_get_a_sentence(call, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        call(torch.zeros(4, 3))
    assert str(caught.value) == message
