"""Where a number that is not finite came from: the batch is run once more with hooks on every layer."""

from typing import Any

import torch
from torch import nn

from linkboy._calls import tensors_in
from linkboy.training._placement import Placement


def non_finite_parameter(model: nn.Module) -> str | None:
    """Return the name of the first parameter that holds a NaN or an infinity."""
    return next((name for name, tensor in model.named_parameters() if not _finite(tensor)), None)


def where_it_began(placement: Placement, inputs: Any) -> str:
    """Return a clause on where a loss that is not finite began, found by running the forward pass again.

    Dropout draws other numbers in the second run, so a rare event may not show; the clause then says so. Buffers are restored.
    """
    model = placement.model
    if (name := non_finite_parameter(model)) is not None:
        return f"the parameter {name!r} was not finite before it"
    if not _finite(inputs):
        return "the input of the batch is not finite"
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    found: list[str] = []
    handles = [module.register_forward_hook(_note(name, found)) for name, module in model.named_modules()]
    try:
        with torch.no_grad():
            output = placement.call_plain(inputs)
    finally:
        for handle in handles:
            handle.remove()
        for buffer, before in buffers:
            buffer.copy_(before)
    if found:
        return f"it began in {found[0]}"
    return "the loss function made it from a finite output" if _finite(output) else "a second run did not show where"


def non_finite_gradient(model: nn.Module) -> str:
    """Return a clause on which gradient is not finite; the last such parameter is the first that the backward pass reached."""
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
    return all(bool(t.detach().isfinite().all()) for t in tensors_in(value) if t.is_floating_point() or t.is_complex())
