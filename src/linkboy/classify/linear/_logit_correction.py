"""What a mix still gets wrong, by the rows that judge it: how sure a large logit is, and the intercepts of the classes."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from linkboy.classify.linear._mixing import row_blocks, row_losses

FOLDS = 3
STEPS = 100
LEAST = 1e-10  # what a step must gain
WORTH_OF_INTERCEPTS = 5.0  # rows: how strongly they are drawn towards 0
CAP_AT_FIRST = 4.0  # times the root mean square of the logits
LEAST_GAIN = 5e-4  # of a correction, in the mean negative log-likelihood of a row
MOST_LOGITS = 2**21  # by which they are chosen
Form = Callable[[Tensor, Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class LogitCorrection:
    """Logits as `cap * tanh((scale * logits - level) / cap) + intercepts`, or `scale * logits + intercepts` without a cap.

    Args:
        scale: what they are multiplied by, which a linear model takes into its weights.
        intercepts: `(C,)` float64.
        level: what is subtracted from all classes, since a cap bends least around 0; a linear model takes it into its bias.
        cap: what no logit goes beyond; `None` without one.
        gain_of_cap: how much a cap that was chosen by other rows lowers the mean negative log-likelihood of a row.
        gain_of_intercepts: the same of the intercepts.
    """

    scale: float
    intercepts: Tensor
    level: float = 0.0
    cap: float | None = None
    gain_of_cap: float = 0.0
    gain_of_intercepts: float = 0.0

    def __call__(self, logits: Tensor) -> Tensor:
        """Return what it makes of logits `(N, C)`."""
        return self.behind(self.scale * logits - self.level)

    def behind(self, logits: Tensor) -> Tensor:
        """Return what it makes of logits that have scale and level in them."""
        return (logits if self.cap is None else _capped(logits, self.cap)) + self.intercepts.to(logits)


@dataclasses.dataclass(frozen=True)
class _Judged:
    """Rows that judge: logits `(N, C)` float64, class indices and weights."""

    logits: Tensor
    targets: Tensor
    weights: Tensor

    def part(self, which: Tensor | slice) -> "_Judged":
        return _Judged(self.logits[which], self.targets[which], self.weights[which])

    def losses(self, form: Form, parameters: Tensor) -> Tensor:
        """Return `(N,)`, the negative log-likelihood of each row."""
        return row_losses(form(parameters, self.logits), self.targets)


@torch.inference_mode(mode=False)
@torch.enable_grad()  # whoever trains a classifier may have switched gradients off
def choose_logit_correction(logits: Tensor, targets: Tensor, weights: Tensor, *, intercepts: bool) -> LogitCorrection:
    """Return what makes the rows likelier.

    The intercepts of a model that knows its training rows by heart are not those of other rows: where classes overlap, the
    frequent ones are given too often. And where labels are noisy, or a few n-grams are taken for proof, the rows with the
    largest logits are right less often than any common scale can say. Each of the two is only corrected where that gains
    more than its standard error, each third of the rows under what was chosen by the others.

    Args:
        logits: `(N, C)` float64 of rows that the model has not learned from, on the scale for which they are likeliest, their
            mean over the classes 0.
        targets: `(N,)` class indices.
        weights: `(N,)` non-negative.
        intercepts: whether the classes may have others.
    """
    # In an order of its own: a file may go through its classes in turn, and every so many rows of it lack some.
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(targets))[: MOST_LOGITS // logits.shape[1]])
    rows = _Judged(logits, targets, weights.double()).part(order)
    found = _with_chosen_cap(LogitCorrection(1.0, torch.zeros(logits.shape[1], dtype=torch.float64)), rows)
    return _with_chosen_intercepts(found, rows) if intercepts else found


def _with_chosen_cap(found: LogitCorrection, rows: _Judged) -> LogitCorrection:
    size = float(rows.logits.square().mean().sqrt())
    if not 0 < size < math.inf:
        return found
    start = torch.tensor([0.0, 0.0, math.log(CAP_AT_FIRST * size)], dtype=torch.float64)
    made, gain = _chosen(_under_cap, start, torch.ones_like(start), rows)
    if made is None:
        return found
    scale, level, cap = float(made[0].exp()), float(made[1]), float(made[2].exp())
    return dataclasses.replace(found, scale=scale, level=level, cap=cap, gain_of_cap=gain)


def _with_chosen_intercepts(found: LogitCorrection, rows: _Judged) -> LogitCorrection:
    start = torch.zeros(1 + len(found.intercepts), dtype=torch.float64)
    rows = dataclasses.replace(rows, logits=found(rows.logits))
    made, gain = _chosen(_under_intercepts, start, torch.full_like(start, WORTH_OF_INTERCEPTS), rows)
    if made is None:
        return found
    scale = float(made[0].exp())
    cap = None if found.cap is None else scale * found.cap
    return LogitCorrection(scale * found.scale, made[1:], scale * found.level, cap, found.gain_of_cap, gain)


def _under_scale(parameters: Tensor, logits: Tensor) -> Tensor:
    """Return logits under the logarithm of a scale."""
    return parameters[0].exp() * logits


def _under_intercepts(parameters: Tensor, logits: Tensor) -> Tensor:
    """Return logits under the logarithm of a scale, and an intercept for each class."""
    return parameters[0].exp() * logits + parameters[1:]


def _under_cap(parameters: Tensor, logits: Tensor) -> Tensor:
    """Return logits under the logarithm of a scale, a level that is subtracted, and the logarithm of a cap."""
    scale, level, cap = parameters[0].exp(), parameters[1], parameters[2].exp()
    return _capped(scale * logits - level, cap)


def _capped(logits: Tensor, cap: Tensor | float) -> Tensor:
    return cap * torch.tanh(logits / cap)


def _chosen(form: Form, start: Tensor, worth: Tensor, rows: _Judged) -> tuple[Tensor | None, float]:
    """Return the parameters that all rows choose, and what rows gain by those that others chose; `None` unless it is enough.

    It must also be enough where another scale, the first parameter, is all that the others choose: rows without a mistake
    become likelier with every larger one, which says nothing about the other parameters, and which the mix has refused.
    """
    count = len(rows.targets)
    if count < FOLDS:
        return None, 0.0
    fold, gains = torch.arange(count) % FOLDS, torch.zeros(2, count, dtype=torch.float64)
    for number in range(FOLDS):
        others, own = rows.part(fold != number), rows.part(fold == number)
        scale, made = _likeliest(_under_scale, start[:1], worth[:1], others), _likeliest(form, start, worth, others)
        before = torch.stack([row_losses(own.logits, own.targets), own.losses(_under_scale, scale)])
        gains[:, fold == number] = before - own.losses(form, made)
    gains *= rows.weights / rows.weights.mean()
    gain, error = gains.mean(1), gains.std(1) / math.sqrt(count)
    if not (gain > error.clamp_min(LEAST_GAIN)).all():
        return None, 0.0
    return _likeliest(form, start, worth, rows), float(gain[0])


def _likeliest(form: Form, start: Tensor, worth: Tensor, rows: _Judged) -> Tensor:
    """Return the parameters for which the rows are likeliest, each drawn towards its start as by so many rows."""
    count, classes = rows.logits.shape
    share = rows.weights / rows.weights.sum()

    def at(parameters: Tensor) -> tuple[float, Tensor]:
        """Return the objective and its gradient."""
        apart = parameters - start
        value, gradient = float((worth * apart.square()).sum() / (2 * count)), worth * apart / count
        leaf = parameters.clone().requires_grad_()
        for block in row_blocks(count, classes):
            part = (share[block] * rows.part(block).losses(form, leaf)).sum()
            gradient += torch.autograd.grad(part, leaf)[0]
            value += float(part.detach())
        return value, gradient

    return _minimised(at, start)


def _minimised(at: Callable[[Tensor], tuple[float, Tensor]], found: Tensor) -> Tensor:
    """Return a minimum of a smooth function of few numbers, by BFGS with halved steps.

    The optimizers of torch would load its compiler, which takes longer than all else that is done to the logits.

    Source: Nocedal & Wright, Numerical Optimization, algorithm 6.1.
    """
    value, gradient = at(found)
    inverse = torch.eye(len(found), dtype=torch.float64)  # of the second derivative, as far as it is known
    for number in range(STEPS):
        move = -inverse @ gradient
        slope, size = float(gradient @ move), 1.0
        while not (tried := at(found + size * move))[0] <= value + 1e-4 * size * slope:
            size /= 2
            if size < 1e-6:
                return found
        step, change = size * move, tried[1] - gradient
        found, gained, (value, gradient) = found + step, value - tried[0], tried
        if gained < LEAST:
            break
        curvature = float(step @ change)
        if curvature > 0:
            if not number:
                inverse *= curvature / float(change @ change)
            turned = inverse @ change
            inverse += (curvature + float(change @ turned)) / curvature**2 * torch.outer(step, step)
            inverse -= (torch.outer(turned, step) + torch.outer(step, turned)) / curvature
    return found
