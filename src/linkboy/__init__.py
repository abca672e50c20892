"""linkboy: practical PyTorch, done right.

Every public name is available here (`import linkboy as lb; lb.focal_loss(...)`). Importing linkboy loads no room and not even
torch; a room is loaded when one of its names is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:  # one line per public name; tests/test_api.py holds this list equal to _ROOM_OF
    from linkboy.classify import Classifier as Classifier
    from linkboy.classify import LabelledTexts as LabelledTexts
    from linkboy.classify import TrainingOptions as TrainingOptions
    from linkboy.classify import load_classifier as load_classifier
    from linkboy.classify import read_labelled as read_labelled
    from linkboy.classify import train_classifier as train_classifier
    from linkboy.losses import class_weights as class_weights
    from linkboy.losses import focal_loss as focal_loss
    from linkboy.losses import logit_adjusted_loss as logit_adjusted_loss
    from linkboy.memory import is_out_of_memory as is_out_of_memory
    from linkboy.memory import release_memory as release_memory
    from linkboy.memory import retry_on_oom as retry_on_oom
    from linkboy.parameters import ParameterCount as ParameterCount
    from linkboy.parameters import count_parameters as count_parameters
    from linkboy.text import BasicTokenizer as BasicTokenizer
    from linkboy.training import Checkpointer as Checkpointer
    from linkboy.training import EarlyStopping as EarlyStopping
    from linkboy.training import Evaluation as Evaluation
    from linkboy.training import History as History
    from linkboy.training import evaluate as evaluate
    from linkboy.training import fit as fit
    from linkboy.training import is_main_process as is_main_process
    from linkboy.training import predict as predict

_ROOM_OF: dict[str, str] = {
    "BasicTokenizer": "text",
    "Checkpointer": "training",
    "Classifier": "classify",
    "EarlyStopping": "training",
    "Evaluation": "training",
    "History": "training",
    "LabelledTexts": "classify",
    "ParameterCount": "parameters",
    "TrainingOptions": "classify",
    "class_weights": "losses",
    "count_parameters": "parameters",
    "evaluate": "training",
    "fit": "training",
    "focal_loss": "losses",
    "is_main_process": "training",
    "is_out_of_memory": "memory",
    "load_classifier": "classify",
    "logit_adjusted_loss": "losses",
    "predict": "training",
    "read_labelled": "classify",
    "release_memory": "memory",
    "retry_on_oom": "memory",
    "train_classifier": "classify",
}  # fmt: skip

__all__: list[str] = [
    "BasicTokenizer",
    "Checkpointer",
    "Classifier",
    "EarlyStopping",
    "Evaluation",
    "History",
    "LabelledTexts",
    "ParameterCount",
    "TrainingOptions",
    "class_weights",
    "count_parameters",
    "evaluate",
    "fit",
    "focal_loss",
    "is_main_process",
    "is_out_of_memory",
    "load_classifier",
    "logit_adjusted_loss",
    "predict",
    "read_labelled",
    "release_memory",
    "retry_on_oom",
    "train_classifier",
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
