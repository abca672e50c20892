"""How big is it, what is trained, what does it cost: counting, summary, freezing, parameter groups."""

from linkboy.parameters.compare import compare_models
from linkboy.parameters.count import count_parameters
from linkboy.parameters.freeze import freeze, unfreeze
from linkboy.parameters.groups import param_groups
from linkboy.parameters.report import (
    Difference,
    FreezeReport,
    ModelComparison,
    ModelSummary,
    ParameterCount,
    ParameterRow,
    SummaryRow,
)
from linkboy.parameters.summary import summarize

__all__ = [
    "Difference",
    "FreezeReport",
    "ModelComparison",
    "ModelSummary",
    "ParameterCount",
    "ParameterRow",
    "SummaryRow",
    "compare_models",
    "count_parameters",
    "freeze",
    "param_groups",
    "summarize",
    "unfreeze",
]
