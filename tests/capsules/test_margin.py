"""margin_loss against its formula, for labels and for several classes at once."""

import pytest
import torch
import torch.nn.functional as F

from linkboy import margin_loss


def formula(lengths, one_hot, m_plus=0.9, m_minus=0.1, down_weight=0.5):
    total = torch.zeros(len(lengths), dtype=torch.float64)
    for n, j in torch.cartesian_prod(torch.arange(lengths.shape[0]), torch.arange(lengths.shape[1])).tolist():
        l, t = lengths[n, j].double(), float(one_hot[n, j])
        total[n] += t * max(0.0, m_plus - l) ** 2 + down_weight * (1 - t) * max(0.0, l - m_minus) ** 2
    return total


@pytest.mark.parametrize("margins", [{}, {"m_plus": 0.8, "m_minus": 0.2, "down_weight": 1.0}])
def test_it_is_the_formula(margins):
    torch.manual_seed(0)
    lengths, labels = torch.rand(20, 5), torch.randint(5, (20,))
    several = torch.randint(2, (20, 5))
    for target, one_hot in ((labels, F.one_hot(labels, 5)), (several, several)):
        expected = formula(lengths, one_hot, **margins)
        for reduction, wanted in (("none", expected), ("sum", expected.sum()), ("mean", expected.mean())):
            torch.testing.assert_close(margin_loss(lengths, target, reduction=reduction, **margins), wanted.float())


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float64])
def test_one_hot_of_any_dtype_is_the_labels(dtype):
    lengths, labels = torch.rand(7, 4), torch.randint(4, (7,))
    assert torch.equal(margin_loss(lengths, F.one_hot(labels, 4).to(dtype)), margin_loss(lengths, labels))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_integer_dtype(dtype):
    lengths, labels = torch.rand(7, 4), torch.randint(4, (7,))
    assert torch.equal(margin_loss(lengths, labels.to(dtype)), margin_loss(lengths, labels))


def test_a_perfect_answer_costs_nothing_and_has_no_gradient():
    lengths = torch.tensor([[0.95, 0.05, 0.0]], requires_grad=True)
    loss = margin_loss(lengths, torch.tensor([0]))
    loss.backward()
    assert loss.item() == 0
    assert not lengths.grad.any()


def test_gradients():
    lengths = torch.rand(6, 4, dtype=torch.float64, requires_grad=True)
    target = torch.randint(4, (6,))
    assert torch.autograd.gradcheck(lambda x: margin_loss(x, target, reduction="none"), lengths)
    assert torch.autograd.gradgradcheck(lambda x: margin_loss(x, target, reduction="none"), lengths)


def test_the_mean_of_no_examples_is_zero():
    lengths = torch.zeros(0, 3, requires_grad=True)
    loss = margin_loss(lengths, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert lengths.grad.shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    lengths, target = torch.rand(512, 3).to(dtype), torch.randint(3, (512,))
    loss = margin_loss(lengths, target)
    assert loss.dtype == dtype
    assert torch.equal(loss, margin_loss(lengths.float(), target).to(dtype))


def test_func_compile_and_meta():
    lengths, target = torch.rand(6, 4), torch.randint(4, (6,))
    x = lengths.clone().requires_grad_()
    margin_loss(x, target).backward()
    torch.testing.assert_close(torch.func.grad(margin_loss)(lengths, target), x.grad)
    alone = torch.vmap(lambda l, t: margin_loss(l.unsqueeze(0), t.unsqueeze(0)))(lengths, target)
    torch.testing.assert_close(alone, margin_loss(lengths, target, reduction="none"))
    compiled = torch.compile(margin_loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(lengths, target), margin_loss(lengths, target))
    assert margin_loss(lengths.to("meta"), target.to("meta")).shape == ()


ONE_OR_MORE = "target must be class indices of shape (2,) or zeros and ones of shape (2, 3), got "


@pytest.mark.parametrize(
    ("lengths", "target", "options", "error", "message"),
    [
        (torch.rand(2, 3), torch.tensor([0, 3]), {}, ValueError, "target must hold labels from 0 to 2, got 3"),
        (torch.rand(2, 3), torch.tensor([-1, 2]), {}, ValueError, "target must hold labels from 0 to 2, got -1"),
        (torch.rand(2, 3), torch.tensor([0, 1, 2]), {}, ValueError, ONE_OR_MORE + "i64[3]"),
        (torch.rand(2, 3), torch.zeros(3, 2), {}, ValueError, ONE_OR_MORE + "f32[3, 2]"),
        (torch.rand(2, 3), [0, 1], {}, ValueError, ONE_OR_MORE + "list"),
        (
            torch.rand(2, 3), torch.zeros(2), {}, TypeError,
            "target of shape (N,) must hold class indices, got f32[2]; convert it with .long()",
        ),
        (
            torch.rand(2, 3), torch.full((2, 3), 0.5), {}, ValueError,
            "target of shape (N, C) must hold zeros and ones, got other numbers; pass labels as indices (N,)",
        ),
        (
            torch.rand(2, 3, 4), torch.tensor([0, 1]), {}, ValueError,
            "input must be lengths of shape (N, C), got f32[2, 3, 4]; take capsule_norm of the capsules first",
        ),
        (
            torch.tensor([[-2.5, 1.0]]), torch.tensor([0]), {}, ValueError,
            "input must hold lengths, which are not negative, got -2.5; take capsule_norm of the capsules, not logits",
        ),
        (torch.rand(3), torch.tensor(0), {}, ValueError, "input must be lengths of shape (N, C), got f32[3]"),
        (
            torch.ones(2, 3).long(), torch.tensor([0, 1]), {}, TypeError,
            "input must be a floating point tensor of lengths, got i64[2, 3]",
        ),
        (
            torch.rand(2, 3), torch.tensor([0, 1]), {"reduction": "avg"}, ValueError,
            "reduction must be one of ('none', 'mean', 'sum'), got 'avg'",
        ),
        (
            torch.rand(2, 3), torch.tensor([0, 1]), {"down_weight": -1}, ValueError,
            "down_weight must be a number of at least 0, got -1",
        ),
    ],
)  # fmt: skip
def test_messages(lengths, target, options, error, message):
    with pytest.raises(error) as caught:
        margin_loss(lengths, target, **options)
    assert str(caught.value) == message


def test_a_weighted_mean_divides_by_the_weights_and_masks_what_weighs_0():
    lengths, target = torch.rand(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    weight = torch.tensor([1.0, 0.0, 2.0, 3.0, 0.5])
    each = margin_loss(lengths, target, reduction="none") * weight
    lengths[1] = torch.nan
    lengths.requires_grad_()
    for reduction, wanted in (("mean", each.sum() / weight.sum()), ("sum", each.sum()), ("none", each)):
        loss = margin_loss(lengths, target, sample_weight=weight, reduction=reduction)
        torch.testing.assert_close(loss, wanted)
        assert torch.autograd.grad(loss.sum(), lengths)[0].isfinite().all()
    assert margin_loss(lengths, target, sample_weight=torch.zeros(5)).item() == 0


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.ones(2), "sample_weight must be a tensor with one number per example, shape (5,), got f32[2]"),
        ([1.0] * 5, "sample_weight must be a tensor with one number per example, shape (5,), got list"),
        (-torch.ones(5), "sample_weight must not be negative or NaN, got -1"),
    ],
)
def test_a_wrong_weight_gets_a_sentence(weight, message):
    with pytest.raises(ValueError) as caught:
        margin_loss(torch.rand(5, 3), torch.zeros(5, dtype=torch.long), sample_weight=weight)
    assert str(caught.value) == message
