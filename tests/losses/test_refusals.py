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
         "target must hold labels from 0 to 1, got 255; if 255 stands for label 1, as in a picture, pass target / 255; if it "
         "marks what is ignored, pass ignore_index=255"),
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


# --- what a message proposes runs, and gives the loss that was meant ---


def proposed(error, argument):
    """Return the code behind `pass` or `with` in a message, for one argument."""
    return re.findall(rf"(?:pass|with|example) (\(?{argument}\b.+?)(?:; |$)", str(error))


MASK = torch.tensor([[0, 1, 1], [0, 0, 1]])
MASKS = {"eight bits": MASK * 255, "signs": MASK * 2 - 1, "counted from 1": MASK + 1}
BINARY = [lb.binary_focal_loss, lambda x, t: lb.tversky_loss(x[:, None], t[:, None])]


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.uint8])
@pytest.mark.parametrize("loss", BINARY, ids=["binary_focal_loss", "tversky_loss"])
@pytest.mark.parametrize("name", MASKS)
def test_labels_of_another_code_get_code_that_gives_the_loss(name, loss, dtype):
    if dtype is torch.uint8 and name == "signs":
        pytest.skip("no negative numbers")
    logits, target = torch.randn(2, 3), MASKS[name].to(dtype)
    with pytest.raises(ValueError) as caught:
        loss(logits, target)
    code = proposed(caught.value, "target")[0]
    assert loss(logits, eval(code)).item() == pytest.approx(loss(logits, MASK.float()).item())


@pytest.mark.parametrize("name", MASKS)
def test_class_indices_of_another_code_get_code_that_gives_the_loss(name):
    logits, target = torch.randn(2, 2, 3), MASKS[name]
    with pytest.raises(ValueError) as caught:
        lb.focal_loss(logits, target)
    assert lb.focal_loss(logits, eval(proposed(caught.value, "target")[0])).item() == lb.focal_loss(logits, MASK).item()


ORDERS = {  # shapes of an input and of a target with as many numbers, and what brings the one to the other
    "channels last": ((2, 3, 4, 5), (2, 4, 5, 3), "target.movedim(3, 1)"),
    "time and classes": ((2, 3, 4), (2, 4, 3), "target.mT"),
    "transposed": ((4, 2), (2, 4), "target.mT"),
    "a dimension of 1": ((4, 1, 3), (4, 3), "target.reshape(input.shape)"),
    "flattened": ((2, 3, 4), (2, 12), "target.reshape(input.shape)"),
}


@pytest.mark.parametrize("loss", [lb.binary_focal_loss, lb.mse_loss, lb.huber_loss], ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("name", ORDERS)
def test_a_target_in_another_order_is_moved_and_not_reshaped(name, loss):
    shape, given, code = ORDERS[name]
    values, target = torch.rand(shape), torch.rand(given)
    with pytest.raises(ValueError) as caught:
        loss(values, target)
    assert proposed(caught.value, "target") == [code]
    assert eval(code, {"target": target, "input": values}).shape == shape
    with pytest.raises(ValueError, match=r"got \(3, 4\)$"):
        loss(torch.rand(2, 6), torch.rand(3, 4))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: lb.focal_loss(X[:, 0], T), ValueError, "got (4,); for one logit per label use binary_focal_loss"),
        (lambda: lb.focal_loss(T, X), TypeError,
         "input must hold logits and target labels, got i64[4] and f32[4, 3]; pass them the other way round"),
        (lambda: lb.focal_loss(Output(X), T), TypeError, "got Output; pass input.logits"),
        (lambda: lb.focal_loss(torch.zeros(2, 3, 4), torch.zeros(2, 4).long(), sample_weight=torch.ones(2)), ValueError,
         "say which dimensions they belong to, for example sample_weight[:, None].expand(2, 4)"),
        (lambda: lb.focal_loss(X, torch.tensor([0, 1, 255, 2])), ValueError,
         "if it marks what is ignored, pass ignore_index=255"),
        (lambda: lb.class_weights(torch.tensor([0, 1, 255])), ValueError,
         "got no label of class 2; if 255 marks what is ignored, pass ignore_index=255"),
        (lambda: lb.class_weights(torch.eye(3, dtype=torch.long)[T]), ValueError,
         "targets must hold class indices, got one-hot rows i64[4, 3]; turn one-hot rows into class indices with "
         "targets.argmax(1), or pass multi_hot=True"),
        (lambda: lb.tversky_loss(torch.zeros(2, 3, 4), torch.zeros(2, 4).long(), alpha=0.3), ValueError,
         "alpha needs one number per class, got 0.3; the weights of what is predicted in excess and of what is missed are "
         "false_positive and false_negative"),
        (lambda: lb.tversky_loss(X, T, alpha=0.3, beta=0.7), TypeError,
         "has no argument 'beta': the weights of what is predicted in excess and of what is missed are false_positive and"),
        (lambda: lb.huber_loss(X, X, beta=0.5), TypeError,
         "has no argument 'beta': smooth_l1_loss(beta=b) of torch is huber_loss(delta=b) / b"),
        (lambda: lb.quantile_loss(X, X, tau=0.5), TypeError, "has no argument 'tau': one or several are quantile"),
    ],
)  # fmt: skip
def test_the_sentence_says_what_was_meant(call, kind, message):
    with refused(kind, message):
        call()


class Output:
    def __init__(self, logits):
        self.logits = logits


def test_smooth_l1_is_the_huber_loss_that_the_message_says():
    ours = lb.huber_loss(X, X * 3, delta=0.5) / 0.5
    assert ours.item() == pytest.approx(torch.nn.functional.smooth_l1_loss(X, X * 3, beta=0.5).item())


def test_a_map_of_two_classes_is_not_taken_for_one_hot_rows():
    labels = torch.tensor([[0, 1, 1], [0, 0, 1], [0, 1, 0]])
    assert lb.class_weights(labels).tolist() == lb.class_weights(labels.flatten()).tolist()


def test_the_target_of_several_quantiles_may_have_a_last_dimension_of_1():
    forecast, truth = torch.rand(4, 3), torch.rand(4)
    loss = lb.quantile_loss(forecast, truth, quantile=[0.1, 0.5, 0.9], sample_weight=truth)
    again = lb.quantile_loss(forecast, truth[:, None], quantile=[0.1, 0.5, 0.9], sample_weight=truth[:, None])
    assert loss.item() == again.item()
