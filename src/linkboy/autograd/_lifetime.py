"""Checks of what an operator holds on to, and of what it reads in backward that somebody may have changed."""

import contextlib
import gc
import weakref
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from linkboy.autograd._trial import Trial, difference, differentiable, functions_behind, gradients
from linkboy.autograd._verdict import Verdict, failed, passed

CALLS = 3


def leaks(trial: Trial) -> Verdict:
    """Ask whether tensors of earlier calls stay alive."""
    with _no_collector():
        gc.collect(0)  # what is in the youngest generation from here on is new
        for _ in range(CALLS):
            _call_and_forget(trial)
        young = [weakref.ref(x) for x in gc.get_objects(generation=0) if type(x) in (Tensor, torch.nn.Parameter)]
        for _ in range(CALLS):  # what is held of the last call alone, as nn.LSTM holds its weights, is let go by these
            _call_and_forget(trial)
        waiting = sum(ref() is not None for ref in young)
    if waiting < CALLS:
        return passed()
    gc.collect()
    left = sum(ref() is not None for ref in young)
    if left >= CALLS:
        return failed(
            f"{CALLS} calls leave {left} tensors behind",
            "they are kept in a list, a cache or a global",
            "keep nothing between calls, or bound it",
        )
    kept = _tensors_on_ctx(trial.call(trial.fresh(trial.native)))
    if kept:
        return failed(
            f"after {CALLS} calls {waiting} tensors wait for the garbage collector",
            f"the tensor {kept} is kept on ctx, and an output there is a cycle",
            f"use ctx.save_for_backward for {kept}",
        )
    return passed("cycles of references wait for the garbage collector")


def saved_tensors(trial: Trial) -> Verdict:
    """Write into outputs and inputs after forward: torch must notice it, or the gradient must not change."""
    leaves = trial.fresh()
    outputs = trial.call(leaves)
    ends = differentiable(outputs)
    kept = _tensors_on_ctx(outputs)
    expected = gradients(outputs, trial.inputs(leaves))
    for written in ("output", "input"):
        leaves = trial.fresh()
        outputs = trial.call(leaves)
        try:
            for x in outputs if written == "output" else trial.inputs(leaves):
                x.detach().mul_(3).add_(1)
            found = difference(gradients(outputs, trial.inputs(leaves)), expected, trial.tolerance)
        except RuntimeError:  # torch noticed, as it should; or the memory cannot be written, and all is well
            continue
        if found and ends:
            return failed(
                f"an {written} written after forward silently changes the gradient: {found}",
                f"the tensor {kept} is kept on ctx, where nobody watches it"
                if kept
                else "backward reads a tensor that torch does not watch",
                f"use ctx.save_for_backward for {kept}" if kept else "save it with ctx.save_for_backward",
            )
    return passed()


def _call_and_forget(trial: Trial) -> None:
    leaves = trial.fresh(trial.native)
    gradients(trial.call(leaves), trial.inputs(leaves))


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _tensors_on_ctx(outputs: Sequence[Tensor]) -> str:
    """Return the names of tensors that a Function behind the outputs has stored on its ctx."""
    attributes = [item for ctx in functions_behind(outputs) for item in vars(ctx).items()]
    names = [name for name, value in attributes if any(isinstance(x, Tensor) for x in pytree.tree_leaves(value))]
    return ", ".join(f"`{name}`" for name in dict.fromkeys(names))
