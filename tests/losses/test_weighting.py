"""The weighted mean: on one device, over processes, and over accumulated steps."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linkboy import weighted_mean


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(0, 10)), min_size=1, max_size=20))
def test_it_is_the_quotient_of_two_sums(pairs):
    values, weights = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    total = weights.sum()
    expected = (values * weights).sum() / total if total > 0 else torch.tensor(0.0, dtype=torch.float64)
    torch.testing.assert_close(weighted_mean(values, weights), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dim", [0, -1, (0, 2), None])
def test_dimensions_are_those_of_sum(dim):
    values, weights = torch.randn(2, 3, 4), torch.rand(2, 3, 4)
    dims = (0, 1, 2) if dim is None else dim
    expected = (values * weights).sum(dims) / weights.sum(dims)
    torch.testing.assert_close(weighted_mean(values, weights, dim=dim), expected)


def test_the_gradient_is_that_of_the_quotient():
    values = torch.randn(5, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(weighted_mean, (values, weights))
    assert torch.autograd.gradgradcheck(weighted_mean, (values, weights))


def test_masked_values_may_be_nan():
    values = torch.tensor([1.0, torch.nan, torch.inf], requires_grad=True)
    mean = weighted_mean(values, torch.tensor([2.0, 0.0, 0.0]))
    mean.backward()
    assert mean.item() == 1
    assert values.grad.tolist() == [1, 0, 0]


@pytest.mark.parametrize("size", [0, 3])
def test_a_mean_over_nothing_is_0(size):
    values = torch.randn(size, requires_grad=True)
    mean = weighted_mean(values, torch.zeros(size))
    mean.backward()
    assert mean.item() == 0
    assert not values.grad.any()


def test_half_precision_is_added_up_in_float32():
    values = torch.ones(70_000, dtype=torch.float16)
    mean = weighted_mean(values, torch.ones_like(values))
    assert mean.item() == 1
    assert mean.dtype == torch.float32


def test_accumulated_steps_add_up_to_the_whole_batch():
    values, weights = torch.randn(9, dtype=torch.float64), torch.rand(9, dtype=torch.float64)
    total = weights.sum()
    pieces = zip(values.split([2, 3, 4]), weights.split([2, 3, 4]), strict=True)
    summed = sum(weighted_mean(v, w, total=total) for v, w in pieces)
    torch.testing.assert_close(summed, weighted_mean(values, weights), rtol=1e-12, atol=0)


def test_func_compile_and_meta():
    values, weights = torch.randn(4, 3), torch.rand(4, 3)
    expected = weighted_mean(values, weights, dim=1)
    torch.testing.assert_close(torch.func.vmap(weighted_mean)(values, weights), expected)
    torch.testing.assert_close(
        torch.compile(weighted_mean, fullgraph=True, backend="aot_eager")(values, weights),
        weighted_mean(values, weights),
    )
    assert weighted_mean(values.to("meta"), weights.to("meta"), dim=0).shape == (3,)


def test_processes_and_steps_give_the_gradient_of_the_single_batch(tmp_path):
    worker = Path(__file__).with_name("gloo_worker.py")
    ranks = [
        subprocess.Popen([sys.executable, str(worker), str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    single = torch.load(tmp_path / "single.pt", weights_only=True)
    for rank in (0, 1):
        results = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        for name, gradient in results.items():
            torch.testing.assert_close(
                gradient, single, rtol=1e-6, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
            )


MESSAGES = [
    ((torch.zeros(3), torch.zeros(3, 1)), {}, "weights must have the shape of values (3,), got (3, 1)"),
    ((torch.zeros(3, 2), torch.zeros(3)), {},
     "weights must have the shape of values (3, 2), got (3,); "
     "say which dimensions they belong to, for example weights[:, None].expand_as(values)"),
    ((torch.zeros(3), -torch.ones(3)), {}, "weights must not be negative or NaN, got -1"),
    ((torch.zeros(3), torch.full((3,), torch.nan)), {}, "weights must not be negative or NaN, got nan"),
    ((torch.zeros(2, 3), torch.ones(3)), {},
     "weights must have the shape of values (2, 3), got (3,); "
     "say which dimensions they belong to, for example weights[None, :].expand_as(values)"),
    ((torch.zeros(2, 3), torch.ones(5)), {}, "weights must have the shape of values (2, 3), got (5,)"),
    ((torch.zeros(3), [1.0, 1.0, 1.0]), {},
     "weights must be a tensor, got list; convert it with torch.as_tensor(weights)"),
    ((torch.zeros(3), torch.ones(3).cfloat()), {}, "weights must hold real numbers, got c64[3]"),
    (([1.0], torch.ones(1)), {}, "values must be a floating point tensor, got list"),
    ((torch.zeros(3), torch.ones(3)), {"total": -1.0}, "total must be a number of at least 0, got -1.0"),
    ((torch.zeros(3), torch.ones(3)), {"total": torch.tensor(-1.0)}, "total must not be negative or NaN, got -1"),
    ((torch.zeros(3), torch.ones(3)), {"total": torch.ones(7)},
     "total must be one number or have the shape of the mean (), got (7,)"),
    ((torch.zeros(3), torch.ones(3)), {"total": torch.ones((), device="meta")},
     "total must be on the device of values (cpu), got meta; move it with .to()"),
    ((torch.zeros(3), torch.ones(3)), {"total": torch.tensor(torch.inf)}, "total must be finite, got inf"),
    ((torch.zeros(3), torch.ones(3, device="meta")), {},
     "weights must be on the device of values (cpu), got meta; move it with .to()"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "options", "message"), MESSAGES)
def test_wrong_arguments_get_a_sentence(arguments, options, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        weighted_mean(*arguments, **options)
    assert str(caught.value) == message
