"""What people pass by mistake to every loss: a sentence that says what to do, never torch's own error and never a number."""

import re

import numpy as np
import pytest
import torch

import linkboy as lb

X, T = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
Y, V = torch.randint(0, 2, (4, 3)).float(), torch.rand(4, 3)
W = torch.randn(3, 3)
LOSSES = {  # called with input and target
    "focal_loss": (lb.focal_loss, T),
    "binary_focal_loss": (lb.binary_focal_loss, Y),
    "asymmetric_loss": (lb.asymmetric_loss, Y),
    "logit_adjusted_loss": (lambda x, t, **o: lb.logit_adjusted_loss(x, t, priors=[1, 2, 3], **o), T),
    "linear_focal_loss": (lambda x, t, **o: lb.linear_focal_loss(x, W, t, **o), T),
    "tversky_loss": (lb.tversky_loss, T),
    **{
        name: (getattr(lb, name), V)
        for name in ("mse_loss", "mae_loss", "rmse_loss", "msle_loss", "rmsle_loss", "huber_loss", "quantile_loss")
    },
}
each_loss = pytest.mark.parametrize("name", LOSSES)
FLOAT8 = torch.float8_e4m3fn


def refused(kind, message):
    return pytest.raises(kind, match=re.escape(message))


@each_loss
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_an_input_that_is_no_dense_tensor_is_refused_with_the_fix(name):
    loss, target = LOSSES[name]
    with refused(TypeError, "got a NumPy array f32[4, 3]; convert it with torch.from_numpy(input)"):
        loss(X.numpy(), target)
    with refused(
        TypeError, "input must be a dense tensor, got the layout torch.sparse_coo; convert it with .to_dense()"
    ):
        loss(X.to_sparse(), target)
    with refused(
        TypeError, "input must be a dense tensor, got a nested one; pad it with torch.nested.to_padded_tensor"
    ):
        loss(torch.nested.nested_tensor([X[:3], X[:2]]), target)
    with refused(
        TypeError, "input must have at least 16 bits a number, got float8_e4m3fn[4, 3]; convert it with .float()"
    ):
        loss(X.to(FLOAT8), target)
    with refused(TypeError, "input must be a floating point tensor, got c64[4, 3]; take .real or .abs()"):
        loss(X.cfloat(), target)


@each_loss
def test_a_target_that_is_no_dense_tensor_is_refused_with_the_fix(name):
    loss, target = LOSSES[name]
    with refused(TypeError, "; convert it with torch.from_numpy(target)"):
        loss(X.abs(), target.numpy())
    with refused(TypeError, "; convert it with torch.as_tensor(target)"):
        loss(X.abs(), target.tolist())
    with refused(
        TypeError, "target must be a dense tensor, got the layout torch.sparse_coo; convert it with .to_dense()"
    ):
        loss(X.abs(), target.to_sparse())


@each_loss
@pytest.mark.parametrize(("weight", "said"), [(-1.0, "not be negative or NaN, got -1"), (np.inf, "be finite, got inf")])
def test_an_impossible_sample_weight_is_refused(name, weight, said):
    loss, target = LOSSES[name]
    with refused(ValueError, f"sample_weight must {said}"):
        loss(X.abs(), target, sample_weight=torch.full(target.shape, weight))


@each_loss
def test_nothing_and_weights_of_0_cost_0(name):
    loss, target = LOSSES[name]
    for x, t, weight in ((X[:0], target[:0], None), (X, target, torch.zeros(target.shape))):
        x = x.abs().requires_grad_()
        got = loss(x, t, sample_weight=weight)
        got.backward()
        assert got.item() == 0
        assert not x.grad.any()


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: lb.focal_loss(X, T, alpha=0.25), ValueError,
         "alpha has shape (); one number for all changes nothing: for two classes pass [1 - w, w], w the weight of class 1"),
        (lambda: lb.binary_focal_loss(X, T), ValueError,
         "target must have the shape of input (4, 3), got (4,); class indices belong to focal_loss"),
        (lambda: lb.binary_focal_loss(X[:, :1], Y[:, 0]), ValueError,
         "target must have the shape of input (4, 1), got (4,); bring it to that shape with target.reshape(input.shape)"),
        (lambda: lb.binary_focal_loss(X, Y.masked_fill(Y == 1, 255)), ValueError,
         "target must hold labels from 0 to 1, got 255; if it marks what is ignored, pass ignore_index=255"),
        (lambda: lb.binary_focal_loss(X, Y - 1), ValueError, "if it marks what is ignored, pass ignore_index=-1"),
        (lambda: lb.binary_focal_loss(X, Y, alpha=True), TypeError, "alpha must be a number or hold numbers, got True"),
        (lambda: lb.binary_focal_loss(X, Y, pos_weight=False), TypeError, "pos_weight must be a number or hold numbers"),
        (lambda: lb.class_weights(T.to("meta")), ValueError, "targets must have values to count, got i64[4] on the meta"),
        (lambda: lb.pos_weight(Y.to("meta")), ValueError, "targets must have values to count, got f32[4, 3] on the meta"),
        (lambda: lb.weighted_mean(V, torch.ones(4, 3), total=0), ValueError,
         "total must be the weight of all values, got 0 beside weights above 0"),
        (lambda: lb.weighted_mean(V, V, group="world"), TypeError, "group must be a process group, got str"),
    ],
)  # fmt: skip
def test_the_sentence_names_the_fix(call, kind, message):
    with refused(kind, message):
        call()


def test_counts_whose_sum_overflows_have_weights():
    assert lb.class_weights(counts=[1e308, 1e308]).tolist() == [1, 1]


def test_a_window_without_weight_is_0():
    assert lb.weighted_mean(V, torch.zeros(4, 3), total=0).item() == 0
