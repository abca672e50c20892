"""Build parts of a model again from their configs on the meta device, as saving and loading would, and compare."""

import copy
import inspect
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from linkboy._random import same_random_numbers
from linkboy._report import listed
from linkboy.editing._changes import BuiltPart, Changes, Structure
from linkboy.editing._configs import config_of
from linkboy.editing._names import kind_of
from linkboy.editing._tied import TiedLinear

Shapes = dict[str, tuple[int, ...]]
Setting = tuple[
    str, str, object, object
]  # path of a module, attribute or "" for its class, its own value, a fresh one's


def parts_with_config(model: nn.Module) -> dict[int, BuiltPart]:
    """Return the outermost modules that a library would build from a config, by `id`.

    Those of transformers are known by `config_class`; those of sentence-transformers list the arguments of their class, which
    are also attributes, in `config_keys`.
    """
    found: dict[int, BuiltPart] = {}
    for name, module in model.named_modules():
        config = _config_to_build_from(module)
        if config is not None and not any(
            not outer.name or name.startswith(f"{outer.name}.") for outer in found.values()
        ):
            found[id(module)] = BuiltPart(name, module, copy.deepcopy(config))
    return found


def _config_to_build_from(module: nn.Module) -> Any:
    if getattr(type(module), "config_class", None):
        return config_of(module)
    keys = getattr(type(module), "config_keys", None)
    if not keys or any(getattr(type(part), "config_class", None) for part in module.modules()):
        return None
    return {key: getattr(module, key) for key in keys if hasattr(module, key)}


def check_config(changes: Changes) -> None:
    """Build every part of a model that has a config again from it, and note where the edit made it differ.

    Names and shapes of the tensors, classes of the modules, and the numbers and texts that they hold. What differed before
    the edit as well, under an adapter for example, is not the edit's doing.
    """
    if changes.config is None:
        return
    for part in parts_with_config(changes.model).values():
        before = changes.built.get(id(part.module))
        try:
            fresh = build(part.module, part.config)
        except Exception as error:  # noqa: BLE001 - a class may refuse its own config in any way; then nothing is compared
            if before is None or _built(before) is not None:
                changes.notes.append(f"{kind_of(part.module)} could not be built again from its config: {error}")
            continue
        _compare(changes, part, fresh, before)


def _compare(changes: Changes, part: BuiltPart, fresh: nn.Module, before: BuiltPart | None) -> None:
    mine, theirs = saved_shapes(Structure.of(part.module)), _shapes_once(Structure.of(fresh), part.module)
    kinds = _differences(mine, theirs)
    settings = _other_settings(dict(part.module.named_modules()), fresh, kinds)
    if not settings and not any(kinds.values()):
        return
    twin = _built(before)
    old: dict[str, list[str]] = {}
    old_settings: list[Setting] = []
    if before is not None and twin is not None:
        old = _differences(saved_shapes(changes.before, before.name), saved_shapes(Structure.of(twin)))
        old_settings = _other_settings(_below(changes.before.names, before.name), twin, old)
    prefix = f"{part.name}." if part.name else ""
    _note_tensors(changes, prefix, kinds, old, {_layer(key) for key in mine} & {_layer(key) for key in theirs})
    known = {(_masked(path), key) for path, key, _, _ in old_settings}
    _note_settings(changes, prefix, [one for one in settings if (_masked(one[0]), one[1]) not in known])


def _built(part: BuiltPart | None) -> nn.Module | None:
    """Return what the config of a part builds; `None` where it builds nothing."""
    try:
        return None if part is None else build(part.module, part.config)
    except Exception:  # noqa: BLE001 - then there is nothing to compare with
        return None


def build(module: nn.Module, config: Any) -> nn.Module:
    """Return a model of the same class on the meta device, as a file with this config would build it."""
    kind: Any = type(module)
    with torch.device("meta"), same_random_numbers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(config, Mapping):
            taken = inspect.signature(kind).parameters
            return kind(**{key: copy.deepcopy(value) for key, value in config.items() if key in taken})
        # What a file would hold: a config checks its fields when it is loaded, and not when one of them is set.
        written = hasattr(config, "from_dict")
        return kind(type(config).from_dict(config.to_dict()) if written else copy.deepcopy(config))


def saved_shapes(structure: Structure, name: str = "") -> Shapes:
    """Return the shapes of the tensors in a state dict, below `name`."""
    prefix = f"{name}." if name else ""
    return {
        place.name.removeprefix(prefix): tuple(place.tensor.shape)
        for place in structure.tensors
        if place.persistent and place.name.startswith(prefix) and not nn.parameter.is_lazy(place.tensor)
    }


def _shapes_once(fresh: Structure, module: nn.Module) -> Shapes:
    """Return the shapes of a fresh model, without names that are tied to one that `module` has; tying fills them."""
    mine = saved_shapes(Structure.of(module))
    tied = {id(place.tensor) for place in fresh.tensors if place.name in mine}
    left_out = {place.name for place in fresh.tensors if place.name not in mine and id(place.tensor) in tied}
    return {name: shape for name, shape in saved_shapes(fresh).items() if name not in left_out}


def _below(names: Mapping[str, nn.Module], name: str) -> dict[str, nn.Module]:
    prefix = f"{name}." if name else ""
    return {path.removeprefix(prefix): part for path, part in names.items() if path.startswith(prefix)}


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


def _note_tensors(
    changes: Changes, prefix: str, kinds: dict[str, list[str]], old: dict[str, list[str]], complete: set[str]
) -> None:
    for what, keys in kinds.items():  # a whole layer more or less is worth a note in any case
        known = {_masked(key) for key in old.get(what, ())}  # an edit moves the numbers of layers
        made = [f"{prefix}{key}" for key in keys if _layer(key) not in complete or _masked(key) not in known]
        if made:
            changes.notes.append(f"{listed(made, most=3)} {what}")


def _layer(key: str) -> str:
    """Return the part of a name that ends with its last number."""
    return (re.match(r".*\b\d+\b", key) or [""])[0]


def _masked(key: str) -> str:
    return re.sub(r"\d+", "#", key)


def _other_settings(
    modules: Mapping[str, nn.Module], fresh: nn.Module, kinds: Mapping[str, Iterable[str]]
) -> list[Setting]:
    """Return where modules with the same tensors differ from those of a fresh model in class, or in a number or text."""
    twins = dict(fresh.named_modules())
    told = {key.rpartition(".")[0] for keys in kinds.values() for key in keys}  # the tensors say it already
    found: list[Setting] = []
    others: list[str] = []
    for path, part in modules.items():
        twin = twins.get(path)
        if twin is None or path in told or any(path.startswith(f"{other}.") for other in others):
            continue
        if kind_of(part) == kind_of(twin):
            found += [(path, key, *pair) for key, pair in plain_differences(part, twin)]
        elif not isinstance(part, TiedLinear) and not any(name.startswith(f"{path}.") for name in told):
            found.append((path, "", kind_of(part), kind_of(twin)))
            others.append(path)
    return found


def plain_differences(part: nn.Module, twin: nn.Module) -> Iterable[tuple[str, tuple[object, object]]]:
    """Yield the plain settings that differ between two modules, such as a number or a name, with both values."""
    for key, value in part.__dict__.items():
        if isinstance(value, (bool, int, float, str)) and key != "training" and not key.startswith("_"):
            theirs = twin.__dict__.get(key, value)
            if theirs != value:
                yield key, (value, theirs)


def _note_settings(changes: Changes, prefix: str, settings: list[Setting]) -> None:
    """Note one difference of each sort, and how many there are like it."""
    alike: dict[tuple[object, ...], list[Setting]] = {}
    for path, key, mine, theirs in settings:
        alike.setdefault((key,) if key else (mine, theirs), []).append((path, key, mine, theirs))
    for (path, key, mine, theirs), *more in alike.values():
        name = prefix + ".".join(filter(None, (path, key)))
        pair = (f"{mine!r}", f"{theirs!r}") if key else (f"of class {mine}", f"one of class {theirs}")
        also = f" ({len(more)} more like it)" if more else ""
        changes.notes.append(f"{name} is {pair[0]}, and a model built from the config has {pair[1]}{also}")
