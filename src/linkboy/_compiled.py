"""The compiled core, an extension module that may be absent: then everything works, gives the same, and takes longer."""

import functools
import importlib
import os
from typing import Any

SWITCH = "LINKBOY_CORE"
_INTERFACE = 4  # that of the core which the callers here were written for; the same number stands in its sources


def core() -> Any:
    """Return the extension module; `None` where it was not built, or the environment says `LINKBOY_CORE=0`."""
    return None if os.environ.get(SWITCH) == "0" else _load()


def describe_core() -> str:
    """Return a few words on whether the core is there."""
    if core() is not None:
        return "with its compiled core"
    if os.environ.get(SWITCH) == "0":
        return f"without its compiled core, as {SWITCH}=0 says: slower, same results"
    if _found() is not None:
        return "without its compiled core, as the one there is of other sources: slower, same results; `make core` builds it"
    return "without its compiled core, as none was built: slower, same results; `pip install` beside a C++ compiler builds it"


@functools.cache
def _load() -> Any:
    module = _found()
    return module if getattr(module, "INTERFACE", None) == _INTERFACE else None


def _found() -> Any:
    # A directory of this name, with the sources in it, is not the extension: Python imports it as an empty namespace.
    try:
        module = importlib.import_module("linkboy._core")
    except ImportError:
        return None
    return module if hasattr(module, "Encoder") else None
