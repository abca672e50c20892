"""The Tversky loss against its formula in float64, against MONAI, and at empty masks."""

import pytest
import torch
import torch.nn.functional as F

from linkboy import TverskyLoss, tversky_loss


def make_batch(*shape: int):
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    return logits, torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)


def formula(share, truth, weight, a, b, gamma, smooth, dims):
    hits, excess, missed = (
        (weight * part).sum(dims) for part in (share * truth, share * (1 - truth), (1 - share) * truth)
    )
    return (1 - (hits + smooth) / (hits + a * excess + b * missed + smooth)) ** gamma


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5), (6, 4)])
@pytest.mark.parametrize("kind", ["labels", "soft", "multi_label", "one region"])
@pytest.mark.parametrize("over", ["sample", "batch"])
@pytest.mark.parametrize("options", [{}, {"false_positive": 0.3, "false_negative": 0.7, "gamma": 0.75, "smooth": 2.0}])
def test_it_is_the_formula(shape, kind, over, options):
    shape = (shape[0], 1, *shape[2:]) if kind == "one region" else shape
    logits, target = make_batch(*shape)
    weight = torch.rand(shape[0], 1, *shape[2:], dtype=torch.float64)
    if kind in ("labels", "soft"):
        share, truth = logits.softmax(1), F.one_hot(target, shape[1]).movedim(-1, 1).double()
        if kind == "soft":
            target = truth = torch.rand(shape, dtype=torch.float64).softmax(1)
    else:
        target = torch.randint(0, 2, shape)
        share, truth = logits.sigmoid(), target.double()
    dims = [*([0] if over == "batch" else []), *range(2, len(shape))]
    numbers = {"false_positive": 0.5, "false_negative": 0.5, "gamma": 1.0, "smooth": 1.0} | options
    a, b, gamma, smooth = numbers.values()
    if not dims:  # no positions: every sample is one
        share, truth, weight, dims = share[..., None], truth[..., None], weight[..., None], [2]
    expected = formula(share, truth, weight, a, b, gamma, smooth, dims)
    ours = tversky_loss(
        logits, target, over=over, reduction="none", multi_label=kind == "multi_label",
        sample_weight=weight.reshape(shape[0], *shape[2:]), **options,
    )  # fmt: skip
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
    ours, theirs = (torch.autograd.grad(loss.sum(), logits)[0] for loss in (ours, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-12)


def test_dice_and_tversky_of_monai_agree():
    monai = pytest.importorskip("monai.losses")
    logits, target = make_batch(2, 3, 6, 5)
    logits = logits.detach().float()
    theirs = monai.DiceLoss(softmax=True, to_onehot_y=True, smooth_nr=1.0, smooth_dr=1.0)(logits, target[:, None])
    torch.testing.assert_close(tversky_loss(logits, target, smooth=0.5), theirs)
    theirs = monai.TverskyLoss(softmax=True, to_onehot_y=True, alpha=0.3, beta=0.7, smooth_nr=1.0, smooth_dr=1.0)
    ours = tversky_loss(logits, target, false_positive=0.3, false_negative=0.7, smooth=1.0)
    torch.testing.assert_close(ours, theirs(logits, target[:, None]))
    theirs = monai.DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0, batch=True)(
        logits[:, :1], target[:, None].clamp(max=1)
    )
    ours = tversky_loss(logits[:, :1], target[:, None].clamp(max=1), smooth=0.5, over="batch")
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("gamma", [0.75, 1.0, 2.0])
def test_an_empty_mask_costs_what_is_predicted_in_excess(gamma):
    empty = torch.zeros(1, 1, 4, 4)
    nothing = torch.full((1, 1, 4, 4), -200.0, requires_grad=True)
    loss = tversky_loss(nothing, empty, gamma=gamma)
    loss.backward()
    assert loss.item() == 0
    assert nothing.grad.isfinite().all()
    some = torch.full((1, 1, 4, 4), 0.0, requires_grad=True)
    loss = tversky_loss(some, empty, gamma=gamma)
    loss.backward()
    assert loss.item() == pytest.approx((4 / 5) ** gamma)  # half of 8 in excess, beside one position of smoothing
    assert (some.grad > 0).all()
    assert tversky_loss(some, empty, gamma=gamma, smooth=0.0).item() == 1


def test_a_perfect_fit_costs_next_to_nothing_and_keeps_its_digits():
    target = torch.tensor([[0, 0, 1, 1]])
    logits = 20.0 * F.one_hot(target, 2).movedim(-1, 1)
    exact = torch.sigmoid(torch.tensor(-20.0, dtype=torch.float64)).item()
    wanted = 2 * exact / (2 + 1.0)  # half of 2 * 2 * exact wrong, over 2 right ones and one of smoothing
    assert tversky_loss(logits, target).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("kind", ["labels", "multi_label"])
@pytest.mark.parametrize("how", ["ignore_index", "sample_weight"])
def test_a_masked_position_may_be_nan(kind, how):
    logits, target = make_batch(2, 3, 5)
    target = target if kind == "labels" else torch.randint(0, 2, (2, 3, 5))
    expected = tversky_loss(logits[:, :, 1:], target[..., 1:], multi_label=kind != "labels")
    x = logits.detach().clone()
    x[:, :, 0] = torch.nan
    x.requires_grad_()
    options = {}
    if how == "ignore_index":
        target[..., 0] = -100
    else:
        options["sample_weight"] = torch.tensor([[0.0, 1, 1, 1, 1]] * 2)
    loss = tversky_loss(x, target, multi_label=kind != "labels", **options)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert x.grad.isfinite().all()
    assert not x.grad[:, :, 0].any()


def test_weights_of_classes_are_those_of_the_mean():
    logits, target = make_batch(2, 3, 5)
    each = tversky_loss(logits, target, reduction="none")
    without_background = tversky_loss(logits, target, alpha=[0.0, 1.0, 1.0])
    torch.testing.assert_close(without_background, each[:, 1:].mean())
    torch.testing.assert_close(tversky_loss(logits, target, reduction="sum"), each.sum())
    module = TverskyLoss(alpha=[0.0, 1.0, 1.0])
    assert torch.equal(module(logits, target), without_background)
    assert list(module.state_dict()) == ["alpha"]


def test_derivatives_half_precision_and_nothing():
    logits, target = make_batch(2, 3, 4)
    assert torch.autograd.gradcheck(lambda x: tversky_loss(x, target, gamma=0.75), logits)
    assert torch.autograd.gradgradcheck(lambda x: tversky_loss(x, target, gamma=0.75), logits)
    half = tversky_loss(logits.detach().half(), target)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.double(), tversky_loss(logits.detach().half().double(), target), rtol=1e-3, atol=0)
    assert tversky_loss(torch.zeros(0, 3, 4), torch.zeros(0, 4, dtype=torch.long)).item() == 0
    assert tversky_loss(torch.zeros(2, 3, 4), torch.full((2, 4), -100)).item() == 0


MESSAGES = [
    ({"false_positive": -1}, "false_positive must be a number of at least 0, got -1"),
    ({"false_negative": "a"}, "false_negative must be a number of at least 0, got 'a' of type str"),
    ({"gamma": 0}, "gamma must be a number above 0, got 0"),
    ({"smooth": -1}, "smooth must be a number of at least 0, got -1"),
    ({"over": "rows"}, "over must be one of ('sample', 'batch'), got 'rows'"),
    ({"multi_label": 1}, "multi_label must be True or False, got 1"),
    ({"multi_label": True}, "target must have the shape of input (2, 3, 4), got (2, 4)"),
    ({"alpha": [1.0]}, "alpha needs one number per class: input has 3 classes (shape (2, 3, 4)), alpha has shape (1,)"),
    ({"target": torch.full((2, 4), 3)},
     "target must hold labels from 0 to 2 or ignore_index (-100), got 3; if they count from 1, pass target - 1"),
    ({"weight": torch.ones(3)},
     "tversky_loss has no argument 'weight': weights per class are alpha, weights per position sample_weight"),
    ({"input": torch.zeros(2, 1, 4), "target": torch.full((2, 1, 4), 2)},
     "target must hold labels from 0 to 1, got 2; if they count from 1, pass target - 1"),
    ({"input": torch.zeros(3), "multi_label": True},
     "input must have shape (N, C, d1, ...), got (3,); add dimensions with input[None]"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "message"), MESSAGES)
def test_wrong_arguments_get_a_sentence(wrong, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        tversky_loss(**({"input": torch.zeros(2, 3, 4), "target": torch.zeros(2, 4, dtype=torch.long)} | wrong))
    assert str(caught.value) == message
