"""What the operating system, the heap and the device allocators say about this process."""

import bisect
import ctypes
import functools
import mmap
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from linkboy.memory.report import DeviceMemory, ProcessMemory

STATUS, STATM, MAPS = Path("/proc/self/status"), Path("/proc/self/statm"), Path("/proc/self/maps")
TASKS = Path("/proc/self/task")
NOT_ON_DISK = ("/dev/", "/memfd:", "/SYSV")
NO_TRIM = "heap trim not done: this C library has no malloc_trim (only glibc has it), so free blocks stay with the heap"
# A function that only this allocator exports, found among the symbols that are loaded.
FOREIGN_ALLOCATORS = {"mallctl": "jemalloc", "MallocExtension_ReleaseFreeMemory": "tcmalloc", "mi_collect": "mimalloc"}


def read_process_memory() -> ProcessMemory:
    """Read the resident memory of this process: from `/proc` where there is one, otherwise through psutil."""
    try:
        fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
        counts = [int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon", "RssFile", "RssShmem")]
        return ProcessMemory(*counts, source=str(STATUS))
    except (OSError, KeyError, ValueError):
        pass
    try:
        import psutil

        return ProcessMemory(psutil.Process().memory_info().rss, None, None, None, source="psutil")
    except Exception:  # noqa: BLE001  # whatever this system lacks, the caller gets a report and not an error
        return ProcessMemory(None, None, None, None, source="none: neither /proc/self/status nor psutil can be read")


class AnonymousMemory:
    """The anonymous resident memory of this process, read again and again.

    The file stays open: to look up its path takes longer than to read it, several times so after a step that has
    emptied the caches of the processor (110 and 20 microseconds).
    """

    def __init__(self) -> None:
        try:
            self._file = STATM.open("rb", buffering=0)
        except OSError:
            self._file = None

    def read(self) -> int | None:
        """Return the bytes, or `None` where there is no `/proc`."""
        if self._file is None:
            return None
        try:
            _, resident, shared = os.pread(self._file.fileno(), 128, 0).split()[:3]  # pages; "shared" counts files' too
            return (int(resident) - int(shared)) * mmap.PAGESIZE
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """Close the file; nothing can be read from then on."""
        if self._file is not None:
            self._file.close()


class _MallocInfo(ctypes.Structure):
    """What glibc's `mallinfo2` returns."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    )


def read_malloc() -> int | None:
    """Read what is taken from the C library's heap, free blocks left out; `None` where it is not glibc 2.33 or newer."""
    function = _mallinfo()
    if function is None:
        return None
    info = function()
    return info.uordblks + info.hblkhd


@functools.cache
def _mallinfo() -> Callable[[], _MallocInfo] | None:
    if sys.platform != "linux" or not has_symbol("mallinfo2") or foreign_allocator():
        return None
    function = _loaded_symbols().mallinfo2  # type: ignore[union-attr]  # has_symbol has just found it
    function.argtypes, function.restype = [], _MallocInfo
    return function


def read_children() -> int | None:
    """Read the memory that child processes have to themselves, pages copied on write among it; some ms per process."""
    total, seen = 0, False
    try:
        # Leaves every child as it is, and raises if there is none.
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        for task in TASKS.iterdir():
            for child in (task / "children").read_text().split():
                rollup = Path(f"/proc/{child}/smaps_rollup").read_text()
                total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_Dirty:"))
                seen = True
    except (OSError, ValueError, AttributeError):  # no child, no `/proc`, or a child that has just ended
        return None
    return total * 1024 if seen else None


def in_mapped_files(addresses: Iterable[int]) -> set[int]:
    """Return those addresses of this process that lie in a mapped file on disk, whose pages the system may drop."""
    try:
        mappings = [line.split(maxsplit=5) for line in MAPS.read_text().splitlines()]  # ascending
    except OSError:
        return set()
    # Shared memory also has a path, but no disk behind it: it stays until nobody holds it.
    files = [m[0].split("-") for m in mappings if m[5:] and m[5][0] == "/" and not m[5].startswith(NOT_ON_DISK)]
    starts, ends = [int(start, 16) for start, _ in files], [int(end, 16) for _, end in files]
    places = {address: bisect.bisect_right(starts, address) - 1 for address in addresses}
    return {address for address, place in places.items() if place >= 0 and address < ends[place]}


def read_devices() -> tuple[DeviceMemory, ...]:
    """Read the caching allocators of devices that are in use; an untouched device stays untouched."""
    devices = []
    for name in ("cuda", "xpu"):
        backend = getattr(torch, name)
        if backend.is_initialized():
            devices += [
                DeviceMemory(f"{name}:{i}", backend.memory_allocated(i), backend.memory_reserved(i))
                for i in range(backend.device_count())
            ]
    if torch.backends.mps.is_available():
        devices.append(DeviceMemory("mps", torch.mps.current_allocated_memory(), torch.mps.driver_allocated_memory()))
    return tuple(devices)


def empty_device_caches(devices: tuple[DeviceMemory, ...]) -> None:
    """Hand the free blocks of each allocator back to its device; a device without any is not even synchronised."""
    for kind in {device.device.partition(":")[0] for device in devices if device.reserved_nbytes}:
        backend = getattr(torch, kind)
        for device in devices:
            if device.reserved_nbytes and device.device.startswith(f"{kind}:"):
                backend.synchronize(device.device)
        if kind == "mps":
            backend.synchronize()
        backend.empty_cache()


@functools.cache
def _loaded_symbols() -> ctypes.CDLL | None:
    # CDLL(None) is the process itself: it finds glibc's malloc_trim without naming a file that other systems lack.
    return None if sys.platform == "win32" else ctypes.CDLL(None)


def has_symbol(name: str) -> bool:
    """Return whether a C function is loaded in this process."""
    return getattr(_loaded_symbols(), name, None) is not None


def foreign_allocator() -> str | None:
    """Name the allocator that serves `malloc` in place of the C library's, if its symbols are known."""
    return next((allocator for symbol, allocator in FOREIGN_ALLOCATORS.items() if has_symbol(symbol)), None)


def trim_heap() -> str:
    """Ask glibc to hand free heap pages back; return why that does nothing here, or an empty string."""
    if not (sys.platform == "linux" and has_symbol("malloc_trim")):
        return NO_TRIM
    trim = _loaded_symbols().malloc_trim  # type: ignore[union-attr]  # has_symbol has just found it
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    trim(0)
    allocator = foreign_allocator()
    return f"heap trim does nothing here: {allocator} serves malloc, malloc_trim is glibc's" if allocator else ""
