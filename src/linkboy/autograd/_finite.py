"""Derivatives by finite differences: all of them where that is cheap, along random directions where it is not."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck, gradgradcheck

from linkboy._report import plural
from linkboy.autograd._trial import BESIDE, WIDE, Leaves, Trial, cotangents, difference, differentiable, gradients
from linkboy.autograd._verdict import Verdict, failed

EXACT_UP_TO = 64  # elements
DIRECTIONS = 3
ON_PURPOSE = (
    "correct backward; if the gradient is meant to be another, pass surrogate=, the function whose gradient it is"
)
NOT_A_NUMBER = (
    "0 times infinity or 0 / 0 on the way, often where a result is not used: torch.where lets what it leaves out reach "
    "backward"
)
HARMLESS = "give the operation a harmless input there: torch.where or clamp in front of it, too"
Function = Callable[..., Sequence[Tensor]]


def disagreement(trial: Trial, leaves: Leaves, order: int = 1) -> Exception | None:
    """Return what speaks against the derivatives of that order, or `None`."""
    function, inputs = trial.of_inputs(leaves), trial.inputs(leaves)
    options: dict[str, Any] = {} if trial.dtype == WIDE else {"eps": _step(trial.dtype), "atol": 5e-2, "rtol": 5e-2}
    try:
        if sum(x.numel() for x in inputs) > EXACT_UP_TO:
            # Not the fast mode of gradcheck: its tolerance grows with the sizes, and half a gradient passed at 64 x 64.
            _compare_along_directions(
                *((function, inputs) if order == 1 else _gradient_of(function, inputs)), trial.dtype
            )
        elif order == 1:
            gradcheck(function, inputs, check_undefined_grad=False, check_batched_grad=False, **options)
        else:
            gradgradcheck(function, inputs, **options)
    except Exception as error:  # noqa: BLE001 - told in a row
        return error
    return None


def agrees_beside(trial: Trial) -> bool:
    """Return whether the gradient agrees beside the inputs, where those lie on a kink."""
    for attempt in BESIDE:
        other = trial.beside(attempt)
        if disagreement(other, other.fresh()) is None:
            return True
    return False


def outside(trial: Trial) -> Exception | None:
    """Return what the operator raises where finite differences look, if it runs at the inputs themselves."""
    function, inputs = trial.of_inputs(trial.fresh()), trial.inputs(trial.fresh())
    for number in range(len(inputs)):
        for step in (_step(trial.dtype), -_step(trial.dtype)):
            moved = [x.detach() + step if place == number else x.detach() for place, x in enumerate(inputs)]
            try:
                function(*moved)
            except Exception as error:  # noqa: BLE001 - told in a row
                return error
    return None


def _step(dtype: torch.dtype) -> float:
    return 1e-6 if dtype == WIDE else 1e-2


def _gradient_of(function: Function, inputs: list[Tensor]) -> tuple[Function, list[Tensor]]:
    """Return the gradient as a function of the inputs and of the incoming gradient, and values for both."""
    incoming = [g.requires_grad_() for g in cotangents(differentiable(function(*inputs)))]

    def slope(*both: Tensor) -> list[Tensor]:
        xs, given = both[: len(inputs)], both[len(inputs) :]
        found = gradients(differentiable(function(*xs)), xs, given, create_graph=True)
        return [g for g in found if g is not None]

    return slope, [*inputs, *incoming]


def _compare_along_directions(function: Function, inputs: list[Tensor], dtype: torch.dtype) -> None:
    """Raise unless backward and central differences agree; an error of the gradient hides from no random direction."""
    eps, tolerance = _step(dtype), 1e-5 if dtype == WIDE else 5e-2
    for number in range(DIRECTIONS):
        outputs = function(*inputs)
        weights = cotangents(outputs, 2 * number + 10)
        wanted = [w for w, y in zip(weights, outputs, strict=True) if y.requires_grad]
        found = gradients(outputs, inputs, wanted)
        directions = cotangents(inputs, 2 * number + 11)
        pairs = [(g, u) for g, u in zip(found, directions, strict=True) if g is not None]
        analytic = sum((g.conj() * u).real.sum().item() for g, u in pairs)
        ahead, behind = (
            _total(function, [x.detach() + s * eps * u for x, u in zip(inputs, directions, strict=True)], weights)
            for s in (1, -1)
        )
        numeric = (ahead - behind) / (2 * eps)
        norm = sum(g.abs().square().sum().item() for g, _ in pairs) ** 0.5
        magnitude = sum((w * y).abs().sum().item() for w, y in zip(weights, outputs, strict=True))
        rounding = 4 * torch.finfo(dtype).eps * magnitude / eps
        if not abs(analytic - numeric) <= tolerance * norm + rounding:
            raise GradcheckError(f"along a random direction backward gives {analytic}, finite differences {numeric}")


def _total(function: Function, inputs: list[Tensor], weights: list[Tensor]) -> float:
    outputs = function(*(x.requires_grad_() for x in inputs))
    return sum((w.conj() * y).real.sum().item() for w, y in zip(weights, outputs, strict=True))


def mismatch(trial: Trial) -> Verdict:
    """Name the input whose gradient is wrong, and the factor where there is one."""
    leaves = trial.fresh()
    function, inputs = trial.of_inputs(leaves), trial.inputs(leaves)
    outputs = function(*inputs)
    weights = cotangents(outputs)
    slopes = gradients(outputs, inputs, [w for w, y in zip(weights, outputs, strict=True) if y.requires_grad])
    for place, x in enumerate(inputs):
        looked_at = torch.linspace(0, x.numel() - 1, min(x.numel(), EXACT_UP_TO)).long()
        slope = slopes[place]
        analytic = torch.zeros_like(x.detach()) if slope is None else slope
        name = trial.names[trial.diff[place]]
        if analytic.isnan().any():
            return failed(f"for {name}: NaN in {_share(analytic.isnan())}", NOT_A_NUMBER, HARMLESS)
        analytic = analytic.flatten()[looked_at]
        numeric = _numeric_slope(function, inputs, place, looked_at, weights, trial.dtype)
        found = difference([analytic], [numeric], 1e-4 if trial.dtype == WIDE else 5e-2)
        if found:
            return failed(
                f"for {name}, against finite differences: {found}",
                _factor(analytic, numeric),
                ON_PURPOSE,
            )
    return failed("finite differences give another Jacobian", "backward is not the derivative", "correct backward")


def _share(mask: Tensor) -> str:
    return f"{mask.sum().item()} of {plural(mask.numel(), 'number')}"


def is_mismatch(found: str) -> bool:
    """Return whether a row tells of numbers that differ, measured input by input, and not of an exception on the way."""
    return found.startswith(("for ", "against the surrogate"))


def _numeric_slope(
    function: Function, inputs: list[Tensor], place: int, looked_at: Tensor, weights: list[Tensor], dtype: torch.dtype
) -> Tensor:
    """Return the derivative of the weighted outputs by some elements of one input, by central differences."""
    eps = _step(dtype)
    x = inputs[place].detach()
    slope = torch.zeros(len(looked_at), dtype=x.dtype, device=x.device)
    for k, element in enumerate(looked_at.tolist()):
        for turn in (1, 1j) if x.is_complex() else (1,):
            step = torch.zeros(x.numel(), dtype=x.dtype, device=x.device)
            step[element] = torch.tensor(turn * eps)
            step = step.reshape(x.shape)
            ahead, behind = (
                _total(function, [*inputs[:place], at, *inputs[place + 1 :]], weights) for at in (x + step, x - step)
            )
            slope[k] += turn * (ahead - behind) / (2 * eps)
    return slope


def _factor(analytic: Tensor, numeric: Tensor) -> str:
    ratios = (analytic / numeric)[numeric.abs() > 1e-3 * numeric.abs().max().clamp(min=1e-3)]
    if ratios.numel() and torch.isclose(ratios, ratios[0], rtol=1e-3).all():
        ratio = ratios[0].item()
        ratio = ratio.real if abs(complex(ratio).imag) <= 1e-3 * abs(ratio) else ratio
        return f"backward gives {ratio + 0.0:.4g} times the derivative"  # 0.0: not -0
    return "backward is not the derivative"
