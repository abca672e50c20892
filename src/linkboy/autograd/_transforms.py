"""Checks under torch.func and autocast: absent support limits an operator, a wrong number makes it wrong."""

from collections.abc import Callable

import torch
from torch import Tensor, func
from torch.autograd import Function

from linkboy.autograd._explain import explain
from linkboy.autograd._forward import rolled
from linkboy.autograd._trial import (
    Leaves,
    Trial,
    cotangents,
    difference,
    differentiable,
    functions_behind,
    gradients,
    said,
)
from linkboy.autograd._verdict import Verdict, failed, limited, passed, skipped

_RULE = (
    "the vmap rule is not the operator in a loop",
    "set generate_vmap_rule = True, or move in_dims to the front before anything else",
)


def unsupported(error: BaseException) -> Verdict:
    """Return that the operator does not support what raised."""
    return limited(said(error), *explain(error))


def vmap(trial: Trial) -> Verdict:
    """Map over two samples with `torch.vmap`: the results must be those of a loop."""
    if trial.random:
        return skipped("random numbers fall differently in a batch")
    first = trial.fresh(diff=[])
    batched = [i for i, x in enumerate(first) if isinstance(x, Tensor) and i not in trial.state]
    second, expected = _another_sample(trial, first, batched)
    ways = {"the first dimension of every input": (batched, 0), "the last dimension of one input": (batched[:1], -1)}
    for way, (chosen, dim) in ways.items():
        pair = [first, [second[i] if i in chosen else x for i, x in enumerate(first)]]
        loop = expected if chosen == batched else [trial.call(leaves) for leaves in pair]
        stacks = [torch.stack([leaves[i] for leaves in pair], dim) for i in chosen]
        try:
            got = func.vmap(_with_leaves(trial, first, chosen), in_dims=dim)(*stacks)
        except Exception as error:  # noqa: BLE001 - support is optional
            if explain(error) == ("", "") and _has_vmap_rule(trial):
                return failed(f"over {way}, the vmap rule raises {said(error)}", *_RULE)
            return unsupported(error)
        found = difference(got, [torch.stack(pair) for pair in zip(*loop, strict=True)], trial.tolerance)
        if found:
            return failed(
                f"over {way}, output {found} as a loop gives",
                *_RULE,
            )
    return passed()


def _has_vmap_rule(trial: Trial) -> bool:
    """Return whether an autograd.Function behind the outputs comes with a rule of its own for vmap."""
    kinds = [getattr(ctx, "_forward_cls", Function) for ctx in functions_behind(trial.call(trial.fresh()))]
    return any(kind.vmap is not Function.vmap and not kind.generate_vmap_rule for kind in kinds)


def _another_sample(trial: Trial, first: Leaves, batched: list[int]) -> tuple[Leaves, list[list[Tensor]]]:
    """Return inputs of the same shapes, and what the operator gives for `first` and for them."""
    second = trial.fresh(diff=[], change=lambda i, x: rolled(x) if i in batched and x.is_floating_point() else x)
    try:
        return second, [trial.call(leaves) for leaves in (first, second)]
    except Exception:  # noqa: BLE001 - shuffled values may lie outside of the domain
        second = [x.clone() if isinstance(x, Tensor) else x for x in first]
        return second, [trial.call(leaves) for leaves in (first, second)]


def _with_leaves(trial: Trial, leaves: Leaves, chosen: list[int]) -> Callable[..., tuple[Tensor, ...]]:
    """Return the operator as a function of the inputs at `chosen` alone."""

    def one(*stacked: Tensor) -> tuple[Tensor, ...]:
        replaced = list(leaves)
        for i, x in zip(chosen, stacked, strict=True):
            replaced[i] = x
        return tuple(trial.call(replaced))

    return one


def jvp(trial: Trial) -> Verdict:
    """Ask whether forward mode agrees with backward on the number that both of them give."""
    leaves = trial.fresh()
    inputs = [x.detach() for x in trial.inputs(leaves)]
    tangents = cotangents(inputs, 3)
    ends = trial.of_inputs(leaves)(*trial.inputs(leaves))
    try:
        forward = func.jvp(trial.of_inputs(leaves), tuple(inputs), tuple(tangents))[1]
    except Exception as error:  # noqa: BLE001 - support is optional
        return unsupported(error)
    if trial.surrogate is not None:
        try:
            wanted = func.jvp(trial.of_inputs(leaves, trial.surrogate), tuple(inputs), tuple(tangents))[1]
        except Exception as error:  # noqa: BLE001 - support is optional
            return skipped(f"the surrogate has none ({said(error)})")
        found = difference(forward, wanted, trial.tolerance)
    else:
        weights = cotangents(ends, 4)
        kept = [k for k, y in enumerate(ends) if y.requires_grad]
        back = gradients(ends, trial.inputs(leaves), [weights[k] for k in kept])
        left = _inner([weights[k] for k in kept], [forward[k] for k in kept])
        right = _inner(
            [g for g in back if g is not None], [t for g, t in zip(back, tangents, strict=True) if g is not None]
        )
        found = difference([left], [right], 10 * trial.tolerance)
    if found and any(type(ctx).__name__.startswith("GeneratedBackwardFor") for ctx in functions_behind(ends)):
        return limited("a registered operator has no forward mode; torch takes its derivative for zero")
    if found:
        return failed(
            f"forward mode disagrees with backward: {found}",
            "jvp is another derivative than backward",
            "compare the two formulas term by term",
        )
    return passed()


def _inner(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return torch.stack([(x.conj() * y).real.sum().double() for x, y in zip(a, b, strict=True)]).sum()


def func_grad(trial: Trial) -> Verdict:
    """Take the gradient by `torch.func.vjp`: it must be that of autograd."""
    leaves = trial.fresh()
    outputs = trial.of_inputs(leaves)(*trial.inputs(leaves))
    weights = cotangents(outputs)
    expected = gradients(
        outputs, trial.inputs(leaves), [w for w, y in zip(weights, outputs, strict=True) if y.requires_grad]
    )
    inputs = [x.detach() for x in trial.inputs(leaves)]
    try:
        got = func.vjp(trial.of_inputs(trial.fresh(diff=[])), *inputs)[1](tuple(weights))
    except Exception as error:  # noqa: BLE001 - support is optional
        return unsupported(error)
    found = difference(got, expected, trial.tolerance)
    if found:
        return failed(
            f"it disagrees with autograd: {found}",
            "setup_context saves other tensors than forward used",
            "save what forward returned, in setup_context",
        )
    return passed()


def hessian(trial: Trial) -> Verdict:
    """Take second derivatives by forward over reverse mode: they must be those of two backward passes."""
    if trial.complex:
        return skipped("not for complex inputs")
    leaves = trial.fresh()

    def scalar(*inputs: Tensor) -> Tensor:
        outputs = trial.of_inputs(leaves)(*inputs)
        weights = cotangents(outputs)
        return torch.stack([(w * y * y).sum() for w, y in zip(weights, outputs, strict=True)]).sum()

    inputs = trial.inputs(leaves)
    tangents = cotangents(inputs, 3)
    try:
        first = gradients([scalar(*inputs)], inputs, [torch.ones((), dtype=trial.dtype)], create_graph=True)
        kept = [(g, t) for g, t in zip(first, tangents, strict=True) if g is not None]
        expected = gradients([g for g, _ in kept], inputs, [t for g, t in kept if g.requires_grad])
    except Exception as error:  # noqa: BLE001 - told by the check of second order
        return skipped(f"no second derivative ({said(error)})")
    try:
        everywhere = tuple(range(len(inputs)))
        slope = func.grad(scalar, argnums=everywhere)
        got = func.jvp(slope, tuple(x.detach() for x in inputs), tuple(tangents))[1]
    except Exception as error:  # noqa: BLE001 - support is optional
        return unsupported(error)
    found = difference(got, expected, 10 * trial.tolerance)
    if found:
        return failed(
            f"forward over reverse disagrees with two backward passes: {found}",
            "jvp and backward of the operator are not derivatives of one function",
            "compare the two formulas term by term",
        )
    return passed()


def autocast(trial: Trial) -> Verdict:
    """Run under autocast to bfloat16: the gradient must be near that of float32."""
    device = trial.inputs(trial.leaves)[0].device.type
    if trial.complex or not torch.amp.is_autocast_available(device):
        return skipped("no autocast for complex inputs" if trial.complex else f"none on {device}")
    leaves = trial.fresh(torch.float32)
    expected = _plain(trial)
    with torch.autocast(device, dtype=torch.bfloat16):
        try:
            outputs = trial.call(leaves)
        except Exception as error:  # noqa: BLE001 - support is optional
            return unsupported(error)
    found = difference(gradients(outputs, trial.inputs(leaves), _in_dtype(outputs)), expected, 0.1)
    return limited(f"far from float32: gradient {found}") if found else passed()


def _plain(trial: Trial) -> list[Tensor | None]:
    leaves = trial.fresh(torch.float32)
    outputs = trial.call(leaves)
    return gradients(outputs, trial.inputs(leaves), _in_dtype(outputs))


def _in_dtype(outputs: list[Tensor]) -> list[Tensor]:
    """Return incoming gradients whose numbers do not depend on the dtype of the output."""
    return [torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(y.device, y.dtype) for y in differentiable(outputs)]
