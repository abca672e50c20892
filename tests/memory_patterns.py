"""A script that forks one fresh process per line it reads: allocation patterns, pins and loops to judge from outside.

Run as `python memory_patterns.py`; each line names one entry of `ENTRIES`, and the answers are one line each.
"""

import functools
import json
import os
import sys
import tempfile
import threading
import traceback
import weakref
from collections import deque
from pathlib import Path

import torch
from torch import nn

import linkboy as lb

MIB = 2**20
FLOATS = 8 * MIB  # 32 MiB
KEPT = {}
WATCH = []


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# Allocation patterns: made, then deleted but for what is returned


def blocks(count, floats):
    return [torch.ones(floats) for _ in range(count)]


def keep_one_of_16():
    return blocks(2560, 25_600)[::16]


def in_threads():
    made = [None] * 4

    def work(index):
        made[index] = blocks(640, 25_600)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def train(layers=40, width=256, rows=512, steps=3):
    model = nn.Sequential(*[nn.Linear(width, width) for _ in range(layers)])
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(steps):
        model(torch.randn(rows, width)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


PATTERNS = {
    "large": lambda: blocks(16, 4 * MIB) and None,
    "medium": lambda: blocks(2560, 25_600) and None,
    "small": lambda: blocks(65_536, 1024) and None,
    "one of 16 kept": keep_one_of_16,
    "threads": in_threads,
    "training": train,
}


def run_pattern(name):
    train(layers=1, width=8, rows=8, steps=1)  # what a first use loads is no part of a pattern
    lb.release_memory()
    answer(os.getpid())
    kept = PATTERNS[name]()
    answer("made")
    answer(lb.release_memory().freed_nbytes)
    del kept


# Pins: each returns how to follow the advice


def fail():
    big = torch.ones(FLOATS)
    WATCH.append(weakref.ref(big.untyped_storage()))
    raise ValueError(str(len(big)))


def kept_exception():
    try:
        fail()
    except ValueError as error:
        KEPT["error"] = error
    return lambda: traceback.clear_frames(KEPT["error"].__traceback__)


def context_chain():
    try:
        try:
            fail()
        except ValueError:
            raise RuntimeError("second") from None
    except RuntimeError as error:
        KEPT["error"] = error.with_traceback(None)
    return KEPT.clear


def last_error(name):
    try:
        fail()
    except ValueError as error:
        setattr(sys, name, error.__traceback__ if name == "last_traceback" else error)
    return lambda: delattr(sys, name)


def optimizer_after_del_model():
    model = nn.Linear(2048, 4096, bias=False)
    KEPT["optimizer"] = torch.optim.Adam(model.parameters())
    WATCH.append(weakref.ref(model.weight.untyped_storage()))
    return KEPT.clear


def lru_cache():
    KEPT["make"] = functools.lru_cache(torch.ones)
    WATCH.append(weakref.ref(KEPT["make"](FLOATS).untyped_storage()))
    return KEPT["make"].cache_clear


def one_element_slice():
    whole = torch.ones(FLOATS)
    WATCH.append(weakref.ref(whole.untyped_storage()))
    KEPT["slice"] = whole[:1]
    return lambda: KEPT.update(slice=KEPT["slice"].clone())


def hook_list():
    KEPT["model"] = nn.Identity()

    def attach():
        seen = []
        return KEPT["model"].register_forward_hook(lambda module, args, output: seen.append(output))

    handle = attach()
    WATCH.append(weakref.ref(KEPT["model"](torch.ones(FLOATS)).untyped_storage()))
    return handle.remove


def loss_list():
    hidden = torch.ones(FLOATS, requires_grad=True).exp()
    WATCH.append(weakref.ref(hidden.untyped_storage()))
    KEPT["losses"] = [hidden.mean()]
    return lambda: KEPT.update(losses=[loss.item() for loss in KEPT["losses"]])


def notebook_output():
    globals()["Out"] = {3: torch.ones(FLOATS)}
    WATCH.append(weakref.ref(globals()["Out"][3].untyped_storage()))
    return globals()["Out"].clear


def name_with_underscore():
    globals()["_3d"] = torch.ones(FLOATS)
    WATCH.append(weakref.ref(globals()["_3d"].untyped_storage()))
    return lambda: globals().pop("_3d")


PINS = {
    "kept exception": kept_exception,
    "context chain": context_chain,
    "sys.last_value": functools.partial(last_error, "last_value"),
    "sys.last_traceback": functools.partial(last_error, "last_traceback"),
    "sys.last_exc": functools.partial(last_error, "last_exc"),
    "optimizer after del model": optimizer_after_del_model,
    "lru_cache": lru_cache,
    "one-element slice": one_element_slice,
    "hook list": hook_list,
    "loss list": loss_list,
    "notebook output": notebook_output,
    "name with underscore": name_with_underscore,
}


def run_pin(name):
    follow_advice = PINS[name]()
    watched = lb.release_memory(*WATCH).watched[0]
    before = resident()
    follow_advice()
    after = lb.release_memory(*WATCH).watched[0]
    answer(
        json.dumps(
            {
                "held": not watched.gone,
                "holders": [[holder.path, list(holder.advice)] for holder in watched.holders],
                "gone": after.gone,
                "returned": before - resident(),
            }
        )
    )


# Loops: each returns the body of a step


def clean_training():
    model = nn.Sequential(*[nn.Linear(256, 256) for _ in range(40)])
    optimizer = torch.optim.Adam(model.parameters())

    def step(index):
        model(torch.randn(16, 256)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def clean_window():
    window = deque(maxlen=6)
    return lambda index: window.append(torch.ones(300_000))


def clean_replaced():
    held = {}
    return lambda index: held.update(average=torch.ones(3_000_000))


def clean_peak():
    held = {}
    return lambda index: held.update(once=torch.ones(5 * MIB)) if index == 12 else None


def clean_numbers():
    numbers = []
    return lambda index: numbers.append(float(torch.ones(10_000).mean()))


def file_of(size):
    handle, path = tempfile.mkstemp()
    os.write(handle, bytes(size))
    os.close(handle)
    return path


def map_files():
    path, held = file_of(8 * MIB), []

    def step(index):
        held.append(torch.from_file(path, shared=index % 2 == 0, size=2 * MIB))
        held[-1].sum()

    return step


def read_a_mapped_file():
    mapped = torch.from_file(file_of(512 * MIB // 8), shared=True, size=16 * MIB)
    return lambda index: mapped[index * 524_288 : (index + 1) * 524_288].sum()


def touch_shared_memory():
    shared = torch.empty(16 * MIB).share_memory_()  # made before the loop, as by another process
    return lambda index: shared[index * MIB : (index + 1) * MIB].fill_(1)


def keep_shared_memory():
    held = []
    return lambda index: held.append(torch.ones(2 * MIB).share_memory_())


def keep_bytes():
    held = []
    return lambda index: held.append(bytearray(b"x") * 4 * MIB)


LOOPS = {
    "training": clean_training,
    "window": clean_window,
    "replaced": clean_replaced,
    "one peak": clean_peak,
    "numbers": clean_numbers,
    "map files": map_files,
    "read a mapped file": read_a_mapped_file,
    "touch shared memory": touch_shared_memory,
    "keep shared memory": keep_shared_memory,
    "keep bytes": keep_bytes,
}


def run_loop(name, steps):
    body = LOOPS[name]()
    verdicts = []
    with lb.LeakDetector() as detector:
        for index in range(int(steps)):
            body(index)
            detector.step()
            if index + 1 in (5, 6, 8, 12, 20):
                verdicts.append(detector.report().ok)
    report = detector.report()
    answer(json.dumps({"ok": [*verdicts, report.ok], "notes": report.notes, "text": str(report)}))


KINDS = {"pattern": run_pattern, "pin": run_pin, "loop": run_loop}


def answer(value):
    """Write a line, and wait until the reader has done its part."""
    print(value, flush=True)
    next_line()


def next_line():
    return b"".join(iter(lambda: os.read(0, 1), b"\n")).decode()  # unbuffered: what follows may be for another process


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.optim.Adam([nn.Parameter(torch.ones(1))]).step()  # loads what an optimizer needs, once for all
    while line := next_line():
        child = os.fork()  # nothing that ran before has shaped the heap of this one
        if child == 0:
            kind, *arguments = line.split("|")
            KINDS[kind](*arguments)
            print("done", flush=True)
            os._exit(0)
        os.waitpid(child, 0)
