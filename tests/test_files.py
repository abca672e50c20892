"""Files appear whole or not at all, and one process holds a directory at a time."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import linkboy as lb
from linkboy._files import LOCK, atomic_write, locked_directory, read_bounded, sync_directory, sync_file


def message_of(error, call, *arguments, **keywords):
    with pytest.raises(error) as caught:
        call(*arguments, **keywords)
    return str(caught.value)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")

    def write_half():
        with atomic_write(target) as file:
            file.write(b"half")
            raise RuntimeError("no more")

    assert message_of(RuntimeError, write_half) == "no more"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert target.read_text() == "old"
    with atomic_write(target) as file:
        file.write(b"new")
    assert target.read_text() == "new"


def test_a_failed_write_names_the_file_asked_for_and_not_the_temporary_one(tmp_path):
    def write(path):
        with atomic_write(path) as file:
            file.write(b"new")

    missing = tmp_path / "none" / "file"
    assert message_of(FileNotFoundError, write, missing) == f"[Errno 2] No such file or directory: {str(missing)!r}"
    assert message_of(IsADirectoryError, write, tmp_path) == f"[Errno 21] Is a directory: {str(tmp_path)!r}"
    assert not list(tmp_path.parent.glob("*.tmp"))


def test_a_file_larger_than_it_may_be_is_not_read(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"x" * (2**20 + 1))
    assert message_of(ValueError, read_bounded, path, 2**20) == (
        f"{str(path)!r} must be a file of at most 1 MiB, and is larger"
    )
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write():
        with contextlib.suppress(BrokenPipeError):
            pipe.write_bytes(b"x" * 2**21)

    writer = threading.Thread(target=write)
    writer.start()
    assert "at most 1 MiB" in message_of(ValueError, read_bounded, pipe, 2**20)
    writer.join()


def hold(folder):
    with locked_directory(folder, "another run writes here"):
        return "held"


def test_a_held_directory_refuses_a_second_holder_and_is_free_afterwards(tmp_path):
    folder = tmp_path / "new" / "folder"
    with locked_directory(folder, "another run writes here"):
        assert [path.name for path in folder.iterdir()] == [LOCK]
        assert message_of(BlockingIOError, hold, folder) == "another run writes here"
    assert not list(folder.iterdir())
    assert hold(folder) == "held"
    with pytest.raises(KeyError), locked_directory(folder, "another run writes here"):
        raise KeyError
    assert hold(folder) == "held"


def test_a_killed_holder_lets_go(tmp_path):
    code = (
        "import os, sys; from linkboy._files import locked_directory\n"
        "with locked_directory(sys.argv[1], ''): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    assert (tmp_path / LOCK).exists()
    assert hold(tmp_path) == "held"


def test_a_lock_file_that_its_holder_removed_meanwhile_is_not_held_beside_a_new_one(tmp_path, monkeypatch):
    """B opens the file, A removes it and lets go, then B locks: what B has is not what C would open."""
    fcntl = pytest.importorskip("fcntl")
    real, locked = fcntl.flock, []

    def late(handle, how):
        if how & fcntl.LOCK_EX:
            locked.append(handle)
            if len(locked) == 1:
                (tmp_path / LOCK).unlink()  # by the holder before, between the opening and the locking
        return real(handle, how)

    monkeypatch.setattr("fcntl.flock", late)
    with locked_directory(tmp_path, "another run writes here"):
        assert len(locked) == 2, "the file was opened again"
        assert (tmp_path / LOCK).exists()
        assert message_of(BlockingIOError, hold, tmp_path) == "another run writes here"


def test_files_and_directories_are_flushed(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(Path(f"/proc/self/fd/{handle}").readlink()))
    (tmp_path / "file").touch()
    sync_file(tmp_path / "file")
    sync_directory(tmp_path)
    assert flushed == [tmp_path / "file", tmp_path]


FORKING = """
import os, sys, time
from linkboy._files import locked_directory
with locked_directory(sys.argv[1], "taken"):
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_does_not_hold_the_lock_of_one_that_was_killed(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", FORKING, tmp_path], stdout=subprocess.PIPE, start_new_session=True
    ) as holder:
        assert holder.stdout.readline() == b"ready\n"
        with pytest.raises(BlockingIOError), locked_directory(tmp_path, "taken"):
            pass
        holder.kill()
        holder.wait()
        with locked_directory(tmp_path, "taken"):  # the forked process is alive
            os.killpg(holder.pid, signal.SIGKILL)


def test_a_path_may_begin_with_the_home_directory_and_is_no_address(tmp_path, monkeypatch):
    """`Checkpointer("~/run")` made a directory called `~` where the program stood."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "rows.csv").write_text("text,label\n" + "good,p\nbad,q\n" * 3)
    assert list(lb.read_labelled("~/rows.csv").labels[:2]) == ["p", "q"]
    assert lb.Checkpointer("~/run").directory == tmp_path / "run"
    for name, read in {"path": lb.read_labelled, "directory": lb.load_classifier}.items():
        with pytest.raises(ValueError) as caught:
            read("https://example.org/rows.csv")
        assert str(caught.value) == (
            f"{name} must be a path on this machine, got 'https://example.org/rows.csv'; download it first, linkboy downloads "
            "nothing"
        )
