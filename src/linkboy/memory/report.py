"""What is alive right now, and what this environment can release."""

import dataclasses
import sys
from collections.abc import Iterable

import torch

from linkboy._checks import check_number
from linkboy._report import Block, Report, Table, format_bytes, format_count
from linkboy.memory import process
from linkboy.memory.holders import Holder, Search, verdict
from linkboy.memory.live import frozen_objects
from linkboy.memory.process import DeviceMemory, ProcessMemory, read_devices, read_process_memory


@dataclasses.dataclass(frozen=True)
class LiveDevice:
    """Live tensors of one device: how many storages, and their bytes."""

    device: str
    storages: int
    nbytes: int


@dataclasses.dataclass(frozen=True)
class LiveStorage:
    """One storage, counted once: `shape` and `dtype` are those of its largest tensor, `tensors` how many share it."""

    nbytes: int
    shape: tuple[int, ...]
    dtype: str
    device: str
    tensors: int
    holders: tuple[Holder, ...]
    note: str


@dataclasses.dataclass(frozen=True)
class LiveMemoryReport(Report):
    """What `memory_report` saw, as text and numbers only: the report keeps nothing alive.

    Args:
        process: resident memory as the system counts it.
        devices: each device in use as its allocator counts it.
        live: bytes in live tensors per device, each storage once.
        largest: the largest storages, with their holders.
        notes: what could not be seen.
    """

    process: ProcessMemory
    devices: tuple[DeviceMemory, ...]
    live: tuple[LiveDevice, ...]
    largest: tuple[LiveStorage, ...]
    notes: tuple[str, ...]

    def _blocks(self) -> Iterable[Block]:
        memory = self.process
        rows = [
            (f"process, {name}", format_bytes(value))
            for name, value in (
                ("resident", memory.resident),
                ("anonymous", memory.anonymous),
                ("file-backed", memory.file_backed),
                ("shared", memory.shared),
            )
            if value is not None
        ]
        for device in self.devices:
            rows.append((f"{device.device}, allocated by tensors", format_bytes(device.allocated)))
            rows.append((f"{device.device}, reserved by the allocator", format_bytes(device.reserved)))
        rows += [
            (f"live tensors on {d.device} ({format_count(d.storages)})", format_bytes(d.nbytes)) for d in self.live
        ]
        yield Table(("memory", "now"), rows)
        largest = [
            (format_bytes(item.nbytes), str(item.shape), item.dtype, item.device, item.tensors, _first_holder(item))
            for item in self.largest
        ]
        yield Table(("size", "shape", "dtype", "device", "tensors", "held by"), largest, "largest live storages")
        yield "\n".join(self.notes)


def memory_report(*, top: int = 10, depth: int = 8) -> LiveMemoryReport:
    """See where the memory is: process, devices, and the largest live tensors with who holds them.

    A storage counts once, however many views it has, at the size of the storage. Gradients and what autograd graphs
    have saved are counted; meta and fake tensors take nothing.

    Args:
        top: how many of the largest storages to list.
        depth: longest path to a holder, in objects.

    Returns:
        A `LiveMemoryReport`; `.live` has the bytes per device, `.largest` the storages and their `.holders`.

    Raises:
        TypeError: a number is no integer.
        ValueError: `top` is negative or `depth` below 1.

    Examples:
        >>> import torch
        >>> big = torch.zeros(3_000_000)
        >>> views = [big[:10], big.view(1000, 3000)]
        >>> largest = memory_report(top=1).largest[0]
        >>> largest.nbytes, largest.tensors
        (12000000, 3)
    """
    check_number("top", top, minimum=0, integer=True)
    check_number("depth", depth, minimum=1, integer=True)
    memory, devices = read_process_memory(), read_devices()
    search = Search()
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
        largest.append(LiveStorage(nbytes, shape, dtype, key[0], len(tensors), *verdict(found[key])))
    frozen = frozen_objects()
    notes = [f"gc.freeze() hides {format_count(frozen)} objects, tensors among them perhaps"] if frozen else []
    counted = tuple(LiveDevice(device, len(sizes), sum(sizes)) for device, sizes in sorted(live.items()))
    return LiveMemoryReport(memory, devices, counted, tuple(largest), tuple(notes))


def _first_holder(item: LiveStorage) -> str:
    return item.holders[0].path if item.holders else item.note


@dataclasses.dataclass(frozen=True)
class Ability(Report):
    """One way of releasing memory: whether it works here, and why."""

    what: str
    works: bool
    why: str


@dataclasses.dataclass(frozen=True)
class MemoryEnvironment(Report):
    """What `memory_environment` found: each way of releasing memory, and the process as it is."""

    abilities: tuple[Ability, ...]
    process: ProcessMemory
    devices: tuple[DeviceMemory, ...]

    def _blocks(self) -> Iterable[Block]:
        rows = [(ability.what, "yes" if ability.works else "no", ability.why) for ability in self.abilities]
        yield Table(("what", "works here", "why"), rows)


def memory_environment() -> MemoryEnvironment:
    """Say what can and cannot be released in this environment, and why; nothing is released or initialised.

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
        Ability("resident memory", memory.resident is not None, f"read from {memory.source}"),
        *(_device_ability(name) for name in ("cuda", "xpu")),
        Ability("mps cache", torch.backends.mps.is_available(), _mps_reason()),
    ]
    return MemoryEnvironment(tuple(abilities), memory, read_devices())


def _heap_ability() -> Ability:
    allocator = process.foreign_allocator()
    if allocator:
        return Ability("free heap pages", False, f"{allocator} serves malloc; malloc_trim reaches only glibc's heap")
    if sys.platform == "linux" and process.has_symbol("malloc_trim"):
        return Ability("free heap pages", True, "malloc_trim of glibc hands them back to the system")
    return Ability("free heap pages", False, "only glibc has malloc_trim")


def _device_ability(name: str) -> Ability:
    backend = getattr(torch, name)
    if not backend.is_available():
        return Ability(f"{name} cache", False, f"this build of torch (or this machine) has no {name} device")
    used = "in use" if backend.is_initialized() else "not used in this process so far, so there is nothing to empty"
    return Ability(f"{name} cache", True, f"{backend.device_count()} device(s), {used}")


def _mps_reason() -> str:
    return "empty_cache" if torch.backends.mps.is_available() else "this machine has no Metal device"
