"""linkboy: practical PyTorch, done right.

Every public name is available here (`import linkboy as lb; lb.focal_loss(...)`). Importing linkboy loads no room and not even
torch; a room is loaded when one of its names is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:  # one line per public name; tests/test_api.py holds this list equal to _ROOM_OF
    from linkboy.losses import class_weights as class_weights
    from linkboy.losses import focal_loss as focal_loss
    from linkboy.losses import logit_adjusted_loss as logit_adjusted_loss
    from linkboy.parameters import ParameterCount as ParameterCount
    from linkboy.parameters import count_parameters as count_parameters
    from linkboy.text import BasicTokenizer as BasicTokenizer

_ROOM_OF: dict[str, str] = {
    "BasicTokenizer": "text",
    "ParameterCount": "parameters",
    "class_weights": "losses",
    "count_parameters": "parameters",
    "focal_loss": "losses",
    "logit_adjusted_loss": "losses",
}  # fmt: skip

__all__: list[str] = [
    "BasicTokenizer",
    "ParameterCount",
    "class_weights",
    "count_parameters",
    "focal_loss",
    "logit_adjusted_loss",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


# A module-level __getattr__ that type checkers can see would make every misspelled name pass them.
if not TYPE_CHECKING:

    def __getattr__(name):
        if name not in _ROOM_OF:
            from linkboy._checks import did_you_mean

            raise AttributeError(f"module 'linkboy' has no attribute {name!r}{did_you_mean(name, _ROOM_OF)}")
        value = getattr(import_module(f"linkboy.{_ROOM_OF[name]}"), name)
        globals()[name] = value
        return value
