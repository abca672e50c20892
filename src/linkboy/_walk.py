"""The tensors of a model with every name they have, and what its modules are: norms, lazy ones, wrappers."""

import collections
import itertools
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

Place = tuple[str, nn.Module, str]  # path of the owner, the owner, the key in its table
Model = TypeVar("Model")

TORCH_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
# Classes that do not inherit from torch's norms: LlamaRMSNorm, LayerNorm2d, Zamba2RMSNormGated. `_WeightNorm` and
# `_SpectralNorm` are not layers, but steps that compute a weight.
_NORM_NAME = re.compile(r"(?<!Weight)(?<!Spectral)Norm(Gated)?([123]d)?$")
_WRAPPERS = {
    "OptimizedModule": "_orig_mod",  # torch.compile
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "DeepSpeedEngine": "module",
    "ActivationWrapper": "_checkpoint_wrapped_module",  # activation checkpointing and offloading
}
_KEYS = frozenset(_WRAPPERS.values()) - {"module"}  # no layer of a model is called so, whatever class wraps it


class NamedTensor:
    """A parameter or buffer and every place where it is registered, in the order of the walk.

    Attributes:
        tensor: the tensor itself.
        is_parameter: whether its first place is among the parameters of a module.
        places: path of the owner, owner and key of each place; a tied or shared tensor has several.
    """

    __slots__ = ("is_parameter", "places", "tensor")

    def __init__(self, tensor: Tensor, is_parameter: bool, place: Place) -> None:
        self.tensor, self.is_parameter, self.places = tensor, is_parameter, [place]

    @property
    def name(self) -> str:
        """The first name, as in `named_parameters()`."""
        return _joined(self.places[0])

    @property
    def names(self) -> tuple[str, ...]:
        """All names, aliases included."""
        return tuple([_joined(place) for place in self.places])

    @property
    def owner(self) -> nn.Module:
        """The module of the first place."""
        return self.places[0][1]

    @property
    def is_persistent(self) -> bool:
        """Whether the tensor is in the state dict under some name."""
        return self.is_parameter or any(key not in owner._non_persistent_buffers_set for _, owner, key in self.places)

    @property
    def is_lazy(self) -> bool:
        """Whether the tensor still waits for its first batch, and has no shape."""
        return is_lazy(self.tensor)

    def __repr__(self) -> str:
        return f"NamedTensor({' = '.join(self.names)})"


def named_tensors(model: nn.Module, *, plain: bool = False) -> list[NamedTensor]:
    """Return every parameter and buffer of a model once, each with all its names; `plain` as in `walk`.

    Examples:
        >>> layer = nn.Linear(2, 2)
        >>> [found.names for found in named_tensors(nn.Sequential(layer, nn.ReLU(), layer))]
        [('0.weight', '2.weight'), ('0.bias', '2.bias')]
    """
    return walk(model, plain=plain)[1]


def walk(model: nn.Module, *, plain: bool = False) -> tuple[list[tuple[str, nn.Module]], list[NamedTensor]]:
    """Return every path to every module, and every tensor once with all its places.

    A module that contains itself is entered once on each path, where `named_modules(remove_duplicate=False)` never ends.

    Args:
        model: the model.
        plain: whether paths leave out what wrappers put into them, such as `_orig_mod` and `_checkpoint_wrapped_module`, so
            that they are those of the model as it is written. Otherwise they are those of the state dict.

    Returns:
        Paths with modules, and tensors with places.

    Examples:
        >>> [path for path, _ in walk(nn.Sequential(nn.ReLU()))[0]]
        ['', '0']
    """
    modules: list[tuple[str, nn.Module]] = []
    tensors: dict[int, NamedTensor] = {}
    _visit(model, "", modules, tensors, set(), plain)
    return modules, list(tensors.values())


def _visit(
    module: nn.Module,
    path: str,
    modules: list[tuple[str, nn.Module]],
    tensors: dict[int, NamedTensor],
    ancestors: set[int],
    plain: bool,
) -> None:
    # One plain recursion instead of named_parameters + named_buffers + named_modules: a third of their time. A place is
    # a plain tuple, and names are joined when they are asked for, since counting needs few of them.
    modules.append((path, module))
    for is_parameter, table in ((True, module._parameters), (False, module._buffers)):
        for key, tensor in table.items():
            if tensor is not None:
                known = tensors.get(id(tensor))
                if known is None:
                    tensors[id(tensor)] = NamedTensor(tensor, is_parameter, (path, module, key))
                else:
                    known.places.append((path, module, key))
    if len(module._modules):
        prefix = f"{path}." if path else ""
        ancestors.add(id(module))
        wrapped = wrapped_under(module) if plain and len(module._modules) == 1 else None
        for key, child in module._modules.items():
            if child is not None and id(child) not in ancestors:
                inside = key == wrapped or (plain and key in _KEYS)
                _visit(child, path if inside else prefix + key, modules, tensors, ancestors, plain)
        ancestors.discard(id(module))


def _joined(place: Place) -> str:
    return f"{place[0]}.{place[2]}" if place[0] else place[2]


def unregistered(model: nn.Module) -> list[tuple[str, nn.Module | Tensor]]:
    """Return the layers and tensors that a model keeps where torch does not look, each with its path.

    A layer in a plain list is neither trained nor saved nor moved by `.to()`; a plain tensor is neither saved nor moved.
    What is registered elsewhere in the model is not among them. Looked at are the attributes of modules, and lists,
    tuples, sets and dicts among them, two levels deep.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 2))
        >>> model.extra = [nn.ReLU(), model[0]]
        >>> unregistered(model)
        [('extra.0', ReLU())]
    """
    found = [pair for path, module in model.named_modules() for pair in _kept_aside(path, module)]
    if not found:
        return []
    modules, tensors = walk(model)
    known = {id(module) for _, module in modules} | {id(each.tensor) for each in tensors}
    aside = {id(thing): (name, thing) for name, thing in reversed(found) if id(thing) not in known}
    return list(reversed(aside.values()))


def _kept_aside(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module | Tensor]]:
    attributes = module.__dict__
    # The attributes of most modules hold nothing; the types of all are asked at once.
    own = itertools.islice(attributes.values(), len(_OF_EVERY_MODULE), None)
    if _HOLD_NOTHING.issuperset(map(type, own)):
        return
    prefix = f"{path}." if path else ""
    for key, value in attributes.items():
        if key not in _OF_EVERY_MODULE and type(value) not in _HOLD_NOTHING and not _is_computed(module, key):
            yield from _things_in(prefix + key, value, 2)


def _is_computed(module: nn.Module, key: str) -> bool:
    """Return whether a hook computes an attribute before each forward pass, as those of pruning and weight_norm do."""
    table = module._parameters
    return f"{key}_orig" in table or (f"{key}_g" in table and f"{key}_v" in table)


def _things_in(name: str, value: Any, levels: int) -> Iterator[tuple[str, nn.Module | Tensor]]:
    if isinstance(value, (nn.Module, Tensor)):
        yield name, value
    elif levels and isinstance(value, (list, tuple, set, frozenset, dict, collections.deque)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in itertools.islice(items, 1000):  # a plain attribute may be a vocabulary
            if type(item) not in _HOLD_NOTHING:
                yield from _things_in(f"{name}.{key}", item, levels - 1)


_OF_EVERY_MODULE = frozenset(nn.Module().__dict__)
_HOLD_NOTHING = frozenset((bool, int, float, str, type(None), torch.device, torch.dtype, torch.Size, type(len)))


def first_lazy(model: nn.Module) -> str | None:
    """Return the name of the first tensor that still waits for its first batch, `None` where there is none.

    Examples:
        >>> first_lazy(nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(2)))
        '1.weight'
    """
    return next((found.name for found in named_tensors(model) if found.is_lazy), None)


def is_norm(module: nn.Module) -> bool:
    """Return whether a module normalises, even if its class is not one of torch's.

    Examples:
        >>> class LlamaRMSNorm(nn.Module): pass
        >>> is_norm(nn.BatchNorm2d(3)), is_norm(LlamaRMSNorm()), is_norm(nn.Linear(2, 2))
        (True, True, False)
    """
    return isinstance(module, TORCH_NORMS) or _NORM_NAME.search(type(module).__name__) is not None


def keeps_statistics(module: nn.Module) -> bool:
    """Return whether a module keeps running statistics that a batch in training mode changes.

    Examples:
        >>> keeps_statistics(nn.BatchNorm1d(3)), keeps_statistics(nn.BatchNorm1d(3, track_running_stats=False))
        (True, False)
    """
    return isinstance(module, _NormBase) and module.running_mean is not None


def weight_key(place: Place) -> str:
    """Return the name of the weight that a tensor belongs to: for `parametrizations.weight.original0` it is `weight`.

    Examples:
        >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
        >>> [weight_key(found.places[0]) for found in named_tensors(layer)]
        ['bias', 'weight', 'weight']
    """
    path, owner, key = place
    return path.rpartition(".")[2] if isinstance(owner, ParametrizationList) else key


def computed_name(place: Place) -> str | None:
    """Return the name of the weight that is computed from a tensor, `None` for a tensor that is used as it is.

    Examples:
        >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
        >>> [computed_name(found.places[0]) for found in named_tensors(nn.Sequential(layer))]
        [None, '0.weight', '0.weight']
    """
    path, owner, key = place
    if isinstance(owner, ParametrizationList):
        above, _, weight = path.rpartition(".")
        prefix = above.removesuffix("parametrizations")
        return prefix + weight
    weight = re.sub("_(g|v|orig)$", "", key)
    if weight == key or not _is_computed(owner, weight):
        return None
    return f"{path}.{weight}" if path else weight


def wrapped_under(module: object) -> str | None:
    """Return the attribute under which a wrapper holds its model, `None` for anything else.

    Examples:
        >>> wrapped_under(nn.DataParallel(nn.Linear(2, 2))), wrapped_under(nn.Linear(2, 2))
        ('module', None)
    """
    # By name, so that neither the compiler nor anything distributed is imported to ask.
    names = (_WRAPPERS.get(kind.__name__) for kind in type(module).__mro__)
    return next((name for name in names if name and isinstance(getattr(module, name, None), nn.Module)), None)


def unwrapped(model: Model) -> Model:
    """Return the model inside what torch.compile, DataParallel, DDP, FSDP or activation checkpointing put around it.

    Examples:
        >>> model = nn.Linear(2, 2)
        >>> unwrapped(nn.DataParallel(nn.DataParallel(model))) is model
        True
    """
    inner: Any = model
    while (attribute := wrapped_under(inner)) is not None:
        inner = getattr(inner, attribute)
    return inner


def plain_name(name: str, model: object) -> str:
    """Return a name or pattern of a wrapped model as `walk(model, plain=True)` has it, wherever it was taken from.

    Examples:
        >>> plain_name("_orig_mod.layers.*", nn.Identity()), plain_name("module.0.bias", nn.DataParallel(nn.Linear(2, 2)))
        ('layers.*', '0.bias')
    """
    inner: Any = model
    while (attribute := wrapped_under(inner)) is not None:
        name, inner = name.removeprefix(f"{attribute}."), getattr(inner, attribute)
    return re.sub(rf"(^|\.)({'|'.join(sorted(_KEYS))})\.", r"\1", name)
