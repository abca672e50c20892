"""The configs that write a model's depth and sizes down: set the fields that mean an edited part, and check the result."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from linkboy._checks import did_you_mean
from linkboy._report import plural
from linkboy.editing._changes import Changes, StackChange
from linkboy.editing._names import kind_of

# A number that equals the depth is not therefore the depth (SmolLM3's no_rope_layer_interval): known names only.
_DEPTH = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth", "num_blocks", "layers")
_ENCODER_DEPTH = ("encoder_layers", "num_encoder_layers", "encoder_num_hidden_layers")
_DECODER_DEPTH = ("decoder_layers", "num_decoder_layers", "decoder_num_hidden_layers")
_STAGE_DEPTHS = ("depths", "block_sizes")  # a number for each stage, as in Swin, ResNet and Funnel
_LEADING = ("first_k_dense_replace", "num_dense_layers")  # so many layers at the front are of another sort
_LISTS_PER_LAYER = frozenset(("attention_window",))  # those that do not say "layer"
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

    A composite config may hold its own copy of an inner config; it is recognised by its class, and by its name where an
    encoder and a decoder have configs of one class.
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
        fields = vars(held.config)
        own = {id(inner) for inner in fields.values()}
        twins = [
            one for one in found.values() if type(one.config) is not type(held.config) and id(one.config) not in own
        ]
        for field, inner in fields.items():
            twin = next((deeper for deeper in twins if type(deeper.config) is type(inner)), None)
            alike = [name for name, other in fields.items() if type(other) is type(inner)]
            side = next((part for part in parts if part in alike), None)  # the first: a decoder may hold an `encoder`
            if twin is not None and (len(alike) == 1 or field == side):
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
    for one in held:
        _set_stage_depth(changes, one, stack)
    held = [
        one for one in held if not any(part.isdigit() for part in one.path.split("."))
    ]  # a stack in a layer is no depth
    fields = [(one, field) for one in held for field in _depth_fields(one, stack)]
    lengths = len(stack.old), len(stack.new)
    for one, field in fields:
        set_field(changes, one.config, field, len(stack.new))
        _set_stages(changes, one, stack)
        changes.depths.add((id(one.config), *lengths))
    beside = any((id(one.config), *lengths) in changes.depths for one in held)  # XLM keeps four lists of a depth
    if held and not fields and not beside and len(stack.new) != len(stack.old):
        changes.notes.append(
            f"no field of {kind_of(held[0].config)} holds the old depth {len(stack.old)} of {stack.name}: saving and "
            f"reloading may not rebuild the {plural(len(stack.new), 'layer')} there are now"
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
    origins = list(origins_of(changes, stack))
    for field, value in list(vars(config).items()):
        of_layers = "layer" in field or field in _LISTS_PER_LAYER
        if not isinstance(value, (list, tuple)) or not of_layers or field.startswith("_"):
            continue
        if field in _LISTS_OF_POSITIONS:
            set_field(changes, config, field, type(value)(new for new, old in enumerate(origins) if old in value))
        elif len(value) == len(stack.old):
            set_field(changes, config, field, type(value)(value[old] for old in origins))
    for field in _LEADING:
        value = vars(config).get(field)
        if type(value) is int and value > 0:
            _set_leading(changes, config, field, stack, [old < value for old in origins])


def _set_stages(changes: Changes, held: HeldConfig, stack: StackChange) -> None:
    """Name the layers that a vision backbone can return, and return those it did, or the last.

    Backbones of transformers 4 keep all three beside their config, too.
    """
    names, chosen = vars(held.config).get("stage_names"), vars(held.config).get("_out_features")
    if names != ["stem", *(f"stage{number + 1}" for number in range(len(stack.old)))]:
        return
    new = ["stem", *(f"stage{number + 1}" for number in range(len(stack.new)))]
    values: dict[str, object] = {"stage_names": new}
    if chosen:
        later = {"stem": 0} | {names[old + 1]: number + 1 for number, old in enumerate(origins_of(changes, stack))}
        kept = sorted({later[name] for name in chosen if name in later}) or [len(stack.new)]
        values |= {"_out_features": [new[number] for number in kept], "_out_indices": kept}
    for field, value in values.items():
        set_field(changes, held.config, field, value)
        if field in held.holder.__dict__:
            changes.snapshot.keep(held.holder)
            setattr(held.holder, field, value)


def _set_stage_depth(changes: Changes, held: HeldConfig, stack: StackChange) -> None:
    """Set the depth of one stage, where the config has a list of them and the stack is in a list of as many stages."""
    parts = held.path.split(".")
    numbered = [place for place, part in enumerate(parts) if part.isdigit()]
    if len(numbered) != 1:
        return
    stages = list(held.holder.get_submodule(".".join(parts[: numbered[0]]))._modules)
    stage = stages.index(parts[numbered[0]])
    for field in _STAGE_DEPTHS:
        depths = vars(held.config).get(field)
        if isinstance(depths, (list, tuple)) and len(depths) == len(stages) and depths[stage] == len(stack.old):
            new = [len(stack.new) if place == stage else depth for place, depth in enumerate(depths)]
            set_field(changes, held.config, field, type(depths)(new))


def _set_leading(changes: Changes, config: Any, field: str, stack: StackChange, leading: list[bool]) -> None:
    if leading == sorted(leading, reverse=True):
        set_field(changes, config, field, sum(leading))
    else:
        changes.notes.append(
            f"{kind_of(config)}.{field} cannot describe the new order of {stack.name}: saving and reloading may fail"
        )


def origins_of(changes: Changes, stack: StackChange) -> Iterator[int]:
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
