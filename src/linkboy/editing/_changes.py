"""What one transaction has done so far: the common notebook of edits, repairs and checks."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from linkboy.editing._names import Place, children_of, is_stack
from linkboy.editing._snapshot import Snapshot


@dataclasses.dataclass(frozen=True)
class TensorPlace:
    """Where a parameter or buffer is registered."""

    owner: nn.Module
    key: str
    name: str
    tensor: Tensor
    persistent: bool


@dataclasses.dataclass(frozen=True)
class Structure:
    """The structure of a model at one moment; the tensors and modules themselves, not copies."""

    names: dict[str, nn.Module]  # every name, aliases included
    tensors: list[TensorPlace]
    stacks: dict[int, tuple[str, nn.Module, list[nn.Module]]]  # id -> name, container, children

    @classmethod
    def of(cls, model: nn.Module) -> "Structure":
        """Read the structure of a model."""
        names = dict(model.named_modules(remove_duplicate=False))
        stacks = {
            id(module): (name, module, [child for _, child in children_of(module)])
            for name, module in reversed(names.items())
            if is_stack(module)
        }
        tensors = [place for name, module in names.items() for place in _tensors(name, module)]
        return cls(names, tensors, stacks)


def _tensors(name: str, module: nn.Module) -> list[TensorPlace]:
    prefix = f"{name}." if name else ""
    parameters = [
        TensorPlace(module, key, prefix + key, tensor, True)
        for key, tensor in module._parameters.items()
        if tensor is not None
    ]
    return parameters + [
        TensorPlace(module, key, prefix + key, tensor, key not in module._non_persistent_buffers_set)
        for key, tensor in module._buffers.items()
        if tensor is not None
    ]


@dataclasses.dataclass
class Changes:
    """The model, what it was, and what has been done to it.

    `successor`: old module -> the one in its place; `origin`: copy -> the layer it was copied from; `neighbour`:
    inserted module -> the layer before it; `removals`: attributes to be settled once the model can be run. Modules
    are keyed by `id` and kept alive here.
    """

    model: nn.Module
    before: Structure
    snapshot: Snapshot
    config: str | Mapping[str, object] | None = "auto"
    edits: list[str] = dataclasses.field(default_factory=list)
    repairs: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    successor: dict[int, nn.Module] = dataclasses.field(default_factory=dict)
    origin: dict[int, nn.Module] = dataclasses.field(default_factory=dict)
    neighbour: dict[int, nn.Module] = dataclasses.field(default_factory=dict)
    removals: list[tuple[Place, nn.Module]] = dataclasses.field(default_factory=list)
    resized: dict[int, Tensor] = dataclasses.field(default_factory=dict)  # id of the old tensor -> the new one
    untied: set[int] = dataclasses.field(default_factory=set)  # modules whose weights leave their ties
    shared_layers: bool = False  # the caller asked for one layer object in two positions
    sizes: list[tuple[str, nn.Module, int, int]] = dataclasses.field(default_factory=list)  # kind, module, old, new
    alive: list[Any] = dataclasses.field(default_factory=list)

    def hold(self, *things: object) -> None:
        """Keep things alive, so that no `id` is used twice during the transaction."""
        self.alive += things

    def origin_of(self, module: nn.Module) -> nn.Module:
        """Return the layer of the unedited model that a layer is, or is a copy of."""
        while id(module) in self.origin:
            module = self.origin[id(module)]
        return module

    def copies(self) -> list[tuple[nn.Module, nn.Module]]:
        """List the copies that were made, each with what it was copied from."""
        modules = {id(thing): thing for thing in self.alive if isinstance(thing, nn.Module)}
        return [(modules[twin], module) for twin, module in self.origin.items()]
