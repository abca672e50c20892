"""Describe whatever a command line names: a checkpoint, a folder, or a function that builds a model."""

import os
from collections.abc import Callable
from pathlib import Path

from torch import nn

from linkboy._named import load_named
from linkboy.parameters.count import ParameterCount, count_parameters
from linkboy.parameters.summary import ModelSummary, summarize


def describe_target(target: str | os.PathLike[str], *, depth: int = 3) -> ParameterCount | ModelSummary:
    """Count a checkpoint, or summarize the model that a function builds.

    A path is read as `count_parameters(path, by="module")` reads it: nothing in it is loaded or executed. A name such
    as `my_package.models:build` is imported and called without arguments, which executes your code; a name of a
    module instance is taken as it is. The model is built where the function builds it.

    Args:
        target: a file, a folder, or `package.module:name`.
        depth: levels of modules to show, for a model.

    Returns:
        A `ParameterCount` for a path, a `ModelSummary` for a model.

    Raises:
        FileNotFoundError: there is no such file, and the text is not of the form `package.module:name`.
        ValueError: the module has no such name, or the file cannot be read.
        TypeError: what the name gives is no module.
        ModuleNotFoundError: there is no such package here, or it needs one that is not.

    Examples:
        >>> from linkboy import describe_target
        >>> describe_target("torch.nn:Identity").count.total
        0
    """
    text = os.fspath(target)
    if Path(text).exists() or not isinstance(target, str) or ":" not in text:
        if not Path(text).exists():
            raise FileNotFoundError(
                f"no file or folder {text!r}; a function that builds a model is package.module:name"
            )
        return count_parameters(text, by="module")
    place = load_named(target, need="a path or package.module:name")
    model = place() if isinstance(place, Callable) and not isinstance(place, nn.Module) else place
    if not isinstance(model, nn.Module):
        raise TypeError(f"{text!r} must give an nn.Module, got {type(model).__name__}")
    return summarize(model, depth=depth)
