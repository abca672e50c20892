"""FSDP2, and two network namespaces as two machines; run with `pytest -m scale`."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "scale"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", ROOT)))}

# Of four minutes about one is work: torch is imported eight times, and a restart waits for the rendezvous. On a machine whose
# cores are busy with other things it is four times that.
LIMIT = 900

pytestmark = pytest.mark.scale


def on_one_machine(script: str, *arguments: object) -> str:
    done = subprocess.run(
        [*TORCHRUN, "--standalone", "--nproc-per-node=2", str(HERE / script), *map(str, arguments)],
        env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_fsdp2_gives_the_result_of_ddp_and_resumes_to_the_same_bits(tmp_path):
    assert on_one_machine("fsdp2.py", tmp_path).endswith("a sharded run resumes to the same bits from every step\n")


@contextlib.contextmanager
def two_machines():
    """Two network namespaces joined by a cable; yields, for each, the words before a command, its address and its card."""
    names = [f"linkboy-{os.getpid()}-{side}" for side in "ab"]
    cards = [f"lb{os.getpid() % 100000}{side}" for side in "ab"]

    def ip(*words: str) -> None:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(
                f"network namespaces are not permitted here: `ip {' '.join(words)}` said {done.stderr.strip()!r}"
            )

    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", cards[0], "type", "veth", "peer", "name", cards[1])
        machines = []
        for number, (name, card) in enumerate(zip(names, cards, strict=True), 1):
            address = f"10.77.0.{number}"
            ip("link", "set", card, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", card)
            ip("-n", name, "link", "set", card, "up")
            ip("-n", name, "link", "set", "lo", "up")
            machines.append((["ip", "netns", "exec", name], address, card))
        yield machines
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", cards[0]], capture_output=True, check=False)


def start(machine, number: int, script: str, *arguments: object, log: Path) -> subprocess.Popen[bytes]:
    prefix, address, card = machine
    command = [
        *prefix, *TORCHRUN, "--nnodes=2", "--nproc-per-node=1", "--max-restarts=20", "--rdzv-backend=c10d",
        "--rdzv-id=linkboy", "--rdzv-endpoint=10.77.0.1:29511", f"--rdzv-conf=is_host={1 - number}",
        f"--local-addr={address}", str(HERE / script), *map(str, arguments),
    ]  # fmt: skip
    with log.open("wb") as file:
        return subprocess.Popen(
            command, env={**ENVIRONMENT, "GLOO_SOCKET_IFNAME": card}, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT
        )


@pytest.mark.parametrize("crash_at", [0, 9], ids=["undisturbed", "a worker is killed"])
def test_two_machines_end_with_the_bits_of_one(tmp_path, crash_at):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    on_one_machine("crashing.py", tmp_path / "one", 0)
    with two_machines() as machines:
        logs = [tmp_path / f"machine{number}.log" for number in (0, 1)]
        running = [
            start(machine, number, "crashing.py", tmp_path / "two", crash_at, log=logs[number])
            for number, machine in enumerate(machines)
        ]
        try:
            limit = time.monotonic() + LIMIT
            codes = [process.wait(max(1.0, limit - time.monotonic())) for process in running]
        finally:
            for process in running:
                if process.poll() is None:
                    process.kill()
                    process.wait()
    said = "".join(log.read_text("utf-8", "replace") for log in logs)
    assert codes == [0, 0], said
    assert (tmp_path / "two" / "crashed").exists() == bool(crash_at)
    assert ("6 steps, resumed from None" if not crash_at else f"6 steps, resumed from {tmp_path}") in said, said
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
