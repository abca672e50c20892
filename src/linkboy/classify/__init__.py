"""The main job: labelled text in, a trained classifier out."""

from linkboy.classify.classifier import Classifier, Predictions, load_classifier
from linkboy.classify.data import BadRow, LabelledTexts, read_labelled
from linkboy.classify.explain import Explanation, Explanations, Piece
from linkboy.classify.export import ExportReport
from linkboy.classify.job import TrainingReport, train_classifier
from linkboy.classify.metrics import ClassificationMetrics, ClassMetrics, classification_metrics
from linkboy.classify.recipe import Recipe, TrainingOptions

__all__ = [
    "BadRow",
    "ClassMetrics",
    "ClassificationMetrics",
    "Classifier",
    "Explanation",
    "Explanations",
    "ExportReport",
    "LabelledTexts",
    "Piece",
    "Predictions",
    "Recipe",
    "TrainingOptions",
    "TrainingReport",
    "classification_metrics",
    "load_classifier",
    "read_labelled",
    "train_classifier",
]
