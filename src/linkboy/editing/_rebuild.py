"""Build the model again from its config on the meta device, as saving and loading would, and compare."""

import copy
import re
import warnings
from typing import Any

import torch
from torch import nn

from linkboy._random import same_random_numbers
from linkboy._report import listed
from linkboy.editing._changes import BuiltPart, Changes, StackChange, Structure
from linkboy.editing._configs import config_of
from linkboy.editing._names import named_once

Shapes = dict[str, tuple[int, ...]]


def parts_with_config(model: nn.Module) -> dict[int, BuiltPart]:
    """Return the outermost modules that transformers would build from a config, known by their `config_class`, by `id`."""
    found: dict[int, BuiltPart] = {}
    for name, module in model.named_modules():
        if not getattr(type(module), "config_class", None) or config_of(module) is None:
            continue
        if not any(not outer.name or name.startswith(f"{outer.name}.") for outer in found.values()):
            found[id(module)] = BuiltPart(name, module, copy.deepcopy(config_of(module)))
    return found


def check_config(changes: Changes, stacks: list[StackChange]) -> None:
    """Build every transformers model again from its config and note where the edit made it differ.

    Names and shapes of the tensors, and in changed stacks also the numbers and texts that the layers hold. What differed
    before the edit as well, under an adapter for example, is not the edit's doing.
    """
    if changes.config is None:
        return
    for part in parts_with_config(changes.model).values():
        try:
            fresh = build(part.module, part.config)
        except Exception as error:  # noqa: BLE001 - a class may refuse its own config in any way; then nothing is compared
            changes.notes.append(f"{type(part.module).__name__} could not be built again from its config: {error}")
            continue
        _note_tensors(changes, part, fresh)
        prefix = f"{part.name}." if part.name else ""
        for stack in stacks:
            if stack.name.startswith(prefix):
                _compare_attributes(changes, stack, stack.name.removeprefix(prefix), fresh)


def build(module: nn.Module, config: Any) -> nn.Module:
    """Return a model of the same class on the meta device, as a file with this config would build it."""
    kind: Any = type(module)
    # What a file would hold: a config checks its fields when it is loaded, and not when one of them is set.
    config = type(config).from_dict(config.to_dict()) if hasattr(config, "from_dict") else copy.deepcopy(config)
    with torch.device("meta"), same_random_numbers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind(config)


def saved_shapes(structure: Structure, name: str = "") -> Shapes:
    """Return the shapes of the tensors in a state dict, below `name`."""
    prefix = f"{name}." if name else ""
    return {
        place.name.removeprefix(prefix): tuple(place.tensor.shape)
        for place in structure.tensors
        if place.persistent and place.name.startswith(prefix) and not nn.parameter.is_lazy(place.tensor)
    }


def _note_tensors(changes: Changes, part: BuiltPart, fresh: nn.Module) -> None:
    mine, theirs = saved_shapes(Structure.of(part.module)), saved_shapes(Structure.of(fresh))
    kinds = _differences(mine, theirs)
    if not any(kinds.values()):
        return
    known = _differences_before(changes, changes.built.get(id(part.module)))
    layers = {_layer(key) for key in mine} & {_layer(key) for key in theirs}
    for what, keys in kinds.items():  # a whole layer more or less is worth a note in any case
        made = [key for key in keys if _layer(key) not in layers or _masked(key) not in known.get(what, ())]
        if made:
            changes.notes.append(f"{listed(made, most=3)} {what}")


def _differences(mine: Shapes, theirs: Shapes) -> dict[str, list[str]]:
    return {
        "would not be loaded by a model built from the config": [key for key in mine if key not in theirs],
        "would be filled at random when the model is saved and loaded again": [
            key for key in theirs if key not in mine
        ],
        "have another shape in a model built from the config": [
            key for key in mine if key in theirs and mine[key] != theirs[key]
        ],
    }


def _differences_before(changes: Changes, part: BuiltPart | None) -> dict[str, set[str]]:
    """Return what differed before the edit; numbers of layers are masked, as an edit moves them."""
    if part is None:
        return {}
    try:
        fresh = build(part.module, part.config)
    except Exception:  # noqa: BLE001 - as it could not be built before, there is nothing to compare with
        return {}
    kinds = _differences(saved_shapes(changes.before, part.name), saved_shapes(Structure.of(fresh)))
    return {what: {_masked(key) for key in keys} for what, keys in kinds.items()}


def _layer(key: str) -> str:
    """Return the part of a name that ends with its last number."""
    return (re.match(r".*\b\d+\b", key) or [""])[0]


def _masked(key: str) -> str:
    return re.sub(r"\d+", "#", key)


def _compare_attributes(changes: Changes, stack: StackChange, path: str, fresh: nn.Module) -> None:
    fresh_parts = dict(fresh.named_modules())
    base = named_once(stack.container)
    different: dict[str, str] = {}
    for part in stack.container.modules():
        inner = base[id(part)]
        twin = fresh_parts.get(f"{path}.{inner}" if inner else path)
        for key, value in part.__dict__.items() if twin is not None else ():
            theirs = twin.__dict__.get(key, value)  # type: ignore[union-attr]
            plain = isinstance(value, (bool, int, float, str)) and key != "training" and not key.startswith("_")
            if plain and theirs != value:
                different.setdefault(
                    key, f"{stack.name}.{inner}.{key} is {value!r}, and a model built from the config has {theirs!r}"
                )
    changes.notes.extend(different.values())
