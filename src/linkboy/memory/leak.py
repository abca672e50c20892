"""Find what a loop leaves behind: memory that grows step after step, and who keeps it."""

import gc
import itertools
import weakref
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

import torch
from torch import Tensor

from linkboy._checks import check_number
from linkboy.memory._live import Hidden, StorageKey, frozen_objects, memory_below, scan, storages
from linkboy.memory._process import in_mapped_files, read_anonymous, trim_heap
from linkboy.memory._search import HolderSearch
from linkboy.memory.holders import as_holders
from linkboy.memory.report import LeakReport, Survivor

Item = TypeVar("Item")


class LeakDetector:
    """Watch a loop, and report whether memory grows step after step, which tensors stay, and who keeps them.

    A leak is steady growth past the tolerance, of live tensors or of the process: not a single peak, not what the first
    steps load, not pages of files. If the collector is not frozen yet, `gc.freeze()` is called at the start of the block
    (and undone at its end), so that a step only has to look at objects younger than the loop.

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
        self._live: list[int] = []  # bytes of live tensors younger than the loop, at the end of each step
        self._process: list[int] = []
        self._born: dict[StorageKey, int] = {}
        self._frozen: dict[StorageKey, weakref.ref[torch.UntypedStorage]] = {}  # younger than the loop, yet frozen
        self._steps = 0

    def __enter__(self) -> Self:
        if self._entered:
            raise RuntimeError("this LeakDetector is already watching a loop; make a second one for the inner loop")
        self._reset()
        self._entered, self._last = True, None
        self._total_before = _total(scan()[1])
        self._froze = frozen_objects() == 0
        if self._froze:
            gc.freeze()
        self._record(0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._froze:
            gc.unfreeze()
        self._entered = self._froze = False
        self._last = self._judge()

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
        sizes = self._young()
        self._steps += 1
        self._born = {key: self._born.get(key, self._steps) for key in sizes}
        self._record(sum(sizes.values()))

    def _young(self) -> dict[StorageKey, int]:
        frozen = ((key, storage()) for key, storage in self._frozen.items())
        return {key: storage.nbytes() for key, storage in frozen if storage is not None} | _sizes(scan()[1])

    def _record(self, live: int) -> None:
        self._live.append(live)
        if self._steps == self._warmup:
            trim_heap()  # growth is counted from here, and pages that happen to be free in the heap do not count
        anonymous = read_anonymous()
        if anonymous is not None:
            self._process.append(anonymous)

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
        live, process = self._live[self._warmup :], self._process[self._warmup :]
        growing = _grows_steadily(live, self._tolerance)
        # New tensors that only replaced older ones do not count as growth, nor do those that map a file.
        tensors_leak = growing and _total(scan()[1]) - self._total_before > self._tolerance
        # A heap reaches its final size in leaps; only growth that continues in every quarter is more than that.
        unexplained = _growth(process) - max(_growth(live), 0)
        process_leaks = _grows_steadily(process, self._tolerance, parts=4) and unexplained > self._tolerance
        if process_leaks:
            trim_heap()  # what the heap only keeps for later is not a leak
            left = (read_anonymous() or process[-1]) - process[0] - max(_growth(live), 0)
            process_leaks = left > self._tolerance
        notes: tuple[str, ...] = ()
        if process_leaks and not tensors_leak:
            notes = ("no tensor accounts for it: other Python objects, or memory that a library keeps",)
        elif growing and not tensors_leak:
            notes = (
                "the new tensors took the place of older ones, or map files, whose pages the system drops when it must",
            )
        elif len(live) < 4:
            notes = (f"fewer than 3 steps after a warm-up of {self._warmup} are too few to tell",)
        return LeakReport(
            ok=not (tensors_leak or process_leaks),
            step_count=max(len(live) - 1, 0),
            tensor_growth_nbytes=_growth(live),
            process_growth_nbytes=_growth(process) if process else None,
            survivors=self._survivors() if tensors_leak else (),
            notes=notes,
        )

    def _survivors(self, kinds: int = 5) -> tuple[Survivor, ...]:
        search = HolderSearch()
        files = _in_files(search.by_storage)
        groups: dict[tuple[tuple[int, ...], str, str], list[StorageKey]] = {}
        for key, (_, tensors) in search.by_storage.items():
            if self._warmup < self._born.get(key, self._steps) < self._steps and key not in files:
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
