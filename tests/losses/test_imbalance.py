"""Logit adjustment and class weights."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from linkboy import class_weights, logit_adjusted_loss, pos_weight


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", [(7, 4), (3, 4, 5)])
def test_adjusted_loss_is_cross_entropy_of_shifted_logits(shape, reduction):
    logits = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 4, (shape[0], *shape[2:]))
    target.view(-1)[0] = -100
    counts = torch.tensor([100.0, 20.0, 5.0, 1.0], dtype=torch.float64)
    shift = (counts / counts.sum()).log().reshape(4, *[1] * (len(shape) - 2))
    ours = logit_adjusted_loss(logits, target, priors=counts, tau=1.5, reduction=reduction)
    theirs = F.cross_entropy(logits + 1.5 * shift, target, reduction=reduction)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    ours, theirs = (torch.autograd.grad(loss.sum(), logits)[0] for loss in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_equal_priors_or_no_strength_change_nothing():
    logits, target = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    plain = F.cross_entropy(logits, target)
    torch.testing.assert_close(logit_adjusted_loss(logits, target, priors=[7, 7, 7]), plain)
    torch.testing.assert_close(logit_adjusted_loss(logits, target, priors=[9, 3, 1], tau=0), plain)


def test_minimum_of_the_adjusted_loss_ranks_by_the_likelihood_alone():
    # Trained on what the features cannot tell apart, the raw logits come out equal: the priors are all in the shift.
    logits = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0] * 90 + [1] * 10)
    logit_adjusted_loss(logits.expand(100, 2), target, priors=[90, 10]).backward()
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=1e-12)


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.random.default_rng(0).integers(0, 5, 200)
    expected = compute_class_weight("balanced", classes=np.arange(5), y=labels)
    torch.testing.assert_close(class_weights(torch.from_numpy(labels)), torch.tensor(expected, dtype=torch.float32))


def test_the_other_schemes_follow_their_formulas():
    labels = torch.tensor([0] * 16 + [1] * 4 + [2])
    torch.testing.assert_close(class_weights(labels, "inverse"), torch.tensor([1 / 16, 1 / 4, 1.0]))
    torch.testing.assert_close(class_weights(labels, "sqrt"), torch.tensor([1 / 4, 1 / 2, 1.0]))
    effective = torch.tensor([0.1 / (1 - 0.9**n) for n in (16, 4, 1)])
    expected = effective / effective.mean()
    torch.testing.assert_close(class_weights(labels, "effective", beta=0.9), expected)
    assert class_weights(labels, "effective", beta=0.0).tolist() == [1, 1, 1]


def test_lists_masks_and_ignored_labels_are_counted():
    assert class_weights([0, 0, 1, 1]).tolist() == [1, 1]
    mask = torch.tensor([[0, 1, -100], [1, 0, -100]])
    assert class_weights(mask, num_classes=2).tolist() == [1, 1]


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("shape", [(7, 4), (3, 4, 5)])
def test_soft_targets_and_smoothing_are_those_of_the_shifted_cross_entropy(shape, soft, label_smoothing):
    logits = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    target = torch.rand(shape, dtype=torch.float64).softmax(1) if soft else torch.randint(0, 4, (shape[0], *shape[2:]))
    counts = torch.tensor([100.0, 20.0, 5.0, 1.0], dtype=torch.float64)
    shift = (counts / counts.sum()).log().reshape(4, *[1] * (len(shape) - 2))
    ours = logit_adjusted_loss(logits, target, priors=counts, label_smoothing=label_smoothing)
    theirs = F.cross_entropy(logits + shift, target, label_smoothing=label_smoothing)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    ours, theirs = (torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("scheme", ["balanced", "sqrt", "inverse", "effective"])
def test_weights_of_counts_are_those_of_the_labels(scheme):
    labels = torch.tensor([0] * 16 + [1] * 4 + [2])
    expected = class_weights(labels, scheme)
    torch.testing.assert_close(class_weights(counts=labels.bincount(), scheme=scheme), expected)
    torch.testing.assert_close(class_weights(counts=[16, 4, 1], scheme=scheme), expected)
    torch.testing.assert_close(class_weights(F.one_hot(labels, 3), scheme, multi_hot=True), expected)


def test_weighted_labels_count_as_much_as_they_weigh():
    labels, weight = torch.tensor([0, 0, 1, -100]), torch.tensor([1.0, 3.0, 0.5, 9.0])
    torch.testing.assert_close(class_weights(labels, "inverse", sample_weight=weight), torch.tensor([0.25, 2.0]))
    repeated = class_weights(torch.tensor([0] * 3 + [1] * 2), "balanced")
    torch.testing.assert_close(class_weights([0, 1], sample_weight=[3.0, 2.0]), repeated)
    rows = torch.tensor([[1, 1, 0], [1, 0, 1]])
    torch.testing.assert_close(
        class_weights(rows, "inverse", multi_hot=True, sample_weight=[1.0, 3.0]), torch.tensor([0.25, 1.0, 1 / 3])
    )


def test_with_pos_weight_both_labels_of_every_class_weigh_alike():
    labels = (torch.rand(50, 3) < torch.tensor([0.1, 0.5, 0.8])).long()
    labels[0], labels[1, 0] = 1, -1
    factor = pos_weight(labels, ignore_index=-1)
    torch.testing.assert_close(factor * (labels == 1).sum(0), (labels == 0).sum(0).float())
    assert pos_weight(torch.tensor([1.0, 0.0, 0.0, 0.0])).item() == 3
    assert pos_weight(torch.tensor([1, 0, 0]), sample_weight=[2.0, 1.0, 3.0]).item() == 2


MESSAGES = [
    (lambda: class_weights([0, 2]),
     "targets must hold every one of the 3 classes, got no label of class 1; "
     "leave the class out or set its weight by hand"),
    (lambda: class_weights([0, 1], num_classes=3),
     "targets must hold every one of the 3 classes, got no label of class 2; "
     "leave the class out or set its weight by hand"),
    (lambda: class_weights([0, 3], num_classes=3), "targets must hold labels from 0 to 2, got 3"),
    (lambda: class_weights([0, -1]),
     "targets must hold labels from 0 to 0, got -1; if it marks what is ignored, pass ignore_index=-1"),
    (lambda: class_weights([]), "targets must hold at least one label, got none"),
    (lambda: class_weights(torch.eye(3)), "targets must hold integer class indices, got f32[3, 3]; turn one-hot rows into class "
     "indices with targets.argmax(1), or pass multi_hot=True"),
    (lambda: class_weights(counts={"a": 3, "b": 1}), "counts must be a tensor or hold numbers, got dict; list them in the order "
     "of the classes: [counts[name] for name in names]"),
    (lambda: class_weights([0.5]), "targets must hold integer class indices, got f32[1]; convert them with .long()"),
    (lambda: class_weights([0], "balance"),
     "scheme must be one of ('balanced', 'sqrt', 'inverse', 'effective'), got 'balance'; did you mean 'balanced'?"),
    (lambda: class_weights([0], num_classes=0), "num_classes must be an integer of at least 1, got 0"),
    (lambda: class_weights(["a"]), "targets must be a tensor or hold numbers, got list of str"),
    (lambda: class_weights([0], "effective", beta="a"), "beta must be a number, got 'a' of type str"),
    (lambda: class_weights([0], "effective", beta=1.0),
     "beta must be a number from 0 up to, not including, 1, got 1.0"),
    (lambda: logit_adjusted_loss(torch.zeros(1, 2), torch.tensor([0]), priors=[1.0, 0.0]),
     "priors must be above 0 for every class, got 0 for class 1; leave the class out or count it as 1"),
    (lambda: logit_adjusted_loss(torch.zeros(1, 2), torch.tensor([0]), priors=[1.0]),
     "priors needs one number per class: input has 2 classes (shape (1, 2)), priors has shape (1,)"),
    (lambda: logit_adjusted_loss(torch.zeros(1, 2), torch.tensor([0]), priors=[1.0, 1.0], tau=-1.0),
     "tau must be a number of at least 0, got -1.0"),
    (lambda: logit_adjusted_loss(torch.zeros(1, 2), torch.zeros(1), priors=[1.0, 1.0]),
     "soft targets must have the shape of input (1, 2), got f32[1]; "
     "class indices must be integers: convert them with .long()"),
    (lambda: logit_adjusted_loss(torch.zeros(1, 2), torch.tensor([0]), priors=[1.0, 1.0], label_smoothing=2.0),
     "label_smoothing must be a number of at least 0 and of at most 1, got 2.0"),
    (lambda: class_weights(), "class_weights needs either targets or counts, got neither"),
    (lambda: class_weights([0], counts=[1]), "class_weights needs either targets or counts, got both"),
    (lambda: class_weights(counts=[1, 2], num_classes=2),
     "counts cannot stand beside multi_hot, sample_weight or num_classes, which belong to targets"),
    (lambda: class_weights(counts=[[1, 2]]), "counts must hold one number per class, got f64[1, 2]"),
    (lambda: class_weights(counts=[-1, 2]), "counts must not be negative or NaN, got -1"),
    (lambda: class_weights([0, 1], sample_weight=[1.0]),
     "sample_weight must have shape (2,), one number per label, got (1,)"),
    (lambda: class_weights([0, 1], multi_hot=True), "targets must have shape (N, C) with multi_hot, got i64[2]"),
    (lambda: class_weights([[0, 2]], multi_hot=True), "targets must hold labels 0 and 1, got 2"),
    (lambda: class_weights([[0, 1]], multi_hot="yes"), "multi_hot must be True or False, got 'yes'"),
    (lambda: pos_weight(torch.tensor([[0, 1], [0, 0]])),
     "targets must hold a label 1 for every class, got none for class 0; leave the class out"),
    (lambda: pos_weight([[0, 3]]), "targets must hold labels 0 and 1, got 3"),
    (lambda: pos_weight([]), "targets must hold at least one row of labels, got f32[0]"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), MESSAGES)
def test_wrong_arguments_get_a_sentence(call, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert str(caught.value) == message
