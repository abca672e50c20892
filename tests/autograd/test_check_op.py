"""check_op: every planted bug under its name, no false alarm, nothing of the caller's touched."""

import collections
import dataclasses
import gc
import itertools
import json
import math
import random
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.autograd.planted import BY_DESIGN, KNOWN, OWN, RIGHT, NeedsMixedUp, OldSquare, Square, matrix, twice
from torch import nn

from linkboy import check_op, cli, gradient_reversal
from linkboy.autograd import OpReport
from linkboy.autograd import check as check_module

PLANTED = KNOWN | OWN


def outcomes(report, *kinds):
    return [row.check for row in report.rows if row.outcome in kinds]


# --- bugs and right operators --------------------------------------------------------------------------------------------------


def world():
    """Generators, switches and the garbage collector, none of which may be another afterwards."""
    numpy_state = np.random.get_state()  # noqa: NPY002
    generators = torch.get_rng_state().tolist(), random.getstate(), numpy_state[1].tolist(), numpy_state[2]
    return *generators, torch.is_grad_enabled(), torch.get_default_dtype(), gc.isenabled()


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_the_one_failure_with_cause_and_fix(name):
    planted, before = PLANTED[name], world()
    report = check_op(planted.bug, *planted.inputs(), compile=False)
    assert world() == before
    assert not report.ok
    assert outcomes(report, "failed") == [planted.check], report
    (failure,) = report.failures
    assert failure.found
    assert failure.cause
    assert failure.fix


@pytest.mark.parametrize("name", PLANTED)
def test_its_twin_without_the_bug_is_right(name):
    report = check_op(PLANTED[name].twin, *PLANTED[name].inputs(), compile=False)
    assert report.ok, report


OLD_MKL = pytest.mark.skipif(
    not find_spec("torch.utils._debug_mode"), reason="waits for torch 2.10: MKL before fails for an expanded gradient"
)


@pytest.mark.parametrize("name", [pytest.param(name, marks=OLD_MKL) if name == "fft" else name for name in RIGHT])
def test_no_false_alarm_on_a_right_operator(name):
    fn, inputs = RIGHT[name]
    report = check_op(fn, *inputs(), compile=False)
    assert report.ok, report
    assert not outcomes(report, "follows")


def test_there_are_as_many_right_and_wrong_operators_as_the_page_says():
    assert len(KNOWN) == 9
    assert len(OWN) >= 9
    assert len(RIGHT) >= 30


def pairs_of_bugs():
    """Every two of the nine, of which each meets two others in the fast tests."""
    for i, j in itertools.combinations(range(len(KNOWN)), 2):
        fast = j - i in (1, len(KNOWN) - 1)
        yield pytest.param(list(KNOWN)[i], list(KNOWN)[j], marks=[] if fast else pytest.mark.slow)


@pytest.mark.parametrize(("first", "second"), list(pairs_of_bugs()))
def test_two_bugs_at_once_are_both_found(first, second):
    a, b = KNOWN[first], KNOWN[second]
    report = check_op(lambda x, y: (a.bug(x), b.bug(y)), matrix(), matrix(), compile=False)
    assert not report.ok
    assert {a.check, b.check} <= set(outcomes(report, "failed", "follows")), report


@pytest.mark.parametrize(
    "name", ["1 output kept on ctx", "4 numpy in forward", "14 input kept on ctx", "17 wrong vmap rule"]
)
def test_without_its_check_a_bug_goes_unseen_so_the_check_is_what_finds_it(name, monkeypatch):
    planted = PLANTED[name]
    blind = {"leaks", "saved tensors"} if planted.check == "leaks" else {planted.check}
    kept = {check: run for check, run in check_module.CHECKS.items() if check not in blind}
    monkeypatch.setattr(check_module, "CHECKS", kept)
    assert check_op(planted.bug, *planted.inputs(), compile=False).ok


# --- gradients that differ on purpose ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BY_DESIGN)
def test_a_gradient_by_design_fails_alone_and_passes_beside_its_surrogate(name):
    fn, surrogate, inputs = BY_DESIGN[name]
    report = check_op(fn, *inputs(), compile=False)
    assert outcomes(report, "failed") == ["gradient"]
    assert "surrogate=" in report.row("gradient").fix
    report = check_op(fn, *inputs(), surrogate=surrogate, compile=False)
    assert report.ok, report
    assert set(outcomes(report, "limited")) <= {"torch only"}  # on a CPU values are looked at, to refuse NaN


def test_a_wrong_scale_fails_beside_the_surrogate():
    report = check_op(lambda x: gradient_reversal(x, scale=0.5), matrix(), surrogate=lambda x: -0.6 * x, compile=False)
    assert outcomes(report, "failed") == ["gradient"]
    assert report.row("gradient").cause == "backward is not that of the surrogate"


def test_a_constant_factor_is_named():
    report = check_op(OWN["10 wrong factor"].bug, matrix(), compile=False)
    assert report.row("gradient").cause == "backward gives 0.5 times the derivative"


def test_a_kink_is_said_to_be_one_and_a_gradient_that_is_not_finite_there_fails():
    ties = torch.zeros(3, requires_grad=True)
    assert check_op(torch.relu, ties, compile=False).row("gradient").found.endswith("which lie on a kink")
    report = check_op(lambda x: (x * x).sum().sqrt(), torch.zeros(3, requires_grad=True), compile=False)
    assert outcomes(report, "failed") == ["gradient"]


# --- rows ----------------------------------------------------------------------------------------------------------------------


def test_what_an_old_style_function_lacks_limits_it_and_is_no_failure():
    report = check_op(OldSquare.apply, matrix(), compile=False)
    assert outcomes(report, "limited") == ["vmap", "jvp", "func.grad", "func.hessian"]
    assert "to lift the limit of vmap, jvp, func.grad, func.hessian: write forward(x) without ctx" in str(report)


def test_a_function_that_returns_its_input_is_no_failure():
    class Same(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x  # torch copes: the result is a view

        @staticmethod
        def backward(ctx, grad):
            return grad

    report = check_op(Same.apply, matrix(), compile=False)
    assert report.ok, report


def test_a_check_that_does_not_apply_is_skipped_with_its_reason():
    report = check_op(torch.sin, matrix(), compile=False)
    assert {row.check: row.found for row in report.rows if row.outcome == "skipped"} == {
        "subsets": "there is one differentiable input",
        "compile": "compile=False",
        "opcheck": "not a registered operator",
    }


def test_an_operator_that_raises_is_one_failure_and_the_rest_is_skipped():
    report = check_op(lambda x: x @ x, matrix(), compile=False)
    assert outcomes(report, "failed") == ["forward"]
    assert report.row("forward").found.startswith("raises RuntimeError: ")
    assert "mat1 and mat2 shapes cannot be multiplied" in report.row("forward").found
    assert {row.outcome for row in report.rows[1:]} == {"skipped"}
    assert check_op(lambda x: 3, matrix(), compile=False).row("forward").found == "the operator returns no tensor"


def test_an_operator_without_float64_is_checked_in_its_own_dtype():
    weight = torch.randn(3, 2)
    report = check_op(lambda x: x @ weight, matrix(), compile=False)
    assert report.ok, report
    assert "gradients are checked in torch.float32" in report.row("forward").found
    wrong = check_op(lambda x: OWN["10 wrong factor"].bug(x @ weight), matrix(), compile=False)
    assert "gradient" in outcomes(wrong, "failed")


def test_keyword_tensors_and_nested_arguments_are_inputs_by_name():
    report = check_op(
        lambda x, *, y: NeedsMixedUp.apply(x, y["z"][0]), matrix(), y={"z": [matrix(1, 3)]}, compile=False
    )
    assert report.row("subsets").outcome == "failed"
    assert report.row("subsets").found.startswith("where only args[0] requires grad")


def test_parameters_of_a_module_are_inputs():
    class Wrong(nn.Linear):
        def forward(self, x):
            return x @ OWN["10 wrong factor"].bug(self.weight).T

    report = check_op(Wrong(3, 2), torch.randn(4, 3), compile=False)
    assert outcomes(report, "failed") == ["gradient"]
    assert "parameter 'weight'" in report.row("gradient").found


def test_edge_inputs_run_without_a_false_alarm():
    for x in (torch.tensor(0.3), torch.randn(0, 3), torch.randn(1), torch.randn(3, 1, 2, 1)):
        report = check_op(torch.sin, x.requires_grad_(), compile=False)
        assert report.ok, report


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex128])
def test_inputs_of_any_floating_dtype(dtype):
    assert check_op(torch.sin, matrix(dtype=dtype), compile=False).ok


LARGE = {
    "softmax": (lambda x: x.softmax(-1), lambda: (matrix(64, 64),)),
    "relu": (torch.relu, lambda: (matrix(300, 300),)),
    "matmul": (torch.matmul, lambda: (matrix(40, 30), matrix(30, 20))),
    "linear in float32 alone": (lambda x: x @ torch.ones(30, 2), lambda: (matrix(40, 30),)),
    "complex": (torch.mul, lambda: (matrix(20, 20, dtype=torch.complex64), matrix(20, dtype=torch.complex64))),
    "nn.Conv2d": (nn.Conv2d(2, 3, 3), lambda: (matrix(2, 2, 8, 8),)),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_inputs_raise_no_false_alarm(name):
    fn, inputs = LARGE[name]
    report = check_op(fn, *inputs(), compile=False)
    assert report.ok, report


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("10 wrong factor", (matrix(64, 64),)),  # the fast mode of gradcheck lets this one pass
        ("11 broadcast, mean for sum", (matrix(40, 30), matrix(1, 30))),
        ("12 complex, no conjugate", (matrix(20, 20, dtype=torch.complex64),)),
        ("2 saved intermediate", (matrix(64, 64),)),
    ],
)
def test_large_inputs_hide_no_wrong_derivative(name, inputs):
    assert outcomes(check_op(PLANTED[name].bug, *inputs, compile=False), "failed") == [PLANTED[name].check]


def test_one_wrong_element_among_thousands_is_found():
    wrong = torch.ones(64, 64)
    wrong[3, 5] = 2
    report = check_op(lambda x: x * wrong + (x - x * wrong).detach(), matrix(64, 64), compile=False)
    assert outcomes(report, "failed") == ["gradient"]


def test_compile_runs_forward_and_backward_and_says_what_it_cannot():
    assert check_op(torch.tanh, matrix()).row("compile").outcome == "passed"
    assert check_op(lambda x: gradient_reversal(x), matrix(), surrogate=torch.neg).row("compile").outcome == "passed"
    assert check_op(Square.apply, matrix()).row("compile").outcome == "limited"  # Dynamo takes no Function with a jvp
    breaks = check_op(lambda x: x * x.sum().item(), matrix().detach().requires_grad_())
    assert breaks.row("torch only").outcome == "limited"


def test_a_result_that_changes_under_compilation_is_found():
    report = check_op(lambda x: x * (2 if torch.compiler.is_compiling() else 3), matrix())
    assert outcomes(report, "failed") == ["compile"]


def test_opcheck_runs_for_a_registered_operator():
    assert check_op(twice, matrix(), compile=False).row("opcheck").outcome == "passed"
    assert check_op(twice, matrix(), compile=False).row("jvp").outcome == "limited"


# --- nothing is touched --------------------------------------------------------------------------------------------------------


def test_the_inputs_stay_as_they_are_also_where_the_operator_writes_them():
    x = matrix()
    kept, version = x.detach().clone(), x._version
    check_op(KNOWN["6 input written"].bug, x, compile=False)
    assert torch.equal(x, kept)
    assert (x._version, x.grad) == (version, None)


def test_a_module_keeps_its_parameters_statistics_and_attributes():
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    check_op(module, matrix(), compile=False)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_it_works_with_grad_mode_off_and_with_another_default_dtype():
    with torch.no_grad():
        assert check_op(torch.sin, matrix(), compile=False).ok
    torch.set_default_dtype(torch.float64)
    try:
        assert check_op(torch.sin, matrix(), compile=False).ok
    finally:
        torch.set_default_dtype(torch.float32)


# --- report, messages, command line --------------------------------------------------------------------------


def test_the_report_prints_serialises_and_serves_as_an_assertion():
    report = check_op(OWN["10 wrong factor"].bug, matrix(), compile=False)
    text = str(report)
    assert text.startswith("WrongFactor.apply is wrong: 1 failed, ")
    assert "gradient failed: for args[0], against finite differences: got " in text
    assert "  cause: backward gives 0.5 times the derivative\n  fix: correct backward; if the gradient is meant" in text
    data = json.loads(report.to_json())
    assert data["ok"] is False
    assert [row["check"] for row in data["rows"] if row["outcome"] == "failed"] == ["gradient"]
    assert "<table>" in report._repr_html_()
    for message in (report, text):
        with pytest.raises(AssertionError, match=r"gradient failed: (.|\n)*0\.5 times the derivative"):
            assert report.ok, message
    assert isinstance(report, OpReport)
    with pytest.raises(KeyError) as caught:
        report.row("gradients")
    assert caught.value.args[0] == "no check 'gradients'; did you mean 'gradient'?"


MISTAKES = [
    (lambda: check_op(3, matrix()), TypeError, "fn must be a function of tensors, got int"),
    (lambda: check_op(torch.sin, matrix(), surrogate=1), TypeError, "surrogate must be a function of tensors, got int"),
    (lambda: check_op(nn.Linear, matrix()), TypeError,
     "fn must be a function of tensors, got the class Linear; pass an instance, Linear(...)"),
    (lambda: check_op(Square, matrix()), TypeError,
     "fn must be a function of tensors, got the class Square; pass Square.apply"),
    (lambda: check_op(nn.LazyLinear(2), matrix()), ValueError,
     "fn must have all its parameters, got 'weight' without a shape; run the module once first"),
    (lambda: check_op(torch.sin, torch.tensor([1.0, math.nan], requires_grad=True)), ValueError,
     "args[0] must hold finite numbers, where derivatives can be compared, got NaN or infinity"),
    (lambda: check_op(torch.sin, torch.ones(2, device="meta", requires_grad=True)), ValueError,
     "args[0] must hold numbers, got one on the meta device; make one with torch.randn(4, 3)"),
    (lambda: check_op(torch.neg, torch.eye(2).to_sparse().requires_grad_()), ValueError,
     "args[0] must be a dense tensor, got sparse_coo; check lambda x: op(x.to_sparse())"),
    (lambda: check_op(torch.round, matrix(), surrogate=lambda x: x[:2], compile=False), ValueError,
     "surrogate must give tensors of the shapes that fn gives, [(4, 3)], got [(2, 3)]"),
    (lambda: check_op(torch.round, matrix(), surrogate=lambda x: 1 / 0, compile=False), ValueError,
     "surrogate must run on the arguments of fn, got ZeroDivisionError: division by zero"),
    (lambda: check_op(torch.sin, torch.zeros(2), 3), ValueError,
     "check_op needs at least one tensor that requires grad among the arguments of fn, got f32[2], int; "
     "make one with torch.randn(4, 3, requires_grad=True)"),
    (lambda: check_op(torch.sin), ValueError,
     "check_op needs at least one tensor that requires grad among the arguments of fn, got none; "
     "make one with torch.randn(4, 3, requires_grad=True)"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), MISTAKES)
def test_messages(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_the_command_checks_what_it_names(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_ops_to_check.py").write_text(
        "import torch\n"
        "def outer(x, y):\n    return x[:, None] * y\n"
        "def hard(x):\n    return x + (x.round() - x).detach()\n"
        "def same(x):\n    return x\n"
        "def inputs():\n    return torch.rand(2, 3, requires_grad=True)\n"
        "class Wrong(torch.autograd.Function):\n"
        "    @staticmethod\n    def forward(ctx, x):\n        return 2 * x\n"
        "    @staticmethod\n    def backward(ctx, grad):\n        return grad\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    fast = "--no-compile"
    assert cli.run(["check-op", "my_ops_to_check:outer", "--input", "3", "--input", "2", fast]) == 0
    assert capsys.readouterr().out.startswith("outer is right as far as ")
    assert cli.run(["check-op", "my_ops_to_check:hard", "--inputs-from", "my_ops_to_check:inputs", fast]) == 1
    assert "surrogate=" in capsys.readouterr().out
    assert cli.run(["check-op", "my_ops_to_check:hard", "--surrogate", "my_ops_to_check:same", fast]) == 0
    capsys.readouterr()
    assert cli.run(["check-op", "my_ops_to_check:Wrong", "--json", fast]) == 1
    assert json.loads(capsys.readouterr().out)["op"] == "Wrong.apply"
    assert cli.run(["check-op", "my_ops_to_check:Wrong", "--input", "x"]) == 2
    assert (
        capsys.readouterr().err
        == "linkboy: an input must be sizes with commas between them, such as 2,3,224,224 or 2,16:int64, got 'x'\n"
    )


# --- linearity, demoted gradients, kinks, containers ---------------------------------------------------------------------------


def identity_with(change):
    """The identity, whose backward is `change` of the incoming gradient."""

    class Changed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, grad):
            return change(grad)

    return Changed.apply


NOT_LINEAR = {
    "clipped": lambda g: g.clamp(-1, 1),
    "normalised": lambda g: g / (g.norm() + 1e-12),
    "of one size": lambda g: g.clamp(-0.01, 0.01) * 100,
    "absolute": torch.abs,
    "sign": torch.sign,
    "small dropped": lambda g: torch.where(g.abs() < 1e-2, 0.0, g),
    "large saturated": lambda g: 50 * torch.tanh(g / 50),
    "shifted": lambda g: g + 1e-3,
    "squared": lambda g: g * g.abs(),
    "positive only": torch.relu,
    "largest only": lambda g: torch.where(g.abs() == g.abs().amax(), g, 0.0),
}


@pytest.mark.parametrize("name", NOT_LINEAR)
@pytest.mark.parametrize("shape", [(2,), (4, 3)])
def test_a_backward_that_is_not_linear_in_the_incoming_gradient_is_found(name, shape):
    report = check_op(identity_with(NOT_LINEAR[name]), matrix(*shape), compile=False)
    assert "linearity" in outcomes(report, "failed"), report


WITHOUT_SLOPE = {
    "sum of a softmax": lambda x: x.softmax(-1).sum(-1),
    "sum of log-probabilities": lambda x: x.log_softmax(-1).exp().sum(-1),
    "sum of a layer norm": lambda x: F.layer_norm(x, x.shape[-1:]).sum(-1),
    "sum of the centred": lambda x: (x - x.mean(-1, keepdim=True)).sum(-1),
    "norm of the normalised": lambda x: F.normalize(x, dim=-1).norm(dim=-1),
    "cosine of itself": lambda x: F.cosine_similarity(x, 2 * x, -1),
    "sine and cosine": lambda x: x.sin() ** 2 + x.cos() ** 2,
    "quotient of itself": lambda x: x / x,
}


@pytest.mark.parametrize("name", WITHOUT_SLOPE)
@pytest.mark.parametrize("shape", [(1, 3), (4, 3)])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_a_gradient_that_is_zero_but_for_rounding_is_linear(name, shape, size):
    for dtype in (torch.float64, torch.float32):
        report = check_op(WITHOUT_SLOPE[name], size * matrix(*shape).to(dtype), compile=False)
        assert report.row("linearity").outcome == "passed", report


def test_a_backward_that_bounds_the_gradient_on_purpose_passes_beside_its_surrogate():
    bounded = identity_with(NOT_LINEAR["clipped"])
    report = check_op(bounded, matrix(), surrogate=identity_with(NOT_LINEAR["clipped"]), compile=False)
    assert report.row("linearity").outcome == "passed", report


def wrong_sine(*, numpy=False, single=False, mutate=False):
    """-3 times the derivative, behind another fault."""

    class Sine(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x.clone())
            if mutate:
                x.detach().mul_(1.0)
            y = torch.from_numpy(np.sin(x.detach().numpy())) if numpy else x.sin()
            return y.float() if single else y

        @staticmethod
        def backward(ctx, grad):
            return (-3 * grad * ctx.saved_tensors[0].cos()).to(ctx.saved_tensors[0].dtype)

    return Sine.apply


@pytest.mark.parametrize(
    ("options", "other"),
    [({"numpy": True}, "torch only"), ({"single": True}, "dtypes"), ({"mutate": True}, "mutation")],
)
def test_a_wrong_gradient_behind_another_fault_is_a_failure_of_its_own(options, other):
    report = check_op(wrong_sine(**options), matrix(), compile=False)
    assert {"gradient", other} <= set(outcomes(report, "failed")), report
    assert report.row("gradient").cause == "backward gives -3 times the derivative"


def zeros(*shape):
    return torch.zeros(shape or (4, 3), requires_grad=True)


def with_a_zero_row():
    return torch.tensor([[0.0, 0, 0], [1, 2, 3], [-1, 0.5, 2]], requires_grad=True)


AT_ZERO = {
    "norm": (lambda x: x.norm(dim=-1), zeros),
    "norm of all": (lambda x: x.norm(), zeros),
    "norm 1": (lambda x: torch.linalg.vector_norm(x, 1), zeros),
    "largest norm": (lambda x: torch.linalg.vector_norm(x, torch.inf), zeros),
    "sqrt": (torch.sqrt, zeros),
    "pow": (lambda x: torch.pow(x, torch.full((4, 3), 2.0, requires_grad=True)), zeros),
    "power 1.5": (lambda x: x**1.5, zeros),
    "power 3": (lambda x: x**3, zeros),
    "abs": (torch.abs, zeros),
    "relu": (torch.relu, zeros),
    "leaky_relu": (torch.nn.functional.leaky_relu, zeros),
    "elu": (torch.nn.functional.elu, zeros),
    "hardtanh": (torch.nn.functional.hardtanh, zeros),
    "amax": (lambda x: x.amax(1), zeros),
    "max": (lambda x: x.max(1)[0], zeros),
    "sort": (lambda x: x.sort(1)[0], zeros),
    "clamp": (lambda x: x.clamp(min=0), zeros),
    "normalize": (torch.nn.functional.normalize, zeros),
    "std": (lambda x: x.std(1), zeros),
    "sinc": (torch.sinc, zeros),
    "prod": (lambda x: x.prod(1), zeros),
    "fmod": (lambda x: torch.fmod(x, 1.0), zeros),
    "sgn": (lambda x: torch.sgn(x) * x, zeros),
    "cosine_similarity": (
        lambda x: torch.nn.functional.cosine_similarity(x, torch.tensor([1.0, -2.0, 0.5]).to(x)),
        with_a_zero_row,
    ),
    "layer_norm": (lambda x: torch.nn.functional.layer_norm(x, (3,)), with_a_zero_row),
}
TWO_AT_ZERO = {
    "atan2": torch.atan2,
    "maximum": torch.maximum,
    "smooth_l1_loss": torch.nn.functional.smooth_l1_loss,
    "l1_loss": torch.nn.functional.l1_loss,
    "pairwise_distance": lambda a, b: torch.nn.functional.pairwise_distance(a[None], b[None]),
}


@pytest.mark.parametrize("name", AT_ZERO)
def test_a_kink_of_torch_at_zero_is_no_fault(name):
    fn, inputs = AT_ZERO[name]
    report = check_op(fn, inputs(), compile=False)
    assert report.ok, report


@pytest.mark.parametrize("name", TWO_AT_ZERO)
def test_a_kink_of_two_inputs_at_zero_is_no_fault(name):
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 8) and name in ("atan2", "smooth_l1_loss"):
        pytest.skip("before torch 2.8 atan2 gives NaN at zero, and smooth_l1_loss has no gradient in half precision")
    report = check_op(TWO_AT_ZERO[name], zeros(4), zeros(4), compile=False)
    assert report.ok, report


def test_a_wrong_second_derivative_is_found_at_zero_too():
    planted = next(planted for name, planted in PLANTED.items() if planted.check == "second order")
    report = check_op(planted.bug, zeros(), compile=False)
    assert not report.ok


@dataclasses.dataclass
class Pair:
    left: torch.Tensor
    right: torch.Tensor


def test_tensors_in_mappings_and_dataclasses_are_differentiated():
    product = lambda pair: pair.left * pair.right  # noqa: E731
    assert check_op(product, Pair(matrix(), matrix()), compile=False).ok
    assert check_op(lambda batch: batch["x"].sin(), collections.UserDict(x=matrix(), words=["a"]), compile=False).ok
    wrong = check_op(lambda batch: wrong_sine()(batch["x"]), collections.UserDict(x=matrix()), compile=False)
    assert "gradient" in outcomes(wrong, "failed")
    assert "args[0].x" in wrong.row("gradient").found


# --- forms of an operator that are right, or right but for one use -------------------------------------------------------------


def function(forward, backward, **more):
    """Make an autograd.Function of its parts; `setup_context` among them makes it one of the new style."""
    parts = {"forward": forward, "backward": backward} | {name: part for name, part in more.items() if callable(part)}
    statics = {name: staticmethod(part) for name, part in parts.items()}
    rest = {name: part for name, part in more.items() if not callable(part)}
    return type("Made", (torch.autograd.Function,), statics | rest).apply


def product(ctx, x, y):
    ctx.save_for_backward(x, y)
    return x * y


def test_saved_tensors_read_twice_are_a_limit_of_checkpointing():
    op = function(product, lambda ctx, grad: (grad * ctx.saved_tensors[1], grad * ctx.saved_tensors[0]))
    report = check_op(op, matrix(4, 3), matrix(4, 3), compile=False)
    assert report.ok, report
    row = next(row for row in report.rows if row.check == "checkpointing")
    assert row.outcome == "limited"
    assert row.fix == "read it once: x, y = ctx.saved_tensors"
    wrong = function(product, lambda ctx, grad: (grad * ctx.saved_tensors[0], grad * ctx.saved_tensors[1]))
    assert outcomes(check_op(wrong, matrix(4, 3), 2 * matrix(4, 3), compile=False), "failed") == ["gradient"]


def test_an_output_that_is_not_differentiable_may_have_a_dtype_of_its_own():
    def forward(ctx, x):
        mask = (x > 0).float()
        ctx.mark_non_differentiable(mask)
        return x * 2, mask

    report = check_op(function(forward, lambda ctx, grad, _: grad * 2), matrix(4, 3), compile=False)
    assert report.ok, report
    fixed = check_op(function(lambda ctx, x: x.float() * 2, lambda ctx, grad: grad * 2), matrix(4, 3), compile=False)
    assert outcomes(fixed, "failed")[0] == "dtypes"


def test_a_vmap_rule_that_raises_is_a_failure():
    def save(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    def backward(ctx, grad):
        x, y = ctx.saved_tensors
        return grad * y, grad * x

    def rule(info, in_dims, x, y):  # takes the batch for the first dimension, wherever it is
        x = x if in_dims[0] is not None else x[None]
        return x * (y if in_dims[1] is not None else y[None]), 0

    op = function(lambda x, y: x * y, backward, setup_context=save, vmap=rule)
    report = check_op(op, matrix(4, 3), matrix(4, 3), compile=False)
    assert outcomes(report, "failed") == ["vmap"]
    found = "over the last dimension of one input, the vmap rule raises RuntimeError: The size of tensor a"
    assert report.failures[0].found.startswith(found)
    assert report.failures[0].fix


@pytest.mark.parametrize(
    ("forward", "backward", "cause"),
    [
        (lambda ctx, x: x * 2, lambda ctx, grad: 2.0, "backward returns something that is not a tensor"),
        (lambda ctx, x: x * 1j, lambda ctx, grad: grad * -1j, "the gradient of a real input is complex"),
        (product, lambda ctx, grad: [grad, grad], "backward does not return one value per argument of forward"),
    ],
    ids=["a number", "complex", "a list"],
)
def test_what_backward_must_not_return_is_explained(forward, backward, cause):
    inputs = [matrix(4, 3)] * (2 if forward is product else 1)
    failure = check_op(function(forward, backward), *inputs, compile=False).failures[0]
    assert failure.check == "backward"
    assert failure.cause == cause
    assert failure.fix


def test_a_factor_is_a_plain_number_where_it_is_real():
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z.abs()

    z = torch.randn(4, 3, dtype=torch.complex64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    twice_too_much = function(forward, lambda ctx, grad: 2 * grad * ctx.saved_tensors[0].sgn())
    assert check_op(twice_too_much, z, compile=False).failures[0].cause == "backward gives 2 times the derivative"
    nothing = function(product, lambda ctx, grad: (None, None))
    report = check_op(nothing, matrix(4, 3), matrix(4, 3), compile=False)
    assert report.failures[0].cause == "backward gives 0 times the derivative"


# --- several outputs, ends of domains, numbers that are none ---


def rows(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), requires_grad=True)


SEVERAL_OUTPUTS = {
    "each of its own input": lambda a, b: (a.sin(), b.cos()),
    "an input as it is": lambda a, b: {"doubled": a * 2, "same": [b]},
    "one of both": lambda a, b: (a.sin(), a * b[0], b * 2),
    "one that is cut off": lambda a, b: (a.detach(), b.sin(), a.cos()),
    "one that is an integer": lambda a, b: (a.argmax(-1), b.sin(), a.cos()),
    "a grid": lambda a, b: torch.meshgrid(a[:, 0], b, indexing="ij"),
}


@pytest.mark.parametrize("name", SEVERAL_OUTPUTS)
def test_outputs_may_depend_on_some_of_the_inputs_each(name):
    report = check_op(SEVERAL_OUTPUTS[name], rows(4, 3), rows(2), compile=False)
    assert report.ok, str(report)


class OneOrBoth(torch.autograd.Function):
    """Two outputs of two inputs, whose first gradient is wrong where the second input requires none."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a.sin(), b.sin()

    @staticmethod
    def backward(ctx, grad_a, grad_b):
        a, b = ctx.saved_tensors
        return grad_a * a.cos() * (1 if ctx.needs_input_grad[1] else 2), grad_b * b.cos()


def test_a_gradient_that_depends_on_who_asks_is_found_behind_several_outputs():
    report = check_op(OneOrBoth.apply, rows(4, 3), rows(2), compile=False)
    assert outcomes(report, "failed") == ["subsets"]


def probabilities(x):
    if ((x < 0) | (x > 1)).any():
        raise ValueError("not from 0 to 1")
    return x * x


AT_THE_END = {  # a function, its inputs at the ends of what it takes
    "acos": (torch.acos, [1.0, 0.5, -1.0]),
    "asin of what is clamped": (lambda x: torch.asin(x.clamp(-1, 1)), [1.0, 0.5, -1.0]),
    "logit": (torch.logit, [0.0, 1.0, 0.5]),
    "binary_cross_entropy": (
        lambda x: torch.nn.functional.binary_cross_entropy(x, torch.full_like(x, 0.5)), [0.0, 1.0, 0.5],
    ),
    "a check of the arguments": (probabilities, [0.0, 1.0, 0.5]),
}  # fmt: skip


@pytest.mark.parametrize("name", AT_THE_END)
def test_the_end_of_a_domain_is_no_fault(name):
    fn, numbers = AT_THE_END[name]
    report = check_op(fn, torch.tensor(numbers, requires_grad=True), compile=False)
    assert report.ok, str(report)
    assert report.row("gradient").found.startswith("beside the inputs given")


def test_a_wrong_gradient_at_the_end_of_a_domain_is_found():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return probabilities(x)

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.saved_tensors[0]

    report = check_op(Square.apply, torch.tensor([0.0, 1.0, 0.5], requires_grad=True), compile=False)
    assert report.row("gradient").cause == "backward gives 0.5 times the derivative"


def test_a_domain_without_an_inside_is_skipped_with_what_was_raised():
    def only_here(x):
        if not torch.equal(x.round(), x):
            raise ValueError("not a whole number")
        return x * 2

    report = check_op(only_here, torch.tensor([1.0, 2.0], requires_grad=True), compile=False)
    assert report.row("gradient").outcome == "skipped"
    assert report.row("gradient").found == "a step beside the inputs it raises ValueError: not a whole number"


@pytest.mark.parametrize(
    ("fn", "numbers", "found"),
    [
        (lambda x: torch.where(x > 0, x.log(), 0 * x), [0.0, 0.5, -1.0], "for args[0]: NaN in 1 of 3 numbers"),
        (lambda x: x / x.norm(), [0.0, 0.0], "for args[0]: NaN in 2 of 2 numbers"),
        (lambda x: torch.hypot(x, x), [0.0, 1.0], "for args[0]: NaN in 1 of 2 numbers"),
    ],
)
def test_a_gradient_of_nan_is_explained(fn, numbers, found):
    row = check_op(fn, torch.tensor(numbers, requires_grad=True), compile=False).row("gradient")
    assert (row.outcome, row.found) == ("failed", found)
    assert row.cause == (
        "0 times infinity or 0 / 0 on the way, often where a result is not used: torch.where lets what it leaves out reach "
        "backward"
    )
    assert row.fix == "give the operation a harmless input there: torch.where or clamp in front of it, too"


def test_what_the_fix_of_nan_says_passes():
    def repaired(x):
        positive = x > 0
        return torch.where(positive, torch.where(positive, x, 1.0).log(), 0 * x)

    assert check_op(repaired, torch.tensor([0.25, 0.5, -1.0], requires_grad=True), compile=False).ok


def test_a_constant_of_one_dtype_that_only_backward_refuses_is_named():
    report = check_op(lambda x: torch.nn.functional.huber_loss(x, torch.zeros(4, 3)), rows(4, 3), compile=False)
    assert outcomes(report, "failed") == ["dtypes"]
    assert report.row("dtypes").cause == "two dtypes meet in backward, such as that of a constant made without dtype="
    assert report.row("gradient").outcome == "passed"


def test_equal_rows_that_make_a_matrix_singular_are_no_other_layout():
    assert check_op(torch.linalg.slogdet, rows(3, 3), compile=False).ok
