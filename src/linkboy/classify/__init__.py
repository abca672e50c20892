"""The main job: labelled text in, a trained classifier out.

Importing the room loads nothing: the command line asks it for the options of a run, and `--help` must not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # one line per name; tests/classify/test_room.py holds this list equal to _NAMES
    from linkboy.classify.calibration import Calibration as Calibration
    from linkboy.classify.calibration import LogitAdjustment as LogitAdjustment
    from linkboy.classify.classifier import Classifier as Classifier
    from linkboy.classify.classifier import load_classifier as load_classifier
    from linkboy.classify.corrections import LabelCorrection as LabelCorrection
    from linkboy.classify.corrections import LabelCorrections as LabelCorrections
    from linkboy.classify.decisions import DecisionCurve as DecisionCurve
    from linkboy.classify.decisions import OperatingPoint as OperatingPoint
    from linkboy.classify.explain import Contribution as Contribution
    from linkboy.classify.explain import Explanation as Explanation
    from linkboy.classify.explain import Explanations as Explanations
    from linkboy.classify.export import ExportReport as ExportReport
    from linkboy.classify.folds import CrossValidation as CrossValidation
    from linkboy.classify.job import TrainingReport as TrainingReport
    from linkboy.classify.job import train_classifier as train_classifier
    from linkboy.classify.labelled import LabelledTexts as LabelledTexts
    from linkboy.classify.labelled import SkippedRow as SkippedRow
    from linkboy.classify.labelled import read_labelled as read_labelled
    from linkboy.classify.metrics import ClassificationMetrics as ClassificationMetrics
    from linkboy.classify.metrics import ClassMetrics as ClassMetrics
    from linkboy.classify.metrics import classification_metrics as classification_metrics
    from linkboy.classify.multilabel import LabelMetrics as LabelMetrics
    from linkboy.classify.multilabel import MultilabelMetrics as MultilabelMetrics
    from linkboy.classify.multilabel import multilabel_metrics as multilabel_metrics
    from linkboy.classify.predictions import Predictions as Predictions
    from linkboy.classify.recipe import Recipe as Recipe
    from linkboy.classify.recipe import TrainingOptions as TrainingOptions
    from linkboy.classify.search import SearchReport as SearchReport
    from linkboy.classify.search import TriedRecipe as TriedRecipe
    from linkboy.classify.serving import make_app as make_app
    from linkboy.classify.suspects import SuspectedLabel as SuspectedLabel
    from linkboy.classify.suspects import SuspectedLabels as SuspectedLabels

_NAMES = {
    "calibration": ("Calibration", "LogitAdjustment"),
    "classifier": ("Classifier", "load_classifier"),
    "corrections": ("LabelCorrection", "LabelCorrections"),
    "decisions": ("DecisionCurve", "OperatingPoint"),
    "explain": ("Contribution", "Explanation", "Explanations"),
    "export": ("ExportReport",),
    "folds": ("CrossValidation",),
    "job": ("TrainingReport", "train_classifier"),
    "labelled": ("LabelledTexts", "SkippedRow", "read_labelled"),
    "metrics": ("ClassMetrics", "ClassificationMetrics", "classification_metrics"),
    "multilabel": ("LabelMetrics", "MultilabelMetrics", "multilabel_metrics"),
    "predictions": ("Predictions",),
    "recipe": ("Recipe", "TrainingOptions"),
    "search": ("SearchReport", "TriedRecipe"),
    "serving": ("make_app",),
    "suspects": ("SuspectedLabel", "SuspectedLabels"),
}
_FILE_OF = {name: file for file, names in _NAMES.items() for name in names}

__all__ = sorted(_FILE_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __dir__() -> list[str]:
    return __all__


if not TYPE_CHECKING:  # a __getattr__ that type checkers can see would make every misspelled name pass them

    def __getattr__(name):
        if name not in _FILE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{_FILE_OF[name]}"), name)
        return value
