"""What is alive right now, and what this environment can release."""

import sys

import torch

from linkboy._checks import check_number
from linkboy._report import plural
from linkboy.memory import _process
from linkboy.memory._live import frozen_objects
from linkboy.memory._process import read_devices, read_process_memory
from linkboy.memory._search import HolderSearch
from linkboy.memory.holders import as_holders
from linkboy.memory.report import Ability, LiveDevice, LiveStorage, MemoryEnvironment, MemoryReport


def memory_report(*, top: int = 10, depth: int = 8) -> MemoryReport:
    """See where the memory is: process, devices, and the largest live tensors with who holds them.

    A storage counts once, however many views it has, at the size of the storage. Gradients and what autograd graphs
    have saved are counted; meta and fake tensors take nothing.

    Args:
        top: how many of the largest storages to list.
        depth: longest path to a holder, in objects.

    Returns:
        A `MemoryReport`; `.live` has the bytes per device, `.largest` the storages and their `.holders`.

    Raises:
        TypeError: a number is not an integer.
        ValueError: `top` is negative or `depth` below 1.

    Examples:
        >>> import torch
        >>> big = torch.zeros(3_000_000)
        >>> views = [big[:10], big.view(1000, 3000)]
        >>> largest = memory_report(top=1).largest[0]
        >>> largest.nbytes, largest.tensor_count
        (12000000, 3)
    """
    check_number("top", top, minimum=0, integer=True)
    check_number("depth", depth, minimum=1, integer=True)
    memory, devices = read_process_memory(), read_devices()
    search = HolderSearch()
    live: dict[str, list[int]] = {}
    for (device, _), (nbytes, _) in search.by_storage.items():
        live.setdefault(device, []).append(nbytes)
    keys = sorted(search.by_storage, key=lambda key: search.by_storage[key][0], reverse=True)[:top]
    found = search.find({key: search.by_storage[key][1] for key in keys}, limit=3, depth=depth)
    largest = []
    for key in keys:
        nbytes, tensors = search.by_storage[key]
        example = max(tensors, key=torch.Tensor.numel)
        shape, dtype = tuple(example.shape), str(example.dtype).removeprefix("torch.")
        largest.append(LiveStorage(nbytes, shape, dtype, key[0], len(tensors), *as_holders(found[key])))
    frozen = frozen_objects()
    notes = [f"gc.freeze() hides {plural(frozen, 'object')}, perhaps tensors among them"] if frozen else []
    counted = tuple(LiveDevice(device, len(sizes), sum(sizes)) for device, sizes in sorted(live.items()))
    return MemoryReport(memory, devices, counted, tuple(largest), tuple(notes))


def memory_environment() -> MemoryEnvironment:
    """Find out what can and cannot be released in this environment, and why; nothing is released or initialised.

    Returns:
        A `MemoryEnvironment` with one `Ability` per way of releasing or measuring memory.

    Examples:
        >>> [ability.what for ability in memory_environment().abilities][:2]
        ['reference cycles', 'free heap pages']
    """
    memory = read_process_memory()
    abilities = [
        Ability("reference cycles", True, "gc.collect() frees them; what a name still holds is never freed"),
        _heap_ability(),
        Ability("resident memory", memory.resident_nbytes is not None, f"read from {memory.source}"),
        *(_device_ability(name) for name in ("cuda", "xpu")),
        Ability("mps cache", torch.backends.mps.is_available(), _mps_reason()),
    ]
    return MemoryEnvironment(tuple(abilities), memory, read_devices())


def _heap_ability() -> Ability:
    allocator = _process.foreign_allocator()
    if allocator:
        return Ability("free heap pages", False, f"{allocator} serves malloc; malloc_trim reaches only glibc's heap")
    if sys.platform == "linux" and _process.has_symbol("malloc_trim"):
        return Ability("free heap pages", True, "malloc_trim of glibc hands them back to the system")
    return Ability("free heap pages", False, "only glibc has malloc_trim")


def _device_ability(name: str) -> Ability:
    backend = getattr(torch, name)
    if not backend.is_available():
        return Ability(f"{name} cache", False, f"this build of torch (or this machine) has no {name} device")
    used = "in use" if backend.is_initialized() else "not used in this process so far, so there is nothing to empty"
    return Ability(f"{name} cache", True, f"{plural(backend.device_count(), 'device')}, {used}")


def _mps_reason() -> str:
    return "empty_cache" if torch.backends.mps.is_available() else "this machine has no Metal device"
