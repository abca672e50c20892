"""CapsuleLinear beside the copied snippet, a broadcast matmul, einsum, and three plain GEMMs as the floor: time and memory."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.harness import Row, median_seconds
from linkboy import CapsuleLinear

ROOT = Path(__file__).resolve().parents[1]
CLASSES, POSE, ITERS = 10, 16, 3
SIZES = [(1152, 8, 32), (1152, 8, 128), (1280, 10, 32), (1280, 10, 128)]  # input capsules, their entries, batch
Route = Callable[[Tensor, Tensor], Tensor]


def squash(s: Tensor) -> Tensor:
    n2 = s.square().sum(-1, keepdim=True)
    return s * (n2 / (1 + n2) / (n2 + 1e-12).sqrt())


def snippet(weight: Tensor, x: Tensor) -> Tensor:
    """What is copied: weight and input tiled, softmax over the input capsules, logits averaged over the batch."""
    batch, classes = len(x), weight.shape[1]
    tiled = torch.cat([weight.unsqueeze(0)] * batch)  # (B, R, C, O, I)
    u = tiled @ torch.stack([x] * classes, 2).unsqueeze(4)  # (B, R, C, O, 1)
    logits = x.new_zeros(1, weight.shape[0], classes, 1)
    v = x.new_zeros(())
    for iteration in range(ITERS):
        coupling = torch.cat([logits.softmax(1)] * batch).unsqueeze(4)
        s = (coupling * u).sum(1, keepdim=True)
        v = s * s.abs() / (1 + s.square())
        if iteration < ITERS - 1:
            agreement = u.transpose(3, 4) @ torch.cat([v] * weight.shape[0], 1)
            logits = logits + agreement.squeeze(4).mean(0, keepdim=True)
    return v.squeeze(1).squeeze(3)


def routed(u: Tensor) -> Tensor:
    """Per example, couplings constant in backward, of predictions `(B, R, C, O)`."""
    with torch.no_grad():
        logits = u.new_zeros(u.shape[:3])
        for _ in range(ITERS - 1):
            v = squash(torch.einsum("brc,brco->bco", logits.softmax(2), u))
            logits += torch.einsum("brco,bco->brc", u, v)
        coupling = logits.softmax(2)
    return squash(torch.einsum("brc,brco->bco", coupling, u))


def broadcast(weight: Tensor, x: Tensor) -> Tensor:
    return routed((weight @ x[:, :, None, :, None]).squeeze(4))


def einsum(weight: Tensor, x: Tensor) -> Tensor:
    return routed(torch.einsum("rcoi,bri->brco", weight, x))


def einsum_full(weight: Tensor, x: Tensor) -> Tensor:
    u = torch.einsum("rcoi,bri->brco", weight, x)
    logits = u.new_zeros(u.shape[:3])
    for _ in range(ITERS - 1):
        v = squash(torch.einsum("brc,brco->bco", logits.softmax(2), u))
        logits = logits + torch.einsum("brco,bco->brc", u, v)
    return squash(torch.einsum("brc,brco->bco", logits.softmax(2), u))


def make_ours(weight: Tensor, routing_grad: str = "last") -> Route:
    layer = CapsuleLinear(
        weight.shape[0], weight.shape[3], CLASSES, POSE, routing_iters=ITERS, routing_grad=routing_grad
    )

    def run(weight: Tensor, x: Tensor) -> Tensor:
        layer.weight = weight
        return layer(x)

    return run


def make_tensors(num_in: int, in_dim: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(0.05 * torch.randn(num_in, CLASSES, POSE, in_dim, generator=generator))
    x = torch.randn(batch, num_in, in_dim, generator=generator).requires_grad_()
    return weight, x, torch.randn(batch, CLASSES, POSE, generator=generator)


def make_step(route: Route, weight: Tensor, x: Tensor, incoming: Tensor) -> Callable[[], None]:
    def step() -> None:
        weight.grad = x.grad = None
        route(weight, x).backward(incoming)

    return step


def make_floor(weight: Tensor, x: Tensor) -> Callable[[], None]:
    """The predictions, and the gradients of weight and input from a tensor of their size: three batched GEMMs."""
    rows, by_route = weight.detach().flatten(1, 2), x.detach().transpose(0, 1)

    def floor() -> None:
        u = torch.bmm(by_route, rows.mT)
        torch.bmm(u.mT, by_route)
        torch.bmm(u, rows)

    return floor


def run(*, quick: bool) -> list[Row]:
    torch.set_num_threads(1)
    rows: list[Row] = []
    for size in [(32, 8, 4)] if quick else SIZES:
        rows += time_step(size, rounds=3 if size[2] < 100 else 2)
    for batch in () if quick else (32, 128):
        rows += peak_memory((1152, 8, batch))
    return [*rows, precision((32, 8, 4) if quick else (1152, 8, 32))]


def time_step(size: tuple[int, int, int], rounds: int) -> list[Row]:
    weight, x, incoming = make_tensors(*size)
    peers: dict[str, Route] = {"snippet": snippet, "broadcast matmul": broadcast, "einsum": einsum}
    ours, full = make_ours(weight), make_ours(weight, "full")
    for peer in (broadcast, einsum, einsum_full):
        torch.testing.assert_close(ours(weight, x), peer(weight, x), rtol=0, atol=1e-5)
    steps = {name: make_step(route, weight, x, incoming) for name, route in peers.items()}
    steps["floor"] = make_floor(weight, x)
    steps["ours"] = make_step(ours, weight, x, incoming)
    steps["full"] = make_step(full, weight, x, incoming)
    steps["einsum, full"] = make_step(einsum_full, weight, x, incoming)
    # The slowest take seconds: no round to warm up. The clock of one thread, which others disturb less.
    seconds = median_seconds(steps, rounds=rounds, warmup=0, clock=time.process_time)
    milliseconds = {name: 1e3 * value for name, value in seconds.items()}
    what = f"CapsuleLinear {size[0]}x{size[1]} -> {CLASSES}x{POSE}, batch {size[2]}, forward + backward"
    same = "output equal to 1e-5"
    rows = [
        Row(what, milliseconds["ours"], label, milliseconds[name], "ms", equality, target)
        for name, label, equality, target in (
            ("snippet", "snippet", "another function", "<= 0.1x"),
            ("broadcast matmul", "broadcast matmul", same, ""),
            ("einsum", "einsum", same, "<= 1x"),
            ("floor", "three plain GEMMs, no routing", "not comparable", "<= 2x"),
        )
    ]
    full_row = (milliseconds["full"], "einsum, all differentiated", milliseconds["einsum, full"])
    return [*rows, Row(f"{what}, routing_grad='full'", *full_row, "ms", same, "<= 1x")]


def precision(size: tuple[int, int, int]) -> Row:
    """The larger relative error of the two gradients in float32, beside that of einsum."""
    weight, x, incoming = make_tensors(*size)
    weight64, x64 = (t.detach().double().requires_grad_() for t in (weight, x))
    exact = torch.autograd.grad(einsum(weight64, x64), (weight64, x64), incoming.double())

    def error(route: Route) -> float:
        got = torch.autograd.grad(route(weight, x), (weight, x), incoming)
        return max(((a - b).norm() / b.norm()).item() for a, b in zip(got, exact, strict=True))

    what = f"gradients {size[0]}x{size[1]}, batch {size[2]}, relative to float64"
    return Row(what, error(make_ours(weight)), "einsum", error(einsum), "error", "against float64", "<= 1e-5")


MEMORY_PROBE = """
import sys
from benchmarks import bench_capsules as bench
size, name = tuple(map(int, sys.argv[1:4])), sys.argv[4]
weight, x, incoming = bench.make_tensors(*size)
route = bench.make_ours(weight) if name == "ours" else getattr(bench, name)
small = bench.make_tensors(8, size[1], 2)
bench.make_step(bench.make_ours(small[0]) if name == "ours" else route, *small)()
def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024
before = status("VmRSS")
bench.make_step(route, weight, x, incoming)()
print(status("VmHWM") - before)
"""


def peak_memory(size: tuple[int, int, int]) -> list[Row]:
    """Each in its own process: the peak of the resident memory above what is there before the step (Linux)."""
    mebibytes = {}
    for name in ("ours", "snippet", "einsum"):
        command = [sys.executable, "-c", MEMORY_PROBE, *map(str, size), name]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        mebibytes[name] = int(found) / 2**20
    what = f"peak extra memory of that step, {size[0]}x{size[1]}, batch {size[2]}"
    return [
        Row(what, mebibytes["ours"], "snippet", mebibytes["snippet"], "MiB", "another function", "<= 0.143x"),
        Row(what, mebibytes["ours"], "einsum", mebibytes["einsum"], "MiB", "output equal to 1e-5", "<= 1x"),
    ]
