"""Memory: release beside the copied cleaner, retries beside accelerate, the cost of a leak check and of a scan."""

import ctypes
import gc
import multiprocessing
import time

import torch
from accelerate.utils import find_executable_batch_size
from torch import nn

import linkboy as lb
from benchmarks.harness import Row, median_seconds
from linkboy.memory._live import scan
from linkboy.memory._process import read_process_memory

MIB = 2**20


def copied_cleaner() -> None:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    torch.cuda.empty_cache()


def retry() -> Row:
    tried: list[int] = []

    def step(batch_size: int, accumulate: int = 1) -> int:
        tried.append(batch_size)
        if batch_size > 50:
            raise RuntimeError("CUDA out of memory.")
        return batch_size

    ours = lb.retry_on_oom(step, 100)
    tried.clear()
    theirs = find_executable_batch_size(step, starting_batch_size=100)()
    assert ours.result <= 50
    assert theirs <= 50
    return Row(
        "attempts from 100 with room for 50",
        len(ours.attempts),
        "accelerate",
        len(tried),
        unit="attempts",
        equality=f"both fit: ours at {ours.result} x {ours.accumulate}, the peer at {theirs} x 1",
        target="2",
    )


def release() -> Row:
    def fill_and(clean):
        made = [torch.ones(25_600) for _ in range(640)]
        del made
        clean()

    fill_and(lb.release_memory)
    ours_left = read_process_memory().resident_nbytes
    fill_and(copied_cleaner)
    theirs_left = read_process_memory().resident_nbytes
    assert abs(ours_left - theirs_left) < 5 * MIB
    seconds = median_seconds({"ours": lb.release_memory, "copied": copied_cleaner})
    return Row(
        "release, nothing to free", seconds["ours"], "copied cleaner", seconds["copied"], equality="same memory left"
    )


def leak_check(rounds: int) -> Row:
    model = nn.Sequential(*[nn.Linear(256, 256) for _ in range(40)])
    optimizer = torch.optim.Adam(model.parameters())

    def step() -> None:
        model(torch.randn(128, 256)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    spent = {"step": 0.0, "check": 0.0}
    with lb.LeakDetector() as detector:
        for _ in range(rounds):
            for name, run in (("step", step), ("check", detector.step)):
                start = time.thread_time()
                run()
                spent[name] += time.thread_time() - start
    assert detector.report().ok
    return Row(
        f"LeakDetector.step(), mean of {rounds}",
        spent["check"] / rounds,
        "the training step watched",
        spent["step"] / rounds,
        equality="no alarm on the clean loop",
        target="<= 50 us",
    )


def live_scan(count: int, rounds: int) -> Row:
    ballast = [[] for _ in range(count)]
    tensors = [torch.zeros(10) for _ in range(100)]

    def loop() -> list[torch.Tensor]:
        return [item for item in gc.get_objects() if isinstance(item, torch.Tensor)]

    assert {id(item) for item in scan()[1]} == {id(item) for item in loop()}
    seconds = median_seconds({"ours": scan, "loop": loop}, rounds=rounds)
    alive = f"{len(gc.get_objects()):,} objects"
    assert len(ballast) + len(tensors) > count
    return Row(
        f"find live tensors, {alive}",
        seconds["ours"],
        "isinstance loop",
        seconds["loop"],
        equality="same tensors",
        target="< 0.1 s",
    )


def holders(count: int, rounds: int) -> Row:
    ballast = [[] for _ in range(count)]
    target = torch.zeros(10)
    holder = {"here": target}
    assert any("holder['here']" in item.path or "holder" in item.path for item in lb.who_holds(target).holders)
    seconds = median_seconds(
        {"ours": lambda: lb.who_holds(target), "once": lambda: gc.get_referrers(target)}, rounds=rounds
    )
    assert len(ballast) == count
    assert holder
    return Row(
        f"who_holds, {len(gc.get_objects()):,} objects", seconds["ours"], "one gc.get_referrers", seconds["once"]
    )


PATTERNS = {
    "16 tensors of 16 MiB": (16, 4 * MIB, False),
    "2560 tensors of 100 KiB": (2560, 25_600, False),
    "65536 tensors of 4 KiB": (65_536, 1024, False),
    "2560 tensors of 100 KiB, one of 16 kept": (2560, 25_600, True),
}


def above_the_start(pattern: str) -> tuple[float, float]:
    """Make and delete tensors; return the MiB that are resident beyond the start after `del`, and after a release."""
    count, floats, keep = PATTERNS[pattern]
    lb.release_memory()
    start = read_process_memory().resident_nbytes
    made = [torch.ones(floats) for _ in range(count)]
    kept = made[::16] if keep else []
    del made
    deleted = read_process_memory().resident_nbytes
    lb.release_memory()
    assert len(kept) == keep * count // 16
    return (deleted - start) / MIB, (read_process_memory().resident_nbytes - start) / MIB


def given_back() -> list[Row]:
    context, rows = multiprocessing.get_context("spawn"), []
    for pattern in PATTERNS:
        with context.Pool(1) as fresh:  # what one pattern leaves behind would change the next
            deleted, released = fresh.apply(above_the_start, (pattern,))
        rows.append(Row(f"left after {pattern}", max(0, released), "del alone", max(0, deleted), "MiB"))
    return rows


def run(*, quick: bool) -> list[Row]:
    count, rounds = (20_000, 3) if quick else (1_000_000, 9)
    fixed = [retry(), release(), leak_check(5 if quick else 500), live_scan(count, rounds), holders(count, rounds)]
    return fixed if quick else [*fixed, *given_back()]
