"""A checkpoint is whole or it is not there, whatever happens while it is written."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.helpers import same_state

from linkboy.training import Checkpointer
from linkboy.training._packing import pack, unpack

STATE = {
    "weight": torch.arange(6.0).reshape(2, 3).t(),  # not contiguous
    "half": torch.tensor([1.5, -0.0, float("inf")], dtype=torch.bfloat16),
    "empty": torch.zeros(0, 4),
    "scalar": torch.tensor(3, dtype=torch.int64),
    "nested": [{"a": 1, 2: "two", ("x", 3): None}, (1.5, float("inf"), True), [torch.ones(1, dtype=torch.bool)]],
    "__odd__": {"__tensor__": "not a tensor"},
    "big": 2**80,
    "half a pair": "\ud800",
}

leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(), st.floats(allow_nan=False),
    st.lists(st.floats(width=32, allow_nan=False), max_size=3).map(torch.tensor),
)  # fmt: skip
states = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers(), st.just("__tuple__")), inner, max_size=3),
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(states)
def test_what_is_packed_comes_back_the_same_through_json(state):
    tensors, values = pack(state)
    assert same_state(unpack(tensors, json.loads(json.dumps(values))), state)


def test_what_is_saved_is_loaded_to_the_bit(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    path = checkpointer.save(STATE, 3)
    assert path == tmp_path / "step-3"
    assert same_state(checkpointer.load(path), STATE)


def test_tensors_that_share_memory_are_saved_each_as_it_is(tmp_path):
    whole = torch.arange(10.0)
    state = {"whole": whole, "again": whole, "part": whole[3:6], "row": torch.ones(1, 4).expand(3, 4)}
    checkpointer = Checkpointer(tmp_path)
    assert same_state(checkpointer.load(checkpointer.save(state, 0)), state)


def test_the_newest_are_kept_and_the_others_go(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=2)
    for step in (1, 2, 10, 9):
        checkpointer.save(STATE, step)
    assert [path.name for path in checkpointer.paths()] == ["step-9", "step-10"]
    assert checkpointer.latest() == tmp_path / "step-10"


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[:-1])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        position = random.Random(0).randrange(len(content))
        path.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])


@pytest.mark.parametrize("how", ["missing", "cut", "empty", "bit"])
@pytest.mark.parametrize("name", ["process-0.safetensors", "process-0.json", "manifest.json"])
def test_any_damage_is_seen_and_the_checkpoint_before_is_found(tmp_path, name, how):
    checkpointer = Checkpointer(tmp_path)
    good = checkpointer.save(STATE, 1)
    bad = checkpointer.save(STATE, 2)
    if (name, how) == ("manifest.json", "bit"):
        manifest = json.loads((bad / name).read_text())
        manifest["files"][0]["sha256"] = "0" * 64
        (bad / name).write_text(json.dumps(manifest))
    else:
        damage(bad / name, how)
    assert not checkpointer.verify(bad).ok
    assert checkpointer.latest() == good
    with pytest.raises(ValueError, match=re.escape(f"{bad} is not a whole checkpoint: ")):
        checkpointer.load(bad)
    assert checkpointer.save(STATE, 2) == bad  # a damaged one may be replaced, a whole one never
    with pytest.raises(FileExistsError) as caught:
        checkpointer.save(STATE, 2)
    assert str(caught.value) == f"{bad} exists already; a checkpoint is never overwritten"


@pytest.mark.parametrize(
    ("name", "how", "problem"),
    [
        ("process-0.json", "missing", "process-0.json is missing"),
        ("process-0.json", "empty", "process-0.json has 0 bytes instead of {size}"),
        ("process-0.safetensors", "bit", "process-0.safetensors has other content than when it was saved"),
        ("manifest.json", "missing", "manifest.json is missing"),
        ("manifest.json", "cut", "manifest.json is unreadable"),
    ],
)
def test_the_report_names_the_damage(tmp_path, name, how, problem):
    checkpointer = Checkpointer(tmp_path)
    path = checkpointer.save(STATE, 1)
    size = (path / name).stat().st_size
    damage(path / name, how)
    report = checkpointer.verify(path)
    assert (report.ok, report.notes) == (False, (problem.format(size=size),))


def test_other_things_in_the_directory_are_no_checkpoints(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    for name in ("step-", "step-x", "step-7", ".tmp-8-abcd"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "step-9").write_text("a file")
    assert checkpointer.latest() is None
    assert checkpointer.verify(tmp_path / "step-9").notes == ("there is no such directory",)
    (tmp_path / "step-7" / "manifest.json").write_text('{"format": 1}')
    assert checkpointer.verify(tmp_path / "step-7").notes == ("manifest.json is not a checkpoint's manifest",)


def test_a_checkpoint_of_a_later_format_is_refused_with_both_numbers(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    path = checkpointer.save(STATE, 1)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 3}))
    assert checkpointer.verify(path).notes == ("it has format 3, and this linkboy reads formats up to 2",)


def test_of_a_checkpoint_of_two_processes_one_reads_what_the_first_saved(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    path = checkpointer.save(STATE, 1)
    manifest = json.loads((path / "manifest.json").read_text())
    for entry in list(manifest["files"]):
        name = entry["name"].replace("process-0", "process-1")
        (path / name).write_bytes((path / entry["name"]).read_bytes())
        manifest["files"].append({**entry, "name": name})
    (path / "manifest.json").write_text(json.dumps({**manifest, "world_size": 2}))
    assert same_state(checkpointer.load(path), STATE)


def test_what_is_neither_tensor_nor_plain_is_refused_by_its_place(tmp_path):
    with pytest.raises(TypeError) as caught:
        Checkpointer(tmp_path).save({"a": [1, {"b": object()}]}, 1)
    assert str(caught.value) == (
        "state.a.1.b must be a tensor, a plain value or a dict, list or tuple of them, got object; convert it, as with "
        "torch.from_numpy, list or str"
    )
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_and_nothing_behind(tmp_path, monkeypatch):
    checkpointer = Checkpointer(tmp_path)
    good = checkpointer.save(STATE, 1)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match=r"no checkpoint written: .* needs room for .* \(\d+ bytes\); .*No space left"
    ) as caught:
        checkpointer.save(STATE, 2)
    assert caught.value.errno == 28
    assert [path for path in tmp_path.iterdir() if path.name != ".lock"] == [good]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_leaves_the_old_checkpoints_and_names_path_and_bytes(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", tmp_path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk: {mounted.stderr.decode().strip()}")
    try:
        checkpointer = Checkpointer(tmp_path)
        good = checkpointer.save({"weight": torch.zeros(10_000)}, 1)
        with pytest.raises(OSError, match=re.escape(f"no checkpoint written: {tmp_path} needs room for 390.7 KiB (")):
            checkpointer.save({"weight": torch.zeros(100_000)}, 2)
        assert checkpointer.latest() == good
        assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_two_runs_do_not_write_to_one_directory_and_leftovers_are_removed(tmp_path):
    (tmp_path / ".tmp-5-dead").mkdir()
    with Checkpointer(tmp_path).locked():
        assert not (tmp_path / ".tmp-5-dead").exists()
        with pytest.raises(BlockingIOError) as caught, Checkpointer(tmp_path).locked():
            pass
    assert str(caught.value) == f"another run is writing checkpoints to {tmp_path}; use another directory"
    with Checkpointer(tmp_path).locked():
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_steps": 0}, "every_steps must be an integer of at least 1, got 0"),
        ({"every_minutes": 0}, "every_minutes must be a number above 0, got 0"),
        ({"keep": 0}, "keep must be an integer of at least 1, got 0"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError) as caught:
        Checkpointer(tmp_path, **options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("error", "step", "message"),
    [
        (ValueError, -1, "step must be an integer of at least 0, got -1"),
        (TypeError, "last", "step must be an integer of at least 0, got 'last' of type str"),
    ],
)
def test_a_step_that_would_not_be_found_again_is_refused(tmp_path, error, step, message):
    with pytest.raises(error) as caught:
        Checkpointer(tmp_path).save({}, step)
    assert str(caught.value) == message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(2, device="meta"), "must be a dense tensor, got one on the meta device, without values"),
        (torch.ones(2).to_sparse(), "must be a dense tensor, got one of layout torch.sparse_coo"),
        (
            np.ones(2),
            "must be a tensor, a plain value or a dict, list or tuple of them, got ndarray; convert it, as with "
            "torch.from_numpy, list or str",
        ),
        (
            torch.ones(2, dtype=torch.complex128),
            "must have a dtype that safetensors has, got torch.complex128; convert it first",
        ),
        (
            torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
            "must be a dense tensor, got a nested one",
        ),
    ],
)
def test_what_cannot_be_kept_is_named_and_nothing_is_written(tmp_path, value, message):
    with pytest.raises(TypeError) as caught:
        Checkpointer(tmp_path).save({"model": {"weight": value}}, 1)
    assert str(caught.value) == f"state.model.weight {message}"
    assert not list(tmp_path.iterdir())


def test_scalars_of_numpy_come_back_as_plain_numbers(tmp_path):
    state = {"best": np.float32(1.5), "epoch": np.int64(3), "found": np.bool_(True), "mean": np.float64(0.1)}
    keeper = Checkpointer(tmp_path)
    loaded = keeper.load(keeper.save(state, 1))
    assert loaded == {"best": 1.5, "epoch": 3, "found": True, "mean": 0.1}
    assert [type(value) for value in loaded.values()] == [float, int, bool, float]


# Forks a child that saves without pause for every line it reads, so that torch is imported once for all kills.
SAVING_FOR_EVER = r"""
import os, sys, torch
from linkboy.training import Checkpointer
for line in sys.stdin:
    if child := os.fork():
        os.waitpid(child, 0)
        os.write(1, b"dead\n")
        continue
    checkpointer, step = Checkpointer(sys.argv[1], keep=2), int(line)
    os.write(1, b"%d\n" % os.getpid())  # in one piece: a kill must not cut a line, whatever buffers the stream has
    with checkpointer.locked():
        while True:
            step += 1
            value = torch.full((200_000,), float(step))
            checkpointer.save({"weight": value, "moment": value.clone(), "step": step}, step)
            os.write(1, b"%d\n" % step)
"""


def kill_while_saving(directory: Path, kills: int, seed: int) -> None:
    """Kill a process that saves without pause; whatever it said was saved must be there, whole and of one step."""
    rng, last = random.Random(seed), 0
    command = [sys.executable, "-c", SAVING_FOR_EVER, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        for _ in range(kills):
            print(last, file=server.stdin, flush=True)
            child = int(server.stdout.readline())
            said = [int(server.stdout.readline())]
            time.sleep(rng.random() * 0.05)
            os.kill(child, signal.SIGKILL)
            said += map(int, iter(lambda: server.stdout.readline().strip(), "dead"))
            checkpointer = Checkpointer(directory)
            latest = checkpointer.latest()
            assert latest is not None
            state = checkpointer.load(latest)
            last = state["step"]
            assert said[-1] <= last <= said[-1] + 1, "more than the save that was under way is lost"
            assert latest.name == f"step-{last}"
            assert all((state[name] == last).all() for name in ("weight", "moment")), "a mixture of two steps"


def test_kill_9_while_saving_leaves_a_whole_checkpoint(tmp_path):
    kill_while_saving(tmp_path, kills=6, seed=0)


@pytest.mark.slow
def test_200_kill_9_while_saving_leave_a_whole_checkpoint(tmp_path):
    kill_while_saving(tmp_path, kills=200, seed=1)
