"""Checks of the gradient: its number, and what it does with every incoming gradient torch may hand it."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.gradcheck import GradcheckError
from torch.utils.checkpoint import CheckpointError, checkpoint, set_checkpoint_early_stop

from linkboy.autograd._explain import ONCE, explain
from linkboy.autograd._finite import agrees_beside, disagreement, mismatch, outside
from linkboy.autograd._forward import expanded, strided, transposed
from linkboy.autograd._trial import (
    BESIDE,
    WIDE,
    Trial,
    cotangents,
    difference,
    differentiable,
    functions_behind,
    gradients,
    said,
)
from linkboy.autograd._verdict import Verdict, failed, limited, passed, skipped

ON_A_KINK = "beside the inputs given, which lie on a kink"
AT_THE_END = "beside the inputs given, at which the domain ends"
SIZES = (2.0, -1.0, 1e3, 1e-3)
# Of numbers of the size of the input, the output or 1, which may be left of a gradient that should be 0.
ROUNDINGS = 64


def backward(trial: Trial) -> Verdict:
    """Ask whether an output leads back to an input that requires grad, and backward runs."""
    leaves = trial.fresh()
    outputs = trial.call(leaves)
    if not differentiable(outputs):
        return failed(
            "no output leads back to an input that requires grad",
            "the graph is cut: .detach(), torch.no_grad(), numpy, or an integer result",
            "keep the result a function of the input in torch's eyes",
        )
    gradients(outputs, trial.inputs(leaves))
    return passed()


def gradient(trial: Trial) -> Verdict:
    """Ask whether the gradient is what finite differences of the operator give, or that of its surrogate."""
    if trial.surrogate is not None:
        return _beside_surrogate(trial, _first_order)
    error = disagreement(trial, trial.fresh())
    if error is None:
        return passed("" if trial.dtype == WIDE else f"in {trial.dtype} only")
    if isinstance(error, GradcheckError) and "reentrant" not in str(error):
        # An infinite gradient may be right, as that of a root at 0; NaN is no derivative anywhere.
        if not any(g.isnan().any() for g in _gradients(trial)) and agrees_beside(trial):
            return passed(ON_A_KINK)
        return mismatch(trial)
    return _inside(gradient, trial, error)


def _inside(check: Callable[[Trial], Verdict], trial: Trial, error: Exception) -> Verdict:
    """Repeat a check farther inside the domain, if that is why it raised an error; else raise that."""
    raised = outside(trial)
    if raised is None:
        raise error
    for attempt in BESIDE:
        other = trial.beside(attempt)
        if outside(other) is None:
            verdict = check(other)
            return passed(AT_THE_END) if verdict.outcome == "passed" else verdict
    return skipped(f"a step beside the inputs it raises {said(raised)}")


def _gradients(trial: Trial) -> list[Tensor]:
    leaves = trial.fresh()
    return [g for g in gradients(trial.call(leaves), trial.inputs(leaves)) if g is not None]


def linearity(trial: Trial) -> Verdict:
    """Hand in incoming gradients of several sizes and a sum of two: each must give as many times the gradient."""
    if not all(g.isfinite().all() for g in _gradients(trial)):
        return skipped("the gradient is not finite")
    leaves = trial.fresh()
    outputs = trial.call(leaves)
    ends = differentiable(outputs)
    g, h = cotangents(ends), cotangents(ends, 5)
    ways = {f"{size:g} times": (size, [size * x for x in g]) for size in SIZES}
    ways["the sum of two"] = (1.0, [x + y for x, y in zip(g, h, strict=True)])
    reference = leaves if trial.surrogate is None else trial.fresh()
    goals = ends if trial.surrogate is None else differentiable(trial.call(reference, trial.surrogate))
    first = _handed_back(ends, trial.inputs(leaves), g)
    second = _handed_back(ends, trial.inputs(leaves), h)
    if trial.surrogate and difference(first, _handed_back(goals, trial.inputs(reference), g), trial.tolerance):
        return skipped("the gradient is not that of the surrogate")
    for way, (size, incoming) in ways.items():
        got = _handed_back(ends, trial.inputs(leaves), incoming)
        if trial.surrogate is not None:
            expected = _handed_back(goals, trial.inputs(reference), incoming)
        elif way == "the sum of two":
            expected = [a + b for a, b in zip(first, second, strict=True)]
        else:
            expected = [size * a for a in first]
        allowed = 10 * trial.tolerance
        unit = 1 / (max(_largest(expected), _rounding(ends, trial.inputs(leaves), incoming) / allowed) or 1.0)
        found = difference([x * unit for x in got], [x * unit for x in expected], allowed)
        if found:
            return failed(
                f"for {way} an incoming gradient, relative to the largest number: {found}",
                "backward is not linear in the incoming gradient: it is clipped, normalised or rounded",
                "return the incoming gradient times the derivative; to bound a gradient on purpose, pass surrogate=, a "
                "function that bounds it in the same way",
            )
    return passed()


def _largest(tensors: list[Tensor]) -> float:
    return max((x[x.isfinite()].abs().max().item() for x in tensors if x.isfinite().any()), default=0.0)


def _rounding(ends: list[Tensor], inputs: list[Tensor], incoming: list[Tensor]) -> float:
    """Return how far from 0 rounding may leave the gradient of what does not change, such as the sum of a softmax."""
    steepest = max(1.0, _largest(ends)) * max(1.0, 1 / (_largest(inputs) or 1.0))
    return ROUNDINGS * max(torch.finfo(x.dtype).eps for x in ends) * steepest * _largest(incoming)


def _handed_back(ends: list[Tensor], inputs: list[Tensor], incoming: list[Tensor]) -> list[Tensor]:
    found = gradients(ends, inputs, [x.clone() for x in incoming], retain_graph=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]


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


def _beside_surrogate(trial: Trial, order: Callable[..., list[Tensor | None]]) -> Verdict:
    expected = order(trial, trial.surrogate)
    got = order(trial, None)
    found = difference(got, expected, trial.tolerance)
    if found:
        return failed(
            f"against the surrogate: {found}",
            "backward is not that of the surrogate",
            "correct backward, or the surrogate",
        )
    return passed("that of the surrogate")


def second_order(trial: Trial) -> Verdict:
    """Ask whether the derivative of the gradient is what finite differences of the gradient give."""
    if any(_declared_once(ctx) for ctx in functions_behind(trial.call(trial.fresh()))):
        return limited(
            "backward is declared once_differentiable",
            "",
            "nothing, unless second derivatives are wanted: then write backward in torch operations",
        )
    try:
        if trial.surrogate is not None:
            return _beside_surrogate(trial, _second_order)
        error = disagreement(trial, trial.fresh(), order=2)
        if error is not None:
            raise error
    except GradcheckError:
        return failed(
            "the derivative of the gradient is not what finite differences of the gradient give",
            "backward uses a tensor whose own dependence on the inputs is lost, such as a saved intermediate result",
            "save inputs and outputs only and compute the rest in backward, or mark backward once_differentiable",
        )
    except (RuntimeError, NotImplementedError, ValueError) as error:
        if "is not implemented" in str(error):
            return limited(said(error), *explain(error))
        return _inside(second_order, trial, error)
    return passed("" if trial.dtype == WIDE else f"in {trial.dtype} only")


def _declared_once(ctx: BackwardCFunction) -> bool:
    # The wrapper cannot be told by what it raises: where the incoming gradient does not require grad it gives zeros.
    written = getattr(type(ctx), "_forward_cls", ctx).backward  # pyright: ignore[reportAttributeAccessIssue]
    return hasattr(written, "__wrapped__") and written.__code__.co_filename == torch.autograd.function.__file__


def incoming_gradient(trial: Trial) -> Verdict:
    """Hand in incoming gradients of other layouts: each gives what a contiguous one does, and none is written."""
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
            return failed(f"a {name} one raises {said(error)}", *explain(error))
        if difference(given, plain, 0.0) or versions != [g._version for g in given]:
            return failed(
                "it is another after backward",
                "the incoming gradient is written in place, and it may be expanded or belong to the caller",
                "write grad * factor, not grad.mul_(factor)",
            )
        expected = gradients(ends, trial.inputs(leaves), plain, retain_graph=True)
        found = difference(got, expected, trial.tolerance)
        if found:
            return failed(
                f"a {name} one gives another result than a contiguous one: {found}",
                "strides or data_ptr are read as if it were contiguous",
                "call grad.contiguous() first",
            )
    return passed()


def missing_gradient(trial: Trial) -> Verdict:
    """Leave out the gradient of each output in turn; of a single one too, as torch does deep in a graph."""
    if not all(g.isfinite().all() for g in _gradients(trial)):
        return skipped("the gradient is not finite, and 0 times infinity says nothing")
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
            return failed(
                f"without a gradient for output {place}: {found}, as zeros would give",
                "None is not treated as zero",
                "return None for None, or leave out set_materialize_grads(False)",
            )
    return passed()


def subsets(trial: Trial) -> Verdict:
    """Let only some of the inputs require grad: their gradients must not change."""
    if len(trial.diff) < 2:
        return skipped("there is one differentiable input")
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
            return failed(
                f"where only {names} requires grad, its gradient is another: {found}",
                "ctx.needs_input_grad is read wrongly, or a tensor is saved only where another input needs it",
                "let each gradient depend on its own entry of ctx.needs_input_grad",
            )
    return passed()


def backward_twice(trial: Trial) -> Verdict:
    """Run backward a second time through one graph: it must give the same."""
    leaves = trial.fresh()
    outputs = trial.call(leaves)
    first = gradients(outputs, trial.inputs(leaves), retain_graph=True)
    kept = [None if g is None else g.clone() for g in first]
    found = difference(gradients(outputs, trial.inputs(leaves)), kept, 0.0 if not trial.random else trial.tolerance)
    if found:
        return failed(
            f"the second backward through one graph differs: {found}",
            "backward changes what it saved, in place or by a counter",
            "write to a copy, saved.clone()",
        )
    return passed()


def checkpointing(trial: Trial) -> Verdict:
    """Run the operator inside `torch.utils.checkpoint`, whose second forward must give the same gradient."""
    leaves = trial.fresh()
    expected = gradients(trial.call(leaves), trial.inputs(leaves))
    leaves = trial.fresh()
    function, inputs = trial.of_inputs(leaves), trial.inputs(leaves)
    with set_checkpoint_early_stop(False):  # stops by an exception, which TorchScript takes for a failure
        outputs = checkpoint(function, *inputs, use_reentrant=False)
    try:
        slopes = gradients(outputs, inputs)  # pyright: ignore[reportArgumentType]
    except CheckpointError as error:
        if ONCE not in str(error):
            raise
        return limited(said(error), *explain(error))
    found = difference(slopes, expected, trial.tolerance)
    if found:
        return failed(
            f"inside torch.utils.checkpoint the gradient is another: {found}",
            "the second forward, inside backward, does not do what the first did",
            "keep no state between calls",
        )
    return passed()
