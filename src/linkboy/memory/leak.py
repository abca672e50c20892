"""Find what a loop leaves behind: memory that grows step after step, and who keeps it."""

import gc
import itertools
import math
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

import torch
from torch import Tensor

from linkboy._checks import check_number
from linkboy._report import format_bytes, plural
from linkboy.memory._live import Hidden, StorageKey, frozen_objects, memory_below, scan, storages
from linkboy.memory._process import AnonymousMemory, in_mapped_files, read_children, read_malloc, trim_heap
from linkboy.memory._search import HolderSearch
from linkboy.memory.holders import as_holders
from linkboy.memory.report import LeakReport, Survivor

Item = TypeVar("Item")
_ALWAYS = 16  # first steps after the warm-up that are all looked at
_SECONDS_A_STEP = 20e-6  # of our own, on average
_SHARE = 0.0004  # or this share of the time that the loop itself takes
_WORTH_A_WORD = 1 << 18  # bytes of steady growth that are said, however large the tolerance


class _Sample(NamedTuple):
    """Memory at the end of one step: of live tensors younger than the loop, of the process, and taken from malloc."""

    step: int
    live: int
    process: int | None
    heap: int | None


class _Clock:
    """Says when to measure again, so that measuring costs little beside the loop.

    Args:
        seconds_a_step: what it may cost on average, however short the steps are.
    """

    def __init__(self, seconds_a_step: float) -> None:
        self._seconds_a_step = seconds_a_step
        self._due_step, self._due_time = 0.0, 0.0

    def is_due(self, step: int) -> bool:
        """Return whether what the last measurement took is affordable since."""
        return step >= self._due_step or time.perf_counter() >= self._due_time

    def measured(self, step: int, start: float) -> None:
        """Record that a measurement at the end of a step, begun at `start`, is over."""
        now = time.perf_counter()
        self._due_time = now + (now - start) / _SHARE
        self._due_step = step + (now - start) / self._seconds_a_step if self._seconds_a_step else math.inf


class LeakDetector:
    """Watch a loop, and report whether memory grows step after step, which tensors stay, and who keeps them.

    A leak is steady growth past the tolerance, of live tensors or of the process: not a single peak, not what the first
    steps load, not pages of files. If the collector is not frozen yet, `gc.freeze()` is called at the start of the block
    (and undone at its end), so that a step only has to look at objects younger than the loop. The first steps are all looked
    at; later ones as often as that takes 20 microseconds a step, or 0.04 % of the time, on average. Child processes, such
    as the workers of a `DataLoader`, count too, and may cost another 0.04 %.

    Args:
        tolerance_mib: growth in MiB up to which nothing counts as a leak.
        warmup: number of first steps to ignore, in which libraries load, optimizers make their state and the heap grows.

    Raises:
        TypeError: `tolerance_mib` is not a number, or `warmup` is not an integer.
        ValueError: `tolerance_mib` or `warmup` is negative.

    Examples:
        >>> import torch
        >>> history = []
        >>> detector = LeakDetector(tolerance_mib=1.0, warmup=1)
        >>> for batch in detector.watch(torch.ones(6, 200_000)):
        ...     history.append(batch * 2)
        >>> report = detector.report()
        >>> report.ok, report.survivors[0].shape
        (False, (200000,))

    Inside a loop of your own: `with LeakDetector() as detector:` and `detector.step()` at the end of each iteration.
    """

    def __init__(self, *, tolerance_mib: float = 5.0, warmup: int = 2) -> None:
        check_number("tolerance_mib", tolerance_mib, minimum=0)
        check_number("warmup", warmup, minimum=0, integer=True)
        self._tolerance, self._warmup = tolerance_mib * 2**20, warmup
        self._reset()
        self._froze = self._entered = False
        self._last: LeakReport | None = None

    def _reset(self) -> None:
        self._samples: list[_Sample] = []
        self._children: list[int] = []  # memory of child processes, read less often
        self._born: dict[tuple[StorageKey, int], int] = {}  # an address comes again, in another size
        self._frozen: dict[StorageKey, weakref.ref[torch.UntypedStorage]] = {}  # younger than the loop, yet frozen
        self._steps = 0
        self._sample_clock, self._children_clock = _Clock(_SECONDS_A_STEP), _Clock(0.0)

    def __enter__(self) -> Self:
        if self._entered:
            raise RuntimeError("this LeakDetector is already watching a loop; make a second one for the inner loop")
        self._reset()
        self._entered, self._last = True, None
        gc.collect()  # garbage of before the loop that goes away during it would hide what leaks
        self._total_before = _total(scan()[1])
        self._froze = frozen_objects() == 0
        if self._froze:
            gc.freeze()
        self._anonymous = AnonymousMemory()
        self._record(0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._samples[-1].step < self._steps:
            self._take_sample()
        if self._froze:
            gc.unfreeze()
        self._entered = self._froze = False
        self._last = self._judge()
        self._anonymous.close()

    def __repr__(self) -> str:
        watched = (
            f"{plural(self._steps, 'step')} watched"
            if self._entered or self._last is not None
            else "no loop watched yet"
        )
        result = "" if self._last is None else f"; {self._last.summary}"
        return f"<LeakDetector of growth above {format_bytes(self._tolerance)}: {watched}{result}>"

    def watch(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, and take a step after each; `report()` has the result once the loop is over."""
        with self:
            for item in items:
                yield item
                del item
                self.step()

    def step(self) -> None:
        """Record what is alive at the end of an iteration.

        Raises:
            RuntimeError: the detector is not watching: use it as a context manager or through `watch`.
        """
        if not self._entered:
            raise RuntimeError("step() must be called inside the block: `with LeakDetector() as detector: ...`")
        self._steps += 1
        if self._steps > self._warmup + _ALWAYS and not self._sample_clock.is_due(self._steps):
            return
        start = time.perf_counter()
        self._take_sample()
        self._sample_clock.measured(self._steps, start)
        if self._children_clock.is_due(self._steps):
            start = time.perf_counter()
            children = read_children()
            self._children += [] if children is None or self._steps < self._warmup else [children]
            self._children_clock.measured(self._steps, start)

    def _take_sample(self) -> None:
        sizes = self._young()
        self._born = {item: self._born.get(item, self._steps) for item in sizes.items()}
        self._record(sum(sizes.values()))

    def _young(self) -> dict[StorageKey, int]:
        frozen = ((key, storage()) for key, storage in self._frozen.items())
        return {key: storage.nbytes() for key, storage in frozen if storage is not None} | _sizes(scan()[1])

    def _record(self, live: int) -> None:
        if self._steps == self._warmup:
            trim_heap()  # growth is counted from here, and pages that happen to be free in the heap do not count
        self._samples.append(_Sample(self._steps, live, self._anonymous.read(), read_malloc()))

    def report(self) -> LeakReport:
        """Return the verdict so far; after the loop, the one from its end.

        Raises:
            RuntimeError: no loop has been watched yet.
        """
        if self._last is not None:
            return self._last
        if not self._entered:
            raise RuntimeError("report() needs a watched loop: `for batch in detector.watch(loader): ...`")
        if not self._froze:
            return self._judge()
        with torch._C.DisableTorchFunctionSubclass():
            for tensor in _with_saved(scan()[1]):
                self._frozen |= {key: weakref.ref(storage) for key, storage in memory_below(tensor)}
        gc.unfreeze()  # the holders may be older than the loop
        try:
            return self._judge()
        finally:
            gc.freeze()

    def _judge(self) -> LeakReport:
        samples = [sample for sample in self._samples if sample.step >= self._warmup]
        live = [sample.live for sample in samples]
        process = [sample.process for sample in samples if sample.process is not None]
        heap = [sample.heap for sample in samples if sample.heap is not None]
        growing = _grows_steadily(live, self._tolerance)
        # New tensors that only replaced older ones do not count as growth, nor do those that map a file; nor does the last
        # batch, which may be larger than the first one was: what leaks has outlived the step that made it.
        stayed = growing and 2 * self._outlived() > _growth(live)
        tensors_leak = stayed and _total(scan()[1]) - self._total_before > self._tolerance
        process_leaks = self._process_leaks(process, heap, max(_growth(live), 0))
        children_leak = _grows_steadily(self._children, self._tolerance)
        if process_leaks and not tensors_leak:
            notes = ["no tensor accounts for it: NumPy arrays, other Python objects, or memory that a library keeps"]
        else:
            notes = [] if tensors_leak else self._about_tensors(live, growing, stayed)
        if children_leak:
            notes.append(
                f"child processes grew by {format_bytes(_growth(self._children))}: workers copy each page of the parent's "
                "objects that they touch; keep large lists of Python objects in arrays or tensors"
            )
        survivors = self._survivors() if tensors_leak else ()
        if tensors_leak and not survivors:
            notes.append(
                "what grew was gone once the garbage collector ran: a reference cycle holds it until then; break the cycle, or "
                "call gc.collect() after some steps"
            )
        return LeakReport(
            ok=not (tensors_leak or process_leaks or children_leak),
            step_count=max(self._steps - self._warmup, 0),
            tensor_growth_nbytes=_growth(live),
            process_growth_nbytes=_growth(process) if process else None,
            children_growth_nbytes=_growth(self._children) if self._children else None,
            tolerance_nbytes=int(self._tolerance),
            survivors=survivors,
            notes=tuple(notes),
        )

    def _process_leaks(self, process: Sequence[int], heap: Sequence[int], tensors: int) -> bool:
        """Return whether the process grows steadily by more than its tensors do."""
        # What is taken from malloc shows growth through the leaps of a heap that keeps free pages.
        if _grows_steadily(heap, self._tolerance, parts=4) and _growth(heap) - tensors > self._tolerance:
            return True
        # A heap reaches its final size in leaps; only growth that continues in every quarter is more than that.
        if not (_grows_steadily(process, self._tolerance, parts=4) and _growth(process) - tensors > self._tolerance):
            return False
        trim_heap()  # what the heap only keeps for later is not a leak
        return (self._anonymous.read() or process[-1]) - process[0] - tensors > self._tolerance

    def _about_tensors(self, live: Sequence[int], growing: bool, stayed: bool) -> list[str]:
        """Return what to say of growth that is not a leak."""
        if growing and not stayed:
            return ["the tensors of each step are larger than those before, and none outlives its step"]
        if growing:
            return [
                "the new tensors took the place of older ones, or map files, whose pages the system drops when it must"
            ]
        if _grows_steadily(live, _WORTH_A_WORD) and self._outlived() > _WORTH_A_WORD:
            return [
                f"tensors that stay grew steadily, below the tolerance of {format_bytes(self._tolerance)}: watch more steps, "
                "or pass a smaller tolerance_mib"
            ]
        if self._steps - self._warmup < 3:
            return [f"fewer than 3 steps after a warm-up of {self._warmup} are too few to tell"]
        return []

    def _outlived(self) -> int:
        """Return the bytes of the tensors that were made in one of the measured steps and are there after a later one."""
        return sum(nbytes for (_, nbytes), born in self._born.items() if self._warmup < born < self._samples[-1].step)

    def _survivors(self, kinds: int = 5) -> tuple[Survivor, ...]:
        search = HolderSearch()
        files = _in_files(search.by_storage)
        groups: dict[tuple[tuple[int, ...], str, str], list[StorageKey]] = {}
        for key, (nbytes, tensors) in search.by_storage.items():
            born = self._born.get((key, nbytes), self._steps)
            if self._warmup < born < self._samples[-1].step and key not in files:
                largest = max(tensors, key=Tensor.numel)
                kind = (tuple(largest.shape), str(largest.dtype).removeprefix("torch."), key[0])
                groups.setdefault(kind, []).append(key)
        size = {kind: sum(search.by_storage[key][0] for key in keys) for kind, keys in groups.items()}
        top = sorted(groups, key=size.__getitem__, reverse=True)[:kinds]
        found = search.find({kind: search.by_storage[groups[kind][0]][1] for kind in top}, limit=3, depth=8)
        return tuple(Survivor(len(groups[kind]), size[kind], *kind, *as_holders(found[kind])) for kind in top)


def _sizes(tensors: Sequence[Tensor]) -> dict[StorageKey, int]:
    with torch._C.DisableTorchFunctionSubclass():
        return dict(item for tensor in _with_saved(tensors) for item in storages(tensor))


def _with_saved(tensors: Sequence[Tensor]) -> list[Tensor]:
    saved = [item for item in Hidden(tensors).saved if isinstance(item, Tensor)]  # no name, yet alive in a graph
    return [*tensors, *saved]


def _total(tensors: Sequence[Tensor]) -> int:
    sizes = _sizes(tensors)
    files = _in_files(sizes)
    return sum(nbytes for key, nbytes in sizes.items() if key not in files)


def _in_files(keys: Iterable[StorageKey]) -> set[StorageKey]:
    mapped = in_mapped_files(address for device, address in keys if device == "cpu")
    return {("cpu", address) for address in mapped}


def _growth(series: Sequence[int]) -> int:
    return series[-1] - series[0] if series else 0


def _grows_steadily(series: Sequence[int], tolerance: float, *, parts: int = 2) -> bool:
    """Return whether a series rises past the tolerance, and in each of its parts: neither one peak nor a place that fills."""
    if len(series) < 4:
        return False
    parts = min(parts, len(series) - 1)
    growth = series[-1] - series[0]
    largest_rise = max(after - before for before, after in itertools.pairwise(series))
    cuts = [series[(len(series) - 1) * part // parts] for part in range(parts + 1)]
    in_each = all(2 * parts * (after - before) >= growth for before, after in itertools.pairwise(cuts))
    return growth > tolerance and 2 * largest_rise <= growth and in_each
