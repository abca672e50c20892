"""The losses, and the keywords of other libraries that they refuse."""

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

loss_functions: list[Callable[..., Tensor]] = []

# What arguments are called in older releases of torch, in Keras, kornia, MONAI and timm.
_ELSEWHERE = {
    "input": ("inputs", "logits", "pred", "preds", "y_pred"),
    "target": ("targets", "label", "labels", "y_true"),
    "alpha": ("class_weight", "class_weights"),
    "label_smoothing": ("smoothing",),
    "ignore_index": ("ignore_label",),
    "reduction": ("size_average", "reduce"),
}


def names_elsewhere(parameters: Iterable[str]) -> dict[str, str]:
    """Return what other libraries call the arguments of a loss, each with the name that it has here."""
    here = set(parameters)
    known = {
        other: name for name, others in _ELSEWHERE.items() if name in here for other in others if other not in here
    }
    return {other: f"it is called {name} here" for other, name in known.items()}


def refuse_other_names(called: str, given: Mapping[str, object], names: Mapping[str, str]) -> None:
    """Raise if a keyword is one of `names`, whose values say what to write instead."""
    for name in given:
        if name in names:
            raise TypeError(f"{called} has no argument {name!r}: {names[name]}")
