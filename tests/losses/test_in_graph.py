"""The losses under torch.compile: one operation each, numbers that change from call to call, and refusals."""

import warnings

import pytest
import torch

import linkboy as lb
from linkboy import _compat
from linkboy.losses._functions import loss_functions

# Of torch.compile where it reads a loss itself, and sees its autograd.Function.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
needs_one_operation = pytest.mark.skipif(
    not _compat.SAYS_WHEN_IT_COMPILES, reason="this torch does not say that it compiles"
)
LOGITS, TARGET = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
ROWS, TRUTH = torch.randn(5), torch.rand(5)
CALLS = {
    "focal_loss": lambda: lb.focal_loss(LOGITS, TARGET, gamma=1.5, alpha=[1.0, 2.0, 3.0]),
    "binary_focal_loss": lambda: lb.binary_focal_loss(LOGITS, torch.ones(4, 3), gamma=1.0),
    "logit_adjusted_loss": lambda: lb.logit_adjusted_loss(LOGITS, TARGET, priors=[0.5, 0.3, 0.2]),
    "linear_focal_loss": lambda: lb.linear_focal_loss(torch.ones(4, 2), torch.ones(3, 2), TARGET),
    "tversky_loss": lambda: lb.tversky_loss(LOGITS, TARGET),
    "mse_loss": lambda: lb.mse_loss(ROWS, TRUTH, sample_weight=TRUTH),
    "rmse_loss": lambda: lb.rmse_loss(ROWS, TRUTH),
    "mae_loss": lambda: lb.mae_loss(ROWS, TRUTH),
    "huber_loss": lambda: lb.huber_loss(ROWS, TRUTH, delta=0.5),
    "quantile_loss": lambda: lb.quantile_loss(ROWS, TRUTH, quantile=0.9),
    "msle_loss": lambda: lb.msle_loss(TRUTH + 1, TRUTH),
    "rmsle_loss": lambda: lb.rmsle_loss(TRUTH + 1, TRUTH),
}


def test_every_loss_is_here():
    assert {function.__name__ for function in loss_functions} == set(CALLS)


@needs_one_operation
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_loss_is_one_operation_and_needs_no_filter_of_warnings(call):
    seen = []

    def count(module, inputs):
        seen.extend(str(node.target) for node in module.graph.nodes if "_loss" in str(node.target))
        return torch._dynamo.lookup_backend("aot_eager")(module, inputs)

    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(torch.compile(call, fullgraph=True, backend=count)(), call())
    assert len(seen) == 1


OPTIONS = {
    "gamma": [lambda n: lb.focal_loss(LOGITS, TARGET, gamma=n), [0, 2, 3, 1.5, 2.5, 0.25]],
    "label_smoothing": [lambda n: lb.focal_loss(LOGITS, TARGET, label_smoothing=n), [0, 0.1, 0.2, 0.3, 1]],
    "ignore_index": [lambda n: lb.focal_loss(LOGITS, TARGET, ignore_index=n), [-100, -1, 1, 2, 255]],
    "normalizer": [lambda n: lb.focal_loss(LOGITS, TARGET, normalizer=n), ["count", 3, 4, 2.5, 7.25]],
    "alpha": [lambda n: lb.focal_loss(LOGITS, TARGET, alpha=[1, n, 2]), [1, 2, 3, 1.5, 2.5]],
    "delta": [lambda n: lb.huber_loss(ROWS, TRUTH, delta=n), [1, 2, 0.5, 0.25]],
    "quantile": [lambda n: lb.quantile_loss(ROWS, TRUTH, quantile=n), [0.5, 0.1, 0.9]],
    "tau": [lambda n: lb.logit_adjusted_loss(LOGITS, TARGET, priors=[0.5, 0.3, 0.2], tau=n), [1, 2, 0.5, 0.25]],
    "pos_weight": [lambda n: lb.binary_focal_loss(LOGITS, LOGITS.sigmoid(), gamma=n), [2, 3, 0.5, 1.5]],
}


@pytest.mark.parametrize(("call", "numbers"), OPTIONS.values(), ids=OPTIONS.keys())
def test_an_option_may_change_from_call_to_call(call, numbers):
    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for number in numbers:
        torch.testing.assert_close(compiled(number), call(number), msg=lambda text, n=number: f"{n}: {text}")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: lb.focal_loss(LOGITS, TARGET.float()), "soft targets must have the shape of input"),
        (lambda: lb.focal_loss(LOGITS, TARGET, gamma=-1.0), "gamma must be a number of at least 0"),
        (lambda: lb.focal_loss(LOGITS, TARGET, alpha=[1.0, 2.0]), "alpha needs one number per class"),
        (lambda: lb.binary_focal_loss(LOGITS, torch.ones(3)), "target must have"),
        (lambda: lb.mse_loss(ROWS, TRUTH[:4]), "must have the shape"),
        (lambda: lb.huber_loss(ROWS, TRUTH, delta=0), "delta must be a number above 0"),
    ],
)
def test_a_refusal_keeps_its_text(call, text):
    torch._dynamo.reset()
    with pytest.raises(Exception, match=text):  # torch's own kind of error, which names the line too
        torch.compile(call, backend="aot_eager")()


@pytest.mark.parametrize("shape", [(5, 15), (5, 16), (5, 17), (5, 40), (3, 20, 2), (2, 5, 3)])
@pytest.mark.parametrize("dynamic", [None, True])
def test_any_number_of_classes_gives_the_loss_and_gradient_of_float64(shape, dynamic):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator).mul(9).requires_grad_()
    target = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    target.view(-1)[0] = -100
    torch._dynamo.reset()
    call = lambda x: lb.focal_loss(x, target, gamma=3.0)  # noqa: E731
    exact = logits.detach().double().requires_grad_()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    expected, got = call(exact), compiled(logits)
    torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(got, logits)[0].double(), torch.autograd.grad(expected, exact)[0], rtol=1e-6, atol=1e-37
    )


@needs_one_operation
@pytest.mark.parametrize("options", [{}, {"alpha": [1.0, 0.0, 3.0]}, {"gamma": 0.5, "reduction": "none"}], ids=str)
def test_a_second_derivative_inside_the_graph_is_that_of_the_eager_loss(options):
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        pytest.skip("this torch leaves derivatives out of its graphs")
    logits = LOGITS.clone().requires_grad_()

    def penalty(x):
        (first,) = torch.autograd.grad(lb.focal_loss(x, TARGET, **options).sum(), x, create_graph=True)
        return first.square().sum()

    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        compiled = torch.compile(penalty, fullgraph=True, backend="aot_eager")
        (found,) = torch.autograd.grad(compiled(logits), logits)
    (expected,) = torch.autograd.grad(penalty(logits), logits)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
