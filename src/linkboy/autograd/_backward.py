"""Checks of the gradient: its number, and what it does with every incoming gradient torch may hand it."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.gradcheck import GradcheckError
from torch.utils.checkpoint import checkpoint

from linkboy.autograd._explain import explain
from linkboy.autograd._forward import expanded, strided, transposed
from linkboy.autograd._trial import (
    WIDE,
    Trial,
    cotangents,
    difference,
    differentiable,
    functions_behind,
    gradients,
    said,
)
from linkboy.autograd.report import OpRow

EXACT_UP_TO = 64  # elements; above, gradcheck compares random projections of the Jacobian
ON_PURPOSE = "mend backward; if the gradient is meant to be another, pass surrogate=, the function whose gradient it is"


def backward(trial: Trial) -> OpRow:
    leaves = trial.fresh()
    outputs = trial.call(leaves)
    if not differentiable(outputs):
        return OpRow(
            "backward", "failed", "no output leads back to an input that requires grad",
            "the graph is cut: .detach(), torch.no_grad(), numpy, or an integer result",
            "keep the result a function of the input in torch's eyes",
        )  # fmt: skip
    gradients(outputs, trial.inputs(leaves))
    return OpRow("backward", "passed")


def gradient(trial: Trial) -> OpRow:
    leaves = trial.fresh()
    if trial.surrogate is not None:
        return _beside_surrogate(trial, "gradient", _first_order)
    error = _gradcheck(trial, leaves)
    if error is None:
        return OpRow("gradient", "passed", "" if trial.dtype == WIDE else f"in {trial.dtype} only")
    if isinstance(error, GradcheckError) and "reentrant" not in str(error):
        if _finite_gradient(trial) and any(_gradcheck(trial, _beside(trial, attempt)) is None for attempt in (1, 2)):
            return OpRow("gradient", "passed", "one percent beside the inputs given, which lie on a kink")
        return _mismatch(trial)
    raise error


def _gradcheck(trial: Trial, leaves: list, check: Callable[..., bool] = torch.autograd.gradcheck) -> Exception | None:
    inputs = trial.inputs(leaves)
    single = {} if trial.dtype == WIDE else {"eps": 1e-2, "atol": 5e-2, "rtol": 5e-2}
    size = sum(x.numel() for x in inputs)
    if check is torch.autograd.gradcheck:
        single |= {"check_undefined_grad": False, "check_batched_grad": False}
    try:
        check(trial.of_inputs(leaves), inputs, fast_mode=size > EXACT_UP_TO, **single)
    except Exception as error:  # noqa: BLE001 - told in a row
        return error
    return None


def _beside(trial: Trial, attempt: int) -> list:
    def move(i: int, x: Tensor) -> Tensor:
        if i not in trial.diff:
            return x
        generator = torch.Generator().manual_seed(attempt)
        noise = torch.rand(x.shape, generator=generator, dtype=WIDE).to(x.device, x.dtype) + 0.5
        return x + 0.01 * noise * (x.abs() + 0.1)

    return trial.fresh(change=move)


def _finite_gradient(trial: Trial) -> bool:
    leaves = trial.fresh()
    return all(g is None or bool(g.isfinite().all()) for g in gradients(trial.call(leaves), trial.inputs(leaves)))


def _mismatch(trial: Trial) -> OpRow:
    leaves = trial.fresh()
    function, inputs = trial.of_inputs(leaves), trial.inputs(leaves)
    for place in range(len(inputs)):
        analytic, numeric = _slope(trial, leaves, place), _numeric_slope(function, inputs, place, trial.dtype)
        found = difference([analytic], [numeric], 1e-4 if trial.dtype == WIDE else 5e-2)
        if found:
            ratios = (analytic / numeric)[numeric.abs() > 1e-3 * numeric.abs().max().clamp(min=1e-3)]
            constant = ratios.numel() and bool(torch.isclose(ratios, ratios[0], rtol=1e-3).all())
            factor = (
                f"backward gives {ratios[0].item():.4g} times the derivative"
                if constant
                else "backward is not the derivative"
            )
            name = trial.names[trial.diff[place]]
            return OpRow("gradient", "failed", f"for {name}, against finite differences: {found}", factor, ON_PURPOSE)
    return OpRow(
        "gradient", "failed", "gradcheck finds another Jacobian than finite differences", "backward is not the derivative",
        ON_PURPOSE,
    )  # fmt: skip


def _slope(trial: Trial, leaves: list, place: int) -> Tensor:
    outputs = trial.of_inputs(leaves)(*trial.inputs(leaves))
    found = gradients(outputs, trial.inputs(leaves), cotangents(differentiable(outputs)))[place]
    return torch.zeros_like(trial.inputs(leaves)[place]) if found is None else found


def _numeric_slope(
    function: Callable[..., Sequence[Tensor]], inputs: list[Tensor], place: int, dtype: torch.dtype
) -> Tensor:
    """Return the derivative of the outputs, weighed as in `_slope`, by central differences."""
    eps = 1e-6 if dtype == WIDE else 1e-2
    weights = cotangents(differentiable(function(*inputs)))
    x = inputs[place].detach()
    slope = torch.zeros_like(x)
    turns = (1, 1j) if x.is_complex() else (1,)

    def total(at: Tensor) -> Tensor:
        outputs = differentiable(function(*inputs[:place], at.requires_grad_(), *inputs[place + 1 :]))
        return sum((w.conj() * y).real.sum() for w, y in zip(weights, outputs, strict=True)).detach()  # pyright: ignore

    for k, turn in itertools.product(range(x.numel()), turns):
        step = torch.zeros(x.numel(), dtype=x.dtype, device=x.device)
        step[k] = eps
        step = turn * step.reshape(x.shape)
        slope += step / eps**2 * (total(x + step) - total(x - step)) / 2
    return slope


def _first_order(trial: Trial, fn: Callable[..., object] | None) -> list[Tensor | None]:
    leaves = trial.fresh()
    return gradients(trial.call(leaves, fn), trial.inputs(leaves))


def _second_order(trial: Trial, fn: Callable[..., object] | None) -> list[Tensor | None]:
    """Return the derivative of the gradient by the inputs and by the incoming gradient."""
    leaves = trial.fresh()
    outputs = differentiable(trial.call(leaves, fn))
    incoming = [g.requires_grad_() for g in cotangents(outputs)]
    first = [g for g in gradients(outputs, trial.inputs(leaves), incoming, create_graph=True) if g is not None]
    return gradients(first, [*trial.inputs(leaves), *incoming], cotangents(differentiable(first), 2))


def _beside_surrogate(trial: Trial, name: str, order: Callable[..., list[Tensor | None]]) -> OpRow:
    expected = order(trial, trial.surrogate)
    got = order(trial, None)
    if len(got) != len(expected):
        raise ValueError(f"surrogate must give as many differentiable outputs as the operator, got {len(expected)}")
    found = difference(got, expected, trial.tolerance)
    if found:
        return OpRow(
            name, "failed", f"against the surrogate: {found}", "backward is not that of the surrogate",
            "mend backward, or the surrogate",
        )  # fmt: skip
    return OpRow(name, "passed", "that of the surrogate")


def second_order(trial: Trial) -> OpRow:
    if any(_declared_once(ctx) for ctx in functions_behind(trial.call(trial.fresh()))):
        return OpRow(
            "second order", "limited", "backward is declared once_differentiable", "",
            "nothing, unless second derivatives are wanted: then write backward in torch operations",
        )  # fmt: skip
    try:
        if trial.surrogate is not None:
            return _beside_surrogate(trial, "second order", _second_order)
        error = _gradcheck(trial, trial.fresh(), torch.autograd.gradgradcheck)
        if isinstance(error, GradcheckError) and any(
            _gradcheck(trial, _beside(trial, attempt), torch.autograd.gradgradcheck) is None for attempt in (1, 2)
        ):
            return OpRow("second order", "passed", "one percent beside the inputs given, which lie on a kink")
        if error is not None:
            raise error
    except GradcheckError:
        return OpRow(
            "second order", "failed", "the derivative of the gradient is not what finite differences of the gradient give",
            "backward uses a tensor whose own dependence on the inputs is lost, such as a saved intermediate result",
            "save inputs and outputs only and compute the rest in backward, or mark backward once_differentiable",
        )  # fmt: skip
    except (RuntimeError, NotImplementedError) as error:
        if "is not implemented" in str(error):
            return OpRow("second order", "limited", said(error), *explain(error))
        raise
    return OpRow("second order", "passed", "" if trial.dtype == WIDE else f"in {trial.dtype} only")


def _declared_once(ctx: BackwardCFunction) -> bool:
    # The wrapper cannot be told by what it raises: where the incoming gradient does not require grad it gives zeros.
    written = getattr(type(ctx), "_forward_cls", ctx).backward  # pyright: ignore[reportAttributeAccessIssue]
    return hasattr(written, "__wrapped__") and written.__code__.co_filename == torch.autograd.function.__file__


def incoming_gradient(trial: Trial) -> OpRow:
    leaves = trial.fresh()
    ends = differentiable(trial.call(leaves))
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "plain": lambda g: g, "transposed": transposed, "strided": strided, "expanded": expanded,
        "a single number, expanded": lambda g: torch.ones((), dtype=g.dtype, device=g.device).expand(g.shape),
    }  # fmt: skip
    for name, way in ways.items():
        given = [way(g) for g in cotangents(ends)]
        plain = [g.clone(memory_format=torch.contiguous_format) for g in given]
        versions = [g._version for g in given]
        try:
            got = gradients(ends, trial.inputs(leaves), given, retain_graph=True)
        except Exception as error:  # noqa: BLE001 - told in a row
            cause, mend = explain(error)
            return OpRow("incoming gradient", "failed", f"a {name} one raises {said(error)}", cause, mend)
        if difference(given, plain, 0.0) or versions != [g._version for g in given]:
            return OpRow(
                "incoming gradient", "failed", "it is another after backward",
                "the incoming gradient is written in place, and it may be expanded or belong to somebody else",
                "write grad * factor, not grad.mul_(factor)",
            )  # fmt: skip
        expected = gradients(ends, trial.inputs(leaves), plain, retain_graph=True)
        found = difference(got, expected, trial.tolerance)
        if found:
            return OpRow(
                "incoming gradient", "failed", f"a {name} one gives another result than a contiguous one: {found}",
                "strides or data_ptr are read as if it were contiguous", "call grad.contiguous() first",
            )  # fmt: skip
    return OpRow("incoming gradient", "passed")


def missing_gradient(trial: Trial) -> OpRow:
    """Leave out the gradient of each output in turn; of a single one too, as torch does deep in a graph."""
    if not _finite_gradient(trial):
        return OpRow("missing gradient", "skipped", "the gradient is not finite, and 0 times infinity says nothing")
    leaves = trial.fresh()
    ends = differentiable(trial.call(leaves))
    incoming = cotangents(ends)
    undefined = torch._C._functions.UndefinedGrad()  # pyright: ignore[reportAttributeAccessIssue]
    inputs = trial.inputs(leaves)
    for place in range(len(ends)):
        rest = [torch.zeros_like(g) if k == place else g for k, g in enumerate(incoming)]
        expected = gradients(ends, inputs, rest, retain_graph=True)
        cut = [undefined(y) if k == place else y for k, y in enumerate(ends)]
        got = gradients(cut, inputs, incoming, retain_graph=True)
        found = difference(got, expected, trial.tolerance)
        if found:
            return OpRow(
                "missing gradient", "failed", f"without a gradient for output {place}: {found}, as zeros would give",
                "None is not treated as zero", "answer None with None, or leave out set_materialize_grads(False)",
            )  # fmt: skip
    return OpRow("missing gradient", "passed")


def subsets(trial: Trial) -> OpRow:
    if len(trial.diff) < 2:
        return OpRow("subsets", "skipped", "there is one differentiable input")
    whole = trial.fresh()
    expected = dict(zip(trial.diff, gradients(trial.call(whole), trial.inputs(whole)), strict=True))
    singles = [(i,) for i in trial.diff]
    rest = [tuple(k for k in trial.diff if k != i) for i in trial.diff]
    for some in dict.fromkeys([*singles, *rest]):
        leaves = trial.fresh(diff=some)
        got = gradients(trial.call(leaves), [leaves[i] for i in some])
        found = difference(got, [expected[i] for i in some], trial.tolerance)
        if found:
            names = ", ".join(trial.names[i] for i in some)
            return OpRow(
                "subsets", "failed", f"where only {names} requires grad, its gradient is another: {found}",
                "ctx.needs_input_grad is read wrongly, or a tensor is saved only where another input needs it",
                "let each gradient depend on its own entry of ctx.needs_input_grad",
            )  # fmt: skip
    return OpRow("subsets", "passed")


def backward_twice(trial: Trial) -> OpRow:
    leaves = trial.fresh()
    outputs = trial.call(leaves)
    first = gradients(outputs, trial.inputs(leaves), retain_graph=True)
    kept = [None if g is None else g.clone() for g in first]
    found = difference(gradients(outputs, trial.inputs(leaves)), kept, 0.0 if not trial.random else trial.tolerance)
    if found:
        return OpRow(
            "backward twice", "failed", f"the second backward through one graph differs: {found}",
            "backward changes what it saved, in place or by a counter", "write to a copy, saved.clone()",
        )  # fmt: skip
    return OpRow("backward twice", "passed")


def checkpointing(trial: Trial) -> OpRow:
    leaves = trial.fresh()
    expected = gradients(trial.call(leaves), trial.inputs(leaves))
    leaves = trial.fresh()
    function, inputs = trial.of_inputs(leaves), trial.inputs(leaves)
    outputs = checkpoint(function, *inputs, use_reentrant=False)
    found = difference(gradients(outputs, inputs), expected, trial.tolerance)  # pyright: ignore[reportArgumentType]
    if found:
        return OpRow(
            "checkpointing", "failed", f"inside torch.utils.checkpoint the gradient is another: {found}",
            "the second forward, inside backward, does not do what the first did", "keep no state between calls",
        )  # fmt: skip
    return OpRow("checkpointing", "passed")
