"""The modules are the functions, with numbers per class as buffers."""

import copy
import inspect
import io
import pickle

import pytest
import torch

import linkboy
from linkboy import BinaryFocalLoss, FocalLoss, LinearFocalLoss, LogitAdjustedLoss, QuantileLoss
from linkboy.losses import modules

TWINS = {
    "FocalLoss": "focal_loss",
    "BinaryFocalLoss": "binary_focal_loss",
    "LinearFocalLoss": "linear_focal_loss",
    "LogitAdjustedLoss": "logit_adjusted_loss",
    "MSELoss": "mse_loss",
    "MAELoss": "mae_loss",
    "RMSELoss": "rmse_loss",
    "MSLELoss": "msle_loss",
    "RMSLELoss": "rmsle_loss",
    "QuantileLoss": "quantile_loss",
    "HuberLoss": "huber_loss",
    "TverskyLoss": "tversky_loss",
}
GIVEN_AT_THE_CALL = {"input", "target", "linear_weight", "linear_bias", "sample_weight"}


def options_of(callable_thing):
    """Names, types and defaults of the options, in their order."""
    return [
        (name, parameter.annotation, parameter.default)
        for name, parameter in inspect.signature(callable_thing).parameters.items()
        if name not in GIVEN_AT_THE_CALL
    ]


def test_the_arguments_that_losses_share_stand_in_one_order():
    order = ["sample_weight", "ignore_index", "reduction", "normalizer"]
    for function in TWINS.values():
        names = list(inspect.signature(getattr(linkboy, function)).parameters)
        shared = [name for name in names if name in order]
        assert shared == [name for name in order if name in names]
        assert names.index("target") < names.index("sample_weight")


def test_every_module_has_a_function():
    classes = [name for name, thing in vars(modules).items() if inspect.isclass(thing) and name.endswith("Loss")]
    assert sorted(set(classes) - {"_Loss"}) == sorted(TWINS)


@pytest.mark.parametrize(("module", "function"), TWINS.items())
def test_module_and_function_have_the_same_options_and_defaults(module, function):
    assert options_of(getattr(linkboy, module)) == options_of(getattr(linkboy, function))
    call = inspect.signature(getattr(linkboy, module).forward).parameters
    assert list(call)[1:] == [n for n in inspect.signature(getattr(linkboy, function)).parameters if n in call]


def test_another_order_or_default_is_seen():
    def planted(input, *, alpha=None, gamma: float = 1.0): ...
    def twin(*, gamma: float = 2.0, alpha=None): ...

    assert [name for name, *_ in options_of(planted)] != [name for name, *_ in options_of(twin)]
    assert sorted(map(str, options_of(planted))) != sorted(map(str, options_of(twin)))


def test_options_and_weights_reach_the_function():
    logits, target, weight = torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), torch.rand(4)
    options = {"gamma": 1.0, "alpha": [1.0, 2.0, 3.0], "label_smoothing": 0.1}
    ours = FocalLoss(**options)(logits, target, sample_weight=weight)
    assert torch.equal(ours, linkboy.focal_loss(logits, target, sample_weight=weight, **options))
    layer = torch.nn.Linear(3, 5)
    ours = LinearFocalLoss(gamma=1.0)(logits, layer.weight, target, linear_bias=layer.bias, sample_weight=weight)
    expected = linkboy.focal_loss(layer(logits), target, gamma=1.0, sample_weight=weight)
    torch.testing.assert_close(ours, expected)
    error = torch.randn(4)
    assert torch.equal(QuantileLoss(quantile=0.9)(error, weight), linkboy.quantile_loss(error, weight, quantile=0.9))


def test_an_option_that_is_set_counts_from_the_next_call_on():
    logits, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    loss = FocalLoss(gamma=2.0)
    loss.gamma, loss.reduction, loss.alpha = 0.0, "none", [1.0, 2.0, 3.0]
    expected = linkboy.focal_loss(logits, target, gamma=0.0, reduction="none", alpha=[1.0, 2.0, 3.0])
    assert torch.equal(loss(logits, target), expected)
    assert list(loss.state_dict()) == ["alpha"]
    loss.gamma = -1.0
    with pytest.raises(ValueError, match=r"gamma must be a number of at least 0, got -1\.0"):
        loss(logits, target)


@pytest.mark.parametrize("module", sorted(set(TWINS) - {"LogitAdjustedLoss"}))
def test_every_option_can_be_read(module):
    loss = getattr(linkboy, module)()
    for name, _, default in options_of(getattr(linkboy, module)):
        assert getattr(loss, name) == default


def test_a_module_prints_few_numbers_and_prints_on_the_meta_device():
    assert repr(FocalLoss(alpha=torch.ones(1000))).startswith("FocalLoss(gamma=2.0, alpha=f32[1000], ")
    with torch.device("meta"):
        assert "alpha=f32[2]" in repr(FocalLoss(alpha=[1.0, 2.0]))


def test_numbers_per_class_are_saved_and_move():
    loss = FocalLoss(alpha=[1.0, 2.0])
    other = FocalLoss(alpha=[0.0, 0.0])
    other.load_state_dict(loss.state_dict())
    assert other.alpha.tolist() == [1, 2]
    assert loss.to(torch.float64).alpha.dtype == torch.float64
    assert loss.to("meta").alpha.device.type == "meta"
    assert list(LogitAdjustedLoss(priors=[3, 1]).state_dict()) == ["priors"]
    assert sorted(BinaryFocalLoss(alpha=0.5, pos_weight=[1.0, 2.0]).state_dict()) == ["alpha", "pos_weight"]
    assert not FocalLoss().state_dict()


def test_the_callers_tensor_is_not_shared():
    alpha = torch.ones(2)
    loss = FocalLoss(alpha=alpha)
    alpha.zero_()
    assert loss.alpha.tolist() == [1, 1]


def test_modules_can_be_copied_pickled_and_saved():
    loss, arguments = FocalLoss(alpha=[1.0, 2.0], gamma=0.5), (torch.randn(3, 2), torch.tensor([0, 1, 1]))
    expected = loss(*arguments)
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    loaded = FocalLoss(alpha=[0.0, 0.0], gamma=0.5)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), loaded):
        assert torch.equal(twin(*arguments), expected)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own
def test_modules_compile_and_print_their_options():
    loss = FocalLoss(alpha=[1.0, 2.0], gamma=0.5)
    arguments = (torch.randn(3, 2), torch.tensor([0, 1, 1]))
    torch.testing.assert_close(torch.compile(loss, fullgraph=True, backend="aot_eager")(*arguments), loss(*arguments))
    assert repr(loss) == (
        "FocalLoss(gamma=0.5, alpha=[1.0, 2.0], label_smoothing=0.0, ignore_index=-100, reduction='mean', "
        "normalizer='weights')"
    )


IMPOSSIBLE = [
    (lambda: FocalLoss(gamma=-1), "gamma must be a number of at least 0, got -1"),
    (lambda: FocalLoss(alpha=[1.0, -1.0]), "alpha must not be negative or NaN, got -1"),
    (lambda: FocalLoss(alpha=[[1.0, 1.0]]),
     "alpha needs one number per class: input has 2 classes (shape (1, 2)), alpha has shape (1, 2)"),
    (lambda: FocalLoss(label_smoothing=2), "label_smoothing must be a number of at least 0 and of at most 1, got 2"),
    (lambda: FocalLoss(ignore_index=0.5), "ignore_index must be an integer, got 0.5 of type float"),
    (lambda: FocalLoss(reduction="avg"), "reduction must be one of ('none', 'mean', 'sum'), got 'avg'"),
    (lambda: FocalLoss(normalizer="counts"),
     "normalizer must be one of ('weights', 'count', 'positives'), got 'counts'; did you mean 'count'?"),
    (lambda: FocalLoss(weight=[1.0, 2.0]),
     "FocalLoss has no argument 'weight': weights per class are alpha, weights per sample sample_weight"),
    (lambda: FocalLoss(class_weights=[1.0, 2.0]), "FocalLoss has no argument 'class_weights': it is called alpha here"),
    (lambda: BinaryFocalLoss(class_weights=[1.0, 2.0]),
     "BinaryFocalLoss has no argument 'class_weights': the weight of label 1 is pos_weight"),
    (lambda: BinaryFocalLoss(alpha=2), "alpha must be from 0 to 1, got 2"),
    (lambda: BinaryFocalLoss(margin=-0.1), "margin must be a number from 0 up to, not including, 1, got -0.1"),
    (lambda: BinaryFocalLoss(pos_weight=-1.0), "pos_weight must not be negative or NaN, got -1"),
    (lambda: LinearFocalLoss(chunk=0), "chunk must be an integer of at least 1, got 0"),
    (lambda: LogitAdjustedLoss(priors=[1.0, 0.0]),
     "priors must be above 0 for every class, got 0 for class 1; leave the class out or count it as 1"),
    (lambda: LogitAdjustedLoss(priors=[1.0, 1.0], tau=-1), "tau must be a number of at least 0, got -1"),
    (lambda: QuantileLoss(quantile=1.0), "quantile must be a number above 0 and below 1, got 1.0"),
    (lambda: QuantileLoss(quantile=[0.5, 1.0]), "quantile must be a number above 0 and below 1, got 1"),
    (lambda: linkboy.HuberLoss(delta=0), "delta must be a number above 0, got 0"),
    (lambda: linkboy.MSELoss(reduction="all"), "reduction must be one of ('none', 'mean', 'sum'), got 'all'"),
    (lambda: linkboy.TverskyLoss(gamma=0), "gamma must be a number above 0, got 0"),
    (lambda: linkboy.TverskyLoss(over="row"), "over must be one of ('sample', 'batch'), got 'row'"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), IMPOSSIBLE)
def test_an_impossible_option_is_refused_when_the_module_is_made(make, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    assert str(caught.value) == message


def test_making_a_module_draws_no_random_numbers_and_leaves_no_graph():
    before = torch.get_rng_state()
    alpha = torch.ones(3, requires_grad=True)
    for make in (
        lambda: FocalLoss(alpha=alpha),
        lambda: QuantileLoss(quantile=[0.1, 0.9]),
        lambda: BinaryFocalLoss(pos_weight=[1.0, 2.0]),
    ):
        make()
    assert torch.equal(torch.get_rng_state(), before)
    assert alpha.grad is None
