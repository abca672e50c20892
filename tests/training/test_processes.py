"""Two processes under torchrun do what one does."""

import os
import subprocess
import sys
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
