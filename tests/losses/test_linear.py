"""Focal loss fused with the last linear layer."""

import pytest
import torch
import torch.nn.functional as F

from linkboy import focal_loss, linear_focal_loss


def make_layer(dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    shapes = ((7, 5), (11, 5), (11,))
    hidden, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes
    )
    target = torch.randint(0, 11, (7,), generator=generator)
    target[2] = -100
    return hidden, weight, bias, target


@pytest.mark.parametrize("gamma", [0, 0.5, 2])
@pytest.mark.parametrize("chunk", [1, 3, 7, 100, "auto"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_it_is_the_loss_of_the_logits(gamma, chunk, reduction):
    hidden, weight, bias, target = make_layer()
    options = {
        "gamma": gamma,
        "alpha": torch.rand(11),
        "sample_weight": torch.tensor([1.0, 2.0, 1.0, 0.0, 0.5, 1.0, 3.0]),
        "reduction": reduction,
    }
    ours = linear_focal_loss(hidden, weight, target, linear_bias=bias, chunk=chunk, **options)
    theirs = focal_loss(F.linear(hidden, weight, bias), target, **options)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    incoming = torch.rand_like(ours)
    for got, want in zip(
        *(torch.autograd.grad(x, (hidden, weight, bias), incoming) for x in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="waits for torch 2.13: F.linear_cross_entropy")
def test_gamma_0_is_the_fused_cross_entropy_of_torch():
    hidden, weight, _, target = make_layer(torch.float32)
    ours = linear_focal_loss(hidden, weight, target, gamma=0)
    theirs = F.linear_cross_entropy(hidden, weight, target)
    torch.testing.assert_close(ours, theirs)
    ours, theirs = (torch.autograd.grad(loss, (hidden, weight)) for loss in (ours, theirs))
    torch.testing.assert_close(ours, theirs)


def test_sequences_keep_their_shape():
    hidden, weight, _, target = make_layer()
    hidden, target = hidden[:6].reshape(2, 3, 5), target[:6].reshape(2, 3)
    each = linear_focal_loss(hidden, weight, target, reduction="none")
    expected = focal_loss(F.linear(hidden, weight).movedim(-1, 1), target, reduction="none")
    torch.testing.assert_close(each, expected)


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True), (False,) * 3])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_only_the_wanted_gradients_are_made(wanted, reduction):
    hidden, weight, bias, target = make_layer()
    tensors = [
        tensor.detach().requires_grad_(want) for tensor, want in zip((hidden, weight, bias), wanted, strict=True)
    ]
    loss = linear_focal_loss(tensors[0], tensors[1], target, linear_bias=tensors[2], reduction=reduction).sum()
    assert loss.requires_grad == any(wanted)
    if any(wanted):
        loss.backward()
    assert tuple(tensor.grad is not None for tensor in tensors) == wanted


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_masked_sample_may_be_nan(reduction):
    hidden, weight, bias, target = make_layer()
    with torch.no_grad():
        hidden[2] = torch.nan
    loss = linear_focal_loss(hidden, weight, target, linear_bias=bias, reduction=reduction).sum()
    assert loss.isfinite()
    for gradient in torch.autograd.grad(loss, (hidden, weight, bias)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_half_precision_adds_up_in_float32(dtype, reduction):
    hidden, weight, bias, target = make_layer(dtype)
    loss = linear_focal_loss(hidden, weight, target, linear_bias=bias, chunk=2, reduction=reduction)
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight, bias)]
    truth = linear_focal_loss(exact[0], exact[1], target, linear_bias=exact[2], reduction=reduction)
    assert loss.dtype == dtype
    loss.sum().backward()
    truth.sum().backward()
    for got, want in zip((hidden, weight, bias), exact, strict=True):
        assert got.grad.dtype == dtype
        error = (got.grad.double() - want.grad).norm() / want.grad.norm()
        assert error < 4 * torch.finfo(dtype).eps


def test_autocast_multiplies_in_half_and_returns_float32():
    hidden, weight, bias, target = make_layer(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_focal_loss(hidden, weight, target, linear_bias=bias)
        expected = focal_loss(F.linear(hidden, weight, bias).float(), target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert weight.grad.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_finite_differences_retained_graphs_func_and_compile(reduction):
    hidden, weight, bias, target = make_layer()
    call = lambda h, w, b: linear_focal_loss(h, w, target, linear_bias=b, chunk=3, reduction=reduction)  # noqa: E731
    assert torch.autograd.gradcheck(call, (hidden, weight, bias))
    loss = call(hidden, weight, bias).sum()
    first, second = (torch.autograd.grad(loss, weight, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    by_func = torch.func.grad(lambda w: call(hidden.detach(), w, bias.detach()).sum())(weight.detach())
    torch.testing.assert_close(by_func, first)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(hidden, weight, bias).sum(), weight)[0], first)


def test_learned_weights_get_their_gradient():
    hidden, weight, _, target = make_layer()
    scale = torch.rand(7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: linear_focal_loss(hidden, weight, target, sample_weight=s), scale)


def test_meta_tensors_have_the_shape_and_no_value():
    hidden, weight, _, target = (tensor.detach().to("meta") for tensor in make_layer())
    assert linear_focal_loss(hidden, weight, target, reduction="none").shape == (7,)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_second_derivative_is_refused(reduction):
    hidden, weight, _, target = make_layer()
    loss = linear_focal_loss(hidden, weight, target, reduction=reduction).sum()
    with pytest.raises(RuntimeError) as caught:
        torch.autograd.grad(loss, hidden, create_graph=True)
    assert str(caught.value) == (
        "linear_focal_loss has no second derivative; use focal_loss(F.linear(input, linear_weight), target)"
    )


H, W, T = torch.zeros(2, 3), torch.zeros(4, 3), torch.tensor([0, 3])
MESSAGES = [
    ({"linear_weight": W.t()},
     "linear_weight must have shape (C, D) for input of shape (..., D), got (3, 4) and (2, 3)"),
    ({"linear_bias": torch.zeros(3)}, "linear_bias must have one number per class, shape (4,), got (3,)"),
    ({"linear_weight": W.half()}, "linear_weight must have the dtype of input f32[2, 3], got f16[4, 3]"),
    ({"target": T[:1]}, "target must have the shape of input without its last dimension (2,), got i64[1]"),
    ({"target": T + 1},
     "target must hold labels from 0 to 3 or ignore_index (-100), got 4; if they count from 1, pass target - 1"),
    ({"target": T.float()}, "target must hold integer class indices, got f32[2]; convert them with .long()"),
    ({"chunk": 0}, "chunk must be an integer of at least 1, got 0"),
    ({"chunk": "all"}, "chunk must be an integer of at least 1, got 'all' of type str"),
    ({"sample_weight": torch.ones(1)}, "sample_weight must have one number per sample, shape (2,), got (1,)"),
    ({"alpha": [1.0]}, "alpha needs one number per class: input has 4 classes (shape (2, 4)), alpha has shape (1,)"),
    ({"gamma": -1}, "gamma must be a number of at least 0, got -1"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "message"), MESSAGES)
def test_wrong_arguments_get_a_sentence(wrong, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        linear_focal_loss(**({"input": H, "linear_weight": W, "target": T} | wrong))
    assert str(caught.value) == message
