"""Patterns, pins and loops in processes of their own, whose memory the parent reads; agreement between processes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

MIB = 2**20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

TRACEBACK = ".__traceback__ -> fail() at memory_patterns.py:N, local big"
DROP = "drop the exception (`del error`), or call `traceback.clear_frames(error.__traceback__)`"
OUTPUT = (
    "IPython keeps outputs, also under hidden names: run `get_ipython().displayhook.flush(); "
    "get_ipython().user_ns_hidden.update(_='', __='', ___='')`"
)
LAST = (
    "the interpreter keeps the last error: run `import sys; sys.last_value = sys.last_traceback = sys.last_exc = None`"
)


def child_environment():
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def resident(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def ask():
    """Sends a line to the script, which does each entry in a process of its own, and returns the line it answers."""
    script = Path(__file__).with_name("memory_patterns.py")
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=-1, stdout=-1, text=True, env=child_environment()
    ) as process:

        def ask(line):
            process.stdin.write(line + "\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        yield ask
        process.stdin.write("\n")


# What a pattern may leave above the start, in MiB: the blocks it keeps, and the pages around them.
@pytest.mark.parametrize(
    ("pattern", "left"),
    [("large", 0), ("medium", 0), ("small", 0), ("one of 16 kept", 16), ("threads", 0), ("training", 0)],
)
def test_the_report_is_what_the_parent_sees_and_the_pattern_is_gone(ask, pattern, left):
    pid = int(ask(f"pattern|{pattern}"))
    start = resident(pid)
    assert ask("") == "made"
    before = resident(pid)
    freed = int(ask(""))
    after = resident(pid)
    assert ask("") == "done"
    print(f"{pattern}: after del {(before - start) / MIB:.0f}, after release {(after - start) / MIB:.0f} MiB")
    assert abs((before - after) - freed) < 5 * MIB
    assert (after - start) / MIB < left + 5


@pytest.mark.parametrize(
    ("pin", "path", "advice", "nbytes"),
    [
        ("kept exception", "__main__.KEPT['error']" + TRACEBACK, DROP, 32),
        ("context chain", "__main__.KEPT['error'].__context__" + TRACEBACK, DROP, 32),
        ("sys.last_value", "sys.last_value" + TRACEBACK, LAST, 32),
        ("sys.last_traceback", "sys.last_traceback" + TRACEBACK.removeprefix(".__traceback__"), LAST, 32),
        ("sys.last_exc", "sys.last_exc" + TRACEBACK, LAST, 32),
        (
            "optimizer after del model",
            "__main__.KEPT['optimizer'].param_groups[0]['params'][0]",
            "delete the optimizer together with the model",
            32,
        ),
        ("lru_cache", "__main__.KEPT['make'] -> its lru_cache", "call `cache_clear()` on that function", 32),
        (
            "one-element slice",
            "__main__.KEPT['slice']",
            "store `.clone()`: this view of 4 B keeps all 32.0 MiB of its storage",
            32,
        ),
        (
            "hook list",
            "__main__.KEPT['model']._forward_hooks[0] -> <lambda>'s closure variable seen[0]",
            "call `handle.remove()` on the hook",
            32,
        ),
        (
            "loss list",
            "__main__.KEPT['losses'][0] -> MeanBackward0 -> ExpBackward0._saved_result",
            "store `loss.item()` or `.detach()`: a tensor with a graph keeps all activations",
            64,
        ),
        ("notebook output", "__main__.Out[3]", OUTPUT, 32),
        ("name with underscore", "__main__._3d", "delete that name, or take it out of that container", 32),
    ],
)
def test_a_pin_is_named_with_its_path_and_its_advice_gives_the_memory_back(ask, pin, path, advice, nbytes):
    result = json.loads(ask(f"pin|{pin}"))
    assert ask("") == "done"
    assert result["held"]
    assert [path, [advice]] in [[re.sub(r"py:\d+", "py:N", at), said] for at, said in result["holders"]]
    assert result["gone"]
    assert abs(result["returned"] - nbytes * MIB) < 5 * MIB


def judge(ask, loop, steps):
    result = json.loads(ask(f"loop|{loop}|{steps}"))
    assert ask("") == "done"
    return result


@pytest.mark.parametrize("loop", ["map files", "read a mapped file", "touch shared memory"])
def test_files_that_are_mapped_and_memory_shared_before_are_no_leak(ask, loop):
    result = judge(ask, loop, 12)
    assert all(result["ok"])
    if loop == "map files":
        assert result["notes"] == [
            "the new tensors took the place of older ones, or map files, whose pages the system drops when it must"
        ]


def test_shared_memory_that_a_loop_keeps_is_a_leak(ask):
    assert judge(ask, "keep shared memory", 5)["ok"] == [False, False]


def test_growth_without_tensors_is_found_within_five_steps(ask):
    result = judge(ask, "keep bytes", 5)
    assert result["ok"] == [False, False]  # asked for in the loop, and after it
    assert result["notes"] == [
        "no tensor accounts for it: NumPy arrays, other Python objects, or memory that a library keeps"
    ]


CLEAN = ["training", "window", "replaced", "one peak", "numbers"]


@pytest.mark.parametrize("loop", CLEAN)
def test_a_clean_loop_raises_no_alarm_at_any_step_of_the_first_twenty(ask, loop):
    assert judge(ask, loop, 20)["ok"] == [True] * 6


@pytest.mark.slow
@pytest.mark.parametrize("loop", CLEAN)
def test_a_thousand_steps_of_a_clean_loop_raise_no_alarm(ask, loop):
    assert all(judge(ask, loop, 1000)["ok"])


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
