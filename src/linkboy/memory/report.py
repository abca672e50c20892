"""What the functions of this room return: text and numbers only, so that no report keeps anything alive."""

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

from linkboy._files import atomic_write
from linkboy._plots import new_figure
from linkboy._report import Block, Report, Table, format_bytes, format_count, format_seconds, plural

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class ProcessMemory:
    """Pages of this process that are in physical memory; `None` where the system does not say.

    Attributes:
        resident_nbytes: all of them.
        anonymous_nbytes: heap, stacks and tensors: what a release can give back.
        file_backed_nbytes: libraries and mapped files, which the system drops by itself when it needs the room.
        shared_nbytes: shared memory, such as tensors passed between processes.
        source: where the figures were read.
    """

    resident_nbytes: int | None
    anonymous_nbytes: int | None
    file_backed_nbytes: int | None
    shared_nbytes: int | None
    source: str

    def figures(self) -> dict[str, int | None]:
        """Return the figures under the names that a reader sees."""
        return {
            "resident": self.resident_nbytes,
            "anonymous": self.anonymous_nbytes,
            "file-backed": self.file_backed_nbytes,
            "shared": self.shared_nbytes,
        }


@dataclasses.dataclass(frozen=True)
class DeviceMemory:
    """One device as its allocator counts it.

    Attributes:
        device: `"cuda:0"` and the like.
        allocated_nbytes: held by live tensors.
        reserved_nbytes: held by the allocator, the free blocks of its cache included.
    """

    device: str
    allocated_nbytes: int
    reserved_nbytes: int


@dataclasses.dataclass(frozen=True)
class Holder:
    """One way in which an object is held.

    Attributes:
        path: the path to the object, such as `__main__.history[3] -> MeanBackward0 -> ReluBackward0._saved_result`.
        advice: what to do to release the object.
    """

    path: str
    advice: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return the path, and each piece of advice indented below it."""
        return [self.path, *(f"    {line}" for line in self.advice)]


@dataclasses.dataclass(frozen=True)
class HolderReport(Report):
    """What `who_holds` found.

    Attributes:
        what: the object asked about.
        nbytes: its memory, each storage counted once.
        holders: the shortest paths first.
        notes: why there are none.
    """

    what: str
    nbytes: int
    holders: tuple[Holder, ...]
    notes: tuple[str, ...]

    def _blocks(self) -> Iterable[Block]:
        yield f"{self.what}, {format_bytes(self.nbytes)}, has {plural(len(self.holders), 'known holder')}"
        yield "\n".join(_held_by(self.holders, self.notes))


@dataclasses.dataclass(frozen=True)
class ReleaseStep:
    """One way of giving memory back.

    Attributes:
        name: what was done.
        freed_nbytes: what came back by it; negative where the process grew, `None` where the system does not say.
        seconds: how long it took.
        notes: what else it did.
    """

    name: str
    freed_nbytes: int | None
    seconds: float
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class WatchedObject:
    """What became of an object that should be gone.

    Attributes:
        what: what it was.
        gone: whether it is.
        holders: what still holds it.
        notes: why that may be unknown.
    """

    what: str
    gone: bool
    holders: tuple[Holder, ...]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return one line, and the holders indented below it."""
        below = [] if self.gone else _held_by(self.holders, self.notes)
        return [f"{self.what}: {'gone' if self.gone else 'still held by'}", *(f"    {line}" for line in below)]


@dataclasses.dataclass(frozen=True)
class ReleaseReport(Report):
    """What `release_memory` gave back.

    Attributes:
        freed_nbytes: fall of the resident memory of the process, as the system counts it; negative where it grew,
            `None` where the system does not say.
        before: the process at the start.
        after: the process at the end.
        devices_before: each device in use at the start.
        devices_after: each device in use at the end.
        steps: what each step gave back, in the order taken.
        watched: what became of the watched objects, in the order given.
        notes: what could not be done, and why.
    """

    freed_nbytes: int | None
    before: ProcessMemory
    after: ProcessMemory
    devices_before: tuple[DeviceMemory, ...]
    devices_after: tuple[DeviceMemory, ...]
    steps: tuple[ReleaseStep, ...]
    watched: tuple[WatchedObject, ...]
    notes: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One line: `released 212.4 MiB (resident 812.0 MiB -> 599.6 MiB; heap trim 212.4 MiB)`."""
        parts = [f"resident {_bytes(self.before.resident_nbytes)} -> {_bytes(self.after.resident_nbytes)}"]
        # A step below a tenth of a MiB is noise of the counter, not news.
        parts += [
            f"{step.name} {_bytes(step.freed_nbytes)}" for step in self.steps if abs(step.freed_nbytes or 0) > 1e5
        ]
        alive = sum(not item.gone for item in self.watched)
        if alive:
            parts.append(f"{alive} of {len(self.watched)} watched still held")
        return f"released {_bytes(self.freed_nbytes)} ({'; '.join(parts)})"

    def _blocks(self) -> Iterable[Block]:
        yield self.summary
        before, after = self.before.figures(), self.after.figures()
        rows = [(f"process, {name}", before[name], after[name]) for name in before]
        for old, new in zip(self.devices_before, self.devices_after, strict=False):
            rows.append((f"{new.device}, allocated by tensors", old.allocated_nbytes, new.allocated_nbytes))
            rows.append((f"{new.device}, reserved by the allocator", old.reserved_nbytes, new.reserved_nbytes))
        cells = [
            (name, _bytes(old), _bytes(new), _bytes(old - new))
            for name, old, new in rows
            if old is not None and new is not None
        ]
        yield Table(("memory", "before", "after", "freed"), cells)
        steps = [(s.name, _bytes(s.freed_nbytes), format_seconds(s.seconds), "; ".join(s.notes)) for s in self.steps]
        yield Table(("step", "freed", "took", ""), steps)
        yield from (f"watched[{index}], " + "\n".join(item.lines()) for index, item in enumerate(self.watched))
        yield "\n".join(self.notes)


@dataclasses.dataclass(frozen=True)
class LiveDevice:
    """The live tensors of one device.

    Attributes:
        device: the device.
        storage_count: how many storages they have.
        nbytes: the bytes of these.
    """

    device: str
    storage_count: int
    nbytes: int


@dataclasses.dataclass(frozen=True)
class LiveStorage:
    """One storage, counted once.

    Attributes:
        nbytes: its size.
        shape: shape of its largest tensor.
        dtype: dtype of that tensor.
        device: where it is.
        tensor_count: how many tensors share it.
        holders: who holds it.
        notes: why that may be unknown.
    """

    nbytes: int
    shape: tuple[int, ...]
    dtype: str
    device: str
    tensor_count: int
    holders: tuple[Holder, ...]
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class MemoryReport(Report):
    """What `memory_report` saw.

    Attributes:
        process: resident memory as the system counts it.
        devices: each device in use as its allocator counts it.
        live: live tensors per device, each storage counted once.
        largest: the largest storages, with their holders.
        notes: what could not be seen.
    """

    process: ProcessMemory
    devices: tuple[DeviceMemory, ...]
    live: tuple[LiveDevice, ...]
    largest: tuple[LiveStorage, ...]
    notes: tuple[str, ...]

    def _blocks(self) -> Iterable[Block]:
        storages, nbytes = sum(d.storage_count for d in self.live), sum(d.nbytes for d in self.live)
        yield (
            f"process {_bytes(self.process.resident_nbytes)} resident, live tensors {format_bytes(nbytes)} "
            f"in {plural(storages, 'storage')}"
        )
        rows = [
            (f"process, {name}", format_bytes(value))
            for name, value in self.process.figures().items()
            if value is not None
        ]
        for device in self.devices:
            rows.append((f"{device.device}, allocated by tensors", format_bytes(device.allocated_nbytes)))
            rows.append((f"{device.device}, reserved by the allocator", format_bytes(device.reserved_nbytes)))
        rows += [
            (f"live tensors on {d.device} ({format_count(d.storage_count)})", format_bytes(d.nbytes)) for d in self.live
        ]
        yield Table(("memory", "now"), rows)
        largest = [
            (format_bytes(s.nbytes), str(s.shape), s.dtype, s.device, s.tensor_count, _held_by(s.holders, s.notes)[0])
            for s in self.largest
        ]
        yield Table(("size", "shape", "dtype", "device", "tensors", "held by"), largest, "largest live storages")
        yield "\n".join(self.notes)


@dataclasses.dataclass(frozen=True)
class Ability:
    """One way of releasing or measuring memory.

    Attributes:
        what: what it releases or measures.
        works: whether it does so here.
        why: the reason.
    """

    what: str
    works: bool
    why: str


@dataclasses.dataclass(frozen=True)
class MemoryEnvironment(Report):
    """What `memory_environment` found.

    Attributes:
        abilities: each way of releasing or measuring memory.
        process: the process now.
        devices: each device in use now.
    """

    abilities: tuple[Ability, ...]
    process: ProcessMemory
    devices: tuple[DeviceMemory, ...]

    def _blocks(self) -> Iterable[Block]:
        working = sum(ability.works for ability in self.abilities)
        yield f"{working} of {len(self.abilities)} ways of releasing or measuring memory work here"
        yield Table(("what", "works here", "why"), [(a.what, a.works, a.why) for a in self.abilities])


@dataclasses.dataclass(frozen=True)
class Survivor:
    """Storages of one kind that outlived the step that made them.

    Attributes:
        storage_count: how many there are.
        nbytes: their bytes, all together.
        shape: shape of the largest tensor in each.
        dtype: dtype of that tensor.
        device: where they are.
        holders: who holds the first of them.
        notes: why that may be unknown.
    """

    storage_count: int
    nbytes: int
    shape: tuple[int, ...]
    dtype: str
    device: str
    holders: tuple[Holder, ...]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return one line, and the holders indented below it."""
        what = f"{self.storage_count} x {self.dtype}{list(self.shape)} on {self.device}, {format_bytes(self.nbytes)}"
        return [f"{what}, held by", *(f"    {line}" for line in _held_by(self.holders, self.notes))]


@dataclasses.dataclass(frozen=True)
class LeakReport(Report):
    """What a `LeakDetector` saw after its warm-up.

    Attributes:
        ok: whether nothing leaks: neither live tensors nor the process grew steadily past the tolerance.
        step_count: measured steps, without the warm-up.
        tensor_growth_nbytes: growth of live tensors over these steps.
        process_growth_nbytes: growth of the anonymous memory of the process; `None` where it cannot be read.
        children_growth_nbytes: growth of what child processes have to themselves; `None` without any, or where it cannot be
            read.
        tolerance_nbytes: growth up to which nothing counts as a leak.
        survivors: the tensors that outlived their step, largest first; empty where no tensors leak.
        notes: what the growth means.
    """

    ok: bool
    step_count: int
    tensor_growth_nbytes: int
    process_growth_nbytes: int | None
    children_growth_nbytes: int | None
    tolerance_nbytes: int
    survivors: tuple[Survivor, ...]
    notes: tuple[str, ...]

    @property
    def leaking(self) -> bool:
        """The opposite of `ok`."""
        return not self.ok

    def _blocks(self) -> Iterable[Block]:
        verdict = f"no leak above {format_bytes(self.tolerance_nbytes)}" if self.ok else "leak"
        yield (
            f"{verdict}: in {plural(self.step_count, 'step')} live tensors grew by "
            f"{format_bytes(self.tensor_growth_nbytes)} "
            f"({format_bytes(self.tensor_growth_nbytes / max(self.step_count, 1))} a step), "
            f"the process by {_bytes(self.process_growth_nbytes)}"
        )
        yield from ("\n".join(survivor.lines()) for survivor in self.survivors)
        yield "\n".join(self.notes)


@dataclasses.dataclass(frozen=True)
class MemoryTimeline(Report):
    """Memory at each moment that was sampled.

    Attributes:
        seconds: time since the start of each sample.
        resident: resident bytes of the process at each; `None` where the system does not say.
        allocated: bytes that tensors held on each device in use at each.
        marks: moments named with `mark`.
    """

    seconds: tuple[float, ...]
    resident: tuple[int | None, ...]
    allocated: dict[str, tuple[int, ...]]
    marks: tuple[tuple[float, str], ...]

    @property
    def peak_nbytes(self) -> int | None:
        """Largest resident memory of the process among the samples."""
        return max((value for value in self.resident if value is not None), default=None)

    def save_picture(self, path: str | os.PathLike[str]) -> None:
        """Draw the timeline into a PNG file: process and devices in MiB over seconds, with the marks.

        Raises:
            ModuleNotFoundError: matplotlib is not installed; the message says how to install it.
        """
        figure = new_figure(9, 4)
        axes = figure.add_subplot()
        lines: dict[str, Iterable[int | None]] = {"process, resident": self.resident, **self.allocated}
        for name, values in lines.items():
            axes.plot(self.seconds, [float("nan") if v is None else v / 2**20 for v in values], label=name)
        for moment, name in self.marks:
            axes.axvline(moment, color="gray", linewidth=0.8, linestyle=":")
            axes.annotate(name, (moment, 1), xycoords=("data", "axes fraction"), rotation=90, va="top", fontsize=8)
        axes.set(xlabel="seconds", ylabel="MiB")
        axes.set_ylim(bottom=0)
        axes.legend()
        with atomic_write(Path(path)) as file:
            figure.savefig(file, format="png", dpi=120)

    def _blocks(self) -> Iterable[Block]:
        yield (
            f"{plural(len(self.seconds), 'sample')} in {format_seconds(self.seconds[-1])}, "
            f"peak {_bytes(self.peak_nbytes)} resident"
        )
        rows: list[tuple[Any, ...]] = []
        for moment, name in [(0.0, "start"), *self.marks, (self.seconds[-1], "end")]:
            index = min(range(len(self.seconds)), key=lambda i: abs(self.seconds[i] - moment))
            devices = [format_bytes(values[index]) for values in self.allocated.values()]
            rows.append((format_seconds(moment), name, _bytes(self.resident[index]), *devices))
        yield Table(("at", "", "resident", *self.allocated), rows)


@dataclasses.dataclass(frozen=True)
class RetryAttempt:
    """One call of the function.

    Attributes:
        batch_size: the batch size it was given.
        accumulate: the accumulation steps it was given.
        seconds: how long it took.
        failure: how it failed; empty where it did not.
    """

    batch_size: int
    accumulate: int
    seconds: float
    failure: str


@dataclasses.dataclass(frozen=True)
class RetryReport(Report, Generic[Result]):
    """What `retry_on_oom` ended with.

    Attributes:
        result: what the function returned (left out of `to_dict`).
        batch_size: the batch size that fitted.
        accumulate: the accumulation steps that go with it.
        effective_batch: `batch_size * accumulate`.
        requested_batch: the same product at the start; smaller only where halving an odd number had to round.
        attempts: each call, in order.
    """

    result: Result
    batch_size: int
    accumulate: int
    effective_batch: int
    requested_batch: int
    attempts: tuple[RetryAttempt, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values, without the function's own result."""
        fields = Report.to_dict(dataclasses.replace(self, result=None))
        del fields["result"]
        return fields

    def _blocks(self) -> Iterable[Block]:
        rounded = (
            ""
            if self.effective_batch == self.requested_batch
            else f" (rounded up from {self.requested_batch}, so that no step sees less)"
        )
        yield (
            f"ran with batch size {self.batch_size} x {self.accumulate} accumulated = "
            f"effective batch {self.effective_batch}{rounded}"
        )
        rows = [(a.batch_size, a.accumulate, format_seconds(a.seconds), a.failure or "ran") for a in self.attempts]
        yield Table(("batch size", "accumulate", "took", "outcome"), rows)


def _held_by(holders: tuple[Holder, ...], notes: tuple[str, ...]) -> list[str]:
    return [line for holder in holders for line in holder.lines()] or list(notes) or ["nothing known"]


def _bytes(nbytes: int | None) -> str:
    return "unknown" if nbytes is None else format_bytes(nbytes)
