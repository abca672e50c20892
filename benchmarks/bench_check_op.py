"""check_op beside the checks that torch brings, on planted bugs and right operators; the quantiser beside the copied one."""

import functools
import itertools
import time
import warnings
from collections.abc import Callable

import torch
from tests.autograd.copied_quantizer import CopiedQuantize, copied_bit2num
from tests.autograd.planted import BY_DESIGN, KNOWN, OWN, RIGHT
from torch import Tensor
from torch.autograd import Function, gradcheck, gradgradcheck

import linkboy as lb
from benchmarks.harness import Row, median_seconds


def run(*, quick: bool) -> list[Row]:
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    bugs = KNOWN if quick else KNOWN | OWN
    right = dict(list(RIGHT.items())[:5]) if quick else RIGHT
    rows = [found("the nine known bugs", KNOWN), *([] if quick else [found("eighteen of our own", OWN)])]
    return [*rows, *alarms(right), timed(bugs, right), *errors(), *speed(quick=quick)]


def by_torch(fn: Callable[..., object], inputs: tuple[Tensor, ...]) -> bool:
    """Say whether gradcheck and gradgradcheck, in float64, take the operator for right."""
    wide = [x.detach().to(torch.complex128 if x.is_complex() else torch.float64).requires_grad_() for x in inputs]
    try:
        with torch.enable_grad():  # given back afterwards, which one of the bugs does not
            return gradcheck(fn, wide) and gradgradcheck(fn, wide)
    except Exception:  # noqa: BLE001 - whatever is raised, the bug is seen
        return False


def found(what: str, bugs: dict) -> Row:
    reports = {name: lb.check_op(p.bug, *p.inputs(), compile=False) for name, p in bugs.items()}
    ours = sum([row.check for row in reports[name].failures] == [p.check] for name, p in bugs.items())
    theirs = sum(not by_torch(p.bug, p.inputs()) for p in bugs.values())
    print(f"{what}:")
    for name, planted in bugs.items():
        seen = "raises" if not by_torch(planted.bug, planted.inputs()) else "-"
        print(f"  {name:34} {', '.join(row.check for row in reports[name].failures):20} gradcheck: {seen}")
    return Row(
        f"{what}, found under their own name, of {len(bugs)}", ours, "gradcheck + gradgradcheck, found at all", theirs,
        "bugs", "not comparable", str(len(bugs)), higher_is_better=True,
    )  # fmt: skip


def alarms(right: dict) -> list[Row]:
    wrong = [name for name, (fn, inputs) in right.items() if not lb.check_op(fn, *inputs(), compile=False).ok]
    by_design = [
        name for name, (fn, surrogate, inputs) in BY_DESIGN.items()
        if not lb.check_op(fn, *inputs(), surrogate=surrogate, compile=False).ok
    ]  # fmt: skip
    assert not wrong, wrong
    assert not by_design, by_design
    refused = sum(not by_torch(fn, inputs()) for fn, _, inputs in BY_DESIGN.values())
    return [
        Row(f"false alarms on {len(right)} right operators", len(wrong), "-", 0, "operators", "not comparable", "0"),
        Row(
            f"false alarms on {len(BY_DESIGN)} operators with another gradient by design, surrogate given", len(by_design),
            "gradcheck + gradgradcheck", refused, "operators", "not comparable", "0",
        ),
    ]  # fmt: skip


def timed(bugs: dict, right: dict) -> Row:
    seconds = []
    for fn, inputs in [*((p.bug, p.inputs) for p in bugs.values()), *right.values()]:
        start = time.perf_counter()
        lb.check_op(fn, *inputs(), compile=False)
        seconds.append(time.perf_counter() - start)
    seconds.sort()
    print(f"check_op without compile: median {seconds[len(seconds) // 2]:.3f} s, longest {seconds[-1]:.3f} s")
    fn, inputs = right["tanh"]
    x = inputs()[0].detach().double().requires_grad_()
    peer = median_seconds({"peer": lambda: (gradcheck(fn, [x]), gradgradcheck(fn, [x]))}, rounds=9)["peer"]
    return Row(
        f"longest of {len(seconds)} operators, without compile", seconds[-1], "gradcheck + gradgradcheck of tanh", peer, "s",
        "not comparable", "< 5 s",
    )  # fmt: skip


def errors() -> list[Row]:
    """Give the largest error on [0, 1] in cells, over 1 to 16 bits: 0.5 is the least there can be."""
    x = torch.linspace(0, 1, 4097, dtype=torch.float64)
    ours = [(lb.quantize_uniform(x, bits=b) - x).abs().max().item() * 2**b for b in range(1, 17)]
    copied = [(copied_bit2num(CopiedQuantize.apply(x, b), b) - x).abs().max().item() * 2**b for b in range(1, 5)]
    assert set(ours) == {0.5}
    return [
        Row("largest error on [0, 1], 1 to 16 bits", max(ours), "copied quantiser, 1 to 4 bits", max(copied), "cells",
            "equal inside, up to 4 bits", "0.5"),
    ]  # fmt: skip


class CopiedReversal(Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad.neg() * ctx.scale, None


def hooked(x: Tensor) -> Tensor:
    y = x.view_as(x)
    if y.requires_grad:
        y.register_hook(lambda grad: grad.clamp(-0.5, 0.5))
    return y


OPERATORS: dict[str, tuple[Callable[[Tensor], Tensor], dict[str, Callable[[Tensor], Tensor]]]] = {
    "straight_through(torch.round)": (
        lb.straight_through(torch.round), {"composition": lambda x: x + (x.round() - x).detach()},
    ),
    "scale_gradient": (
        lambda x: lb.scale_gradient(x, scale=0.5), {"composition": lambda x: x.detach() + 0.5 * (x - x.detach())},
    ),
    "gradient_reversal": (
        lambda x: lb.gradient_reversal(x, scale=0.5),
        {"composition": lambda x: x.detach() - 0.5 * (x - x.detach()), "copied Function": lambda x: CopiedReversal.apply(x, 0.5)},
    ),
    "clip_gradient by value": (lambda x: lb.clip_gradient(x, max_value=0.5), {"hook": hooked}),
    "quantize_uniform, 8 bits": (
        lambda x: lb.quantize_uniform(x, bits=8),
        {"composition": lambda x: x + (((x * 256).floor().clamp(0, 255) + 0.5) / 256 - x).detach()},
    ),
}  # fmt: skip


def speed(*, quick: bool) -> list[Row]:
    """Time each operator beside what one writes in its place, forward alone and both ways."""
    x = torch.rand(100 if quick else 4096, 512, requires_grad=True)
    ways: dict[str, Callable[[Callable[[Tensor], Tensor]], object]] = {
        "forward": lambda op: op(x),
        "forward + backward": lambda op: torch.autograd.grad(op(x).sum(), x),
    }
    rows = []
    for (name, (ours, peers)), (way, run_way) in itertools.product(OPERATORS.items(), ways.items()):
        candidates = {label: functools.partial(run_way, op) for label, op in ({"ours": ours} | peers).items()}
        seconds = median_seconds(candidates, rounds=5 if quick else 51)
        for peer, other in peers.items():
            assert torch.allclose(ours(x), other(x), atol=1e-6)
            target = "<= 1.1x" if peer == "composition" else ""
            what = f"{name}, {way}, {x.shape[0]} x 512"
            rows.append(
                Row(what, seconds["ours"] * 1e3, peer, seconds[peer] * 1e3, "ms", "values equal to 1e-6", target)
            )
    return rows
