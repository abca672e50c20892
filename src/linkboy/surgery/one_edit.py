"""One edit as one call: each function is a transaction of its own."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from torch import Tensor, nn

from linkboy.surgery.report import SurgeryReport
from linkboy.surgery.runs import Mode
from linkboy.surgery.session import surgery


def remove_layer(
    model: nn.Module,
    name: str,
    *,
    kind: type[nn.Module] | str | None = None,
    example: tuple[Any, ...] | Mapping[str, Any] | Tensor | None = None,
    optimizer: Any = None,
    config: Literal["auto"] | Mapping[str, object] | None = "auto",
    run: Mode = "auto",
) -> SurgeryReport:
    """Remove one module; a transaction of its own. See `surgery` and `surgery.remove`.

    Args:
        model: edited in place.
        name: qualified name of the module.
        kind: the class, or its name, that it must have.
        example: runs before and after.
        optimizer: rewired in place.
        config: `"auto"`, a mapping of fields, or `None`.
        run: `"auto"`, `"fake"` or `"real"`.

    Returns:
        The `SurgeryReport`.

    Raises:
        KeyError: there is no such module; all errors of `surgery` and `surgery.remove`.

    Examples:
        >>> from torch import nn
        >>> from linkboy import remove_layer
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        >>> remove_layer(model, "-1", kind="Tanh").edits
        ('removed 1 (Tanh)',)
    """
    with surgery(model, example=example, optimizer=optimizer, config=config, run=run) as s:
        s.remove(name, kind=kind)
    return s.report


def replace_layer(
    model: nn.Module,
    name: str,
    module: nn.Module,
    *,
    like: bool = True,
    hooks: bool = False,
    tie: bool = True,
    example: tuple[Any, ...] | Mapping[str, Any] | Tensor | None = None,
    optimizer: Any = None,
    config: Literal["auto"] | Mapping[str, object] | None = "auto",
    run: Mode = "auto",
) -> SurgeryReport:
    """Put another module in the place of one; a transaction of its own. See `surgery` and `surgery.replace`.

    Args:
        model: edited in place.
        name: qualified name of the old module.
        module: the new one.
        like: give it the old one's dtype, device and training flag.
        hooks: carry the old one's hooks over.
        tie: keep ties.
        example: runs before and after.
        optimizer: rewired in place.
        config: `"auto"`, a mapping of fields, or `None`.
        run: `"auto"`, `"fake"` or `"real"`.

    Returns:
        The `SurgeryReport`.

    Raises:
        KeyError: there is no such module; all errors of `surgery` and `surgery.replace`.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from linkboy import replace_layer
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).bfloat16()
        >>> report = replace_layer(model, "1", nn.Linear(4, 3), example=torch.ones(1, 4, dtype=torch.bfloat16))
        >>> model[1].weight.dtype, report.outputs[0].after
        (torch.bfloat16, 'bf16[1, 3]')
    """
    with surgery(model, example=example, optimizer=optimizer, config=config, run=run) as s:
        s.replace(name, module, like=like, hooks=hooks, tie=tie)
    return s.report


def insert_layer(
    model: nn.Module,
    name: str,
    module: nn.Module,
    *,
    key: str | None = None,
    copy: bool = True,
    like: bool = True,
    example: tuple[Any, ...] | Mapping[str, Any] | Tensor | None = None,
    optimizer: Any = None,
    config: Literal["auto"] | Mapping[str, object] | None = "auto",
    run: Mode = "auto",
) -> SurgeryReport:
    """Put a module behind the one called `name`; a transaction of its own. See `surgery.insert_after`.

    Args:
        model: edited in place.
        name: qualified name of the module before it.
        module: the new one; deep-copied if it is in the model already.
        key: its name in a named Sequential.
        copy: `False` puts the same object in two positions.
        like: give it its neighbour's dtype, device and training flag.
        example: runs before and after.
        optimizer: rewired in place.
        config: `"auto"`, a mapping of fields, or `None`.
        run: `"auto"`, `"fake"` or `"real"`.

    Returns:
        The `SurgeryReport`.

    Raises:
        KeyError: there is no such module; all errors of `surgery` and `surgery.insert_after`.

    Examples:
        >>> from torch import nn
        >>> from linkboy import insert_layer
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        >>> insert_layer(model, "0", nn.GELU()).edits
        ('inserted GELU after 0',)
    """
    with surgery(model, example=example, optimizer=optimizer, config=config, run=run) as s:
        s.insert_after(name, module, key=key, copy=copy, like=like)
    return s.report


def keep_layers(
    model: nn.Module,
    name: str,
    indices: Iterable[int],
    *,
    copy: bool = True,
    example: tuple[Any, ...] | Mapping[str, Any] | Tensor | None = None,
    optimizer: Any = None,
    config: Literal["auto"] | Mapping[str, object] | None = "auto",
    run: Mode = "auto",
) -> SurgeryReport:
    """Keep some layers of a stack, in the order given; a transaction of its own. See `surgery.keep_layers`.

    Args:
        model: edited in place.
        name: qualified name of a `Sequential` or `ModuleList`.
        indices: positions to keep; a repeated one gives a deep copy.
        copy: `False` lets a repeated layer be one object in two positions.
        example: runs before and after.
        optimizer: rewired in place.
        config: `"auto"`, a mapping of fields, or `None`.
        run: `"auto"`, `"fake"` or `"real"`.

    Returns:
        The `SurgeryReport`.

    Raises:
        IndexError: a position does not exist; all errors of `surgery` and `surgery.keep_layers`.

    Examples:
        >>> from torch import nn
        >>> from linkboy import keep_layers
        >>> model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 6, enable_nested_tensor=False)
        >>> keep_layers(model, "layers", [0, 2, -1]).edits
        ('kept 3 of 6 layers of layers: 0, 2, 5',)
    """
    with surgery(model, example=example, optimizer=optimizer, config=config, run=run) as s:
        s.keep_layers(name, indices, copy=copy)
    return s.report
