"""CapsuleLinear against the definition in float64, and on every edge."""

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.capsules.reference import route

from linkboy import CapsuleLinear
from linkboy.capsules import _form

SIZES = [(6, 4, 3, 5), (1, 4, 3, 5), (6, 1, 3, 5), (6, 4, 1, 5), (6, 4, 3, 1), (1, 1, 1, 1)]


def make(sizes=(6, 4, 3, 5), batch=4, dtype=torch.float64, seed=0, **options):
    torch.manual_seed(seed)
    layer = CapsuleLinear(*sizes, dtype=dtype, **options)
    torch.nn.init.normal_(layer.weight)
    return layer, torch.randn(batch, *sizes[:2], dtype=dtype, requires_grad=True)


def gradients(output, layer, x, incoming):
    return torch.autograd.grad(output, (layer.weight, x), incoming)


def assert_equals_reference(layer, x, **tolerance):
    output = layer(x)
    incoming = torch.randn(output.shape, dtype=torch.float64)
    weight64, x64 = (t.detach().double().requires_grad_() for t in (layer.weight, x))
    expected = route(weight64, x64, layer.routing_iters, layer.routing_grad)
    torch.testing.assert_close(output.double(), expected, **tolerance)
    wanted = torch.autograd.grad(expected, (weight64, x64), incoming)
    got = gradients(output, layer, x, incoming.to(output.dtype))
    for ours, reference in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours.double(), reference, **tolerance)


@pytest.mark.parametrize("grad", ["last", "full"])
@pytest.mark.parametrize("iters", [1, 2, 3, 5])
@pytest.mark.parametrize("sizes", SIZES)
def test_value_and_gradients_are_those_of_the_definition(sizes, iters, grad):
    assert_equals_reference(*make(sizes, routing_iters=iters, routing_grad=grad))


@given(st.integers(0, 9), *[st.integers(1, 9)] * 4, st.integers(1, 4), st.sampled_from(["last", "full"]))
@settings(max_examples=60, deadline=None)
def test_any_sizes(batch, num_in, in_dim, num_out, out_dim, iters, grad):
    layer, x = make((num_in, in_dim, num_out, out_dim), batch, routing_iters=iters, routing_grad=grad)
    assert_equals_reference(layer, x)


@pytest.mark.parametrize("grad", ["last", "full"])
def test_the_gradients_of_float32_have_five_digits_at_the_size_of_mnist(grad):
    torch.manual_seed(0)
    layer, x = CapsuleLinear(1152, 8, 10, 16, routing_grad=grad), torch.randn(4, 1152, 8, requires_grad=True)
    output, incoming = layer(x), torch.randn(4, 10, 16)
    weight64, x64 = (t.detach().double().requires_grad_() for t in (layer.weight, x))
    expected = route(weight64, x64, 3, grad)
    wanted = torch.autograd.grad(expected, (weight64, x64), incoming.double())
    for ours, reference in zip((output, *gradients(output, layer, x, incoming)), (expected, *wanted), strict=True):
        assert (ours - reference).norm() <= 1e-5 * reference.norm()


def test_the_two_gradients_differ_except_without_iterations():
    for iters, same in ((1, True), (2, False), (3, False)):
        last, x = make(routing_iters=iters)
        full, _ = make(routing_iters=iters, routing_grad="full")
        incoming = torch.ones(4, 3, 5, dtype=torch.float64)
        assert torch.equal(last(x), full(x))
        pairs = zip(gradients(last(x), last, x, incoming), gradients(full(x), full, x, incoming), strict=True)
        assert all(torch.allclose(a, b) is same for a, b in pairs)


@pytest.mark.parametrize("classes_at_once", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("grad", ["last", "full"])
def test_the_groups_of_classes_change_nothing(monkeypatch, classes_at_once, grad):
    layer, x = make((6, 4, 5, 3), routing_grad=grad)
    monkeypatch.setattr(_form, "_GROUP", classes_at_once * x.numel())
    assert_equals_reference(layer, x)


# Batch mates


def outputs_of_first_example(run):
    """Return the output of one example alone, with mates, and with mates replaced by loud noise."""
    _, x = make(batch=5)
    x = x.detach()
    loud = torch.cat([x[:1], 1e3 * torch.randn_like(x[1:])])
    return [run(batch)[0] for batch in (x[:1], x, loud)]


def test_an_example_does_not_see_its_batch_mates():
    layer, _ = make()
    alone, together, beside_noise = outputs_of_first_example(layer)
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(beside_noise, alone)


def test_the_two_copied_faults_are_told_apart_from_routing():
    layer, x = make()
    alone, together, beside_noise = outputs_of_first_example(lambda x: route(layer.weight, x, 3, "last", average=True))
    assert (together - alone).abs().max() > 1e-3
    assert (beside_noise - alone).abs().max() > 1e-3
    wrong_axis = route(layer.weight, x, 3, "last", softmax_over="input")
    assert (layer(x) - wrong_axis).abs().max() > 1e-3


def test_one_call_leaves_nothing_behind_for_the_next():
    layer, x = make()
    first = layer(x)
    layer(10 * x)
    assert torch.equal(layer(x), first)


# Derivatives


@pytest.mark.parametrize("iters", [1, 2, 3])
def test_full_passes_gradcheck_and_gradgradcheck(iters):
    layer, x = make((3, 2, 2, 2), 2, routing_iters=iters, routing_grad="full")

    def run(weight, x):
        return torch.func.functional_call(layer, {"weight": weight}, (x,))

    assert torch.autograd.gradcheck(run, (layer.weight, x))
    assert torch.autograd.gradgradcheck(run, (layer.weight, x))


@pytest.mark.parametrize("grad", ["last", "full"])
def test_second_derivatives_are_those_of_the_definition(grad):
    layer, x = make(routing_grad=grad)
    weight64 = layer.weight.detach().clone().requires_grad_()
    penalties = []
    for output, parameters in (
        (layer(x), (layer.weight, x)),
        (route(weight64, x, 3, grad), (weight64, x)),
    ):
        first = torch.autograd.grad(output.square().sum(), parameters, create_graph=True)
        penalties.append(torch.autograd.grad(sum(g.square().sum() for g in first), parameters))
    for ours, reference in zip(*penalties, strict=True):
        torch.testing.assert_close(ours, reference)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own, on the first forward mode
@pytest.mark.parametrize("grad", ["last", "full"])
def test_torch_func_sees_the_same_gradients(grad):
    layer, x = make(routing_grad=grad)
    incoming = torch.randn(4, 3, 5, dtype=torch.float64)
    parameters = {"weight": layer.weight.detach()}

    def loss(parameters, x):
        return (torch.func.functional_call(layer, parameters, (x,)) * incoming).sum()

    by_weight, by_x = torch.func.grad(loss, argnums=(0, 1))(parameters, x.detach())
    wanted = gradients(layer(x), layer, x, incoming)
    torch.testing.assert_close((by_weight["weight"], by_x), wanted)
    tangent = torch.randn_like(x)
    _, directional = torch.func.jvp(lambda x: loss(parameters, x), (x.detach(),), (tangent,))
    torch.testing.assert_close(directional, (wanted[1] * tangent).sum())
    hessian = torch.func.hessian(lambda x: loss(parameters, x))(x.detach()[:1].repeat(4, 1, 1))
    assert hessian.isfinite().all()


def test_vmap_over_models_and_over_a_further_axis():
    layer, x = make()
    many = torch.stack([x, 2 * x, 3 * x])
    torch.testing.assert_close(torch.vmap(layer)(many), torch.stack([layer(batch) for batch in many]))
    weights = torch.stack([layer.weight, -layer.weight])
    ensemble = torch.vmap(lambda weight: torch.func.functional_call(layer, {"weight": weight}, (x,)))(weights)
    torch.testing.assert_close(ensemble[0], layer(x))


@pytest.mark.parametrize(("train_weight", "train_x"), [(True, False), (False, True), (False, False)])
def test_what_needs_no_gradient_gets_none(train_weight, train_x):
    layer, x = make()
    incoming = torch.randn(4, 3, 5, dtype=torch.float64)
    wanted = dict(zip(("weight", "x"), gradients(layer(x), layer, x, incoming), strict=True))
    layer.weight.requires_grad_(train_weight)
    x = x.detach().requires_grad_(train_x)
    output = layer(x)
    assert output.requires_grad is (train_weight or train_x)
    if output.requires_grad:
        output.backward(incoming)
    for name, tensor, trained in (("weight", layer.weight, train_weight), ("x", x, train_x)):
        if trained:
            torch.testing.assert_close(tensor.grad, wanted[name])
        else:
            assert tensor.grad is None


def test_without_gradients_nothing_is_kept():
    layer, x = make(batch=40)
    with torch.no_grad():
        assert layer(x).grad_fn is None
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        layer(x)
    predictions = len(x) * layer.weight[..., 0].numel()
    assert saved
    assert max(saved) < predictions


@pytest.mark.parametrize("grad", ["last", "full"])
def test_backward_twice_over_one_graph(grad):
    layer, x = make(routing_grad=grad)
    output = layer(x).sum()
    first = torch.autograd.grad(output, (layer.weight, x), retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(output, (layer.weight, x))))


def test_strides_of_input_and_gradient_change_nothing():
    layer, x = make()
    expected = layer(x)
    transposed = x.detach().transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(layer(transposed), expected)
    expanded = x.detach()[:1].expand(4, -1, -1)
    torch.testing.assert_close(layer(expanded), expected[:1].expand(4, -1, -1))
    incoming = torch.randn(3, 4, 5, dtype=torch.float64).transpose(0, 1)
    one = torch.ones((), dtype=torch.float64).expand(4, 3, 5)
    for gradient in (incoming, one):
        plain = gradients(layer(x), layer, x, gradient.contiguous())
        torch.testing.assert_close(gradients(layer(x), layer, x, gradient), plain)


# Shapes, dtypes, devices


@pytest.mark.parametrize("lead", [(), (0,), (1,), (2, 3), (0, 3)])
def test_any_leading_dimensions(lead):
    layer, _ = make()
    x = torch.randn(*lead, 6, 4, dtype=torch.float64, requires_grad=True)
    output = layer(x)
    assert output.shape == (*lead, 3, 5)
    torch.testing.assert_close(output.reshape(-1, 3, 5), layer(x.reshape(-1, 6, 4)))
    output.sum().backward()
    assert x.grad.shape == x.shape
    assert layer.weight.grad.shape == layer.weight.shape


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1), (torch.float16, 0.02)])
@pytest.mark.parametrize("grad", ["last", "full"])
def test_other_dtypes(dtype, tolerance, grad):
    layer, x = make(dtype=dtype, routing_grad=grad)
    output = layer(x)
    assert output.dtype == dtype
    assert_equals_reference(layer, x, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("grad", ["last", "full"])
def test_autocast_computes_in_its_dtype_and_gives_the_parameters_gradients_of_theirs(grad):
    layer, x = make(dtype=torch.float32, routing_grad=grad)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(x)
        wide = layer.double()(x.double())
    assert output.dtype == torch.bfloat16
    assert wide.dtype == torch.float64
    torch.testing.assert_close(output.double(), wide, rtol=0.1, atol=0.1)
    layer, x = make(dtype=torch.float32, routing_grad=grad)
    expected = gradients(layer(x), layer, x, torch.ones(4, 3, 5))
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(x)
    got = gradients(output, layer, x, torch.ones(4, 3, 5, dtype=torch.bfloat16))
    for ours, reference in zip(got, expected, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - reference).norm() <= 0.1 * reference.norm()


def test_loud_input_saturates_and_silence_is_silent():
    for dtype in (torch.float32, torch.float64):
        layer, x = make(dtype=dtype)
        x = (1e6 * x).detach().requires_grad_()
        output = layer(x)
        assert output.norm(dim=2).max() <= 1 + 1e-6
        assert all(g.isfinite().all() for g in gradients(output, layer, x, torch.ones_like(output)))
        silence = torch.zeros_like(x).requires_grad_()
        output = layer(silence)
        assert not output.any()
        assert not any(g.any() for g in gradients(output, layer, silence, torch.ones_like(output)))


def test_the_meta_device_gives_shapes():
    layer = CapsuleLinear(6, 4, 3, 5, device="meta")
    x = torch.randn(2, 6, 4, device="meta", requires_grad=True)
    output = layer(x)
    output.sum().backward()
    assert output.shape == (2, 3, 5)
    assert x.grad.shape == x.shape


@pytest.mark.parametrize(("grad", "iters"), [("last", 1), ("last", 3), ("full", 1), ("full", 3)])
def test_compile_without_a_break(grad, iters):
    layer, x = make(routing_grad=grad, routing_iters=iters)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    expected, output = layer(x), compiled(x)
    torch.testing.assert_close(output, expected)
    incoming = torch.randn_like(expected)
    torch.testing.assert_close(gradients(output, layer, x, incoming), gradients(expected, layer, x, incoming))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # raised inside torch
@pytest.mark.parametrize("grad", ["last", "full"])
def test_inductor(grad):
    layer, x = make(routing_grad=grad)
    output = torch.compile(layer, fullgraph=True)(x)
    incoming = torch.randn_like(output)
    torch.testing.assert_close(output, layer(x))
    torch.testing.assert_close(gradients(output, layer, x, incoming), gradients(layer(x), layer, x, incoming))


# State


def test_the_weight_is_the_whole_state():
    layer, x = make()
    assert {name: tuple(t.shape) for name, t in layer.state_dict().items()} == {"weight": (6, 3, 5, 4)}
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    loaded, _ = make(seed=1)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        assert torch.equal(twin(x), layer(x))
    assert repr(layer) == "CapsuleLinear(6, 4, 3, 5, routing_iters=3, routing_grad='last')"


def test_initial_weights_follow_the_seed():
    torch.manual_seed(3)
    first = CapsuleLinear(20, 8, 10, 16)
    torch.manual_seed(3)
    assert torch.equal(CapsuleLinear(20, 8, 10, 16).weight, first.weight)
    assert first.weight.std().item() == pytest.approx(10 / 160**0.5, rel=0.05)
    assert CapsuleLinear(20, 8, 90, 16).weight.std().item() == pytest.approx(1, rel=0.05)


# Messages


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            torch.zeros(2, 7, 4),
            "input must have the shape (*, num_in, in_dim) = (*, 6, 4), got f32[2, 7, 4]; "
            "for this input build CapsuleLinear(7, 4, 3, 5)",
        ),
        (
            torch.zeros(2, 4, 6),
            "input must have the shape (*, num_in, in_dim) = (*, 6, 4), got f32[2, 4, 6]; "
            "exchange the last two dims with input.transpose(-2, -1)",
        ),
        (
            torch.zeros(2, 6, 4, 1),
            "input must have the shape (*, num_in, in_dim) = (*, 6, 4), got f32[2, 6, 4, 1]; "
            "drop the last dim with input.squeeze(-1)",
        ),
        (torch.zeros(4), "input must have the shape (*, num_in, in_dim) = (*, 6, 4), got f32[4]"),
        ([1.0], "input must have the shape (*, num_in, in_dim) = (*, 6, 4), got list"),
    ],
)
def test_an_input_of_other_sizes_is_refused(x, message):
    with pytest.raises(ValueError) as caught:
        CapsuleLinear(6, 4, 3, 5)(x)
    assert str(caught.value) == message


def test_an_input_of_another_dtype_is_refused():
    layer = CapsuleLinear(6, 4, 3, 5)
    for x, got in ((torch.zeros(6, 4, dtype=torch.float64), "f64[6, 4]"), (torch.zeros(6, 4).long(), "i64[6, 4]")):
        message = f"input must have the dtype of the weight, torch.float32, got {got}; use .to(torch.float32)"
        with pytest.raises(TypeError) as caught:
            layer(x)
        assert str(caught.value) == message
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(TypeError) as caught:
            layer(x)
        assert str(caught.value) == message


def test_impossible_options_are_refused():
    with pytest.raises(ValueError) as caught:
        CapsuleLinear(6, 4, 3, 5, routing_iters=0)
    assert str(caught.value) == "routing_iters must be an integer of at least 1, got 0"
    with pytest.raises(ValueError) as caught:
        CapsuleLinear(6, 4, 3, 5, routing_grad="ful")
    assert str(caught.value) == "routing_grad must be one of ('last', 'full'), got 'ful'; did you mean 'full'?"
    with pytest.raises(ValueError) as caught:
        CapsuleLinear(6, 0, 3, 5)
    assert str(caught.value) == "in_dim must be an integer of at least 1, got 0"
    with pytest.raises(TypeError) as caught:
        CapsuleLinear(6, 4, 3.0, 5)
    assert str(caught.value) == "num_out must be an integer of at least 1, got 3.0 of type float"


@pytest.mark.parametrize("lead", [(), (1,), (7,), (2, 3)])
def test_the_output_can_be_flattened_by_view(lead):
    out = CapsuleLinear(6, 4, 3, 5)(torch.randn(*lead, 6, 4))
    assert out.is_contiguous()
    assert out.view(*lead, 15).shape == (*lead, 15)
