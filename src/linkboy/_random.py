"""The random streams of torch, of an accelerator, of Python and of NumPy: seed, save and restore them."""

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import torch

from linkboy._compat import available_accelerator


def check_generator(generator: object) -> None:
    """Raise a `TypeError` unless `generator` is a `torch.Generator` or `None`.

    Examples:
        >>> check_generator(3)
        Traceback (most recent call last):
        TypeError: generator must be a torch.Generator, got 3; pass torch.Generator().manual_seed(3)
    """
    if generator is None or isinstance(generator, torch.Generator):
        return
    number = generator if isinstance(generator, int) else 0
    raise TypeError(
        f"generator must be a torch.Generator, got {generator!r}; pass torch.Generator().manual_seed({number})"
    )


def seed(number: int, device: torch.device | None = None) -> None:
    """Seed torch's CPU generator, Python's, NumPy's if it is loaded, and that of `device`.

    `torch.manual_seed`, which seeds all devices, would take a hundred times as long.

    Examples:
        >>> seed(7)
        >>> first = torch.rand(2)
        >>> seed(7)
        >>> torch.equal(torch.rand(2), first)
        True
    """
    torch.default_generator.manual_seed(number)
    random.seed(number)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(number & 0xFFFFFFFF)  # the global stream is what most other code draws from
    if device is not None and _has_stream(device):
        torch.get_device_module(device).manual_seed(number)


def capture(device: torch.device | None = None) -> dict[str, Any]:
    """Return the state of these streams as tensors and plain values, which a checkpoint can hold.

    Examples:
        >>> before = capture()
        >>> first = torch.rand(2)
        >>> restore(before)
        >>> torch.equal(torch.rand(2), first)
        True
    """
    version, words, gauss = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, torch.tensor(words, dtype=torch.int64), gauss],
    }
    if (numpy := sys.modules.get("numpy")) is not None:
        _, keys, position, has_gauss, cached = numpy.random.get_state(legacy=True)
        keys = torch.from_numpy(keys.astype(numpy.int64))
        state["numpy"] = [keys, int(position), int(has_gauss), float(cached)]
    if device is not None and _has_stream(device):
        state["device"] = _device_state(device)
    return state


def restore(state: dict[str, Any], device: torch.device | None = None) -> None:
    """Put back what `capture` returned for the same device."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    if "numpy" in state:
        import numpy as np

        keys, position, has_gauss, cached = state["numpy"]
        np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device is not None and _has_stream(device):
        _set_device_state(device, state["device"])


@contextlib.contextmanager
def same_random_numbers() -> Iterator[None]:
    """Restore the state of every stream when the block ends, including those of all accelerators in use.

    Examples:
        >>> with same_random_numbers():
        ...     first = torch.rand(1)
        >>> torch.equal(torch.rand(1), first)
        True
    """
    numpy = sys.modules.get("numpy")
    host = torch.get_rng_state(), random.getstate(), numpy.random.get_state() if numpy else None
    devices = [(device, _device_state(device)) for device in _accelerators_in_use()]
    try:
        yield
    finally:
        torch.set_rng_state(host[0])
        random.setstate(host[1])
        if numpy:
            numpy.random.set_state(host[2])
        for device, state in devices:
            _set_device_state(device, state)


def _has_stream(device: torch.device) -> bool:
    return device.type not in ("cpu", "meta")


def _accelerators_in_use() -> list[torch.device]:
    # An accelerator that nobody has used yet is left alone: asking for its generator takes a second and memory on it.
    kind = available_accelerator()
    if kind is None or kind.type == "mps":  # there is only one, and asking it is cheap
        return [] if kind is None else [kind]
    module = torch.get_device_module(kind)
    if not getattr(module, "is_initialized", lambda: False)():
        return []
    return [torch.device(kind.type, index) for index in range(module.device_count())]


def _device_state(device: torch.device) -> torch.Tensor:
    module = torch.get_device_module(device)
    return module.get_rng_state() if device.type == "mps" else module.get_rng_state(device)


def _set_device_state(device: torch.device, state: torch.Tensor) -> None:
    module = torch.get_device_module(device)
    module.set_rng_state(state) if device.type == "mps" else module.set_rng_state(state, device)
