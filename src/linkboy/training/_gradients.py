"""The gradients of a step: their norm, and their multiplication in place; those of sparse embeddings included."""

from collections.abc import Iterable

import torch
from torch import Tensor


def gradients_of(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Return the gradients that there are; a sparse one with each row once, as its norm needs."""
    found: list[Tensor] = []
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        if gradient.layout is torch.sparse_coo and not gradient.is_coalesced():
            gradient = parameter.grad = gradient.coalesce()
        found.append(gradient)
    return found


def norm_of(gradients: Iterable[Tensor]) -> Tensor:
    """Return the norm of all gradients together; that of the whole ones where `fully_shard` has split them."""
    norm = torch.nn.utils.get_total_norm(list(map(_numbers, gradients)))
    whole = getattr(norm, "full_tensor", None)
    return norm if whole is None else whole()


def clip(parameters: list[Tensor], gradients: list[Tensor], largest: float) -> Tensor:
    """Bring the norm of all gradients together down to `largest`, and return what it was."""
    if all(gradient.layout is torch.strided for gradient in gradients):
        norm = torch.nn.utils.clip_grad_norm_(parameters, largest)
        whole = getattr(norm, "full_tensor", None)
        return norm if whole is None else whole()
    norm = norm_of(gradients)
    multiply(
        gradients, (largest / (norm + 1e-6)).clamp(max=1.0)
    )  # the formula of clip_grad_norm_, which takes no sparse
    return norm


def multiply(gradients: Iterable[Tensor], factor: float | Tensor) -> None:
    """Multiply every gradient in place."""
    numbers = list(map(_numbers, gradients))
    if numbers:
        torch._foreach_mul_(numbers, factor)  # type: ignore[attr-defined]  # public in all but name


def _numbers(gradient: Tensor) -> Tensor:
    """Return the tensor that holds the numbers of a gradient, sharing its memory."""
    if gradient.layout is torch.strided:
        return gradient
    return gradient._values() if gradient.layout is torch.sparse_coo else gradient.values()
