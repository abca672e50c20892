"""Where kornia 0.9.0 and MONAI 1.6.1 mean the same as we do, they must agree; where they fail, we must not."""

import inspect

import pytest
import torch
import torch.nn.functional as F

from linkboy import binary_focal_loss, focal_loss

kornia = pytest.importorskip("kornia.losses")
monai = pytest.importorskip("monai.losses")

GAMMAS = [0.0, 0.5, 2.0]


def make_batch(*shape: int):
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    return logits, torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("shape", [(6, 4), (2, 4, 3, 5)])
@pytest.mark.parametrize("weighted", [False, True])
def test_kornia_agrees_class_by_class(gamma, shape, weighted):
    logits, target = make_batch(*shape)
    target.view(-1)[0] = -100
    alpha = torch.rand(4, dtype=torch.float64) if weighted else None
    options = {"alpha": None, "gamma": gamma, "weight": alpha, "ignore_index": -100}
    theirs = kornia.focal_loss(logits, target, reduction="none", **options).sum(1)
    ours = focal_loss(logits, target, gamma=gamma, alpha=alpha, reduction="none")
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    ours, theirs = (torch.autograd.grad(loss.sum(), logits)[0] for loss in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_mean_of_kornia_divides_by_every_logit(gamma):
    logits, target = make_batch(6, 4)
    theirs = kornia.focal_loss(logits, target, alpha=None, gamma=gamma, reduction="mean")
    torch.testing.assert_close(focal_loss(logits, target, gamma=gamma, normalizer=logits.numel()), theirs)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_kornia_agrees_on_binary_labels(gamma, alpha):
    logits, _ = make_batch(6, 4)
    target = torch.randint(0, 2, (6, 4))
    theirs = kornia.binary_focal_loss_with_logits(logits, target.double(), alpha=alpha, gamma=gamma, reduction="none")
    torch.testing.assert_close(binary_focal_loss(logits, target, alpha=alpha, gamma=gamma, reduction="none"), theirs)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_monai_agrees_in_float32(gamma):
    logits, target = make_batch(6, 4)
    loss = monai.FocalLoss(use_softmax=True, to_onehot_y=True, gamma=gamma, reduction="none")
    theirs = loss(logits, target[:, None]).sum(1)
    torch.testing.assert_close(focal_loss(logits, target, gamma=gamma, reduction="none").float(), theirs)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_monai_agrees_on_binary_labels(gamma):
    logits, _ = make_batch(6, 4)
    target = torch.randint(0, 2, (6, 4))
    theirs = monai.FocalLoss(gamma=gamma, reduction="none")(logits, target)
    torch.testing.assert_close(binary_focal_loss(logits, target, gamma=gamma, reduction="none").float(), theirs)


def test_kornia_counts_ignored_samples_and_we_do_not():
    logits, target = make_batch(6, 4)
    target[:3] = -100
    plain = F.cross_entropy(logits, target)
    kept = kornia.focal_loss(logits, target, alpha=None, gamma=0.0, reduction="mean", ignore_index=-100) * 4
    torch.testing.assert_close(focal_loss(logits, target, gamma=0), plain)
    torch.testing.assert_close(kept, plain / 2)


def test_kornia_loses_the_easy_sample_and_we_do_not():
    logits, target = torch.tensor([[18.0, 0.0, 0.0]]), torch.tensor([0])
    assert kornia.focal_loss(logits, target, alpha=None, gamma=2.0, reduction="sum").item() == 0
    assert focal_loss(logits, target).item() == pytest.approx((2 * torch.tensor(-18.0).double().exp().item()) ** 3)


def test_monai_has_nan_gradients_and_we_do_not():
    theirs, ours = (torch.tensor([[18.0, 0.0, 0.0]], requires_grad=True) for _ in range(2))
    target = torch.tensor([[0]])
    monai.FocalLoss(use_softmax=True, to_onehot_y=True, gamma=0.5)(theirs, target).backward()
    focal_loss(ours, target[0], gamma=0.5).backward()
    assert theirs.grad.isnan().all()
    assert ours.grad.isfinite().all()


def test_monai_is_nan_beside_a_masked_class_and_we_are_not():
    logits, target = torch.tensor([[0.0, -torch.inf, 1.0]]), torch.tensor([[0]])
    assert monai.FocalLoss(use_softmax=True, to_onehot_y=True)(logits, target).isnan()
    assert focal_loss(logits, target[0]).isfinite()


@pytest.mark.skipif(
    "ignore_index" not in inspect.signature(monai.FocalLoss).parameters,
    reason="waits for monai 1.6: the argument ignore_index",
)
def test_monai_is_rescaled_by_an_ignore_index_that_ignores_nothing():
    logits, target = make_batch(6, 4)
    options = {"use_softmax": True, "to_onehot_y": True}
    plain = monai.FocalLoss(**options)(logits, target[:, None])
    rescaled = monai.FocalLoss(**options, ignore_index=9)(logits, target[:, None])
    torch.testing.assert_close(rescaled, plain * 4)
    assert torch.equal(focal_loss(logits, target, ignore_index=9), focal_loss(logits, target))


# What the own test suites of the two ask for, asked anew of us; where the installed version answers too, of both.


def loss_and_gradient(compute, logits):
    logits = logits.detach().requires_grad_()
    loss = compute(logits)
    return loss.detach(), torch.autograd.grad(loss.sum(), logits)[0]


REDUCTIONS = ["none", "mean", "sum"]
UNUSABLE = [torch.finfo(torch.float64).max, torch.inf, -torch.inf, torch.nan]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("value", UNUSABLE)
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("dense", [False, True])
def test_an_ignored_sample_may_hold_any_logit(reduction, value, gamma, dense):
    harmless = torch.tensor([[0.0, 0.0], [0.3, -0.2]], dtype=torch.float64)
    extreme = torch.tensor([[value, -value], [0.3, -0.2]], dtype=torch.float64)
    target = torch.tensor([-100, 1])
    if dense:
        harmless, extreme, target = harmless.t()[None], extreme.t()[None], target[None]
    compute = lambda x: focal_loss(x, target, gamma=gamma, alpha=[0.5, 1.5], reduction=reduction)  # noqa: E731
    for got, expected in zip(loss_and_gradient(compute, extreme), loss_and_gradient(compute, harmless), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("value", UNUSABLE)
@pytest.mark.parametrize("ignore_index", [-100, 255])
def test_a_batch_of_ignored_samples_costs_nothing(value, ignore_index):
    compute = lambda x: focal_loss(x, torch.tensor([ignore_index]), ignore_index=ignore_index)  # noqa: E731
    loss, gradient = loss_and_gradient(compute, torch.tensor([[value, -value]]))
    assert loss.item() == 0
    assert gradient.tolist() == [[0, 0]]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("gamma", [0.25, 0.5, 0.75, 1.0, 2.0])
def test_at_saturated_logits_the_exponent_does_not_matter(gamma, reduction):
    logits, target = torch.tensor([[1000.0, 0.0, 0.0], [0.0, 1000.0, 0.0]]), torch.tensor([0, 0])
    got = loss_and_gradient(lambda x: focal_loss(x, target, gamma=gamma, reduction=reduction), logits)
    expected = loss_and_gradient(lambda x: F.cross_entropy(x, target, reduction=reduction), logits)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(got, expected, strict=True))


@pytest.mark.parametrize("ignore_index", [-100, 255])
def test_an_ignored_label_is_a_further_class_that_nothing_is_lost_to(ignore_index):
    logits, target = make_batch(2, 3, 3, 2)
    ignored = torch.rand(target.shape) > 0.6
    further = torch.cat([logits, torch.full((2, 1, 3, 2), -torch.inf)], 1)
    expected = focal_loss(further, target, reduction="none").masked_fill(ignored, 0)
    target = target.masked_fill(ignored, ignore_index)
    assert torch.equal(focal_loss(logits, target, ignore_index=ignore_index, reduction="none"), expected)
    theirs = kornia.focal_loss(logits, target, alpha=None, ignore_index=ignore_index).sum(1)
    torch.testing.assert_close(expected, theirs)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gamma_0_is_the_weighted_binary_cross_entropy_of_torch_and_kornia(reduction):
    logits, labels = torch.randn(2, 3, 4, dtype=torch.float64), torch.rand(2, 3, 4, dtype=torch.float64)
    pos_weight, weight = torch.rand(2, 3, 1, dtype=torch.float64)
    options = {"pos_weight": pos_weight, "reduction": reduction}
    ours = binary_focal_loss(logits, labels, gamma=0, sample_weight=weight.expand_as(logits), **options)
    torch.testing.assert_close(ours, F.binary_cross_entropy_with_logits(logits, labels, weight=weight, **options))
    theirs = kornia.binary_focal_loss_with_logits(logits, labels, alpha=None, gamma=0, weight=weight, **options)
    torch.testing.assert_close(ours, theirs)


def test_sure_binary_answers_cost_nothing():
    logits, labels = torch.tensor([[100.0, -100.0]]), torch.tensor([[1.0, 0.0]])
    assert binary_focal_loss(logits, labels, alpha=0.25, reduction="none").tolist() == [[0, 0]]


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4), (1, 3, 4, 4), (1, 2, 3, 4, 4)])
@pytest.mark.parametrize("alpha", [None, 0.8])
def test_one_sigmoid_a_class_is_the_default_of_monai(shape, alpha):
    logits, target = make_batch(*shape)
    one_hot = F.one_hot(target, shape[1]).movedim(-1, 1)
    theirs = monai.FocalLoss(to_onehot_y=True, alpha=alpha)(logits, target[:, None])
    torch.testing.assert_close(binary_focal_loss(logits, one_hot, alpha=alpha).float(), theirs)
    without_background = monai.FocalLoss(to_onehot_y=True, include_background=False)(logits, target[:, None])
    torch.testing.assert_close(binary_focal_loss(logits[:, 1:], one_hot[:, 1:]).float(), without_background)


@pytest.mark.parametrize("classes", [2, 6])
def test_a_perfect_segmentation_costs_nothing(classes):
    target = torch.randint(0, classes, (1, 4, 4))
    target[:, :2] = 0  # classes may be missing
    one_hot = F.one_hot(target, classes).movedim(-1, 1)
    logits = 1000.0 * one_hot - 500
    assert focal_loss(logits, target).item() == 0
    assert focal_loss(logits, one_hot.float()).item() == 0
    assert binary_focal_loss(logits, one_hot).item() == 0


def test_weights_of_classes_multiply_as_in_monai():
    logits, target = make_batch(6, 3)
    alpha = torch.tensor([0.5, 0.1, 0.2])
    loss = monai.FocalLoss(use_softmax=True, to_onehot_y=True, weight=alpha, reduction="none")
    theirs = loss(logits, target[:, None]).sum(1)
    torch.testing.assert_close(focal_loss(logits, target, alpha=alpha, reduction="none").float(), theirs)


def test_logits_of_ignored_positions_change_nothing():
    labels = torch.randint(0, 2, (1, 1, 4, 4))
    labels[:, :, 2:] = 255
    logits = torch.randn(1, 1, 4, 4)
    moved = logits.clone()
    moved[:, :, 2:] += 5
    losses = [binary_focal_loss(x, labels, ignore_index=255) for x in (logits, moved)]
    assert torch.equal(*losses)
    torch.testing.assert_close(losses[0], binary_focal_loss(logits[:, :, :2], labels[:, :, :2]))
    target = labels[:, 0].clone()
    two_classes = torch.cat([torch.zeros_like(logits), logits], 1)
    moved = torch.cat([torch.zeros_like(logits), moved], 1)
    assert torch.equal(*(focal_loss(x, target, ignore_index=255) for x in (two_classes, moved)))


# Every form on 500 random inputs: shapes, exponents, weights and ignored labels are drawn, the peer's answer is the oracle.

INPUTS = 500


def draw(number: int, *, dense: bool = False):
    """Return a generator, logits `(N, C, ...)` in float64 and an exponent, all drawn from one number."""
    generator = torch.Generator().manual_seed(number)
    pick = lambda low, high: int(torch.randint(low, high, (), generator=generator))  # noqa: E731
    shape = (pick(1, 40), pick(2, 8), *((pick(1, 5), pick(1, 5)) if dense else ()))
    logits = torch.randn(shape, generator=generator, dtype=torch.float64) * (0.5, 2.0, 5.0)[pick(0, 3)]
    return generator, logits.requires_grad_(), (0.0, 0.5, 1.0, 2.0, 3.5)[pick(0, 5)]


def same_loss_and_gradient(ours, theirs, logits, rtol=1e-7, atol=1e-12):
    """Compare two losses of one shape, and their gradients."""
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=rtol, atol=atol)
    got, wanted = (torch.autograd.grad(loss.sum(), logits)[0] for loss in (ours, theirs))
    torch.testing.assert_close(got, wanted, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dense", [False, True])
def test_labels_and_maps_agree_with_kornia_on_many_inputs(dense):
    for number in range(INPUTS):
        generator, logits, gamma = draw(number, dense=dense)
        classes, reduction = logits.shape[1], REDUCTIONS[number % 3]
        target = torch.randint(0, classes, (len(logits), *logits.shape[2:]), generator=generator)
        if number % 2:
            target[torch.rand(target.shape, generator=generator) < 0.2] = -100
        weight = torch.rand(classes, generator=generator, dtype=torch.float64) if number % 5 else None
        options = {"gamma": gamma, "reduction": reduction}
        theirs = kornia.focal_loss(logits, target, alpha=None, weight=weight, ignore_index=-100, **options)
        theirs = theirs.sum(1) if reduction == "none" else theirs
        normalizer = {"normalizer": logits.numel()} if reduction == "mean" else {}
        same_loss_and_gradient(focal_loss(logits, target, alpha=weight, **options, **normalizer), theirs, logits)


def test_soft_targets_agree_with_monai_on_many_inputs():
    for number in range(INPUTS):
        generator, logits, gamma = draw(number, dense=number % 2 == 1)
        share = torch.rand(logits.shape, generator=generator, dtype=torch.float64).softmax(1)
        theirs = monai.FocalLoss(use_softmax=True, gamma=gamma, reduction="none")(logits, share).sum(1)
        reduction = REDUCTIONS[number % 3]
        theirs = theirs if reduction == "none" else getattr(theirs, reduction)()
        ours = focal_loss(logits, share, gamma=gamma, reduction=reduction)
        torch.testing.assert_close(ours.float(), theirs, rtol=1e-4, atol=1e-5)  # MONAI computes in float32


def torchvision_formula(input, target, alpha, gamma):
    p = torch.sigmoid(input)
    ce = F.binary_cross_entropy_with_logits(input, target, reduction="none")
    p_t = p * target + (1 - p) * (1 - target)
    loss = ce * (1 - p_t) ** gamma
    return loss if alpha is None else (alpha * target + (1 - alpha) * (1 - target)) * loss


def test_binary_labels_agree_with_torchvision_and_kornia_on_many_inputs():
    for number in range(INPUTS):
        generator, logits, gamma = draw(number)
        gamma = gamma if gamma != 0.5 else 1.5  # theirs has infinite slopes below 1
        target = torch.randint(0, 2, logits.shape, generator=generator)
        alpha = (None, 0.25, 0.9)[number % 3]
        reduction = REDUCTIONS[number % 3]
        reduced = lambda loss: loss if reduction == "none" else getattr(loss, reduction)()  # noqa: B023, E731
        ours = binary_focal_loss(logits, target, alpha=alpha, gamma=gamma, reduction=reduction)
        theirs = torchvision_formula(logits, target.double(), alpha, gamma)
        same_loss_and_gradient(ours, reduced(theirs), logits, rtol=1e-6, atol=1e-10)
        factor = torch.rand(logits.shape[1], generator=generator, dtype=torch.float64) + 0.5
        options = {"alpha": alpha, "gamma": gamma, "pos_weight": factor, "reduction": "none"}
        theirs = kornia.binary_focal_loss_with_logits(logits, target.double(), **options)
        ours = binary_focal_loss(logits, target, **options | {"reduction": reduction})
        same_loss_and_gradient(ours, reduced(theirs), logits, rtol=1e-6, atol=1e-10)


def test_ignored_and_weighted_labels_agree_with_kornia_on_many_inputs():
    for number in range(INPUTS):
        generator, logits, gamma = draw(number, dense=number % 2 == 1)
        target = torch.randint(0, 2, logits.shape, generator=generator)
        ignored = torch.rand(logits.shape, generator=generator) < 0.3
        weight = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
        options = {"alpha": (None, 0.25, 0.9)[number % 3], "gamma": gamma, "ignore_index": 255}
        labels, reduction = target.masked_fill(ignored, 255), REDUCTIONS[number % 3]
        theirs = weight * kornia.binary_focal_loss_with_logits(logits, labels.double(), reduction="none", **options)
        if reduction != "none":  # the mean of kornia counts what is ignored
            theirs = theirs.sum() / (max(int((~ignored).sum()), 1) if reduction == "mean" else 1)
        ours = binary_focal_loss(logits, labels, sample_weight=weight, reduction=reduction, **options)
        same_loss_and_gradient(ours, theirs, logits)


def test_weighted_labels_and_maps_agree_with_monai_on_many_inputs():
    for number in range(INPUTS):
        generator, logits, gamma = draw(number, dense=number % 2 == 1)
        classes, reduction = logits.shape[1], REDUCTIONS[number % 3]
        target = torch.randint(0, classes, (len(logits), 1, *logits.shape[2:]), generator=generator)
        weight = torch.rand(classes, generator=generator) + 0.1
        loss = monai.FocalLoss(use_softmax=True, to_onehot_y=True, gamma=gamma, weight=weight, reduction="none")
        theirs = loss(logits, target).sum(1)
        theirs = theirs if reduction == "none" else getattr(theirs, reduction)()
        normalizer = {"normalizer": "count"} if reduction == "mean" else {}
        ours = focal_loss(logits, target[:, 0], alpha=weight, gamma=gamma, reduction=reduction, **normalizer)
        torch.testing.assert_close(ours.float(), theirs, rtol=1e-4, atol=1e-5)  # MONAI computes in float32


# The inputs of fvcore's and torchvision's tests of their sigmoid focal loss, with the definition as the oracle.


def definition(probability, label, alpha, gamma):
    """Return the loss of a probability in float64: `-alpha_t * (1 - p_t)**gamma * log(p_t)`."""
    probability, label = probability.double(), label.double()
    p_t = torch.where(label == 1, probability, 1 - probability)
    alpha_t = 1.0 if alpha is None else torch.where(label == 1, alpha, 1 - alpha)
    return -alpha_t * (1 - p_t) ** gamma * p_t.log()


FVCORE = {
    "sure and right": ([[[0.95], [0.90], [0.98], [0.99]]], [[[1], [1], [1], [1]]]),
    "from sure to wrong": ([[[0.95], [0.90], [0.6], [0.3]]], [[[1], [1], [1], [1]]]),
    "hard": ([0.05, 0.12, 0.09, 0.17], [1, 1, 1, 1]),
    "hard, both labels": ([0.05, 0.12, 0.91, 0.85], [1, 1, 0, 0]),
    "easy, both labels": ([0.75, 0.8, 0.12, 0.05], [1, 1, 0, 0]),
    "a map of both labels": ([[[0.05], [0.12], [0.89], [0.79]]], [[[1], [1], [0], [0]]]),
    "two labels a sample": ([[0.05, 0.9], [0.52, 0.45], [0.89, 0.8], [0.39, 0.5]], [[1, 0], [1, 0], [1, 1], [0, 1]]),
    "one label of four": (
        [[[0.95, 0.55, 0.12, 0.05], [0.09, 0.95, 0.36, 0.11], [0.06, 0.12, 0.56, 0.07], [0.09, 0.15, 0.25, 0.45]]],
        [[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]],
    ),
}


@pytest.mark.parametrize("case", FVCORE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [None, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("gamma", [0, 1, 2, 3])
def test_the_inputs_of_fvcore_have_the_loss_of_the_definition(case, dtype, alpha, gamma):
    probability, label = (torch.tensor(values, dtype=dtype) for values in FVCORE[case])
    logits = probability.logit()
    for reduction in REDUCTIONS:
        for target in (label, label.long(), label.bool()):
            ours = binary_focal_loss(logits, target, alpha=alpha, gamma=gamma, reduction=reduction)
            expected = definition(probability, label, alpha, gamma)
            expected = expected if reduction == "none" else getattr(expected, reduction)()
            torch.testing.assert_close(ours.double(), expected, rtol=2e-5, atol=1e-7)
    if alpha in (0.0, 1.0):  # one side does not count
        assert not binary_focal_loss(logits, label, alpha=alpha, reduction="none")[label != alpha].any()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("alpha", [None, 0.0, 0.58, 1.0])
@pytest.mark.parametrize("gamma", [0, 2])
def test_the_inputs_of_torchvision_have_the_loss_of_the_definition(seed, dtype, alpha, gamma):
    generator = torch.Generator().manual_seed(seed)
    probabilities, labels = [], []
    for low, high in ((0.0, 0.2), (0.8, 1.0), (0.0, 1.0)):
        for label in (torch.zeros(5, 2), torch.ones(5, 2), torch.randint(0, 2, (5, 2), generator=generator)):
            probabilities.append(low + (high - low) * torch.rand(5, 2, generator=generator))
            labels.append(label.to(dtype))
    logits, label = torch.cat(probabilities).logit().to(dtype).requires_grad_(), torch.cat(labels)
    exact = logits.detach().double()
    for reduction in REDUCTIONS:
        ours = binary_focal_loss(logits, label, alpha=alpha, gamma=gamma, reduction=reduction)
        assert ours.dtype == dtype
        expected = definition(exact.sigmoid(), label, alpha, gamma)
        expected = expected if reduction == "none" else getattr(expected, reduction)()
        tolerance = 2e-5 if dtype == torch.float32 else 1e-3
        torch.testing.assert_close(ours.double(), expected, rtol=tolerance, atol=tolerance / 10)
    entropy = F.binary_cross_entropy_with_logits(exact, label.double(), reduction="none")
    slack = 1 + 2 * torch.finfo(dtype).eps
    assert (binary_focal_loss(logits, label, alpha=alpha, gamma=gamma, reduction="none") <= entropy * slack).all()
    if gamma == 0 and alpha is None:
        exact.requires_grad_()
        (ours,) = torch.autograd.grad(binary_focal_loss(logits, label, gamma=0), logits)
        (theirs,) = torch.autograd.grad(F.binary_cross_entropy_with_logits(exact, label.double()), exact)
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-3 if dtype == torch.float16 else 1e-5, atol=1e-7)


def test_a_reduction_that_torchvision_refuses_is_refused():
    with pytest.raises(ValueError, match=r"reduction must be one of \('none', 'mean', 'sum'\), got 'xyz'"):
        binary_focal_loss(torch.zeros(2), torch.zeros(2), reduction="xyz")
