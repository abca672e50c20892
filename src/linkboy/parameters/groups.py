"""Parameter groups for any torch optimizer: what decays is decided by type and shape, not by a list of names."""

import re
from collections.abc import Sequence
from typing import Any, Literal

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from linkboy._checks import check_choice, check_number
from linkboy._walk import NamedTensor, is_norm, walk, weight_key

_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?|resblocks|stages)\.\d+(?=\.)")


def param_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    layer_decay: float | None = None,
    lr: float | None = None,
    no_decay: Literal["norm_and_bias", "norm_bias_and_embedding", "nothing"] = "norm_and_bias",
) -> list[dict[str, Any]]:
    """Sort the trainable parameters into groups for an optimizer: what decays, what does not, and how fast each learns.

    Each trainable parameter is in exactly one group, each frozen one in none. A group has `params`, `param_names`
    (which torch keeps in its checkpoints), `weight_decay` and, with `layer_decay`, `lr`.

    Args:
        model: the module to train.
        weight_decay: for everything that decays.
        layer_decay: factor below 1 by which each layer learns slower than the one above it, counted from the head:
            embeddings lowest, then the numbered containers (`layers.N`, `layer.N`, `h.N`, `blocks.N`, ...) in the order
            in which the model holds them, then whatever comes after. Needs `lr`.
        lr: learning rate of the head.
        no_decay: `"norm_and_bias"` spares biases, tensors with fewer than two dimensions and all weights of
            normalisation layers, whatever they are called; `"norm_bias_and_embedding"` embeddings too; `"nothing"`
            lets all decay. A parametrised weight (`weight_norm` and the like) counts as the weight it computes.

    Returns:
        The groups, those that decay first within a layer; pass them to any `torch.optim` optimizer.

    Raises:
        ValueError: nothing is trainable, a parameter is lazy, `layer_decay` finds no numbered layers or comes without
            `lr`, or a number is out of range.

    Examples:
        >>> import torch
        >>> from linkboy import param_groups
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
        >>> [(group["param_names"], group["weight_decay"]) for group in param_groups(model, weight_decay=0.1)]
        [(['0.weight'], 0.1), (['0.bias', '1.weight', '1.bias'], 0.0)]
        >>> optimizer = torch.optim.AdamW(param_groups(model, weight_decay=0.1), lr=1e-3)

    Differs from the copied `["bias", "LayerNorm.weight"]`, which misses every norm of Llama and GPT-2.
    """
    check_number("weight_decay", weight_decay, minimum=0)
    check_choice("no_decay", no_decay, ("norm_and_bias", "norm_bias_and_embedding", "nothing"))
    if lr is not None:
        check_number("lr", lr, minimum=0)
    if layer_decay is not None:
        check_number("layer_decay", layer_decay, above=0, maximum=1)
        if lr is None:
            raise ValueError("layer_decay needs lr, the learning rate of the head, got None")
    modules, tensors = walk(model, plain=True)
    trainable = [each for each in tensors if each.is_parameter and each.tensor.requires_grad]
    if lazy := [each.name for each in trainable if each.is_lazy]:
        raise ValueError(f"parameter {lazy[0]!r} has no shape yet: run one batch through the model first")
    if not trainable:
        raise ValueError("the model has no trainable parameter to group")
    depths = _depths(modules) if layer_decay is not None else {}
    top = max(depths.values(), default=0)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for each in trainable:
        decays = no_decay == "nothing" or not _spared(each, no_decay)
        depth = depths.get(each.name, 0)
        group = groups.setdefault((depth, not decays), {"params": [], "param_names": []})
        group["params"].append(each.tensor)
        group["param_names"].append(each.name)
        group["weight_decay"] = weight_decay if decays else 0.0
        if lr is not None:
            group["lr"] = lr if layer_decay is None else lr * layer_decay ** (top - depth)
    return [groups[key] for key in sorted(groups)]


def _spared(parameter: NamedTensor, no_decay: str) -> bool:
    for place in parameter.places:
        _, owner, _ = place
        key, dim = weight_key(place), parameter.tensor.dim()
        if isinstance(owner, ParametrizationList):  # a weight is as large as the largest it is computed from
            dim = max(original.dim() for original in owner.parameters(recurse=False))
        embedding = no_decay == "norm_bias_and_embedding" and isinstance(owner, (nn.Embedding, nn.EmbeddingBag))
        if is_norm(owner) or key.startswith("bias") or key.endswith("bias") or embedding or dim < 2:
            return True
    return False


def _depths(modules: Sequence[tuple[str, nn.Module]]) -> dict[str, int]:
    """Number the layers: 0 before the first numbered container, then one for each, and one more after the last.

    What lies between two stacks, such as the last norm of an encoder, learns like the layer before it.
    """
    layers: dict[str, int] = {}
    places = [
        (f"{path}.{key}" if path else key, owner)
        for path, owner in modules
        for key, parameter in owner._parameters.items()
        if parameter is not None
    ]
    for name, _ in places:
        if match := _LAYER.search(name):
            layers.setdefault(name[: match.end()], len(layers) + 1)
    if not layers:
        raise ValueError(
            "layer_decay found no numbered layers (such as 'layers.0', 'layer.0', 'h.0' or 'blocks.0') in the names of the model"
        )
    depths: dict[str, int] = {}
    last = max(number for number, (name, _) in enumerate(places) if _LAYER.search(name))
    before = 0
    for number, (name, owner) in enumerate(places):
        if match := _LAYER.search(name):
            before = depths[name] = layers[name[: match.end()]]
        elif isinstance(owner, (nn.Embedding, nn.EmbeddingBag)):
            depths[name] = 0
        else:
            depths[name] = before if number < last else len(layers) + 1
    return depths
