"""Shapes and the bugs they hide: a trace with source lines, hazards, and a check of the batch dimension."""

from linkboy.shapes._rows import ShapeRow
from linkboy.shapes.assert_shape import assert_shape
from linkboy.shapes.check_batch import assert_batch_safe, check_batch
from linkboy.shapes.hazards import Hazard
from linkboy.shapes.report import BatchReport, Finding, ShapeTrace
from linkboy.shapes.trace import trace_shapes

__all__ = [
    "BatchReport",
    "Finding",
    "Hazard",
    "ShapeRow",
    "ShapeTrace",
    "assert_batch_safe",
    "assert_shape",
    "check_batch",
    "trace_shapes",
]
