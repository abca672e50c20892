"""Remove, replace, insert and keep layers by name, mend what hangs on them, and prove that the model still runs.

The room is called like its main name, and both ways to write it work:

    >>> import linkboy, linkboy.surgery
    >>> from torch import nn
    >>> with linkboy.surgery(nn.Sequential(nn.Linear(2, 2), nn.ReLU())) as s:
    ...     s.remove("1")
    >>> s.report.edits
    ('removed 1 (ReLU)',)
"""

import sys
from types import ModuleType
from typing import Any

from torch import nn

from linkboy.surgery.report import SurgeryReport
from linkboy.surgery.session import insert_layer, keep_layers, remove_layer, replace_layer, surgery

__all__ = ["SurgeryReport", "insert_layer", "keep_layers", "remove_layer", "replace_layer", "surgery"]


class _Room(ModuleType):
    """A package that can be called: once imported, Python puts it where `linkboy.surgery` the function was."""

    def __call__(self, model: nn.Module, **options: Any) -> surgery:
        return surgery(model, **options)


sys.modules[__name__].__class__ = _Room
