"""How big is it, what is trained, what does it cost: counting, summary, freezing, parameter groups."""

from linkboy.parameters.count import ParameterCount, ParameterRow, count_parameters

__all__ = ["ParameterCount", "ParameterRow", "count_parameters"]
