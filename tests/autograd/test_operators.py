"""straight_through, scale_gradient, gradient_reversal, clip_gradient: the bits of x forward, the gradient asked for backward."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from linkboy import GradientReversal, clip_gradient, gradient_reversal, scale_gradient, straight_through

pytestmark = [  # torch's own, of importing its transforms and of tracing a Function
    pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]
PASSING = {  # the gradient of each is this factor of the incoming one
    "straight_through": (straight_through(torch.clone), 1.0),
    "scale_gradient": (lambda x: scale_gradient(x, scale=0.3), 0.3),
    "gradient_reversal": (lambda x: gradient_reversal(x, scale=2.0), -2.0),
    "clip_gradient, far from its bound": (lambda x: clip_gradient(x, max_norm=1e6), 1.0),
    "clip_gradient by value, far from its bound": (lambda x: clip_gradient(x, max_value=1e6), 1.0),
}
each_operator = pytest.mark.parametrize(("op", "factor"), PASSING.values(), ids=PASSING)
EXTREMES = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e4, -1e-4, 60000.0, 5e-8]


def bits_of(x):
    return x.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.dtype.itemsize])


def shapes():
    base = torch.randn(4, 6, dtype=torch.float64)
    yield from [base, base.T, base[:, ::2], base[:1].expand(4, 6), base[0, 0], base[:0], base[:, :, None, None]]


# --- forward ---------------------------------------------------------------------------------------------------------------


@each_operator
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_forward_keeps_every_bit_also_of_infinity_nan_and_minus_zero(op, factor, dtype):
    x = torch.tensor(EXTREMES, dtype=dtype).requires_grad_()
    y = op(x)
    assert y.dtype == dtype
    assert torch.equal(bits_of(y), bits_of(x))
    (g,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert torch.equal(g, torch.full_like(x, factor))


@each_operator
def test_any_shape_and_any_layout_of_input_and_incoming_gradient(op, factor):
    for x in shapes():
        x = x.detach().requires_grad_()
        incoming = [torch.randn_like(x), torch.ones((), dtype=x.dtype).expand(x.shape)]
        if x.ndim > 1:
            incoming.append(torch.randn(x.shape[::-1], dtype=x.dtype).permute(*reversed(range(x.ndim))))
        for g in incoming:
            y = op(x)
            assert torch.equal(y, x)
            before = g.clone()
            assert torch.equal(torch.autograd.grad(y, x, g)[0], factor * g)
            assert torch.equal(g, before)


@each_operator
def test_meta_tensors_pass(op, factor):
    x = torch.empty(3, 2, device="meta", requires_grad=True)
    assert op(x).device.type == "meta"
    assert torch.autograd.grad(op(x).sum(), x)[0].shape == (3, 2)


@each_operator
def test_without_gradient_and_in_inference_mode(op, factor):
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(op(torch.arange(3.0)), torch.arange(3.0))


@each_operator
def test_writing_into_the_result_leaves_a_right_gradient_or_an_error_and_not_a_wrong_number(op, factor):
    x = torch.ones(3, requires_grad=True)
    y = op(x * 1)
    try:
        y.mul_(2)
    except RuntimeError:
        return
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.full((3,), 2 * factor))


# --- backward ----------------------------------------------------------------------------------------------------------------


def test_surrogate_gives_the_gradient_and_all_further_ones():
    op = straight_through(torch.sign, surrogate=torch.tanh)
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    for derivative in (grad, lambda f: grad(grad(f)), lambda f: grad(grad(grad(f)))):
        for point in x.detach():
            assert torch.equal(derivative(op)(point), derivative(torch.tanh)(point))
    assert torch.equal(op(x), x.sign())


def test_straight_through_is_exactly_fn_where_the_copied_sum_is_not():
    x = torch.tensor([1e4, 0.3])
    value = torch.full_like(x, 0.97)
    copied = x + (value - x).detach()
    assert not torch.equal(copied, value)
    assert torch.equal(straight_through(lambda _: value)(x), value)


def test_parameters_of_fn_get_no_gradient_and_those_of_the_surrogate_do():
    inner, outer = nn.Linear(3, 3), nn.Linear(3, 3)
    straight_through(inner, surrogate=outer)(torch.randn(2, 3)).sum().backward()
    assert inner.weight.grad is None
    assert outer.weight.grad is not None


def test_clip_bounds_the_norm_or_each_element():
    x = torch.zeros(4, requires_grad=True)
    for g in (torch.tensor([3.0, 0.0, -4.0, 0.0]), torch.zeros(4), torch.full((4,), 0.1)):
        norm = g.norm().clamp(min=1.0)
        assert torch.allclose(torch.autograd.grad(clip_gradient(x, max_norm=1.0), x, g)[0], g / norm)
        assert torch.equal(torch.autograd.grad(clip_gradient(x, max_value=0.5), x, g)[0], g.clamp(-0.5, 0.5))


def test_clip_in_half_precision_has_a_norm_whose_squares_would_overflow():
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.zeros(2, dtype=dtype, requires_grad=True)
        (g,) = torch.autograd.grad(clip_gradient(x, max_norm=1.0), x, torch.tensor([30000.0, 40000.0], dtype=dtype))
        assert torch.allclose(g.float(), torch.tensor([0.6, 0.8]), atol=4e-3)


def test_clip_differentiates_again_also_where_the_gradient_is_zero():
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for start in (torch.zeros(3), torch.tensor([3.0, 1.0, -2.0]), torch.tensor([0.1, 0.2, 0.3])):
        g = start.double().requires_grad_()
        (clipped,) = torch.autograd.grad(clip_gradient(x, max_norm=1.0), x, g, create_graph=True)
        got = torch.autograd.grad(clipped.sum(), g)[0]
        norm = g.norm()
        expected = torch.autograd.grad((g / norm if norm > 1 else g * 1).sum(), g)[0]
        assert torch.allclose(got, expected)


@each_operator
def test_double_backward_multiplies_by_the_factor_once_more(op, factor):
    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    g = torch.randn(4, dtype=torch.float64, requires_grad=True)
    (once,) = torch.autograd.grad(op(x), x, g, create_graph=True)
    assert torch.equal(torch.autograd.grad(once.sum(), g)[0], torch.full_like(g, factor))


@pytest.mark.parametrize("op", [scale_gradient, gradient_reversal])
def test_scaling_and_reversal_save_nothing_of_the_size_of_x(op):
    for scale in (0.5, torch.tensor(0.5)):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, to=saved: to.append(t.numel()) or t, lambda t: t):
            op(torch.zeros(100, requires_grad=True), scale=scale)
        assert all(size == 1 for size in saved)


def test_a_scale_of_a_wider_dtype_widens_nothing():
    wide = torch.tensor(0.5, dtype=torch.float64)
    run = torch.compile(lambda x: gradient_reversal(x, scale=wide), fullgraph=True, backend="aot_eager")
    for x in (torch.tensor(1.0), torch.ones(2), torch.ones(2).half()):
        for op in (lambda x: scale_gradient(x, scale=wide), run):
            leaf = x.clone().requires_grad_()
            y = op(leaf)
            assert y.dtype == torch.autograd.grad(y.sum(), leaf)[0].dtype == x.dtype


def test_no_gradient_flows_into_scale():
    scale = torch.tensor(2.0, requires_grad=True)
    x = torch.ones(3, requires_grad=True)
    scale_gradient(x, scale=scale).sum().backward()
    assert scale.grad is None
    assert torch.equal(x.grad, torch.full((3,), 2.0))


def test_module_reverses_moves_its_scale_and_leaves_the_state_dict_alone():
    for scale in (0.5, torch.tensor(0.5)):
        module = GradientReversal(scale=scale)
        assert module.state_dict() == {}
        assert repr(copy.deepcopy(module)) == repr(pickle.loads(pickle.dumps(module)))
        module.scale = 3 * scale
        x = torch.ones(2, requires_grad=True)
        module(x).sum().backward()
        assert torch.equal(x.grad, torch.tensor([-1.5, -1.5]))
    assert GradientReversal(scale=torch.tensor(1.0)).to("meta").scale.is_meta
    assert repr(GradientReversal(scale=0.5)) == "GradientReversal(scale=0.5)"


# --- transforms, compile, autocast -------------------------------------------------------------------------------------------


@each_operator
def test_every_transform_of_torch_func_agrees_with_the_formula(op, factor):
    x = torch.randn(3, 4, dtype=torch.float64)

    def cubes(x):
        return (op(x) ** 3).sum()

    assert torch.allclose(grad(cubes)(x), factor * 3 * x**2)
    assert torch.allclose(vmap(grad(cubes))(x), factor * 3 * x**2)
    assert torch.equal(vmap(vmap(op))(x), x)
    tangent = torch.randn_like(x)
    assert torch.allclose(jvp(op, (x,), (tangent,))[1], factor * tangent)
    eye = factor * torch.eye(4, dtype=torch.float64)
    assert torch.allclose(jacrev(op)(x[0]), eye)
    assert torch.allclose(jacfwd(op)(x[0]), eye)
    second = factor**2 * torch.diag(6 * x[0])
    assert torch.allclose(hessian(cubes)(x[0]), second)
    assert torch.allclose(jacrev(jacrev(cubes))(x[0]), second)


@each_operator
def test_what_outlives_a_transform_keeps_its_gradient(op, factor):
    x, left = torch.randn(3, requires_grad=True), []

    def inside(y):
        left.append(2 * y)
        return y.sum()

    grad(inside)(x)
    assert torch.allclose(torch.autograd.grad(op(left[0]).sum(), x)[0], torch.full((3,), 2 * factor))


def test_vmap_clips_the_norm_of_each_example():
    x = torch.tensor([[30.0, 40.0], [0.3, 0.4]])
    half_square = lambda x: (clip_gradient(x, max_norm=1.0) ** 2).sum() / 2  # noqa: E731
    assert torch.allclose(vmap(grad(half_square))(x), torch.tensor([[0.6, 0.8], [0.3, 0.4]]))


def test_scale_may_itself_be_mapped_over():
    scales = torch.tensor([1.0, 2.0])
    got = vmap(grad(lambda x, s: scale_gradient(x, scale=s)), (None, 0))(torch.tensor(1.0), scales)
    assert torch.equal(got, scales)


@each_operator
def test_compiles_without_a_graph_break_static_and_dynamic(op, factor):
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: op(x) * 2, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (3, 5):
        x = torch.tensor([math.inf, -0.0, *[1.5] * size], requires_grad=True)
        y = compiled(x)
        assert torch.equal(bits_of(y), bits_of(2 * x))
        (g,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(g[1:], torch.full((size + 1,), 2 * factor))


@pytest.mark.parametrize("op", [scale_gradient, gradient_reversal])
def test_transforms_inside_a_compiled_function(op):
    torch._dynamo.reset()
    x = torch.randn(4)
    slope = lambda x: grad(lambda x: (op(x, scale=2.0) ** 2).sum())(x)  # noqa: E731
    tangent = lambda x: jvp(lambda x: op(x, scale=2.0), (x,), (x,))[1]  # noqa: E731
    for function in (slope, tangent):
        assert torch.allclose(torch.compile(function, fullgraph=True, backend="aot_eager")(x), function(x))


def test_a_schedule_in_a_tensor_compiles_once():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(lambda x, s: gradient_reversal(x, scale=s), fullgraph=True, backend=counter)
    scale = torch.tensor(0.0)
    for step in range(4):
        scale.fill_(step / 4)
        compiled(torch.ones(3), scale)
    assert counter.frame_count == 1


@each_operator
def test_autocast_changes_nothing(op, factor):
    x = torch.randn(3, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = op(x)
    assert torch.equal(y, x)
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.full((3,), factor))


def test_straight_through_under_autocast_takes_the_dtype_of_x():
    weight = torch.eye(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert straight_through(lambda x: x @ weight)(torch.ones(2, 3)).dtype == torch.float32


# --- messages ------------------------------------------------------------------------------------------------------------------

X = torch.zeros(2)
MISTAKES = [
    (lambda: gradient_reversal(torch.tensor([1])), TypeError,
     "x must be a floating point tensor, got i64[1]; convert it with .float()"),
    (lambda: scale_gradient([1.0], scale=1.0), TypeError, "x must be a floating point tensor, got list"),
    (lambda: scale_gradient(X, scale=math.nan), ValueError, "scale must be a number, got nan"),
    (lambda: scale_gradient(X, scale="1"), TypeError, "scale must be a number, got '1' of type str"),
    (lambda: scale_gradient(X, scale=torch.ones(1)), ValueError,
     "scale must be a number or a tensor with no dimension, got shape (1,)"),
    (lambda: scale_gradient(X, scale=torch.tensor(2j)), TypeError, "scale must be a real number, got c64[]"),
    (lambda: gradient_reversal(X, scale=torch.tensor(True)), TypeError, "scale must be a real number, got bool[]"),
    (lambda: GradientReversal(scale=math.inf), ValueError, "scale must be a number, got inf"),
    (lambda: clip_gradient(X), ValueError, "give one of max_norm and max_value, the other is None"),
    (lambda: clip_gradient(X, max_norm=1.0, max_value=1.0), ValueError,
     "give one of max_norm and max_value, the other is None"),
    (lambda: clip_gradient(X, max_norm=0.0), ValueError, "max_norm must be a number above 0, got 0.0"),
    (lambda: clip_gradient(X, max_value=-1), ValueError, "max_value must be a number above 0, got -1"),
    (lambda: straight_through(None), TypeError, "fn must be a function of a tensor, got None"),
    (lambda: straight_through(torch.sign, surrogate=1), TypeError, "surrogate must be a function of a tensor, got int"),
    (lambda: straight_through(lambda x: (x, x))(X), TypeError, "fn must return a tensor of real numbers, got tuple"),
    (lambda: straight_through(torch.fft.fft)(X), TypeError, "fn must return a tensor of real numbers, got c64[2]"),
    (lambda: straight_through(torch.sign, surrogate=lambda x: 1)(X), TypeError,
     "surrogate(x) must be a floating point tensor, got int"),
    (lambda: straight_through(torch.sum)(X), ValueError,
     "fn must keep the shape that x has (2,), got (); pass a surrogate= of the shape of fn(x)"),
    (lambda: straight_through(torch.sum, surrogate=torch.exp)(X), ValueError,
     "fn must keep the shape that surrogate(x) has (2,), got (); pass a surrogate= of the shape of fn(x)"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), MISTAKES)
def test_messages(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
