"""What rooms ask of a tensor or a module before they look into it."""

import torch
from torch import Tensor, nn

from linkboy._checks import describe


def check_floating(argument: str, value: object) -> Tensor:
    """Return `value` if it is a floating point tensor, else raise."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument} must be a floating point tensor, got {describe(value)}")
    if not value.is_floating_point():
        raise TypeError(f"{argument} must be a floating point tensor, got {describe(value)}; convert it with .float()")
    return value


def check_module(argument: str, value: object) -> nn.Module:
    """Return `value` if it is a module, else raise.

    Examples:
        >>> check_module("model", nn.Linear)
        Traceback (most recent call last):
        TypeError: model must be an nn.Module, got type
    """
    if not isinstance(value, nn.Module):
        raise TypeError(f"{argument} must be an nn.Module, got {describe(value)}")
    return value


def wide_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype that loses least: float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def values_visible(tensor: Tensor) -> bool:
    """Say whether looking at values is free of synchronisation and graph breaks."""
    return (
        tensor.device.type == "cpu"
        and type(tensor) in (Tensor, torch.nn.Parameter)
        and not torch.compiler.is_compiling()
        and not transforms_active()
    )


def transforms_active() -> bool:
    """Say whether a `torch.func` transform is at work; torch's own `Function.apply` asks the same question."""
    return torch._C._are_functorch_transforms_active()  # pyright: ignore[reportAttributeAccessIssue]
