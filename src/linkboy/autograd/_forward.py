"""Checks of the forward pass: what it does to its inputs and to the world, and on what inputs it works."""

import random
import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from linkboy import _random
from linkboy.autograd._trial import WIDE, Trial, difference, differentiable, gradients, said, switches
from linkboy.autograd._verdict import Verdict, failed, limited, passed, skipped

LEAVES_TORCH = ("numpy", "__array__", "__dlpack__")
WAITS = ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "is_nonzero", "nonzero")


def forward(trial: Trial) -> Verdict:
    """Ask whether the operator runs and returns a tensor, and whether it can be checked in float64."""
    if not trial.call(trial.fresh()):
        return failed("the operator returns no tensor", "", "return the result")
    try:
        trial.call(trial.fresh(WIDE))
        # A number of the operator's own, such as a target in float32, may pass forward and not backward.
        error = _raised_by_backward(trial, WIDE)
        error = None if error is None or _raised_by_backward(trial, trial.native) else error
    except Exception as raised:  # noqa: BLE001 - an operator may raise anything
        error = raised
    if error is not None:
        return passed(f"not in float64 ({said(error)}): gradients are checked in {trial.dtype}")
    trial.dtype = WIDE
    return passed()


def _raised_by_backward(trial: Trial, dtype: torch.dtype) -> Exception | None:
    leaves = trial.fresh(dtype)
    outputs = trial.call(leaves)
    try:
        gradients(outputs, trial.inputs(leaves))
    except Exception as error:  # noqa: BLE001 - an operator may raise anything
        return error
    return None


def mutation(trial: Trial) -> Verdict:
    """Ask whether a call changes its inputs, with and without gradient."""
    for diff in (trial.diff, []):
        leaves = trial.fresh(trial.native, diff=diff)
        before = [(x.detach().clone(), x._version) if isinstance(x, Tensor) else None for x in leaves]
        trial.call(leaves)
        for i, (x, old) in enumerate(zip(leaves, before, strict=True)):
            if old is None or i in trial.buffers:
                continue
            if x._version != old[1] or difference([x], [old[0]], 0.0):
                return failed(
                    f"{trial.names[i]} is another after the call",
                    "the input is written in place",
                    "work on x.clone(); a Function that means to write says ctx.mark_dirty(x) and is an in-place operator",
                )
    return passed()


def global_state(trial: Trial) -> Verdict:
    """Ask whether a call changes torch's global switches."""
    before = switches()
    trial.call(trial.fresh(trial.native))
    changed = [name for name, value in switches().items() if value != before[name]]
    if changed:
        return failed(
            f"the call changes torch's {', '.join(changed)}",
            "a switch is turned and left",
            "use the context manager, which turns it back",
        )
    return passed()


def random_numbers(trial: Trial) -> Verdict:
    """Ask whether a call draws random numbers, and whether it seeds a generator that is not its own."""
    starts, ends = [], []
    for number in (1, 2):
        leaves = trial.fresh(trial.native)
        starts.append(_generators(number))
        trial.call(leaves, _reseeded(trial, number))
        ends.append(_generators(None))
    trial.random = starts != ends
    reseeded = [name for name in starts[0] if starts[0][name] != starts[1][name] and ends[0][name] == ends[1][name]]
    if reseeded:
        return failed(
            f"whatever the seed was, the call leaves the generator of {reseeded[0]} at one place",
            "the operator seeds a generator that is not its own",
            "draw from a torch.Generator of its own",
        )
    return passed("draws some; every call was seeded alike" if trial.random else "")


def _reseeded(trial: Trial, number: int) -> Callable[..., object]:
    def call(*args: object, **kwargs: object) -> object:
        _random.seed(number)
        return trial.fn(*args, **kwargs)

    return call


def _generators(number: int | None) -> dict[str, str]:
    """Seed the generators where a number is given, and return where they stand."""
    if number is not None:
        _random.seed(number)
    state = {"torch": str(torch.get_rng_state().tolist()), "Python": str(random.getstate())}
    if "numpy" in sys.modules:
        state["NumPy"] = str(sys.modules["numpy"].random.get_state())
    return state


def repeated_calls(trial: Trial) -> Verdict:
    """Ask whether equal calls give equal results, and a call between forward and backward changes no gradient."""
    first, second = trial.fresh(), trial.fresh()
    outputs, again = trial.call(first), trial.call(second)
    found = difference(again, outputs, 0.0)
    if found:
        return failed(
            f"the second of two equal calls differs: output {found}",
            "state is kept between calls, or the result is not determined by the inputs and the seed",
            "keep nothing outside of ctx; draw from torch's generators",
        )
    expected = gradients(again, trial.inputs(second))
    leaves = trial.fresh()
    outputs = trial.call(leaves)
    other = trial.fresh(change=lambda i, x: rolled(x))
    try:
        trial.call(other)
    except Exception as error:  # noqa: BLE001 - shuffled values may lie outside of the domain
        return passed(f"no call on other values in between ({said(error)})")
    found = difference(gradients(outputs, trial.inputs(leaves)), expected, 0.0)
    if found:
        return failed(
            f"another call between forward and backward changes the gradient: {found}",
            "what backward needs is kept on the class or in a global, where the next call overwrites it",
            "keep it with ctx.save_for_backward(...)",
        )
    return passed()


def rolled(x: Tensor) -> Tensor:
    """Return the same values in another order, so that they stay in the domain; a single one is moved a little."""
    if x.numel() > 1:
        return x.flatten().roll(1).reshape(x.shape)
    return x * 1.01 if x.is_floating_point() or x.is_complex() else x


class _Recorder(TorchFunctionMode):
    """Write down which functions and methods of torch are called."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


def torch_only(trial: Trial) -> Verdict:
    """Ask whether the operator stays in torch, and waits for no value of a device."""
    leaves = trial.fresh(trial.native)
    with _Recorder() as recorder:
        outputs = trial.call(leaves)
        ends = differentiable(outputs)
        # Not torch.autograd.grad, which is handed to the recorder as a whole, so that what backward calls goes unseen.
        torch.autograd.backward(ends, [torch.ones_like(y) for y in ends])
    left = [name for name in LEAVES_TORCH if name in recorder.seen]
    if left:
        return failed(
            f"the operator calls {', '.join(left)} on a tensor",
            "it leaves torch: no other device, no compilation, no transform, and no gradient through that part",
            "use the torch function of the same name",
        )
    waits = [name for name in WAITS if name in recorder.seen]
    if waits:
        return limited(f"calls {', '.join(waits)}: waits for the device, breaks vmap and compile")
    return passed()


def dtypes(trial: Trial) -> Verdict:
    """Run in every dtype: the results must keep it, and in half precision be near those of float64."""
    expected = trial.call(trial.fresh(WIDE)) if trial.dtype == WIDE else None
    notes = []
    kinds = (torch.float32, torch.float64) if trial.complex else (WIDE, torch.float32, torch.bfloat16, torch.float16)
    for dtype in kinds:
        leaves = trial.fresh(dtype)
        try:
            outputs = trial.call(leaves)
        except Exception as error:  # noqa: BLE001 - a dtype that is not supported may raise anything
            notes.append(f"no {_name_of(dtype)} ({said(error)})")
            continue
        ends = differentiable(outputs)
        for place, y in enumerate(outputs):
            if ends and not y.requires_grad:
                continue  # a mask or statistics beside the result may have a dtype of their own
            if y.is_floating_point() and y.dtype != dtype:
                if dtype == WIDE:
                    trial.dtype = trial.native  # finite differences of what is rounded to float32 say nothing
                    return failed(
                        f"float64 goes in, {_name_of(y.dtype)} comes out",
                        "a dtype is written into the operator: .float(), or a new tensor without dtype=",
                        "take x.dtype, as in torch.zeros(n, dtype=x.dtype, device=x.device)",
                    )
                notes.append(f"{_name_of(y.dtype)} for {_name_of(dtype)} as output {place}")
        gradients(outputs, trial.inputs(leaves))
        if dtype.itemsize < 4 and expected is not None:
            rounded = trial.call(
                trial.fresh(WIDE, change=lambda i, x, to=dtype: x.to(to).to(x.dtype) if x.is_floating_point() else x)
            )
            found = difference(outputs, rounded, 0.02 if dtype == torch.float16 else 0.1)
            if found:
                notes.append(f"{_name_of(dtype)} is far off: {found}")
    return limited("; ".join(notes)) if notes else passed()


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def layouts(trial: Trial) -> Verdict:
    """Run on strided, transposed and expanded inputs: each must give what contiguous ones of equal values do."""
    if trial.random:
        return skipped("random numbers fall on other elements in another layout")
    for name, lay in {"strided": strided, "transposed": transposed, "expanded": expanded}.items():
        leaves = trial.fresh(change=lambda i, x, lay=lay: lay(x))
        plain = [
            x.detach().clone(memory_format=torch.contiguous_format) if isinstance(x, Tensor) else x for x in leaves
        ]
        for i in trial.diff:
            plain[i].requires_grad_()
        try:
            expected = trial.call(plain)
        except Exception:  # noqa: BLE001 - equal rows may lie outside of the domain
            continue
        outputs = trial.call(leaves)
        wrong = difference(outputs, expected, trial.tolerance) and "output " + difference(
            outputs, expected, trial.tolerance
        )
        if not wrong:
            got, want = gradients(outputs, trial.inputs(leaves)), gradients(expected, trial.inputs(plain))
            if name == "expanded" and not all(g.isfinite().all() for g in want if g is not None):
                continue  # equal rows make a matrix singular, for example
            found = difference(got, want, trial.tolerance)
            wrong = found and f"gradient {found}"
        if wrong:
            return failed(
                f"{name} inputs give another result than contiguous ones: {wrong}",
                "strides or data_ptr are read as if the input were contiguous",
                "call x.contiguous() first",
            )
    return passed()


def strided(x: Tensor) -> Tensor:
    """Return the same values with gaps in memory."""
    return torch.stack([x, x + 1 if x.is_floating_point() else x], -1)[..., 0]


def transposed(x: Tensor) -> Tensor:
    """Return the same values with the last two dimensions in the other order in memory."""
    return x.mT.contiguous().mT if x.ndim > 1 else x


def expanded(x: Tensor) -> Tensor:
    """Return the first row in place of every row, held in memory once."""
    return x[:1].expand_as(x) if x.ndim and x.shape[0] else x


def sizes(trial: Trial) -> Verdict:
    """Run on a first dimension of 0 and of 1, as the last batch of an epoch may have it."""
    length = next((trial.leaves[i].shape[0] for i in trial.diff if trial.leaves[i].ndim and i not in trial.state), None)
    if length is None:
        return skipped("no differentiable input has a dimension")
    notes = []
    for size in (0, 1):

        def cut(i: int, x: Tensor, size: int = size) -> Tensor:
            return x[:size].clone() if x.ndim and x.shape[0] == length and i not in trial.state else x

        leaves = trial.fresh(change=cut)
        try:
            outputs = trial.call(leaves)
        except Exception as error:  # noqa: BLE001 - an operator may refuse a size as it likes
            notes.append(f"size {size} is refused ({said(error)})")
            continue
        for i, g in zip(trial.diff, gradients(outputs, trial.inputs(leaves)), strict=True):
            if g is not None and g.shape != leaves[i].shape:
                raise RuntimeError(f"gradient of shape {tuple(g.shape)} for {trial.names[i]}")
    return limited("; ".join(notes)) if notes else passed()
