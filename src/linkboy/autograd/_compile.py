"""Checks by torch.compile, and by torch's own opcheck where the operator is a registered one."""

import itertools

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef
from torch._ops import OpOverload, OpOverloadPacket
from torch.utils import _pytree as pytree

from linkboy.autograd._transforms import unsupported
from linkboy.autograd._trial import Trial, difference, gradients
from linkboy.autograd._verdict import Verdict, failed, passed, skipped

_numbers = itertools.count()


def compiled(trial: Trial) -> Verdict:
    """Run through `torch.compile`, at two sizes: results and gradients must be those without it."""

    def function(*leaves: object) -> list[Tensor]:
        args, kwargs = trial.arguments(list(leaves))
        return [x for x in pytree.tree_leaves(trial.fn(*args, **kwargs)) if isinstance(x, Tensor)]

    # Dynamo keeps its cache on the code object, and gives up after eight entries: each operator gets a code of its own.
    function.__code__ = function.__code__.replace(co_name=f"operator_{next(_numbers)}")
    run = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=None)
    length = next((trial.leaves[i].shape[0] for i in trial.diff if trial.leaves[i].ndim and i not in trial.state), 0)

    def shorter(i: int, x: Tensor) -> Tensor:
        return x[:-1].clone() if x.ndim and x.shape[0] == length and i not in trial.state else x

    for size, change in (("the size given", None), ("another size", shorter if length > 2 else None)):
        plain = trial.fresh(change=change)
        try:
            expected = trial.call(plain)
        except Exception:  # noqa: BLE001 - the other size is refused without compilation, too
            break
        leaves = trial.fresh(change=change)
        torch.default_generator.manual_seed(0)
        try:
            outputs = run(*leaves)
            got = gradients(outputs, trial.inputs(leaves))
        except Exception as error:  # noqa: BLE001 - support is optional
            return unsupported(error)
        wrong = "" if trial.random else difference(outputs, expected, trial.tolerance)
        wrong = wrong or (
            "" if trial.random else difference(got, gradients(expected, trial.inputs(plain)), trial.tolerance)
        )
        if wrong:
            return failed(
                f"compiled, at {size}, it gives another result: {wrong}",
                "the tracer sees another function than runs: a fake kernel, a dropped jvp, state, or data_ptr",
                "compose it of torch operations, or register it with torch.library.custom_op and register_fake",
            )
    return passed("compiles; random numbers were not compared" if trial.random else "")


def opcheck(trial: Trial, fn: object) -> Verdict:
    """Ask torch's own `opcheck`, where the operator is a registered one."""
    if not isinstance(fn, (OpOverload, OpOverloadPacket, CustomOpDef)):
        return skipped("not a registered operator")
    args, kwargs = trial.arguments(trial.fresh(trial.native))
    results = torch.library.opcheck(fn, args, kwargs, raise_exception=False)
    wrong = {name: result for name, result in results.items() if result != "SUCCESS"}
    if wrong:
        name, error = next(iter(wrong.items()))
        text = " ".join(str(error).split())[:200]
        return failed(
            f"{name}: {text}",
            "the registration does not say what the operator does",
            "correct mutates_args, register_fake or register_autograd",
        )
    return passed()
