"""The main job: labelled text in, a trained classifier out.

Importing the room loads nothing: the command line asks it for the options of a run, and `--help` must not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # one line per name; tests/classify/test_room.py holds this list equal to _NAMES
    from linkboy.classify.job import TrainingReport as TrainingReport
    from linkboy.classify.job import train_classifier as train_classifier
    from linkboy.classify.judging.corrections import LabelCorrection as LabelCorrection
    from linkboy.classify.judging.corrections import LabelCorrections as LabelCorrections
    from linkboy.classify.judging.decisions import DecisionCurve as DecisionCurve
    from linkboy.classify.judging.decisions import OperatingPoint as OperatingPoint
    from linkboy.classify.judging.metrics import ClassificationMetrics as ClassificationMetrics
    from linkboy.classify.judging.metrics import ClassMetrics as ClassMetrics
    from linkboy.classify.judging.metrics import classification_metrics as classification_metrics
    from linkboy.classify.judging.multilabel import LabelMetrics as LabelMetrics
    from linkboy.classify.judging.multilabel import MultilabelMetrics as MultilabelMetrics
    from linkboy.classify.judging.multilabel import multilabel_metrics as multilabel_metrics
    from linkboy.classify.judging.suspects import SuspectedLabel as SuspectedLabel
    from linkboy.classify.judging.suspects import SuspectedLabels as SuspectedLabels
    from linkboy.classify.learning.calibration import Calibration as Calibration
    from linkboy.classify.learning.calibration import LogitAdjustment as LogitAdjustment
    from linkboy.classify.learning.folds import CrossValidation as CrossValidation
    from linkboy.classify.learning.search import SearchReport as SearchReport
    from linkboy.classify.learning.search import TriedRecipe as TriedRecipe
    from linkboy.classify.reading.labelled import LabelledTexts as LabelledTexts
    from linkboy.classify.reading.labelled import SkippedRow as SkippedRow
    from linkboy.classify.reading.labelled import read_labelled as read_labelled
    from linkboy.classify.recipe import Recipe as Recipe
    from linkboy.classify.recipe import TrainingOptions as TrainingOptions
    from linkboy.classify.saved.classifier import Classifier as Classifier
    from linkboy.classify.saved.classifier import load_classifier as load_classifier
    from linkboy.classify.saved.explain import Contribution as Contribution
    from linkboy.classify.saved.explain import Explanation as Explanation
    from linkboy.classify.saved.explain import Explanations as Explanations
    from linkboy.classify.saved.export import ExportReport as ExportReport
    from linkboy.classify.saved.predictions import Predictions as Predictions
    from linkboy.classify.serving import make_app as make_app

_NAMES = {
    "job": ("TrainingReport", "train_classifier"),
    "judging.corrections": ("LabelCorrection", "LabelCorrections"),
    "judging.decisions": ("DecisionCurve", "OperatingPoint"),
    "judging.metrics": ("ClassMetrics", "ClassificationMetrics", "classification_metrics"),
    "judging.multilabel": ("LabelMetrics", "MultilabelMetrics", "multilabel_metrics"),
    "judging.suspects": ("SuspectedLabel", "SuspectedLabels"),
    "learning.calibration": ("Calibration", "LogitAdjustment"),
    "learning.folds": ("CrossValidation",),
    "learning.search": ("SearchReport", "TriedRecipe"),
    "reading.labelled": ("LabelledTexts", "SkippedRow", "read_labelled"),
    "recipe": ("Recipe", "TrainingOptions"),
    "saved.classifier": ("Classifier", "load_classifier"),
    "saved.explain": ("Contribution", "Explanation", "Explanations"),
    "saved.export": ("ExportReport",),
    "saved.predictions": ("Predictions",),
    "serving": ("make_app",),
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
