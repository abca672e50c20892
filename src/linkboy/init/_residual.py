"""Find the projections that write into a residual stream: the last layer of each branch of a repeated block."""

import itertools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn

from linkboy._report import plural

# What reads the stream for attention, under the names that are in use.
_READS = re.compile(
    r"(.*_)?(w?(q|k|v|kv|qkv)|quer(y|ies)|keys?|values?|receptance)(_.*)?|(c_attn|q_attn)(_.*)?|in_proj.*",
    re.IGNORECASE,
)


class ResidualProjections:
    """The target of a rule for the weights of residual projections, which are looked up in each model.

    Args:
        expected: how many a model should have; with fewer, `initialize` warns.
    """

    __name__ = "residual projections"

    def __init__(self, expected: int) -> None:
        self.expected = expected

    def __call__(self, module: nn.Module, key: str, shape: tuple[int, ...]) -> bool:
        raise TypeError("which projections are residual is a matter of a whole model, which initialize() looks at")

    def of(self, model: nn.Module) -> "Projections":
        """Return the target for one model."""
        found = residual_projections(model)
        remark = ""
        if len(found) < self.expected:
            remark = (
                f"{plural(len(found), 'residual projection was', 'residual projections were')} found by the "
                f"structure of the model, expected {self.expected} (2 * "
                "layers); name those to scale with residual=, and check layers"
            )
        elif len(found) > self.expected and (count := _blocks_of_one_stack(model)) * 2 == len(found):
            remark = f"the model has a stack of {count} blocks, and layers is {self.expected // 2}; pass layers={count}"
        return Projections(frozenset(map(id, found)), remark)


class Projections:
    """The target of a rule for the weights of some layers of one model; `remark` says what is unusual about them."""

    __name__ = "residual projections"

    def __init__(self, layers: frozenset[int], remark: str) -> None:
        self.layers, self.remark = layers, remark

    def __call__(self, module: nn.Module, key: str, shape: tuple[int, ...]) -> bool:
        """Return whether a parameter is the weight of one of the layers."""
        return key == "weight" and id(module) in self.layers


class _Leaf(NamedTuple):
    name: str
    module: nn.Module
    inputs: int
    outputs: int


def residual_projections(model: nn.Module) -> list[nn.Module]:
    """Return the layers whose output is added to the input of their block, as far as the structure tells.

    A block is a numbered module (`layers.3`), or the model itself if it has none; the width of its stream is what its first
    layer takes. Of the layers that give this width, those are projections that close a branch: they follow another layer since
    the last one, and are not named like queries, keys or values. Of layers of one shape that are numbered in one list, such as
    the four of an attention, it is the last.

    Args:
        model: the model.

    Returns:
        The layers, in the order of the model.

    Examples:
        >>> block = nn.ModuleDict({"up": nn.Linear(8, 32), "down": nn.Linear(32, 8)})
        >>> residual_projections(nn.ModuleList([block]))
        [Linear(in_features=32, out_features=8, bias=True)]
    """
    blocks = _blocks(model)
    several = [leaves for leaves in blocks.values() if len(leaves) > 1]
    if not blocks:
        several = [list(_leaves(model))]
    return [module for leaves in several for module in _closing(leaves)]


def _blocks(model: nn.Module) -> dict[str, list[_Leaf]]:
    """Return the layers of each numbered module, by its path."""
    blocks: dict[str, list[_Leaf]] = {}
    for leaf in _leaves(model):
        block = re.match(r"(.*?\.)?\d+(?=\.)", leaf.name)
        if block is not None:
            blocks.setdefault(block[0], []).append(leaf)
    return blocks


def _blocks_of_one_stack(model: nn.Module) -> int:
    """Return how many blocks have residual projections if they are all in one list, 0 if they are in several."""
    names = [name for name, leaves in _blocks(model).items() if len(leaves) > 1 and any(True for _ in _closing(leaves))]
    return len(names) if len({name.rstrip("0123456789") for name in names}) == 1 else 0


def _leaves(model: nn.Module) -> Iterator[_Leaf]:
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            yield _Leaf(f"{name}.in_proj", module, module.embed_dim, 3 * module.embed_dim)
        elif isinstance(module, nn.Linear):
            yield _Leaf(name, module, module.in_features, module.out_features)
        elif type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
            layer: Any = module
            yield _Leaf(name, module, layer.weight.shape[0], layer.nf)


def _closing(leaves: list[_Leaf]) -> Iterator[nn.Module]:
    width = leaves[0].inputs if leaves else 0
    branch_begun = False
    for leaf, following in itertools.zip_longest(leaves, leaves[1:]):
        reads = _READS.fullmatch(leaf.name.rpartition(".")[2]) is not None or _goes_on(leaf, following)
        if leaf.outputs == width and branch_begun and not reads:
            yield leaf.module
            branch_begun = False
        else:
            branch_begun = True


def _goes_on(leaf: _Leaf, following: _Leaf | None) -> bool:
    """Return whether the next layer is another of the same shape in the same list."""
    (path, _, number), (other, _, another) = leaf.name.rpartition("."), (following or leaf).name.rpartition(".")
    alike = following is not None and (leaf.inputs, leaf.outputs) == (following.inputs, following.outputs)
    return alike and path == other and number.isdecimal() and another.isdecimal()
