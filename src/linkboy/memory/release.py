"""Give memory back, and say what came back, what did not, and why."""

import dataclasses
import gc
import time
import weakref
from collections.abc import Iterable
from typing import Any

from linkboy._checks import check_flag, describe
from linkboy._report import Block, Report, Table, format_bytes, format_seconds
from linkboy.memory.holders import Holder, describe_target, holders_of
from linkboy.memory.process import (
    DeviceMemory,
    ProcessMemory,
    empty_device_caches,
    read_devices,
    read_process_memory,
    trim_heap,
)


@dataclasses.dataclass(frozen=True)
class Step:
    """One way of giving memory back: bytes that came back by it (negative: the process grew), and how long it took."""

    name: str
    freed_bytes: int | None
    seconds: float
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Watched:
    """One object that should be gone: what it was, whether it is, what still holds it, and why that may be unknown."""

    what: str
    gone: bool
    holders: tuple[Holder, ...]
    note: str


@dataclasses.dataclass(frozen=True)
class MemoryReport(Report):
    """What `release_memory` gave back, in bytes.

    Args:
        freed_bytes: fall of the resident memory of the process, as the system counts it; negative where it grew,
            `None` where the system does not say.
        before: the process at the start.
        after: the process at the end.
        devices_before: each device in use at the start.
        devices_after: each device in use at the end.
        steps: what each step gave back, in the order taken.
        watched: what became of the watched objects, in the order given.
        notes: what could not be done, and why.
    """

    freed_bytes: int | None
    before: ProcessMemory
    after: ProcessMemory
    devices_before: tuple[DeviceMemory, ...]
    devices_after: tuple[DeviceMemory, ...]
    steps: tuple[Step, ...]
    watched: tuple[Watched, ...]
    notes: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One line: `released 212.4 MiB (resident 812.0 MiB -> 599.6 MiB; heap trim 212.4 MiB)`."""
        parts = [f"resident {_bytes(self.before.resident)} -> {_bytes(self.after.resident)}"]
        # A step below a tenth of a MiB is noise of the counter, not news.
        parts += [f"{step.name} {_bytes(step.freed_bytes)}" for step in self.steps if abs(step.freed_bytes or 0) > 1e5]
        alive = sum(not item.gone for item in self.watched)
        if alive:
            parts.append(f"{alive} of {len(self.watched)} watched still held")
        return f"released {_bytes(self.freed_bytes)} ({'; '.join(parts)})"

    def _blocks(self) -> Iterable[Block]:
        yield self.summary
        before, after = self.before, self.after
        rows = [
            ("process, resident", before.resident, after.resident),
            ("process, anonymous", before.anonymous, after.anonymous),
            ("process, file-backed", before.file_backed, after.file_backed),
            ("process, shared", before.shared, after.shared),
        ]
        for old, new in zip(self.devices_before, self.devices_after, strict=False):
            rows.append((f"{new.device}, allocated by tensors", old.allocated, new.allocated))
            rows.append((f"{new.device}, reserved by the allocator", old.reserved, new.reserved))
        cells = [
            (name, _bytes(old), _bytes(new), _bytes(old - new))
            for name, old, new in rows
            if old is not None and new is not None
        ]
        yield Table(("memory", "before", "after", "freed"), cells)
        steps = [(step.name, _bytes(step.freed_bytes), format_seconds(step.seconds), step.note) for step in self.steps]
        yield Table(("step", "freed", "took", ""), steps)
        if self.watched:
            yield "\n".join(_watched_lines(self.watched))
        if self.notes:
            yield "\n".join(self.notes)


def release_memory(*watched: "weakref.ref[Any]", trim: bool = True) -> MemoryReport:
    """Give memory back to the system and the devices, and report what came back and who still holds the rest.

    Runs the garbage collector, empties the cache of each device allocator that is in use, and asks the heap for its
    free pages. None of them can free what a name still holds: `del` it first, and pass a weak reference made before
    the `del` to see whether it is gone. What a platform lacks (glibc's `malloc_trim`, a device, `/proc`) becomes a
    note in the report, never an error; no device is initialised.

    Args:
        watched: weak references to what should be gone: tensors, modules, optimizers, anything that `weakref.ref`
            takes. `weakref.ref(tensor.untyped_storage())` watches the memory itself, whichever view holds it.
        trim: hand free heap pages back to the system (some 10 to 50 ms where there are many); `False` leaves them to
            the heap, which is better between two steps that allocate the same again.

    Returns:
        A `MemoryReport`: `.freed_bytes`, before and after for process and devices, each step's share, the watched
        objects with the paths to their holders, and `.summary` in one line.

    Raises:
        TypeError: `watched` holds something that is not a weak reference, or `trim` is not a bool.

    Examples:
        >>> import torch, weakref
        >>> big = torch.zeros(2_000_000)
        >>> history = [big[:1]]
        >>> watch = weakref.ref(big.untyped_storage())
        >>> del big
        >>> release_memory(watch).watched[0].gone   # one element keeps all 8 MB
        False
        >>> del history
        >>> release_memory(watch).watched[0].gone
        True

    Differs from the copied `gc.collect(); ctypes.CDLL("libc.so.6").malloc_trim(0); torch.cuda.empty_cache()`: that
    fails where the C library is not glibc, does nothing in silence under jemalloc, and does not say what it freed.
    """
    _check_watched(watched)
    check_flag("trim", trim)
    labels = [_label(reference) for reference in watched]
    before, devices_before = read_process_memory(), read_devices()
    steps, notes = [], []

    start = time.perf_counter()
    collected = gc.collect()
    now = read_process_memory()
    note = f"{collected} unreachable objects"
    steps.append(Step("collector", _fall(before, now), time.perf_counter() - start, note))

    for old, new, seconds in _empty_caches():
        steps.append(Step(f"{new.device} cache", old.reserved - new.reserved, seconds))

    if trim:
        start, last = time.perf_counter(), read_process_memory()
        problem = trim_heap()
        steps.append(Step("heap trim", _fall(last, read_process_memory()), time.perf_counter() - start))
        notes += [problem] if problem else []
    else:
        notes.append("heap trim not done: trim=False")

    after, devices_after = read_process_memory(), read_devices()
    if after.resident is None:
        notes.append(f"resident memory unknown: {after.source.removeprefix('none: ')}")
    if not devices_after:
        notes.append("device caches not emptied: no device was used in this process")
    return MemoryReport(
        freed_bytes=_fall(before, after),
        before=before,
        after=after,
        devices_before=devices_before,
        devices_after=devices_after,
        steps=tuple(steps),
        watched=_verdicts(labels, watched),
        notes=tuple(notes),
    )


def _check_watched(watched: tuple[object, ...]) -> None:
    for index, reference in enumerate(watched):
        proxy = type(reference) in weakref.ProxyTypes  # which answers for its object, and fails where that is gone
        if proxy or not isinstance(reference, weakref.ref):
            got = "weakref.proxy" if proxy else describe(reference)
            raise TypeError(
                f"watched[{index}] must be a weak reference, got {got}: passing the object itself "
                "keeps it alive; before you delete it, make `watch = weakref.ref(it)` and pass `watch`"
            )


def _label(reference: "weakref.ref[Any]") -> str:
    target = reference()
    return "an object that was gone before the call" if target is None else describe_target(target)


def _verdicts(labels: list[str], watched: tuple["weakref.ref[Any]", ...]) -> tuple[Watched, ...]:
    alive = [target for target in (reference() for reference in watched) if target is not None]
    reports = iter(holders_of(alive) if alive else [])
    by_id = {id(target): report for target, report in zip(alive, reports, strict=True)}
    found = [by_id.get(id(reference())) for reference in watched]  # `alive` still holds what had survived
    return tuple(
        Watched(label, report is None, report.holders if report else (), report.note if report else "")
        for label, report in zip(labels, found, strict=True)
    )


def _empty_caches() -> list[tuple[DeviceMemory, DeviceMemory, float]]:
    start, old = time.perf_counter(), read_devices()
    empty_device_caches(old)
    seconds = time.perf_counter() - start
    return [(before, after, seconds) for before, after in zip(old, read_devices(), strict=True)]


def _fall(before: ProcessMemory, after: ProcessMemory) -> int | None:
    return None if before.resident is None or after.resident is None else before.resident - after.resident


def _watched_lines(watched: tuple[Watched, ...]) -> Iterable[str]:
    for index, item in enumerate(watched):
        yield f"watched[{index}], {item.what}: {'gone' if item.gone else 'still held by'}"
        yield from (f"    {line}" for holder in item.holders for line in holder.lines())
        yield from [f"    {item.note}"] if item.note else []


def _bytes(nbytes: int | None) -> str:
    return "unknown" if nbytes is None else format_bytes(nbytes)
