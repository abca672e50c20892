"""What one transaction has done so far: the notebook that edits, repairs and checks share."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from linkboy._walk import NamedTensor, first_lazy, named_tensors, walk
from linkboy.editing._names import ModulePlace, children_of, is_stack
from linkboy.editing._snapshot import Snapshot

Size = tuple[Literal["vocabulary", "labels"], nn.Module, int, int]  # what it counts, by which module, before and after


class TensorPlace(NamedTuple):
    """Where a parameter or buffer is registered."""

    owner: nn.Module
    key: str
    name: str
    tensor: Tensor
    persistent: bool


@dataclasses.dataclass(frozen=True)
class Structure:
    """The structure of a model at one moment; it holds the tensors and modules themselves, not copies."""

    names: dict[str, nn.Module]  # every name, aliases included
    tensors: list[TensorPlace]
    stacks: dict[int, tuple[str, nn.Module, list[nn.Module]]]  # id -> name, container, children

    @classmethod
    def of(cls, model: nn.Module) -> "Structure":
        """Return the structure that a model has now."""
        modules, tensors = walk(model)
        names = dict(modules)
        stacks = {
            id(module): (name, module, [child for _, child in children_of(module)])
            for name, module in reversed(names.items())
            if is_stack(module)
        }
        savers = {name: module for name, module in modules if _saves_itself(module)}
        own = {id(module) for module in savers.values()}
        places = [place for found in tensors for place in _places(found)]
        if own:  # what they register is not what a state dict holds
            places = [place._replace(persistent=False) if id(place.owner) in own else place for place in places]
            places += [place for name, module in savers.items() for place in _saved(name, module)]
        return cls(names, places, stacks)


def _places(found: NamedTensor) -> list[TensorPlace]:
    return [
        TensorPlace(owner, key, name, found.tensor, key not in owner._non_persistent_buffers_set)
        for (_, owner, key), name in zip(found.places, found.names, strict=True)
    ]


def _saves_itself(module: nn.Module) -> bool:
    own = type(module)._save_to_state_dict is not nn.Module._save_to_state_dict
    return own and first_lazy(module) is None


def _saved(name: str, module: nn.Module) -> list[TensorPlace]:
    """Return what a module with a state dict of its own puts into it; the tensors have shapes only."""
    saved: dict[str, Any] = {}
    module._save_to_state_dict(saved, f"{name}." if name else "", False)
    return [
        TensorPlace(module, key.rpartition(".")[2], key, torch.empty_like(tensor, device="meta"), True)
        for key, tensor in saved.items()
        if isinstance(tensor, Tensor)
    ]


def distinct_places(model: nn.Module, tensor: Tensor) -> list[TensorPlace]:
    """Return where a tensor is registered, each module once."""
    found = [place for named in named_tensors(model) if named.tensor is tensor for place in _places(named)]
    return list({(id(place.owner), place.key): place for place in reversed(found)}.values())[::-1]


@dataclasses.dataclass(frozen=True)
class BuiltPart:
    """A part of the model that transformers builds from a config.

    Attributes:
        name: its name in the model.
        module: the part itself.
        config: a copy of its config.
    """

    name: str
    module: nn.Module
    config: Any


@dataclasses.dataclass
class Changes:
    """The model, its state before the edit, and what has been done to it.

    Modules are keyed by `id` and kept alive here.

    Attributes:
        model: the model, edited in place.
        before: its structure before the edit.
        snapshot: restores everything.
        config: what the caller passed as `config`.
        edits: what was asked for and done.
        repairs: what else was changed to go with it.
        notes: what the caller should know.
        successor: the module in the place of an old one.
        origin: the layer that a copy was made of.
        neighbour: the layer before an inserted one.
        removals: attributes whose final state is settled once the model can run.
        resized: the new tensor by the `id` of the old one.
        untied: modules whose weights leave their ties.
        shared_layers: whether the caller asked for one layer object in two positions.
        built: the parts that transformers builds from a config, before the edit, by `id`.
        sizes: kind, module, old and new number of outputs or rows.
        depths: the `id` of each config whose depth was set, with the old and the new depth.
        alive: things whose `id` must not be used again.
    """

    model: nn.Module
    before: Structure
    snapshot: Snapshot
    config: str | Mapping[str, object] | None = "auto"
    edits: list[str] = dataclasses.field(default_factory=list)
    repairs: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    successor: dict[int, nn.Module] = dataclasses.field(default_factory=dict)
    origin: dict[int, nn.Module] = dataclasses.field(default_factory=dict)
    neighbour: dict[int, nn.Module] = dataclasses.field(default_factory=dict)
    removals: list[tuple[ModulePlace, nn.Module]] = dataclasses.field(default_factory=list)
    resized: dict[int, Tensor] = dataclasses.field(default_factory=dict)
    untied: set[int] = dataclasses.field(default_factory=set)
    shared_layers: bool = False
    sizes: list[Size] = dataclasses.field(default_factory=list)
    depths: set[tuple[int, int, int]] = dataclasses.field(default_factory=set)
    built: dict[int, BuiltPart] = dataclasses.field(default_factory=dict)
    alive: list[Any] = dataclasses.field(default_factory=list)

    def hold(self, *things: object) -> None:
        """Keep things alive, so that no `id` is used twice during the transaction."""
        self.alive += things

    def origin_of(self, module: nn.Module) -> nn.Module:
        """Return the layer of the unedited model that a layer is, or is a copy of."""
        while id(module) in self.origin:
            module = self.origin[id(module)]
        return module

    def copied(self) -> dict[int, nn.Module]:
        """Return what each part of each copy was copied from, by the `id` of the part."""
        modules = {id(thing): thing for thing in self.alive if isinstance(thing, nn.Module)}
        found: dict[int, nn.Module] = {}
        for twin, module in self.origin.items():
            parts = dict(module.named_modules())  # by path: a repair may have moved a part since the copy was made
            found |= {id(part): parts[path] for path, part in modules[twin].named_modules() if path in parts}
        return found


@dataclasses.dataclass(frozen=True)
class StackChange:
    """A stack that the model had before and still has, with other layers or another order."""

    name: str
    container: nn.Module
    old: list[nn.Module]
    new: list[nn.Module]

    @property
    def uniform(self) -> bool:
        """Whether all old layers are of one class: a stack with a depth, not a chain of different things."""
        return len({type(layer) for layer in self.old}) == 1


def changed_stacks(changes: Changes) -> list[StackChange]:
    """Return the stacks that are still in the model and whose layers changed."""
    found = []
    present = {id(module) for module in changes.model.modules()}
    for key, (name, container, old) in changes.before.stacks.items():
        new = [child for _, child in children_of(container)]
        if key in present and list(map(id, new)) != list(map(id, old)):
            found.append(StackChange(name, container, old, new))
    return found
