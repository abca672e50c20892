"""squash and capsule_norm: 50-digit values and gradients from 0 to the largest number, where the copies give NaN."""

import pytest
import torch
from mpmath import mp, mpf

from linkboy import capsule_norm, squash

mp.dps = 50
LENGTHS = [1e-25, 1e-18, 1e-12, 1e-4, 0.3, 1.0, 7.0, 1e4, 1e12, 1e20, 1e30]
DIRECTION = (0.48, -0.6, 0.64)
SMALLEST_NORMAL = torch.finfo(torch.float32).tiny


def exact(name, s, incoming):
    """The definition in 50 digits: value, and the gradient of `<value, incoming>`."""
    s, g = [mpf(v) for v in s], [mpf(v) for v in incoming]
    n = mp.sqrt(mp.fsum(v * v for v in s))
    if name == "norm":
        return [n], [g[0] * v / n for v in s]
    scale, slope = n / (1 + n * n), (1 - n * n) / (1 + n * n) ** 2
    along = mp.fsum(a * b for a, b in zip(s, g, strict=True))
    return [v * scale for v in s], [a * scale + along * slope * v / n for a, v in zip(g, s, strict=True)]


def assert_close(got, want, scale, floor=SMALLEST_NORMAL):
    for ours, reference in zip(got, want, strict=True):
        assert abs(mpf(ours) - reference) <= 1e-6 * scale + floor


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", ["squash", "norm"])
def test_value_and_gradient_have_all_digits_of_float32_at_every_length(name, length):
    s = torch.tensor([length * d for d in DIRECTION], requires_grad=True)
    value = squash(s) if name == "squash" else capsule_norm(s)
    incoming = torch.tensor([0.7, -0.2, 0.5]) if name == "squash" else torch.tensor(0.7)
    value.backward(incoming)
    values, slopes = exact(name, s.tolist(), incoming.reshape(-1).tolist())
    assert_close(value.reshape(-1).tolist(), values, max(map(abs, values)))
    # The gradient of squash falls with the length; where its square leaves the normal numbers only that much is asked for.
    assert_close(s.grad.tolist(), slopes, max(map(abs, slopes)), length if length < 1e-18 else SMALLEST_NORMAL)


def copied_squash(s):
    n2 = (s * s).sum(-1, keepdim=True)
    return n2 / (1 + n2) * s / n2.sqrt()


def squash_with_eps(s):
    n2 = (s * s).sum(-1, keepdim=True)
    return s * n2 / (1 + n2) / (n2 + 1e-8).sqrt()


def test_the_oracle_condemns_the_copies():
    assert copied_squash(torch.zeros(3)).isnan().all()
    assert copied_squash(torch.full((3,), 1e-25)).isnan().all()
    short = torch.tensor([1e-4, 0, 0])
    assert squash_with_eps(short)[0] < 0.8 * squash(short)[0]
    zero = torch.zeros(3, requires_grad=True)
    zero.square().sum().sqrt().backward()
    assert zero.grad.isnan().all()


@pytest.mark.parametrize("function", [squash, capsule_norm])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_zero_has_value_and_gradient_zero_also_among_others(function, dtype):
    capsules = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, -1.0]], dtype=dtype, requires_grad=True)
    value = function(capsules)
    assert value.dtype == dtype
    (gradient,) = torch.autograd.grad(value.sum(), capsules, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), capsules)
    assert not value[1].any()
    assert not gradient[1].any()
    assert gradient.isfinite().all()
    assert second.isfinite().all()
    assert gradient[[0, 2]].all()


def test_half_precision_does_not_overflow():
    x = torch.tensor([300.0, 0.0], dtype=torch.float16, requires_grad=True)  # 300**2 is beyond float16
    squash(x).sum().backward()
    assert squash(x).tolist() == [1.0, 0.0]
    assert x.grad.isfinite().all()
    assert capsule_norm(x).item() == 300
    assert capsule_norm(torch.full((4,), 1e30, dtype=torch.bfloat16)).item() == pytest.approx(2e30, rel=0.01)


@pytest.mark.parametrize("function", [squash, capsule_norm])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_gradcheck_along_every_dimension(function, dim):
    torch.manual_seed(0)
    x = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: function(x, dim=dim), x)
    assert torch.autograd.gradgradcheck(lambda x: function(x, dim=dim), x)
    torch.testing.assert_close(function(x, dim=dim), function(x.movedim(dim, -1)).movedim(-1, dim) if function is squash
                               else x.norm(dim=dim))  # fmt: skip


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own, on the first forward mode
def test_the_largest_entry_is_a_constant_in_forward_mode_too():
    x, tangent = torch.randn(2, 5, 3, dtype=torch.float64)
    for function in (squash, capsule_norm):
        _, forward = torch.func.jvp(function, (x,), (tangent,))
        _, pullback = torch.func.vjp(function, x)
        backward = pullback(torch.ones_like(forward))[0]
        torch.testing.assert_close(forward.sum(), (backward * tangent).sum())
        torch.testing.assert_close(torch.vmap(function)(x), function(x))


def test_lengths_of_squashed_capsules_stay_in_range():
    lengths = capsule_norm(squash(torch.randn(1000, 8) * torch.logspace(-30, 30, 1000).unsqueeze(1)))
    assert lengths.isfinite().all()
    assert 0 <= lengths.min() <= lengths.max() <= 1 + 1e-6


def test_lengths_are_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert capsule_norm(torch.ones(2, 4, dtype=torch.bfloat16)).dtype == torch.float32
        assert squash(torch.ones(2, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("function", [squash, capsule_norm])
def test_empty_batches_meta_and_compile(function):
    assert function(torch.zeros(0, 3, 2)).shape[:2] == (0, 3)
    assert function(torch.zeros(4, 3, 2, device="meta")).shape[:2] == (4, 3)
    x = torch.randn(4, 2)
    torch.testing.assert_close(torch.compile(function, fullgraph=True, backend="aot_eager")(x), function(x))


@pytest.mark.parametrize("function", [squash, capsule_norm])
def test_what_is_no_capsule_is_refused(function):
    with pytest.raises(TypeError) as caught:
        function(torch.zeros(3, dtype=torch.int64))
    assert str(caught.value) == "input must be a floating point tensor of capsules, got i64[3]"
    for x, got in ((torch.zeros(2, 0), "f32[2, 0]"), (torch.tensor(1.0), "f32[]")):
        with pytest.raises(ValueError) as caught:
            function(x)
        assert str(caught.value) == f"input must have capsules of at least one entry along dim -1, got {got}"
    with pytest.raises(ValueError) as caught:
        function(torch.zeros(2, 3), dim=2)
    assert str(caught.value) == "dim must be an integer of at least -2 and of at most 1, got 2"


def test_a_capsule_without_direction_is_nan_and_its_neighbours_are_not():
    capsules = torch.tensor([[torch.inf, 1.0], [3.0, 4.0], [torch.nan, 0.0]])
    assert squash(capsules).isnan().any(1).tolist() == [True, False, True]
