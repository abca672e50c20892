"""Two processes under torchrun do what one does."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def torchrun(*arguments: object, processes: int = 2) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
    ]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        "PYTHONWARNINGS": "error,ignore:Implicitly cleaning up:ResourceWarning",  # of a folder of torch 2.6
    }
    return subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        cwd=ROOT,
        check=False,
    )


def test_every_claim_about_two_processes_holds(tmp_path):
    done = torchrun(ROOT / "tests" / "training" / "two_processes.py", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "all claims hold\n"
    lines = done.stderr.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"], done.stderr


@pytest.mark.slow
def test_every_sample_is_evaluated_once_for_all_sizes(tmp_path):
    done = torchrun(ROOT / "tests" / "training" / "two_processes.py", tmp_path, "all")
    assert done.returncode == 0, done.stdout + done.stderr


FAILING = """
import os, signal, sys, time
from pathlib import Path
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from linkboy.training import fit, process_index

torch.set_num_threads(1)
where, failed = sys.argv[1], Path(sys.argv[2])

def callback(event, state):
    if event == "step" and state.step == 2 and process_index() == 1:
        failed.touch()
        if where == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if where == "callback":
            raise KeyError("the first error")

class Data(TensorDataset):
    def __getitem__(self, index):
        if where == "data" and index == 11:
            failed.touch()
            raise KeyError("the first error")
        return super().__getitem__(index)

model = nn.Linear(4, 3)
data = Data(torch.zeros(64, 4), torch.zeros(64, dtype=torch.long))
fit(model, nn.CrossEntropyLoss(reduction="none"), torch.optim.SGD(model.parameters(), lr=0.1), DataLoader(data, batch_size=2),
    callbacks=[callback], progress=False, log=())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "shown"),
    [("callback", "KeyError: 'the first error'"), ("data", "KeyError: 'the first error'"), ("killed", "SIGKILL")],
)
def test_one_process_that_fails_ends_all_within_30_seconds_and_its_error_is_shown(tmp_path, where, shown):
    (tmp_path / "failing.py").write_text(FAILING)
    done = torchrun(tmp_path / "failing.py", where, tmp_path / "failed")
    assert time.time() - (tmp_path / "failed").stat().st_mtime < 30
    assert done.returncode != 0
    assert shown in done.stderr
    if "Connection closed by peer" in done.stderr:
        assert "another process has ended; its own error is the first" in done.stderr


# Forks pairs of processes, so that torch is imported once for all starts; prints the exit statuses of each pair.
STARTING = """
import atexit, os, random, sys, time, traceback
import accelerate, safetensors.torch, torch, torch.distributed, torch._dynamo  # what training loads when it starts
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from linkboy.training import fit

torch.set_num_threads(1)
rng = random.Random(0)
for start in range(int(sys.argv[1])):
    waits = [rng.choice([0, 0, 0.01, 0.1, 0.5]) for _ in range(2)]
    children = []
    for rank in range(2):
        child = os.fork()
        if child:
            children.append(child)
            continue
        code = 1
        try:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[2 + start]}
            model = nn.Linear(4, 3)
            data = TensorDataset(torch.zeros(8, 4), torch.zeros(8, dtype=torch.long))
            fit(model, nn.CrossEntropyLoss(reduction="none"), torch.optim.SGD(model.parameters(), lr=0.1),
                DataLoader(data, batch_size=2), progress=False, log=())
            time.sleep(waits[rank])
            code = 0
        except BaseException:
            traceback.print_exc()
        atexit._run_exitfuncs()
        os._exit(code)
    print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children), flush=True)
"""


def free_ports(count):
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def starts(count):
    command = [sys.executable, "-c", STARTING, str(count), *map(str, free_ports(count))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


@pytest.mark.slow
def test_of_fifty_starts_in_which_one_process_leaves_early_none_is_aborted():
    codes, errors = starts(50)
    assert codes == ["0 0"] * 50, errors
    assert "terminate called" not in errors
