"""The one form behind capsule layers, and its four derivatives, none of which builds the predictions `W @ x`.

    F(weight, coupling, input, output) = sum over c, b, r, o, i of
        weight[c, o, (r, i)] * coupling[c, b, r] * input[b, r, i] * output[c, b, o]

F is linear in each factor. Its derivative by `output` is the weighted sum that routing squashes, the one by `coupling` is
the agreement of input capsules with outputs, and those by `weight` and `input` are gradients. The gradient of a derivative is
again a derivative: the incoming gradient takes the place of the factor that was missing. So one function, closed under
differentiation of any order, does it all, and only the factors are kept for the backward pass. The predictions, R * O numbers
for every example and class, would be the largest tensor; here a class needs R * I at a time.

C classes, B examples, R input capsules of I entries, O entries of an output capsule.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.jit._trace import is_tracing

from linkboy._tensors import transforms_active

WEIGHT, COUPLING, INPUT, OUTPUT = range(4)
# Numbers that a group of classes makes at a time. On a CPU they should stay in the cache: 2**17 to 2**21 took the same time,
# 2**24 three times as long. On other devices launching costs more than memory; not measured.
_GROUP, _GROUP_ELSEWHERE = 2**20, 2**26


def weighted_sum(weight: Tensor, coupling: Tensor, input: Tensor) -> Tensor:
    """Return `sum_r coupling * (weight @ input)`: (C, O, R * I), (C, B, R), (B, R, I) -> (C, B, O)."""
    return _derivative(OUTPUT, weight, coupling, input, None)


def agreement(weight: Tensor, input: Tensor, output: Tensor) -> Tensor:
    """Return the products `<weight @ input, output>`: (C, O, R * I), (B, R, I), (C, B, O) -> (C, B, R)."""
    return _derivative(COUPLING, weight, None, input, output)


def _derivative(wanted: int, *factors: Tensor | None) -> Tensor:
    # torch.compile, torch.func and torch.jit.trace see through plain operations, and only through these.
    if torch.compiler.is_compiling() or transforms_active() or is_tracing():
        return _KERNELS[wanted](*(factor for factor in factors if factor is not None))
    return _Derivative.apply(wanted, *factors)


class _Derivative(torch.autograd.Function):
    """The derivative of F by the factor numbered `wanted`, which is `None` among the factors."""

    @staticmethod
    def forward(ctx: Any, wanted: int, *factors: Any) -> Tensor:
        ctx.wanted = wanted
        ctx.save_for_backward(*factors)
        weight, coupling, input, output = factors  # noqa: A001
        classes = len(weight if coupling is None else coupling)
        numbers = output.shape[1] * weight.shape[2] if input is None else input.numel()
        known = [(number, factor) for number, factor in enumerate(factors) if factor is not None]
        parts = (
            _KERNELS[wanted](*(factor if number == INPUT else factor[group] for number, factor in known))
            for group in _groups(classes, numbers, known[0][1].device)
        )
        if wanted != INPUT:
            return torch.cat(list(parts))
        total = next(parts)
        for part in parts:
            total += part
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        factors = list(ctx.saved_tensors)
        factors[ctx.wanted] = gradients[0]
        needed = ctx.needs_input_grad[1:]
        return None, *(
            _Derivative.apply(number, *factors[:number], None, *factors[number + 1 :]) if needed[number] else None
            for number in range(4)
        )


def _groups(classes: int, numbers: int, device: torch.device) -> Iterator[slice]:
    """Cut the classes, which make so many `numbers` each, into groups that are computed together."""
    size = max(1, (_GROUP if device.type == "cpu" else _GROUP_ELSEWHERE) // max(1, numbers))
    return (slice(start, start + size) for start in range(0, classes, size))


def _by_weight(coupling: Tensor, input: Tensor, output: Tensor) -> Tensor:
    return torch.bmm(output.mT, (coupling.unsqueeze(-1) * input).flatten(2))


def _by_coupling(weight: Tensor, input: Tensor, output: Tensor) -> Tensor:
    return (torch.bmm(output, weight).unflatten(2, input.shape[1:]) * input).sum(-1)


def _by_input(weight: Tensor, coupling: Tensor, output: Tensor) -> Tensor:
    return (torch.bmm(output, weight).unflatten(2, (coupling.shape[2], -1)) * coupling.unsqueeze(-1)).sum(0)


def _by_output(weight: Tensor, coupling: Tensor, input: Tensor) -> Tensor:
    return torch.bmm((coupling.unsqueeze(-1) * input).flatten(2), weight.mT)


_KERNELS = (_by_weight, _by_coupling, _by_input, _by_output)
