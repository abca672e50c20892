"""How big is it, what is trained, what does it cost: counting, summary, freezing, parameter groups."""

from linkboy.parameters.count import ParameterCount, ParameterRow, count_parameters
from linkboy.parameters.summary import ModelSummary, SummaryRow, summarize

__all__ = ["ModelSummary", "ParameterCount", "ParameterRow", "SummaryRow", "count_parameters", "summarize"]
