"""What `check_op` asks of its arguments, before it asks anything of the operator."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from linkboy._calls import tensors_in
from linkboy._checks import describe
from linkboy.autograd._trial import Trial, differentiable, said


def check_callable(fn: object, surrogate: object) -> None:
    """Raise unless both can be called with tensors; `surrogate` may be `None`."""
    for name, value in (("fn", fn), ("surrogate", surrogate)):
        if isinstance(value, type):
            kind = value.__name__
            fix = f"{kind}.apply" if issubclass(value, Function) else f"an instance, {kind}(...)"
            raise TypeError(f"{name} must be a function of tensors, got the class {kind}; pass {fix}")
        if not callable(value) and not (name == "surrogate" and value is None):
            raise TypeError(f"{name} must be a function of tensors, got {describe(value)}")
    if isinstance(fn, nn.Module):
        lazy = next((name for name, x in [*fn.named_parameters(), *fn.named_buffers()] if is_lazy(x)), None)
        if lazy:
            raise ValueError(
                f"fn must have all its parameters, got {lazy!r} without a shape; run the module once first"
            )


def check_inputs(trial: Trial, given: tuple[Any, ...]) -> None:
    """Raise unless there is something to differentiate, of dense and finite numbers."""
    if not trial.diff:
        came = [x for leaf in pytree.tree_leaves(given) for x in (tensors_in(leaf) or [leaf])]
        raise ValueError(
            "check_op needs at least one tensor that requires grad among the arguments of fn, got "
            f"{', '.join(describe(x) for x in came) or 'none'}; "
            "make one with torch.randn(4, 3, requires_grad=True)"
        )
    for i, (name, x) in enumerate(zip(trial.names, trial.leaves, strict=True)):
        if not isinstance(x, Tensor):
            continue
        if x.is_meta:
            raise ValueError(f"{name} must hold numbers, got one on the meta device; make one with torch.randn(4, 3)")
        if x.layout != torch.strided:
            layout = str(x.layout).removeprefix("torch.")
            raise ValueError(f"{name} must be a dense tensor, got {layout}; check lambda x: op(x.to_sparse())")
        if i in trial.diff and not x.isfinite().all():
            raise ValueError(f"{name} must hold finite numbers, where derivatives can be compared, got NaN or infinity")


def check_surrogate(trial: Trial) -> None:
    """Raise unless the surrogate gives outputs of the shapes that the operator gives."""
    if trial.surrogate is None:
        return
    try:
        wanted = _shapes(trial.call(trial.fresh(trial.native)))
    except Exception:  # noqa: BLE001 - told in the row of the forward pass
        return
    try:
        got = _shapes(trial.call(trial.fresh(trial.native), trial.surrogate))
    except Exception as error:
        raise ValueError(f"surrogate must run on the arguments of fn, got {said(error)}") from error
    if wanted and got != wanted:
        raise ValueError(f"surrogate must give tensors of the shapes that fn gives, {wanted}, got {got}")


def _shapes(outputs: list[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(y.shape) for y in differentiable(outputs)]
