"""Random numbers that survive a crash.

Two kinds, kept apart. *Data* randomness (order, augmentation) is a function of `(seed, process, epoch, batch)`: a key seeds
the generators before each batch is made, so it never matters what was drawn before, or in which worker. *Model* randomness
(dropout) is a stream that is saved and put back.
"""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

_MASK = (1 << 64) - 1


def mix(*parts: int) -> int:
    """Turn a few integers into one of 63 well-mixed bits (the finaliser of splitmix64, chained)."""
    key = 0x9E3779B97F4A7C15
    for part in parts:
        key = (key ^ (part & _MASK)) * 0xBF58476D1CE4E5B9 & _MASK
        key = (key ^ (key >> 27)) * 0x94D049BB133111EB & _MASK
        key ^= key >> 31
    return key >> 1


def seed_host(key: int) -> None:
    """Seed torch's CPU generator, Python's and NumPy's; `torch.manual_seed` would take a hundred times as long."""
    torch.default_generator.manual_seed(key)
    random.seed(key)
    np.random.seed(key & 0xFFFFFFFF)  # noqa: NPY002  # the global stream is what augmentation code draws from


def seed_everything(key: int, device: torch.device) -> None:
    """Seed the three host generators and the one of `device`."""
    seed_host(key)
    if device.type not in ("cpu", "meta"):
        torch.get_device_module(device).manual_seed(key)


def capture(device: torch.device) -> dict[str, Any]:
    """Return the state of all streams as tensors and plain values."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    state = {
        "torch": torch.get_rng_state(),
        "python": [version, torch.tensor(words, dtype=torch.int64), gauss],
        "numpy": [torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(cached)],
    }
    if device.type not in ("cpu", "meta"):
        state["device"] = torch.get_device_module(device).get_rng_state(device)
    return state


def restore(state: dict[str, Any], device: torch.device) -> None:
    """Put back what `capture` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device.type not in ("cpu", "meta"):
        torch.get_device_module(device).set_rng_state(state["device"], device)


@contextlib.contextmanager
def left_as_found(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put the training modes of all submodules and all random streams back to what they were when the block ends."""
    modes = [(module, module.training) for module in model.modules()]
    before = capture(device)
    try:
        yield
    finally:
        restore(before, device)
        for module, training in modes:
            module.training = training
