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

from linkboy.surgery.one_edit import insert_layer, keep_layers, remove_layer, replace_layer
from linkboy.surgery.report import SurgeryReport
from linkboy.surgery.session import surgery

__all__ = ["SurgeryReport", "insert_layer", "keep_layers", "remove_layer", "replace_layer", "surgery"]


class _Room(ModuleType):
    """This package, made callable.

    The room and the function have one name, and the package `linkboy` has one attribute for both. Importing a room sets
    it to the room, after the last line of this file, so that nothing written here could keep the function in its place:
    `from linkboy import remove_layer` would turn a later `lb.surgery(model)` into "module is not callable".
    """

    def __call__(self, model: nn.Module, **options: Any) -> surgery:
        return surgery(model, **options)


sys.modules[__name__].__class__ = _Room
