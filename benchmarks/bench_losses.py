"""Focal loss beside F.cross_entropy, kornia, MONAI, torchvision's formula and the copied snippet: time and peak memory."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Row, median_seconds
from linkboy import (
    binary_focal_loss,
    focal_loss,
    huber_loss,
    linear_focal_loss,
    logit_adjusted_loss,
    mse_loss,
    rmse_loss,
)

ROOT = Path(__file__).resolve().parents[1]
Loss = Callable[[Tensor, Tensor], Tensor]
SHAPES = {  # shape: (rounds, most that our time may be of F.cross_entropy's on one thread, and on all)
    (4096, 6): (51, 1.0, None),
    (65536, 10): (11, 0.6, 1.0),
    (512, 50000): (5, 0.6, 1.0),
    (8, 21, 256, 256): (5, 0.6, 1.0),
    (16384, 32): (21, None, None),  # where F.cross_entropy has its quickest kernel
    (512, 1000): (21, None, None),
}
SMALL_SHAPES = (
    (32, 2),
    (32, 10),
    (64, 100),
    (128, 1000),
    (256, 6),
    (4096, 6),
    (8, 21, 64, 64),
    (16384, 32),
    (512, 1000),
)
SMALL_PEERS = ("F.cross_entropy", "kornia", "torchvision-style")
BINARY_SHAPES = ((32, 20), (512, 20), (4096, 10), (65536, 10))
MOST_OF_THE_SNIPPET, MOST_OF_TORCHVISION, MOST_OF_TWO_LINES = 1.05, 0.7, 1.3
QUICK_SHAPES = {(256, 6): (5, None, None), (2, 5, 16, 16): (5, None, None)}
LAYER, QUICK_LAYER = (4096, 256, 50000), (64, 16, 1000)  # samples, width, classes


def snippet(input: Tensor, target: Tensor, alpha: Tensor | None = None) -> Tensor:
    """What is copied from page to page; classes must be in the last dimension."""
    log_p = F.log_softmax(input.movedim(1, -1), -1).gather(-1, target.unsqueeze(-1)).squeeze(-1)
    loss = -torch.pow(1 - log_p.exp(), 2.0) * log_p
    return (loss if alpha is None else alpha[target] * loss).mean()


def cross_entropy_with_factor(input: Tensor, target: Tensor) -> Tensor:
    """torchvision's way of writing it, with the softmax's cross-entropy in place of the sigmoid's."""
    ce = F.cross_entropy(input, target, reduction="none")
    return ((1 - torch.exp(-ce)) ** 2.0 * ce).mean()


def torchvision_sigmoid_focal_loss(input: Tensor, target: Tensor) -> Tensor:
    """The formula of `torchvision.ops.sigmoid_focal_loss(alpha=0.25, gamma=2, reduction="mean")`, written out."""
    p = torch.sigmoid(input)
    ce = F.binary_cross_entropy_with_logits(input, target, reduction="none")
    p_t = p * target + (1 - p) * (1 - target)
    alpha_t = 0.25 * target + 0.75 * (1 - target)
    return (alpha_t * ce * (1 - p_t) ** 2.0).mean()


def kornia_focal_loss(input: Tensor, target: Tensor) -> Tensor:
    import kornia.losses

    return kornia.losses.focal_loss(input, target, alpha=None, gamma=2.0, reduction="mean") * input.shape[1]


def monai_focal_loss(input: Tensor, target: Tensor) -> Tensor:
    import monai.losses

    loss = monai.losses.FocalLoss(use_softmax=True, to_onehot_y=True)  # pyright: ignore[reportPrivateImportUsage]
    return loss(input, target.unsqueeze(1)) * input.shape[1]


def ours_by_sample(input: Tensor, target: Tensor) -> Tensor:
    return focal_loss(input, target, reduction="none").mean()


PEERS: dict[str, Loss] = {
    "F.cross_entropy": F.cross_entropy,
    "kornia": kornia_focal_loss,
    "MONAI": monai_focal_loss,
    "torchvision-style": cross_entropy_with_factor,
    "snippet": snippet,
}


def run(*, quick: bool) -> list[Row]:
    """Measure everything; `quick` takes small shapes and leaves out peak memory."""
    rows: list[Row] = []
    shapes = QUICK_SHAPES if quick else SHAPES
    for threads in sorted({1, torch.get_num_threads()}):
        with limited_to(threads):
            for shape, (rounds, one, several) in shapes.items():
                rows += time_focal(shape, rounds, threads, one if threads == 1 else several)
    with limited_to(1):
        for shape in SMALL_SHAPES[:2] if quick else SMALL_SHAPES:
            rows += time_beside_the_snippet(shape)
        for shape in () if quick else SMALL_SHAPES:
            rows.append(time_compiled(shape))
        for shape in BINARY_SHAPES[:1] if quick else BINARY_SHAPES:
            rows.append(time_binary(shape))
        rows += time_beside_torch((32, 10))
        rows += time_weighted((32, 10))
        rows += time_linear(*(QUICK_LAYER if quick else LAYER))
    if not quick:
        rows += peak_memory()
    return rows


@contextmanager
def limited_to(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_batch(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    input = torch.randn(shape, generator=generator).requires_grad_()  # noqa: A001
    return input, torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)


def forward_and_backward(loss: Loss, input: Tensor, target: Tensor) -> Callable[[], None]:
    def step() -> None:
        input.grad = None
        loss(input, target).backward()

    return step


def check_equal(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=2e-5, atol=1e-7)


def time_focal(shape: tuple[int, ...], rounds: int, threads: int, most: float | None) -> list[Row]:
    input, target = make_batch(shape)  # noqa: A001
    check_equal(focal_loss(input, target, gamma=0), F.cross_entropy(input, target))
    # Several threads on a busy machine cost minutes and tell little: there only what the target speaks of.
    peers = PEERS if threads == 1 else {"F.cross_entropy": F.cross_entropy}
    rounds = rounds if threads == 1 else min(rounds, 5)
    for name, peer in peers.items():
        if name != "F.cross_entropy":
            check_equal(focal_loss(input, target), peer(input, target))
    steps = {name: forward_and_backward(peer, input, target) for name, peer in peers.items()}
    steps["ours"] = forward_and_backward(focal_loss, input, target)
    if threads == 1:
        steps["ours, none"] = forward_and_backward(ours_by_sample, input, target)
    # On one thread the time of the processor, which other processes disturb less; on several only the wall tells.
    clock = time.process_time if threads == 1 else time.perf_counter
    slow = steps.keys() & {"MONAI"} if input.numel() > 10_000_000 else set()  # seconds a step: one round says enough
    seconds = median_seconds({k: step for k, step in steps.items() if k not in slow}, rounds=rounds, clock=clock)
    seconds |= median_seconds({k: steps[k] for k in slow}, rounds=1, warmup=0, clock=clock)
    what = f"focal_loss {'x'.join(map(str, shape))}, {threads} thread{'s' * (threads > 1)}, forward + backward"
    rows = []
    for name in peers:
        plain = name == "F.cross_entropy"
        equality = "equal at gamma 0 to 2e-5" if plain else "loss equal to 2e-5"
        target_text = f"<= {most}x" if plain and most else ""
        rows.append(Row(what, seconds["ours"], name, seconds[name], equality=equality, target=target_text))
    if threads == 1:
        times = (seconds["ours, none"], "F.cross_entropy", seconds["F.cross_entropy"])
        rows.append(Row(f"{what}, reduction='none'", *times, equality="equal at gamma 0 to 2e-5"))
    return rows


def repeated(step: Callable[[], None], numbers: int) -> tuple[Callable[[], None], int]:
    """Return a step often enough that the clock can tell it, and how often."""
    times = max(1, min(100, 3_000_000 // (numbers + 3000)))

    def run() -> None:
        for _ in range(times):
            step()

    return run, times


def time_often(steps: dict[str, Callable[[], None]], numbers: int) -> dict[str, float]:
    """Return median seconds of thread CPU time of one step each."""
    runs = {name: repeated(step, numbers) for name, step in steps.items()}
    rounds = 31 if numbers < 200_000 else 11
    seconds = median_seconds(
        {name: run for name, (run, _) in runs.items()}, rounds=rounds, warmup=3, clock=time.thread_time
    )
    return {name: seconds[name] / times for name, (_, times) in runs.items()}


def time_beside_the_snippet(shape: tuple[int, ...]) -> list[Row]:
    input, target = make_batch(shape)  # noqa: A001
    alpha = torch.linspace(0.5, 1.5, shape[1])
    weighted = lambda x, t: focal_loss(x, t, alpha=alpha, normalizer="count")  # noqa: E731
    check_equal(focal_loss(input, target), snippet(input, target))
    check_equal(weighted(input, target), snippet(input, target, alpha))
    steps = {
        "ours": forward_and_backward(focal_loss, input, target),
        "snippet": forward_and_backward(snippet, input, target),
        "ours, alpha": forward_and_backward(weighted, input, target),
        "snippet, alpha": forward_and_backward(lambda x, t: snippet(x, t, alpha), input, target),
        **{name: forward_and_backward(PEERS[name], input, target) for name in SMALL_PEERS},
    }
    seconds = time_often(steps, input.numel())
    what = f"focal_loss {'x'.join(map(str, shape))}, many calls, 1 thread, forward + backward"
    wanted = f"<= {MOST_OF_THE_SNIPPET}x"
    equal = "loss equal to 2e-5"
    return [
        Row(what, seconds["ours"], "snippet", seconds["snippet"], equality=equal, target=wanted),
        Row(
            f"{what}, alpha",
            seconds["ours, alpha"],
            "snippet",
            seconds["snippet, alpha"],
            equality=equal,
            target=wanted,
        ),
        *(
            Row(
                what,
                seconds["ours"],
                name,
                seconds[name],
                equality="equal at gamma 0 to 2e-5" if name == "F.cross_entropy" else equal,
            )
            for name in SMALL_PEERS
        ),
    ]


def time_compiled(shape: tuple[int, ...]) -> Row:
    input, target = make_batch(shape)  # noqa: A001
    torch._dynamo.reset()
    ours, theirs = (torch.compile(lambda x, t, loss=loss: loss(x, t), fullgraph=True) for loss in (focal_loss, snippet))
    check_equal(ours(input, target), theirs(input, target))
    steps = {"ours": forward_and_backward(ours, input, target), "snippet": forward_and_backward(theirs, input, target)}
    seconds = time_often(steps, input.numel())
    what = f"compiled focal_loss {'x'.join(map(str, shape))}, many calls, 1 thread, forward + backward"
    times = (seconds["ours"], "compiled snippet", seconds["snippet"])
    return Row(what, *times, equality="loss equal to 2e-5", target="<= 1.0x")


def time_beside_torch(shape: tuple[int, ...]) -> list[Row]:
    """Losses that torch has in one kernel, at a size where the number of calls is all that counts."""
    input, target = make_batch(shape)  # noqa: A001
    other = torch.randn(shape)
    priors = torch.ones(shape[1])
    pairs: dict[str, tuple[Loss, Loss, Tensor]] = {
        "focal_loss gamma 0, label_smoothing 0.1": (
            lambda x, t: focal_loss(x, t, gamma=0.0, label_smoothing=0.1),
            lambda x, t: F.cross_entropy(x, t, label_smoothing=0.1),
            target,
        ),
        "logit_adjusted_loss": (lambda x, t: logit_adjusted_loss(x, t, priors=priors), F.cross_entropy, target),
        "mse_loss": (mse_loss, F.mse_loss, other),
        "huber_loss": (huber_loss, F.huber_loss, other),
    }
    rows = []
    for name, (ours, theirs, truth) in pairs.items():
        check_equal(ours(input, truth), theirs(input, truth))
        steps = {"ours": forward_and_backward(ours, input, truth), "theirs": forward_and_backward(theirs, input, truth)}
        seconds = time_often(steps, input.numel())
        what = f"{name} {'x'.join(map(str, shape))}, many calls, 1 thread, forward + backward"
        peer = "F.cross_entropy" if truth is target else f"F.{name}"
        rows.append(Row(what, seconds["ours"], peer, seconds["theirs"], equality="loss equal to 2e-5"))
    return rows


def weighted_square(input: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """The mean of squared errors as it is written by hand."""
    return (weight * (input - target) ** 2).sum() / weight.sum()


def time_weighted(shape: tuple[int, ...]) -> list[Row]:
    input, _ = make_batch(shape)  # noqa: A001
    target, weight = torch.randn(shape), torch.rand(shape)
    pairs: dict[str, tuple[Loss, Loss]] = {
        "mse_loss": (
            lambda x, y: mse_loss(x, y, sample_weight=weight),
            lambda x, y: weighted_square(x, y, weight),
        ),
        "rmse_loss": (
            lambda x, y: rmse_loss(x, y, sample_weight=weight),
            lambda x, y: weighted_square(x, y, weight).sqrt(),
        ),
    }
    rows = []
    for name, (ours, theirs) in pairs.items():
        check_equal(ours(input, target), theirs(input, target))
        losses = {"ours": ours, "snippet": theirs}
        steps = {which: forward_and_backward(loss, input, target) for which, loss in losses.items()}
        seconds = time_often(steps, input.numel())
        what = f"{name} sample_weight {'x'.join(map(str, shape))}, many calls, 1 thread, forward + backward"
        times = (seconds["ours"], "snippet", seconds["snippet"])
        rows.append(Row(what, *times, equality="loss equal to 2e-5", target=f"<= {MOST_OF_TWO_LINES}x"))
    return rows


def time_binary(shape: tuple[int, ...]) -> Row:
    input, _ = make_batch(shape)  # noqa: A001
    labels = torch.randint(0, 2, shape)
    ours = lambda x, y: binary_focal_loss(x, y, alpha=0.25)  # noqa: E731
    as_float = labels.float()
    check_equal(ours(input, labels), torchvision_sigmoid_focal_loss(input, as_float))
    steps = {
        "ours": forward_and_backward(ours, input, as_float),
        "peer": forward_and_backward(torchvision_sigmoid_focal_loss, input, as_float),
    }
    seconds = time_often(steps, 4 * input.numel())
    what = f"binary_focal_loss {'x'.join(map(str, shape))}, 1 thread, forward + backward"
    wanted = f"<= {MOST_OF_TORCHVISION}x"
    return Row(
        what, seconds["ours"], "torchvision's formula", seconds["peer"], equality="loss equal to 2e-5", target=wanted
    )


def make_layer(samples: int, width: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(samples, width, generator=generator).requires_grad_()
    weight = (torch.randn(classes, width, generator=generator) / width**0.5).requires_grad_()
    return hidden, weight, torch.randint(0, classes, (samples,), generator=generator)


def unfused(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight), target)


def fused(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return linear_focal_loss(hidden, weight, target, gamma=0)


def time_linear(samples: int, width: int, classes: int) -> list[Row]:
    layer = make_layer(samples, width, classes)
    losses = {"ours": fused, "unfused": unfused, "F.linear_cross_entropy": F.linear_cross_entropy}
    few = (layer[0][:64], layer[1], layer[2][:64])
    for loss in losses.values():
        check_equal(fused(*few), loss(*few))

    def step(loss: Callable[..., Tensor]) -> Callable[[], None]:
        def call() -> None:
            layer[0].grad = layer[1].grad = None
            loss(*layer).backward()

        return call

    seconds = median_seconds(
        {name: step(loss) for name, loss in losses.items()}, rounds=1, warmup=0, clock=time.process_time
    )
    what = f"linear_focal_loss N={samples} D={width} V={classes}, gamma 0, 1 thread, forward + backward"
    return [
        Row(
            what,
            seconds["ours"],
            name,
            seconds[name],
            equality="loss equal to 2e-5",
            target="<= 1.0x" * (name == "unfused"),
        )
        for name in ("unfused", "F.linear_cross_entropy")
    ]


def peak_memory() -> list[Row]:
    """Return the growth of the resident set of a fresh process over one step, over the size of the input."""
    dense = {name: measure_in_a_fresh_process(name) for name in ("ours", "ours, none", *PEERS)}
    rows = [
        Row(
            "focal_loss 8x21x256x256, peak extra memory over the input's",
            dense["ours"],
            name,
            dense[name],
            unit="x",
            target="<= 1.25x the input" if name == "F.cross_entropy" else "",
        )
        for name in PEERS
    ]
    rows.append(
        Row("the same, reduction='none'", dense["ours, none"], "F.cross_entropy", dense["F.cross_entropy"], unit="x")
    )
    layer = {name: measure_in_a_fresh_process(name) for name in ("fused", "unfused")}
    what = "linear_focal_loss N=4096 D=256 V=50000, peak extra memory"
    rows.append(Row(what, layer["fused"], "unfused", layer["unfused"], unit="MiB", target="<= 0.1x"))
    return rows


def measure_in_a_fresh_process(name: str) -> float:
    command = [sys.executable, "-m", "benchmarks.bench_losses", name]
    return float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def print_peak(name: str) -> None:
    if name in ("fused", "unfused"):
        loss, size = {"fused": fused, "unfused": unfused}[name], 2**20
        warm, tensors = make_layer(8, 4, 16), make_layer(*LAYER)
    else:
        loss = {"ours": focal_loss, "ours, none": ours_by_sample, **PEERS}[name]
        warm, tensors = make_batch((2, 3, 4, 4)), make_batch((8, 21, 256, 256))
        size = tensors[0].nbytes
    loss(*warm).backward()
    before = peak_resident_bytes()
    loss(*tensors).backward()
    print((peak_resident_bytes() - before) / size)


def peak_resident_bytes() -> int:
    # Not getrusage: its peak is inherited from the process that started this one.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    print_peak(sys.argv[1])
