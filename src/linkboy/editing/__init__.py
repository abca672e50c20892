"""Remove, replace, insert and keep layers by name, repair what depends on them, and check that the model still runs."""

from linkboy.editing.report import ModuleChange, OutputChange, ShapeChange, SurgeryReport
from linkboy.editing.surgery import insert_layer, keep_layers, remove_layer, replace_layer, surgery

__all__ = [
    "ModuleChange",
    "OutputChange",
    "ShapeChange",
    "SurgeryReport",
    "insert_layer",
    "keep_layers",
    "remove_layer",
    "replace_layer",
    "surgery",
]
