"""Many long rows under torch.compile: the compiled core computes their sum and gradient, as one operation of the graph."""

import pytest
import torch
import torch.nn.functional as F

import linkboy as lb
from linkboy import _compat
from linkboy.losses import _small

pytestmark = [
    pytest.mark.skipif(not _compat.SAYS_WHEN_IT_COMPILES, reason="this torch does not say that it compiles"),
    pytest.mark.usefixtures("one_thread"),
    # torch's own, of importing inductor
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning"),
]
SAMPLES, CLASSES = 12, 300


@pytest.fixture
def one_thread(monkeypatch):
    from linkboy.losses import _core_in_graph

    torch._dynamo.reset()
    monkeypatch.setattr(_core_in_graph, "_MANY", SAMPLES * CLASSES)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def sums(compiled, monkeypatch):
    """The names of what the core was asked for."""
    names = []

    class Counting:
        def __getattr__(self, name):
            names.append(name)
            return getattr(compiled, name)

    monkeypatch.setattr(_small, "CORE", Counting())
    return names


def make_batch(samples=SAMPLES, classes=CLASSES, dtype=torch.float32):
    generator = torch.Generator().manual_seed(samples)
    logits = torch.randn(samples, classes, generator=generator).mul(6).to(dtype).requires_grad_()
    return logits, torch.randint(classes, (samples,), generator=generator)


def compile_loss(loss, backend="aot_eager", **options):
    return torch.compile(lambda *tensors: loss(*tensors), fullgraph=True, backend=backend, **options)


def exact(logits, target, gamma=2.0, alpha=None, weight=None, reduction="mean"):
    """Return the sum or mean in float64, `1 - p` as the sum of the other classes' shares."""
    kept = target >= 0
    log_p = F.log_softmax(logits.double(), 1)
    index = target.where(kept, 0).unsqueeze(1)
    q = log_p.exp().scatter(1, index, 0.0).sum(1)
    weights = kept.double()
    weights = weights if alpha is None else weights * torch.as_tensor(alpha).double()[index.squeeze(1)]
    weights = weights if weight is None else weights * weight.double()
    total = (weights * q**gamma * -log_p.gather(1, index).squeeze(1)).sum()
    return total if reduction == "sum" else total / weights.sum()


def gradients(loss, logits, factor=1.0):
    value = loss(logits)
    return value, torch.autograd.grad(factor * value, logits)[0]


def assert_close(found, expected):
    for ours, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), truth.double(), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_value_and_gradient_are_those_of_float64(sums, gamma, reduction):
    logits, target = make_batch()
    target[::5] = -100
    weight, alpha = torch.linspace(0, 2, SAMPLES), torch.linspace(0.5, 1.5, CLASSES)
    for options in ({}, {"alpha": alpha}, {"weight": weight}, {"alpha": alpha, "weight": weight}):
        ours = {"sample_weight" if name == "weight" else name: value for name, value in options.items()}
        loss = compile_loss(lambda x: lb.focal_loss(x, target, gamma=gamma, reduction=reduction, **ours))  # noqa: B023  # type: ignore[arg-type]
        truth = lambda x: exact(x, target, gamma, reduction=reduction, **options)  # noqa: B023, E731
        assert_close(gradients(loss, logits, 3.0), gradients(truth, logits, 3.0))
    assert sums.count("label_sum") == 4  # one call each, for value and gradient together


def test_inductor_takes_it_in_a_larger_graph_and_other_shapes_after_it(sums):
    logits, target = make_batch()
    loss = compile_loss(lambda x, t, gamma: lb.focal_loss(2 * x, t, gamma=gamma) + x.square().sum(), "inductor")
    truth = lambda x, t, gamma: exact(2 * x, t, gamma) + x.double().square().sum()  # noqa: E731
    value = loss(logits, target, 2.0)
    retained = [torch.autograd.grad(value, logits, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*retained)
    assert_close([value, retained[0]], gradients(lambda x: truth(x, target, 2.0), logits))
    assert sums.count("label_sum") == 1
    logits, target = make_batch(SAMPLES + 1)  # no longer a number to torch.compile, but a symbol
    assert_close(*(gradients(lambda x, f=f: f(x, target, 2.0), logits) for f in (loss, truth)))
    assert sums.count("label_sum") == 1


def test_an_option_may_change_and_nobody_may_want_the_gradient(sums):
    logits, target = make_batch()
    loss = compile_loss(lambda x, gamma, ignored: lb.focal_loss(x, target, gamma=gamma, ignore_index=ignored))
    for gamma in (2.0, 1.5, 0.0):
        found = gradients(lambda x, g=gamma: loss(x, g, -1), logits)
        assert_close(found, gradients(lambda x, g=gamma: exact(x, target, g), logits))
    with torch.no_grad():
        assert_close([loss(logits, 2.0, int(target[0]))], [lb.focal_loss(logits, target, ignore_index=int(target[0]))])
    assert sums.count("label_sum") == 5  # one of them of the last line, without torch.compile


def test_priors_and_float64_go_the_same_way(sums):
    logits, target = make_batch(dtype=torch.float64)
    priors = torch.linspace(1, 5, CLASSES)
    loss = compile_loss(lambda x: lb.logit_adjusted_loss(x, target, priors=priors))
    truth = lambda x: F.cross_entropy(x + priors.double().log(), target)  # noqa: E731
    for ours, theirs in zip(gradients(loss, logits), gradients(truth, logits), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)
    assert sums.count("label_sum") == 1


def test_an_infinite_loss_and_masked_nan_are_those_of_the_eager_loss(sums):
    logits, target = make_batch()
    weight = torch.ones(SAMPLES)
    with torch.no_grad():
        logits[0, target[0]] = -torch.inf
        logits[1], weight[1] = torch.nan, 0
        logits[2] = -torch.inf
        logits[2, target[2]] = 1
    loss = lambda x: lb.focal_loss(x, target, sample_weight=weight)  # noqa: E731
    found, expected = gradients(compile_loss(loss), logits), gradients(loss, logits)
    assert "label_sum" in sums
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("label", [CLASSES, -1])
def test_a_label_outside_the_classes_is_refused(label):
    logits, target = make_batch()
    loss = compile_loss(lb.focal_loss)
    loss(logits, target)
    target[3] = label
    with pytest.raises(ValueError, match=f"^target must hold labels from 0 to 299 or ignore_index, got {label}$"):
        loss(logits, target)


# Of torch.compile, which looks at the gradient of every tensor that it is given.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.usefixtures("compiled")
def test_a_second_derivative_is_refused_also_where_only_a_part_of_it_comes_from_the_loss():
    inputs, target = torch.randn(SAMPLES, 5), make_batch()[1]
    weight = torch.randn(5, CLASSES, requires_grad=True)
    logits = inputs @ weight
    (first,) = torch.autograd.grad(compile_loss(lb.focal_loss)(logits, target), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        torch.autograd.grad(first.square().sum() + weight.square().sum(), weight)


def test_a_second_derivative_inside_the_graph_is_that_of_plain_operations(sums):
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        pytest.skip("this torch leaves derivatives out of its graphs")
    logits, target = make_batch()

    def penalty(loss, logits):
        (first,) = torch.autograd.grad(loss(logits, target), logits, create_graph=True)
        return 1e3 * first.square().sum()

    with torch._dynamo.config.patch(trace_autograd_ops=True):
        compiled = compile_loss(lambda x: penalty(lb.focal_loss, x))
        found = gradients(compiled, logits)
    torch.testing.assert_close(found, gradients(lambda x: penalty(exact, x).float(), logits), rtol=1e-5, atol=1e-7)


OTHERS = {
    "few": (lambda: make_batch(SAMPLES - 1), {}),
    "short": (lambda: make_batch(100, 250), {}),
    "maps": (lambda: (torch.randn(1, CLASSES, 2, 9, requires_grad=True), torch.ones(1, 2, 9, dtype=torch.long)), {}),
    "half precision": (lambda: make_batch(dtype=torch.bfloat16), {}),
    "every sample": (make_batch, {"reduction": "none"}),
    "smoothed": (make_batch, {"label_smoothing": 0.1}),
    "learned weights": (make_batch, {"alpha": torch.ones(CLASSES, requires_grad=True)}),
    "dynamic": (make_batch, {"dynamic": True}),
}


@pytest.mark.parametrize(("batch", "options"), OTHERS.values(), ids=OTHERS)
def test_other_batches_are_computed_by_loops(sums, batch, options):
    logits, target = batch()
    dynamic = options.get("dynamic")
    options = {name: value for name, value in options.items() if name != "dynamic"}
    loss = lambda x: lb.focal_loss(x, target, **options).sum()  # noqa: E731
    found = gradients(compile_loss(loss, dynamic=dynamic), logits)
    assert "label_sum" not in sums
    torch.testing.assert_close(found, gradients(loss, logits), rtol=2e-3, atol=1e-6)


def test_several_threads_no_core_and_an_exported_program_have_loops(sums, monkeypatch):
    logits, target = make_batch()
    loss = lambda x: lb.focal_loss(x, target)  # noqa: E731
    expected = gradients(loss, logits)
    del sums[:]

    class Loss(torch.nn.Module):
        forward = staticmethod(lb.focal_loss)

    program = torch.export.export(Loss(), (logits.detach(), target))
    assert_close([program.module()(logits.detach(), target)], expected[:1])
    torch.set_num_threads(2)
    assert_close(gradients(compile_loss(loss), logits), expected)
    torch.set_num_threads(1)
    assert "label_sum" not in sums
    monkeypatch.setattr(_small, "CORE", None)
    torch._dynamo.reset()
    assert_close(gradients(compile_loss(loss), logits), expected)
