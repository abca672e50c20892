"""Release memory, and report what was released, what was not, and why."""

import gc
import time
import weakref
from typing import Any

from linkboy._checks import check_flag, describe
from linkboy._report import plural
from linkboy.memory._process import empty_device_caches, read_devices, read_process_memory, trim_heap
from linkboy.memory.holders import describe_target, holders_of
from linkboy.memory.report import DeviceMemory, ProcessMemory, ReleaseReport, ReleaseStep, WatchedObject


def release_memory(*watched: "weakref.ref[Any]", trim: bool = True, collect: bool = True) -> ReleaseReport:
    """Give memory back to the system and the devices, and report what came back and who still holds the rest.

    Runs the garbage collector, empties the cache of each device allocator that is in use, and asks the heap for its
    free pages. None of them can free what a name still holds: `del` it first, and pass a weak reference made before
    the `del` to see whether it is gone. What a platform lacks (glibc's `malloc_trim`, a device, `/proc`) becomes a
    note in the report, never an error; no device is initialised.

    Args:
        watched: weak references to what should be gone: tensors, modules, optimizers, anything that `weakref.ref`
            takes. `weakref.ref(tensor.untyped_storage())` watches the memory itself, whichever view holds it.
        trim: whether to return free heap pages to the system (10 to 50 ms if there are many); `False` leaves them to
            the heap, which is better between two steps that allocate the same amount again.
        collect: whether to run the garbage collector, which looks at every object of the process (0.1 to 0.2 s once
            torch is loaded); `False` where all that should be gone is, since nothing was in a cycle.

    Returns:
        A `ReleaseReport`: `.freed_nbytes`, before and after for process and devices, each step's share, the watched
        objects with the paths to their holders, and `.summary` in one line.

    Raises:
        TypeError: `watched` holds something that is not a weak reference, or `trim` or `collect` is not a bool.

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
    fails where the C library is not glibc, silently does nothing under jemalloc, and does not say what it freed.
    """
    _check_watched(watched)
    check_flag("trim", trim)
    check_flag("collect", collect)
    labels = [_label(reference) for reference in watched]
    before, devices_before = read_process_memory(), read_devices()
    steps, notes = [], []

    if collect:
        start = time.perf_counter()
        collected = gc.collect()
        now = read_process_memory()
        note = plural(collected, "unreachable object")
        steps.append(ReleaseStep("collector", _fall(before, now), time.perf_counter() - start, (note,)))
    else:
        notes.append("garbage collector not run: collect=False")

    for old, new, seconds in _empty_caches():
        steps.append(ReleaseStep(f"{new.device} cache", old.reserved_nbytes - new.reserved_nbytes, seconds))

    if trim:
        start, last = time.perf_counter(), read_process_memory()
        problem = trim_heap()
        steps.append(ReleaseStep("heap trim", _fall(last, read_process_memory()), time.perf_counter() - start))
        notes += [problem] if problem else []
    else:
        notes.append("heap trim not done: trim=False")

    after, devices_after = read_process_memory(), read_devices()
    if after.resident_nbytes is None:
        notes.append(f"resident memory unknown: {after.source.removeprefix('none: ')}")
    if not devices_after:
        notes.append("device caches not emptied: no device was used in this process")
    found = _verdicts(labels, watched)
    if trim:
        trim_heap()  # what the search for holders took, so that the next call does not count it as freed
    return ReleaseReport(
        freed_nbytes=_fall(before, after),
        before=before,
        after=after,
        devices_before=devices_before,
        devices_after=devices_after,
        steps=tuple(steps),
        watched=found,
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


def _verdicts(labels: list[str], watched: tuple["weakref.ref[Any]", ...]) -> tuple[WatchedObject, ...]:
    alive = [target for target in (reference() for reference in watched) if target is not None]
    reports = iter(holders_of(alive) if alive else [])
    by_id = {id(target): report for target, report in zip(alive, reports, strict=True)}
    found = [by_id.get(id(reference())) for reference in watched]  # `alive` still holds what had survived
    return tuple(
        WatchedObject(label, report is None, report.holders if report else (), report.notes if report else ())
        for label, report in zip(labels, found, strict=True)
    )


def _empty_caches() -> list[tuple[DeviceMemory, DeviceMemory, float]]:
    start, old = time.perf_counter(), read_devices()
    empty_device_caches(old)
    seconds = time.perf_counter() - start
    return [(before, after, seconds) for before, after in zip(old, read_devices(), strict=True)]


def _fall(before: ProcessMemory, after: ProcessMemory) -> int | None:
    start, end = before.resident_nbytes, after.resident_nbytes
    return None if start is None or end is None else start - end
