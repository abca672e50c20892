"""What an adapter of peft says about layers by their numbers follows the layers; what cannot follow is refused."""

import re
from typing import Any

from torch import nn

from linkboy.editing._changes import Changes, StackChange
from linkboy.editing._configs import origins_of, set_field
from linkboy.editing._names import kind_of

_LISTS_OF_NAMES = ("target_modules", "modules_to_save", "exclude_modules")
_BY_NAME = ("rank_pattern", "alpha_pattern")


def adapter_configs(model: nn.Module) -> list[Any]:
    """Return the configs of the adapters in a model, each once."""
    found: dict[int, Any] = {}
    for module in model.modules():
        configs = getattr(module, "peft_config", None)  # a property of some classes
        if isinstance(configs, dict):
            found |= {id(config): config for config in configs.values() if hasattr(config, "__dict__")}
    return list(found.values())


def follow_layers(changes: Changes, stack: StackChange) -> None:
    """Set the numbers of layers in the configs of adapters to the new positions.

    Raises:
        TypeError: an adapter keeps something for each layer in one tensor.
    """
    configs = adapter_configs(changes.model)
    if not configs:
        return
    _refuse_prefixes(changes, stack)
    origins = list(origins_of(changes, stack))
    layers = stack.name.rpartition(".")[2]
    for config in configs:
        pattern = getattr(config, "layers_pattern", None)
        names = [pattern] if isinstance(pattern, str) else list(pattern or ())
        chosen = getattr(config, "layers_to_transform", None)
        if chosen is not None and (not names or layers in names):
            old = {chosen} if isinstance(chosen, int) else set(chosen)
            set_field(changes, config, "layers_to_transform", [new for new, was in enumerate(origins) if was in old])
        for field in _BY_NAME:
            value = getattr(config, field, None)
            if isinstance(value, dict) and value:
                moved = {key: rank for name, rank in value.items() for key in _renamed(name, layers, origins)}
                set_field(changes, config, field, moved)
        for field in _LISTS_OF_NAMES:
            value = getattr(config, field, None)
            if isinstance(value, (list, set, tuple)) and value:
                set_field(
                    changes,
                    config,
                    field,
                    type(value)(key for name in value for key in _renamed(name, layers, origins)),
                )
            elif isinstance(value, str) and re.search(rf"\b{layers}\b.*\d", value):
                changes.notes.append(
                    f"{kind_of(config)}.{field} is a pattern that may count the layers of {stack.name}, and was left alone"
                )


def _renamed(name: str, layers: str, origins: list[int]) -> list[str]:
    """Return the new names of what had a name with the number of a layer in it; other names as they are."""
    found = re.search(rf"(?:^|\.){re.escape(layers)}\\?\.(\d+)(?=\\?\.|$)", name)
    if found is None:
        return [name]
    start, end = found.span(1)
    return [f"{name[:start]}{new}{name[end:]}" for new, old in enumerate(origins) if old == int(found[1])]


def _refuse_prefixes(changes: Changes, stack: StackChange) -> None:
    for name, module in changes.model.named_modules():
        if kind_of(module) == "PrefixEncoder" and stack.uniform:
            raise TypeError(
                f"{name!r} is a PrefixEncoder of peft, which keeps a prefix for each layer of {stack.name} in one tensor; edit "
                "the base model and make the prefixes again"
            )
