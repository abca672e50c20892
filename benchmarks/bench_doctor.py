"""The doctor beside torchtest2 and torch-audit on the programs of its tests, and what a watched training costs."""

import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn

import linkboy as lb
from benchmarks.harness import Row
from linkboy.training._findings import OnFinding

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ROOT / "tests" / "doctor" / "programs"
PEERS = {"torchtest2": "torchtest2", "torch-audit": "torch_audit"}
# The checks of a peer whose finding fits a fault; that a batch is not learnt by heart fits those of rate and scale only.
FITS = {
    "unoptimized": "optimizer_coverage params_change",
    "cut": "gradient_flow params_change input_dependency TA103 TA104",
    "unused": "gradient_flow params_change TA500",
    "unregistered": "optimizer_coverage gradient_flow TA500",
    "unfrozen": "frozen_params",
    "no-step": "params_change",
    "wiped-gradient": "gradient_flow TA104",
    "lr-low": "params_change overfit_batch",
    "lr-high": "overfit_batch TA100 TA102",
    "unscaled-target": "overfit_batch gradient_magnitude TA102",
    "unscaled-input": "overfit_batch gradient_magnitude initial_loss TA301",
    "exploding": "initial_loss gradient_magnitude output_finite overfit_batch TA100 TA102",
    "vanishing": "gradient_flow gradient_magnitude output_varies",
    "dead-units": "gradient_flow output_varies TA103 TA105 TA405",
    "symmetry": "gradient_flow TA103",
    "nan": "loss output_finite gradient_magnitude overfit_batch TA100 TA102",
    "batch-mixing": "batch_independence",
    "wrong-dim": "batch_independence",
    "squeeze": "forward batch_independence",
    "state-carry": "eval_determinism batch_independence TA501",
    "always-dropout": "eval_determinism",
    "ignored-input": "input_dependency",
    "mask": "input_dependency",
    "future": "input_dependency",
    "raw-nll": "loss initial_loss",
    "double-softmax": "initial_loss",
    "double-sigmoid": "initial_loss output_range",
    "wrong-backward": "gradcheck",
    "decay": "TA402 TA403",
    "target-leak": "initial_loss",
    "unknowns": "TA302 TA305",
    "constant-target": "TA302",
}
# Advice about speed and about the choice of weight decay and layers is no alarm, and neither is a WARN of torchtest2.
ADVICE = re.compile(r"TA2\d\d|TA40\d| WARN$")
WIDTH = 1000  # of the model that is timed: 3 million parameters


def run(*, quick: bool) -> list[Row]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [*programs(quick=quick), *steps(quick=quick), start(quick=quick), checks_of_fit(quick=quick)]
    finally:
        torch.set_num_threads(threads)


# -------------------------------------------------------------------------------------------------------------- programs
def programs(*, quick: bool) -> list[Row]:
    """Count the faulty programs that each checker names, and the right ones on which it raises an alarm."""
    faulty, right = (sorted((PROGRAMS / kind).glob("*.py"))[: 3 if quick else None] for kind in ("faulty", "right"))
    missing = [peer for peer, package in PEERS.items() if importlib.util.find_spec(package) is None]
    for peer in missing:
        print(f"{peer} is not installed, and its rows are left out")
    checkers = ["linkboy", *(peer for peer in PEERS if peer not in missing)]
    with ThreadPoolExecutor(2) as pool:
        counts = dict(zip(checkers, pool.map(lambda each: counted(each, faulty, right), checkers), strict=True))
    named, alarms = counts.pop("linkboy")
    which = "programs of the tests, beside which the rules were written"
    rows = []
    for peer, (peer_named, peer_alarms) in counts.items() or {"none": (0, 0)}.items():
        rows += [
            Row(f"faulty programs named, of {len(faulty)} {which}", named, peer, peer_named, "programs",
                "own: the exact word; peer: any finding that fits", "", higher_is_better=True),
            Row(f"right programs with an alarm, of {len(right)}", alarms, peer, peer_alarms, "programs",
                "peer: FAIL, or a rule that is no advice", "0"),
        ]  # fmt: skip
    return rows


def counted(checker: str, faulty: list[Path], right: list[Path]) -> tuple[int, int]:
    """Return how many faulty programs a checker names, and on how many right ones it raises an alarm."""
    command = [sys.executable, "-m", "benchmarks.doctor_programs", checker, *map(str, [*faulty, *right])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    found = {answer["program"]: answer["found"] for answer in answers}
    for answer in answers:
        if "error" in answer:
            print(f"{checker} on {Path(answer['program']).name}: {answer['error']}")
    named = sum(fits(checker, word_of(each), found[str(each)]) for each in faulty)
    return named, sum(any(not ADVICE.search(each) for each in found[str(path)]) for path in right)


def fits(checker: str, word: str, found: list[str]) -> bool:
    wanted = {word} if checker == "linkboy" else set(FITS.get(word, "").split())
    return any(each.split()[0] in wanted for each in found)


def word_of(program: Path) -> str:
    return program.read_text("utf-8").split("\n", 1)[0].removeprefix("# fault: ")


# ------------------------------------------------------------------------------------------------------------------ cost
def steps(*, quick: bool) -> list[Row]:
    """Time the steps from the tenth on, watched and not; the same training, bit for bit."""
    count = 30 if quick else 60
    ratios, plain = [], []
    for _ in range(1 if quick else 5):
        seconds, losses = trained(count)
        with lb.watch_training(steps=None):
            watched, watched_losses = trained(count)
        assert losses == watched_losses
        plain.append(sum(seconds[10:]) / (count - 10))
        ratios.append(sum(watched[10:]) / sum(seconds[10:]))
    each = statistics.median(plain)
    what = "watched training step from the tenth on, 3 M parameters, CPU time"
    return [Row(what, each * statistics.median(ratios), "unwatched", each, "s", "same bits", "<= 1.25x")]


def trained(count: int) -> tuple[list[float], list[float]]:
    """Train for some steps, and return the processor time of each and its loss."""
    torch.manual_seed(0)
    model, x, y = timed_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    seconds, losses = [], []
    for step in range(count):
        begin = time.process_time()
        rows = slice(step % 20 * 64, step % 20 * 64 + 64)
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.process_time() - begin)
    return seconds, losses


def timed_model() -> tuple[nn.Module, Tensor, Tensor]:
    layers = [layer for _ in range(3) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Dropout(0.1))]
    x = torch.randn(1280, WIDTH)
    return nn.Sequential(*layers, nn.Linear(WIDTH, 10)), x, x[:, :10].argmax(1)


FIRST_STEP = """
import time
import torch
from torch import nn
torch.manual_seed(0)
layers = [layer for _ in range(3) for layer in (nn.Linear(1000, 1000), nn.ReLU())]
model = nn.Sequential(*layers, nn.Linear(1000, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for step in range(2):
    if step == 1:
        print(time.process_time())
    x, y = torch.randn(64, 1000), torch.randint(0, 10, (64,))
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


def start(*, quick: bool) -> Row:
    """Time a new process to the end of its first step, under `linkboy doctor` and without it."""
    seconds: dict[str, list[float]] = {"plain": [], "watched": []}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "train.py"
        script.write_text(FIRST_STEP, "utf-8")
        commands = {
            "plain": [sys.executable, str(script)],
            "watched": [sys.executable, "-m", "linkboy", "doctor", str(script)],
        }
        for _ in range(1 if quick else 3):
            for name, command in commands.items():
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                seconds[name].append(float(done.stdout))
    plain, watched = (statistics.median(seconds[name]) for name in ("plain", "watched"))
    return Row(
        "a script's start to the end of its first step, CPU time",
        watched,
        "python script.py",
        plain,
        "s",
        "",
        "<= 3 s more",
    )


def checks_of_fit(*, quick: bool) -> Row:
    """Time the steps of a fit that its checks look at, with the checks and without, on small batches of a large model."""
    model, x, y = timed_model()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    loss, looked_at = nn.CrossEntropyLoss(reduction="none"), 8
    batches = [(x[at : at + 4], y[at : at + 4]) for at in range(0, 4 * looked_at, 4)]
    seconds: dict[OnFinding, list[float]] = {"warn": [], "off": []}
    for number in range(2 if quick else 40):
        weights = []
        for on_finding in ("warn", "off") if number % 2 else ("off", "warn"):
            model.load_state_dict(kept)
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
            begin = time.process_time()
            history = lb.fit(
                model, loss, optimizer, batches, epochs=1, progress=False, on_finding=on_finding, seed=0, log_every=1000
            )
            seconds[on_finding].append((time.process_time() - begin) / looked_at)
            assert not history.findings
            weights.append([value.clone() for value in model.state_dict().values()])
        assert all(map(torch.equal, *weights))
    with_checks, without = min(seconds["warn"]), min(seconds["off"])  # 2 of 14 ms: less than how far medians scatter
    what = f"checks of fit, in each of the first {looked_at} steps, 3 M parameters, CPU time"
    return Row(what, with_checks - without, "the step itself, batch of 4", without, "s", "same bits", "<= 3 ms")
