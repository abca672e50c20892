"""The configs that write a model's depth and sizes down: set the fields that mean an edited part, and check the result."""

import copy
import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from linkboy._checks import did_you_mean
from linkboy._random import same_random_numbers
from linkboy._report import listed
from linkboy.editing._changes import Changes, StackChange
from linkboy.editing._names import kind_of, named_once

# A number that equals the depth is not therefore the depth (SmolLM3's no_rope_layer_interval): known names only.
_DEPTH = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth", "num_blocks", "layers")
_ENCODER_DEPTH = ("encoder_layers", "num_encoder_layers", "encoder_num_hidden_layers")
_DECODER_DEPTH = ("decoder_layers", "num_decoder_layers", "decoder_num_hidden_layers")
_LISTS_OF_POSITIONS = frozenset((
    "mlp_only_layers", "attn_layer_indices", "moe_layers", "cross_attention_layers", "rope_scaling_layers",
))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class HeldConfig:
    """A config, the module that holds it, and the path from there to an edited part."""

    config: Any
    holder: nn.Module
    path: str


def config_of(module: nn.Module) -> Any:
    """Return what a module has under the name `config`, if that is an object with fields."""
    config = module.__dict__.get("config")
    return config if hasattr(config, "__dict__") and not isinstance(config, (nn.Module, type)) else None


def all_configs(model: nn.Module) -> list[Any]:
    """Return every config in a model once, those inside other configs included."""
    found: dict[int, Any] = {}
    for module in model.modules():
        _collect(config_of(module), found)
    return list(found.values())


def _collect(config: Any, found: dict[int, Any]) -> None:
    if config is not None and id(config) not in found:
        found[id(config)] = config
        for inner in vars(config).values():
            if type(inner).__module__ == type(config).__module__ and hasattr(inner, "__dict__"):
                _collect(inner, found)


def configs_for(model: nn.Module, name: str) -> list[HeldConfig]:
    """Return the configs of the modules on the way to `name`, each with its outermost holder, plus their inner twins.

    A composite config may hold its own copy of an inner config; it is recognised by its class.
    """
    found: dict[int, HeldConfig] = {}
    holder, parts = model, name.split(".") if name else []
    for depth in range(len(parts) + 1):
        config = config_of(holder)
        if config is not None:
            found.setdefault(id(config), HeldConfig(config, holder, ".".join(parts[depth:])))
        if depth < len(parts):
            holder = holder._modules.get(parts[depth])  # type: ignore[assignment]
            if holder is None:
                break
    for held in list(found.values()):
        twins = [deeper for deeper in found.values() if type(deeper.config) is not type(held.config)]
        for inner in vars(held.config).values():
            twin = next((deeper for deeper in twins if type(deeper.config) is type(inner)), None)
            if twin is not None:
                found.setdefault(id(inner), HeldConfig(inner, twin.holder, twin.path))
    return list(found.values())


def configs_above(model: nn.Module, module: nn.Module) -> list[Any]:
    """Return the configs that may describe a module of the model."""
    name = next((name for name, part in model.named_modules() if part is module), "")
    return [held.config for held in configs_for(model, name)]


def set_field(changes: Changes, config: Any, field: str, value: object) -> None:
    """Set one field, unless the caller handles configs himself, and report what was set."""
    if changes.config != "auto" or getattr(config, field, None) == value:
        return
    changes.snapshot.keep(config)
    before = getattr(config, field)
    try:
        setattr(config, field, value)
    except AttributeError:  # a frozen dataclass
        changes.notes.append(f"{kind_of(config)}.{field} cannot be set, and should be {_short(value)}")
        return
    changes.repairs.append(f"{kind_of(config)}.{field}: {_short(before)} -> {_short(value)}")


def set_given(changes: Changes, config: Mapping[str, object]) -> None:
    """Set the fields that the caller named, on the model's own config.

    Raises:
        ValueError: the model has no config, or the config has no such field.
    """
    target = config_of(changes.model)
    if target is None:
        raise ValueError(
            f"config must be 'auto' or None, as {kind_of(changes.model)} has no config, got {dict(config)}"
        )
    unknown = next((field for field in config if not hasattr(target, field)), None)
    if unknown is not None:
        near = did_you_mean(unknown, vars(target))
        raise ValueError(f"config names {unknown!r}, which {kind_of(target)} does not have{near}")
    changes.snapshot.keep(target)
    for field, value in config.items():
        before = getattr(target, field)
        setattr(target, field, value)
        changes.repairs.append(f"{kind_of(target)}.{field}: {_short(before)} -> {_short(value)}, as given")


def set_depth(changes: Changes, stack: StackChange) -> None:
    """Write a stack's new depth and per-layer lists into every config that means it, or note that none does."""
    held = configs_for(changes.model, stack.name)
    if changes.config != "auto":
        return
    held = [
        one for one in held if not any(part.isdigit() for part in one.path.split("."))
    ]  # a stack in a layer is no depth
    fields = [(one, field) for one in held for field in _depth_fields(one, stack)]
    for one, field in fields:
        set_field(changes, one.config, field, len(stack.new))
    if held and not fields and len(stack.new) != len(stack.old):
        changes.notes.append(
            f"no field of {kind_of(held[0].config)} holds the old depth {len(stack.old)} of {stack.name}: saving and "
            f"reloading may not rebuild the {len(stack.new)} layers there are now"
        )
    for one in {id(one.config): one for one, _ in fields}.values() if fields else held:
        _set_lists(changes, one.config, stack)


def set_owner_depth(changes: Changes, stack: StackChange) -> None:
    """Set the count that the owner of a stack keeps beside it, as `nn.TransformerEncoder` and XLNet do."""
    owner = changes.model.get_submodule(stack.name.rpartition(".")[0])
    for field in _DEPTH:
        if type(owner.__dict__.get(field)) is int and owner.__dict__[field] == len(stack.old) != len(stack.new):
            changes.snapshot.keep(owner)
            setattr(owner, field, len(stack.new))
            changes.repairs.append(f"{field} beside {stack.name}: {len(stack.old)} -> {len(stack.new)}")


def _depth_fields(held: HeldConfig, stack: StackChange) -> list[str]:
    own, length = vars(held.config), len(stack.old)
    words = f"{held.path} {kind_of(held.holder) if held.path.count('.') == 0 else ''}".lower()
    special: Iterable[str] = ()
    if "decoder" in words:
        special = _DECODER_DEPTH
    elif "encoder" in words:
        special = _ENCODER_DEPTH
    fields = [field for field in special if own.get(field) == length]
    if fields and special is _DECODER_DEPTH:
        return fields
    return fields + [field for field in _DEPTH if own.get(field) == length and type(own[field]) is int]


def _set_lists(changes: Changes, config: Any, stack: StackChange) -> None:
    origins = list(_origins(changes, stack))
    for field, value in list(vars(config).items()):
        if not isinstance(value, (list, tuple)) or "layer" not in field or field.startswith("_"):
            continue
        if field in _LISTS_OF_POSITIONS:
            set_field(changes, config, field, type(value)(new for new, old in enumerate(origins) if old in value))
        elif len(value) == len(stack.old):
            set_field(changes, config, field, type(value)(value[old] for old in origins))


def _origins(changes: Changes, stack: StackChange) -> Iterator[int]:
    """Yield the old position of each new layer; a layer new to the model counts as the one before it."""
    last, positions = 0, {}
    for index, layer in enumerate(stack.old):
        positions[id(layer)] = index
        later = changes.successor.get(id(layer))
        if later is not None:
            positions[id(later)] = index
    for layer in stack.new:
        last = positions.get(id(changes.origin_of(layer)), last)
        yield last


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_config(changes: Changes, stacks: list[StackChange]) -> None:
    """Build every transformers model again from its config and note where it differs from the edited one.

    Names and shapes of the tensors, and in changed stacks also the numbers and texts that the layers hold.
    """
    if changes.config is None:
        return
    for name, module in _built_from_config(changes.model):
        try:
            fresh = _fresh(module)
        except Exception as error:  # noqa: BLE001 - a class may refuse its own config in any way; then nothing is compared
            changes.notes.append(f"{type(module).__name__} could not be built again from its config: {error}")
            continue
        prefix = f"{name}." if name else ""
        _compare_tensors(changes, module, fresh)
        for stack in stacks:
            if not name or stack.name.startswith(prefix):
                _compare_attributes(changes, stack, stack.name.removeprefix(prefix), fresh)


def _built_from_config(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the outermost modules that transformers would build from a config, known by their `config_class`."""
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
            changes.notes.append(f"{listed(keys, most=3)} {what}")


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
