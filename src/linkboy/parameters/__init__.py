"""How big is it, what is trained, what does it cost: counting, summary, freezing, parameter groups."""

from linkboy.parameters.compare import Difference, ModelComparison, compare
from linkboy.parameters.count import ParameterCount, ParameterRow, count_parameters
from linkboy.parameters.freeze import FreezeReport, freeze, unfreeze
from linkboy.parameters.groups import param_groups
from linkboy.parameters.summary import ModelSummary, SummaryRow, summarize

__all__ = [
    "Difference",
    "FreezeReport",
    "ModelComparison",
    "ModelSummary",
    "ParameterCount",
    "ParameterRow",
    "SummaryRow",
    "compare",
    "count_parameters",
    "freeze",
    "param_groups",
    "summarize",
    "unfreeze",
]
