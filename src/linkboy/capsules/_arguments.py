"""What the capsule layers and their loss require of sizes and labels."""

import torch
from torch import Tensor

from linkboy._checks import check_number, describe
from linkboy._tensors import values_visible


def check_sizes(**sizes: object) -> None:
    """Raise unless each size is an integer of at least 1."""
    for name, size in sizes.items():
        check_number(name, size, minimum=1, integer=True)


def one_hot(target: Tensor, classes: int) -> Tensor:
    """Return `(N, C)`, true at the label of each row; raise where `(N,)` labels are not integers from 0 to `C - 1`."""
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise TypeError(
            f"target of shape (N,) must hold class indices, got {describe(target)}; convert it with .long()"
        )
    if values_visible(target) and target.numel():
        low, high = (bound.item() for bound in target.aminmax())
        if low < 0 or high >= classes:
            raise ValueError(f"target must hold labels from 0 to {classes - 1}, got {low if low < 0 else high}")
    return target.unsqueeze(1) == torch.arange(classes, device=target.device)
