"""The losses, and the keywords of other libraries that they refuse."""

from collections.abc import Callable, Mapping

from torch import Tensor

loss_functions: list[Callable[..., Tensor]] = []


def refuse_other_names(called: str, given: Mapping[str, object], names: Mapping[str, str]) -> None:
    """Raise if a keyword is one of `names`, whose values say what to write instead."""
    for name in names:
        if name in given:
            raise TypeError(f"{called} has no argument {name!r}: {names[name]}")
