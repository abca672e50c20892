"""Where a number that is not finite came from: the batch is run once more with hooks on every layer."""

from typing import Any

import torch
from torch import Tensor, nn

from linkboy.training import _batches


def non_finite_parameter(model: nn.Module) -> str | None:
    """Return the name of the first parameter that holds a NaN or an infinity."""
    return next((name for name, tensor in model.named_parameters() if not _finite(tensor)), None)


def where_it_began(model: nn.Module, inputs: Any) -> str:
    """Say in a clause where a loss that is not finite began, by running the forward pass again.

    Dropout draws anew in the second run, so a rare event may not show; it is then said so. Buffers are put back.
    """
    if (name := non_finite_parameter(model)) is not None:
        return f"the parameter {name!r} was not finite before it"
    if not _finite(inputs):
        return "the input of the batch is not finite"
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    found: list[str] = []
    handles = [module.register_forward_hook(_note(name, found)) for name, module in model.named_modules()]
    try:
        with torch.no_grad():
            output = _batches.call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
        for buffer, before in buffers:
            buffer.copy_(before)
    if found:
        return f"it began in {found[0]}"
    return "the loss function made it from a finite output" if _finite(output) else "a second run did not show where"


def non_finite_gradient(model: nn.Module) -> str:
    """Say in a clause which gradient is not finite; the last such parameter is the first that the backward pass met."""
    names = [name for name, tensor in model.named_parameters() if tensor.grad is not None and not _finite(tensor.grad)]
    return f"it began at the parameter {names[-1]!r}" if names else "its norm is too large for its type"


def _note(name: str, found: list[str]) -> Any:
    def hook(module: nn.Module, arguments: Any, output: Any) -> None:
        if not found and not _finite(output) and _finite(arguments):
            found.append(
                f"{name!r} ({type(module).__name__})" if name else f"the model itself ({type(module).__name__})"
            )

    return hook


def _finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not (value.is_floating_point() or value.is_complex()) or bool(value.detach().isfinite().all())
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    return all(map(_finite, value)) if isinstance(value, (tuple, list)) else True
