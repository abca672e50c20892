"""Where shapes go, and the bugs they hide: a trace with source lines, hazards, and a check of the batch dimension."""

from linkboy.shapes.axes import assert_shape
from linkboy.shapes.doctor import BatchReport, assert_batch_safe, check_batch
from linkboy.shapes.findings import Finding
from linkboy.shapes.hazards import Hazard
from linkboy.shapes.report import ShapeRow, ShapeTrace
from linkboy.shapes.tracing import trace_shapes

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
