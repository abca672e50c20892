"""Where kornia 0.9.0 and MONAI 1.6.1 mean the same as we do, they must agree; where they fail, we must not."""

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


def test_monai_is_rescaled_by_an_ignore_index_that_ignores_nothing():
    logits, target = make_batch(6, 4)
    options = {"use_softmax": True, "to_onehot_y": True}
    plain = monai.FocalLoss(**options)(logits, target[:, None])
    rescaled = monai.FocalLoss(**options, ignore_index=9)(logits, target[:, None])
    torch.testing.assert_close(rescaled, plain * 4)
    assert torch.equal(focal_loss(logits, target, ignore_index=9), focal_loss(logits, target))
