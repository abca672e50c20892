"""Prove on the meta device that the config rebuilds the edited model, as saving and reloading would."""

import copy
import warnings
from typing import Any

import torch
from torch import nn

from linkboy._untouched import same_random_numbers
from linkboy.editing._changes import Changes
from linkboy.editing._configs import config_of
from linkboy.editing._names import named_once
from linkboy.editing._stacks import StackChange


def prove_config(changes: Changes, stacks: list[StackChange]) -> None:
    """Build every transformers model again from its config and say where it is not the edited one.

    Names and shapes of the tensors, and in changed stacks also the numbers and texts that the layers hold.
    """
    if changes.config is None:
        return
    for name, module in _built_from_config(changes.model):
        try:
            fresh = _fresh(module)
        except Exception as error:  # noqa: BLE001 - a class may refuse its own config in any way; then nothing is proven
            changes.warnings.append(f"{type(module).__name__} could not be built again from its config: {error}")
            continue
        prefix = f"{name}." if name else ""
        _compare_tensors(changes, module, fresh)
        for stack in stacks:
            if not name or stack.name.startswith(prefix):
                _compare_attributes(changes, stack, stack.name.removeprefix(prefix), fresh)


def _built_from_config(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """List the outermost modules that transformers would build from a config, known by their `config_class`."""
    found: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        inside = any(not outer or name.startswith(f"{outer}.") for outer, _ in found)
        if not inside and getattr(type(module), "config_class", None) and config_of(module) is not None:
            found.append((name, module))
    return found


def _fresh(module: nn.Module) -> nn.Module:
    kind: Any = type(module)
    config = config_of(module)
    # What a file would hold: a config checks its fields when it is loaded, and not when one of them is set.
    config = type(config).from_dict(config.to_dict()) if hasattr(config, "from_dict") else copy.deepcopy(config)
    with torch.device("meta"), same_random_numbers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind(config)


def _compare_tensors(changes: Changes, module: nn.Module, fresh: nn.Module) -> None:
    mine = {key: tuple(tensor.shape) for key, tensor in module.state_dict(keep_vars=True).items()}
    theirs = {key: tuple(tensor.shape) for key, tensor in fresh.state_dict(keep_vars=True).items()}
    lost = [key for key in mine if key not in theirs]
    made_up = [key for key in theirs if key not in mine]
    reshaped = [key for key in mine if key in theirs and mine[key] != theirs[key]]
    for keys, what in (
        (lost, "would not be loaded by a model built from the config"),
        (made_up, "would be filled at random when the model is saved and loaded again"),
        (reshaped, "have another shape in a model built from the config"),
    ):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            changes.warnings.append(f"{', '.join(keys[:3])}{more} {what}")


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
    changes.warnings.extend(different.values())
