"""The losses as torch.compile takes them: each is one operation of its graph.

Otherwise torch.compile would read all their checks, and look at every call whether one of these functions has changed since:
ten to twenty microseconds. A module of its own, because importing it imports all of torch.compile.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from linkboy.losses._functions import loss_functions, refuse_other_names


def _operation(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    function, names = loss.__wrapped__, loss.other_names  # type: ignore[attr-defined]

    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> Tensor:
        refuse_other_names(function.__name__, kwargs, names)
        args, kwargs = tree_map(_plain_number, (args, kwargs))
        return function(*args, **kwargs)

    torch.compiler.allow_in_graph(call)
    return call


def _plain_number(value: object) -> object:
    """Return the number behind a symbol, which torch.compile makes of one that was another before: an option has one value."""
    if isinstance(value, torch.SymInt):
        return int(value)
    return float(value) if isinstance(value, torch.SymFloat) else value


# As names of this module, which torch.compile looks up in fewer steps than entries of a dictionary.
globals().update({loss.__name__: _operation(loss) for loss in loss_functions})
