"""Allocation patterns in a process of their own, whose memory the parent reads; and agreement between processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MIB = 2**20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

CHILD = """
import gc, sys, threading, torch, linkboy as lb
torch.set_num_threads(1)
def blocks(count, floats): return [torch.ones(floats) for _ in range(count)]
def threads():
    made = [None] * 4
    def work(i): made[i] = blocks(640, 25_600)
    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    [w.start() for w in workers]; [w.join() for w in workers]
    return made
def training():
    model = torch.nn.Sequential(*[torch.nn.Linear(256, 256) for _ in range(40)])
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(3):
        model(torch.randn(512, 256)).square().mean().backward(); optimizer.step(); optimizer.zero_grad()
patterns = {
    "large": lambda: blocks(16, 4_194_304),
    "medium": lambda: blocks(2560, 25_600),
    "small": lambda: blocks(65_536, 1024),
    "one of 16 kept": lambda: blocks(2560, 25_600),
    "threads": threads,
    "training": training,
}
lb.release_memory()
for line in sys.stdin:
    made = patterns[line.strip()]()
    kept = made[::16] if line.strip() == "one of 16 kept" else None
    del made
    print("made", flush=True); sys.stdin.readline()
    print(lb.release_memory().freed_bytes, flush=True); sys.stdin.readline()
    del kept
    lb.release_memory()
    print("ready", flush=True)
"""


def child_environment():
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def resident(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def child():
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=-1, stdout=-1, text=True, env=child_environment()
    ) as process:

        def ask(line):
            process.stdin.write(line + "\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        ask_and_pid = ask, process.pid
        for _ in range(2):  # the heap's own books and the libraries' first use are no part of a pattern
            for line in ("training", "", "", "small", "", ""):
                ask(line)
        yield ask_and_pid
        process.stdin.close()


# What a pattern may leave above the start, in MiB: the blocks it keeps, and the pages around them.
@pytest.mark.parametrize(
    ("pattern", "left"),
    [("large", 0), ("medium", 0), ("small", 0), ("one of 16 kept", 16), ("threads", 0), ("training", 0)],
)
def test_the_report_is_what_the_parent_sees_and_the_pattern_is_gone(child, pattern, left):
    ask, pid = child
    start = resident(pid)
    assert ask(pattern) == "made"
    before = resident(pid)
    freed = int(ask(""))
    after = resident(pid)
    print(f"{pattern}: after del {(before - start) / MIB:.0f}, after release {(after - start) / MIB:.0f} MiB")
    assert abs((before - after) - freed) < 5 * MIB
    assert (after - start) / MIB < left + 5
    assert ask("") == "ready"


AGREE = """
import sys, torch, torch.distributed as dist, linkboy as lb
rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
def step(batch_size, accumulate):
    if rank == 1 and batch_size > 8: raise MemoryError
    return batch_size
report = lb.retry_on_oom(step, 32)
def wrong(batch_size, accumulate):
    if rank == 1: raise ValueError("wrong")
try: lb.retry_on_oom(wrong, 32)
except Exception as error: message = f"{type(error).__name__}: {error}"
print(report.batch_size, report.accumulate, [a.failure for a in report.attempts], message, sep="|")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_all_processes_agree_when_one_runs_out(tmp_path):
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", AGREE, str(rank), str(tmp_path / "store")],
            stdout=-1,
            text=True,
            env=child_environment(),
        )
        for rank in range(2)
    ]
    lines = [worker.communicate(timeout=120)[0].strip().split("|") for worker in workers]
    assert [line[:2] for line in lines] == [["8", "4"], ["8", "4"]]
    assert lines[0][2] == "['another process ran out of memory', 'another process ran out of memory', '']"
    assert lines[1][2] == "['MemoryError: ', 'MemoryError: ', '']"
    assert lines[0][3] == (
        "RuntimeError: another process stopped with an error that is not out of memory; its own message says why"
    )
    assert lines[1][3] == "ValueError: wrong"


CLEAN = """
import linkboy as lb, torch
torch.set_num_threads(1)
model = torch.nn.Sequential(*[torch.nn.Linear(64, 64) for _ in range(40)])
optimizer = torch.optim.Adam(model.parameters())
detector = lb.LeakDetector()
for batch in detector.watch(torch.randn(1000, 64, 64)):
    model(batch).square().mean().backward(); optimizer.step(); optimizer.zero_grad()
print(detector.report().leaking)
"""


@pytest.mark.slow
def test_a_thousand_clean_training_steps_raise_no_alarm():
    result = subprocess.run(
        [sys.executable, "-c", CLEAN], capture_output=True, text=True, env=child_environment(), check=True
    )
    assert result.stdout.strip() == "False"
