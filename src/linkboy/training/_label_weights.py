"""What each label counts in the mean of a loss: torch's losses leave padding out of it and weigh classes in it."""

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_OPTIONS = ("ignore_index", "weight", "alpha", "normalizer", "gamma_positive")
_BY_LABEL = (F.cross_entropy, F.nll_loss)
_NO_WEIGHT = (
    "{loss} has ignore_index={index} and some labels are {index}; whether its mean counts them cannot be known: "
    "pass sample_weight=, a function of the batch that returns 0 for them"
)


class LabelWeights:
    """The weights in the mean that a loss would take if it were reduced: `reduction="none"` has lost them.

    `nn.CrossEntropyLoss` and `nn.NLLLoss`, or a `functools.partial` of their functions, divide by the class weights of the
    labels that are not `ignore_index`, and so do linkboy's focal losses by `alpha` with `normalizer="weights"`; linkboy's
    other losses divide by the number of these labels. Another loss that has an `ignore_index` is understood only where no
    label is ignored.

    Args:
        loss_fn: function of `(output, target)` that returns losses not reduced.

    Examples:
        >>> import torch
        >>> weights = LabelWeights(nn.CrossEntropyLoss(torch.tensor([1.0, 5.0]), reduction="none"))
        >>> weights(torch.tensor([0, 1, -100]))
        tensor([1., 5., 0.])
    """

    def __init__(self, loss_fn: Any) -> None:
        self.name = type(loss_fn).__name__
        options, torchs, ours = _options_of(loss_fn)
        index = options.get("ignore_index")
        self.ignore_index = index if isinstance(index, int) else None
        self.understood = torchs or ours
        weight = options.get("weight") if torchs else _alpha_of(options) if ours else None
        self.weight: Tensor | None = weight.detach() if isinstance(weight, Tensor) else None

    def __call__(self, target: Any, *, weighted: bool = False) -> Tensor | None:
        """Return what each label counts, where the labels are; `None` where each counts 1.

        Args:
            target: labels; anything else counts 1.
            weighted: the batch has weights of its own, which decide for a loss that is not understood.

        Returns:
            A tensor of the shape of the labels, or `None`.

        Raises:
            ValueError: labels are ignored by a loss that is not understood.
        """
        labels = isinstance(target, Tensor) and not target.is_floating_point()
        if self.ignore_index is None or not labels or (weighted and not self.understood):
            return None
        kept = target != self.ignore_index
        whole = bool(kept.all())
        if not whole and not self.understood:
            raise ValueError(_NO_WEIGHT.format(loss=self.name, index=self.ignore_index))
        if self.weight is None:
            return None if whole else kept.float()
        weight = self.weight.to(target.device)
        return weight[target] if whole else weight[target.where(kept, 0)] * kept


def _options_of(loss_fn: Any) -> tuple[Mapping[str, Any], bool, bool]:
    """Return the options of a loss, whether it is one of torch's by label, and whether it is one of linkboy's."""
    if isinstance(loss_fn, functools.partial):
        torchs, ours = loss_fn.func in _BY_LABEL, _is_ours(loss_fn.func)
        if not (torchs or ours):
            return {}, False, False
        defaults = {name: p.default for name, p in inspect.signature(loss_fn.func).parameters.items()}
        return defaults | loss_fn.keywords, torchs, ours
    if isinstance(loss_fn, nn.Module):
        ours = _is_ours(type(loss_fn))
        options = {name: getattr(loss_fn, name) for name in _OPTIONS if hasattr(loss_fn, name)}
        return options, isinstance(loss_fn, (nn.CrossEntropyLoss, nn.NLLLoss)), ours
    return {}, False, False


def _alpha_of(options: Mapping[str, Any]) -> Tensor | None:
    """Return the weights per class by which a loss of linkboy's divides its mean, `None` where it divides by none."""
    alpha = options.get("alpha")
    if alpha is None or options.get("normalizer") != "weights" or "gamma_positive" in options:  # the binary loss
        return None
    return alpha if isinstance(alpha, Tensor) else torch.tensor(alpha)


def _is_ours(thing: Any) -> bool:
    return getattr(thing, "__module__", "").startswith("linkboy.losses")
