"""One call that checks an operator from every side, and says what is wrong with it."""

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from linkboy._random import same_random_numbers
from linkboy._untouched import untouched
from linkboy.autograd import _backward, _compile, _forward, _lifetime, _transforms
from linkboy.autograd._explain import explain
from linkboy.autograd._finite import is_mismatch
from linkboy.autograd._inputs import check_callable, check_inputs, check_surrogate
from linkboy.autograd._trial import BESIDE as ATTEMPTS
from linkboy.autograd._trial import Trial, global_state_kept, said
from linkboy.autograd._verdict import Verdict, failed, passed
from linkboy.autograd.report import OpReport, OpRow

Check = Callable[[Trial], Verdict]
CHECKS: dict[str, Check] = {  # from cheap to expensive; each name is that of the row
    "forward": _forward.forward,
    "mutation": _forward.mutation,
    "global state": _forward.global_state,
    "random numbers": _forward.random_numbers,
    "backward": _backward.backward,
    "repeated calls": _forward.repeated_calls,
    "torch only": _forward.torch_only,
    "dtypes": _forward.dtypes,
    "leaks": _lifetime.leaks,
    "saved tensors": _lifetime.saved_tensors,
    "backward twice": _backward.backward_twice,
    "incoming gradient": _backward.incoming_gradient,
    "missing gradient": _backward.missing_gradient,
    "subsets": _backward.subsets,
    "checkpointing": _backward.checkpointing,
    "layouts": _forward.layouts,
    "sizes": _forward.sizes,
    "linearity": _backward.linearity,
    "gradient": _backward.gradient,
    "second order": _backward.second_order,
    "vmap": _transforms.vmap,
    "jvp": _transforms.jvp,
    "func.grad": _transforms.func_grad,
    "func.hessian": _transforms.hessian,
    "autocast": _transforms.autocast,
    "compile": _compile.compiled,
}
ALL = tuple(CHECKS)
BESIDE = ("second order", "jvp", "func.grad", "func.hessian")  # checks that a kink of the function may fail
DERIVATIVES = ("gradient", "second order", "jvp", "func.grad", "func.hessian")
FOLLOWERS: dict[str, tuple[str, ...]] = {  # a failure of the first explains failures of the rest
    "mutation": ALL,
    "global state": ALL,
    "backward": ALL,
    "random numbers": ("repeated calls",),
    "repeated calls": ALL,
    "torch only": ("vmap", "compile", *DERIVATIVES),
    "dtypes": ("compile", *DERIVATIVES),
    "leaks": ("saved tensors",),
    "backward twice": DERIVATIVES,
    "incoming gradient": DERIVATIVES,
    "missing gradient": DERIVATIVES,
    "linearity": ("second order", "jvp", "func.grad", "func.hessian", "compile"),
    "layouts": ("vmap",),
    "gradient": DERIVATIVES,
    "jvp": DERIVATIVES,
}


def check_op(
    fn: Callable[..., Any], *args: Any, surrogate: Callable[..., Any] | None = None, compile: bool = True, **kwargs: Any
) -> OpReport:
    """Check an operator: forward, backward, memory, dtypes, layouts, transforms and compilation, a row for each.

    Works on anything that maps tensors to tensors: an `autograd.Function`'s `apply`, a function, a module (its
    parameters are checked as well), a `torch.library.custom_op`. The operator is called some hundred times on copies of
    `args`, and on parts of them and the same values in another order: a few dozen elements are enough, at least two
    dimensions show more than one. It never raises for an operator that is wrong: in a test write
    `assert report.ok, str(report)`.

    Where gradients are compared with finite differences they run in float64. At a kink, where those say nothing, the
    inputs are moved by one percent, or from 0 by up to 0.15, and the row says so. Random generators, grad mode and default
    dtype are unchanged.

    Args:
        fn: the operator.
        args: its arguments, tensors also nested in lists, tuples and dicts. Those with `requires_grad` are
            differentiated; they are not changed.
        surrogate: for a gradient that differs from the derivative on purpose: a function of the same arguments whose
            derivatives are the ones wanted, such as `lambda x: x` for a straight-through operator.
        compile: whether to compile as well, which takes some seconds.
        kwargs: keyword arguments of `fn`.

    Returns:
        An `OpReport`: `ok`, `failures` and `rows`, each with what was found, the likely cause and the fix.

    Raises:
        TypeError: `fn` or `surrogate` cannot be called, or is a class.
        ValueError: no argument or parameter is a tensor that requires grad, one is not dense or not finite, or on the meta
            device, or `surrogate` raises or gives other shapes.

    Examples:
        >>> import torch
        >>> x = torch.tensor([[0.3, -0.7], [1.2, 0.4]], requires_grad=True)
        >>> check_op(torch.tanh, x, compile=False).ok
        True
        >>> check_op(lambda x: x + (x.round() - x).detach(), x, compile=False).failures[0].check
        'gradient'
        >>> check_op(lambda x: x + (x.round() - x).detach(), x, surrogate=lambda x: x, compile=False).ok
        True
    """
    check_callable(fn, surrogate)
    trial = Trial(fn, args, kwargs, surrogate)
    check_inputs(trial, (args, kwargs))
    module = fn if isinstance(fn, nn.Module) else nn.Module()
    with warnings.catch_warnings(), same_random_numbers(), untouched(module), torch.enable_grad():
        warnings.simplefilter("ignore")  # warnings of torch itself about rare features
        with global_state_kept():
            check_surrogate(trial)
        rows = _run(trial, fn, compile=compile)
    return OpReport(_name_of(fn), not any(row.outcome == "failed" for row in rows), tuple(_with_followers(rows)))


def _run(trial: Trial, fn: object, *, compile: bool) -> list[OpRow]:
    checks = CHECKS | {"opcheck": functools.partial(_compile.opcheck, fn=fn)}
    rows: list[OpRow] = []
    for name, check in checks.items():
        if rows and rows[0].outcome == "failed":
            rows.append(OpRow(name, "skipped", "the forward pass fails"))
        elif name == "compile" and not compile:
            rows.append(OpRow(name, "skipped", "compile=False"))
        else:
            with global_state_kept():
                rows.append(_row(name, check, trial))
    return rows


def _row(name: str, check: Check, trial: Trial) -> OpRow:
    verdict = _verdict(check, trial)
    if (
        verdict.outcome == "failed"
        and name in BESIDE
        and any(_verdict(check, trial.beside(attempt)).outcome == "passed" for attempt in ATTEMPTS)
    ):
        verdict = passed(_backward.ON_A_KINK)
    return OpRow(name, verdict.outcome, verdict.found, verdict.cause, verdict.fix)


def _verdict(check: Check, trial: Trial) -> Verdict:
    try:
        return check(trial)
    except Exception as error:  # noqa: BLE001 - an operator under test may raise anything
        return failed(f"raises {said(error)}", *explain(error))


def _with_followers(rows: list[OpRow]) -> list[OpRow]:
    """Mark the failures that an earlier one explains: by what it breaks, or by the same cause or exception."""
    marked: list[OpRow] = []
    for row in rows:
        roots = [other.check for other in marked if other.outcome == "failed" and _explains(other, row)]
        if row.outcome == "failed" and roots:
            row = dataclasses.replace(row, outcome="follows", found=f"see {roots[0]}: {row.found}")
        marked.append(row)
    return marked


def _explains(earlier: OpRow, later: OpRow) -> bool:
    if later.check == "gradient" and is_mismatch(later.found):
        # A wrong number, whatever else is wrong; but where no graph is, or each call gives another result, nothing is said.
        factor = later.cause.endswith("times the derivative")
        return earlier.check == "backward" or (earlier.check == "repeated calls" and not factor)
    same = (earlier.cause and earlier.cause == later.cause) or earlier.found.endswith(
        later.found.removeprefix("raises ")
    )
    return later.check in FOLLOWERS.get(earlier.check, ()) or bool(same)


def _name_of(fn: object) -> str:
    owner = getattr(fn, "__self__", None)
    name = str(getattr(fn, "__name__", type(fn).__name__))
    return f"{owner.__name__}.{name}" if isinstance(owner, type) and name == "apply" else name
