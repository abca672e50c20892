"""The tensors of a model that can be initialised: each once, with all its names, as the weight its layer computes with."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from linkboy._walk import walk

_ITERATIONS = 15  # of the power method, as torch makes when it wraps a layer


@dataclasses.dataclass
class Slot:
    """One tensor to fill: a parameter, or a weight computed from `originals` by a parametrisation or by a hook, `legacy`."""

    names: list[str]
    places: list[tuple[nn.Module, str]]
    tensor: Tensor
    originals: Sequence[Tensor] = ()  # none for a plain parameter
    legacy: Any = None  # of torch.nn.utils.weight_norm, spectral_norm or prune
    settable: bool = True

    @property
    def name(self) -> str:
        """First name, in the order of `named_parameters()`."""
        return self.names[0]


def find_slots(model: nn.Module) -> list[Slot]:
    """Walk the module tree and list what can be filled."""
    slots: dict[tuple[object, ...], Slot] = {}
    inner: set[int] = set()
    for path, module in walk(model, plain=True)[0]:
        if id(module) in inner:
            continue
        prefix = f"{path}." if path else ""
        computed = _computed(module)
        hidden = {id(original) for slot in computed.values() for original in slot.originals}
        if parametrize.is_parametrized(module):
            inner |= {id(part) for part in module.parametrizations.modules()}  # type: ignore[union-attr]
        for key, slot in computed.items():
            _add(slots, (id(module), key), slot, prefix + key, module, key)
        for key, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in hidden:
                _add(slots, (id(parameter),), Slot([], [], parameter), prefix + key, module, key)
    return list(slots.values())


def _add(
    slots: dict[tuple[object, ...], Slot],
    identity: tuple[object, ...],
    slot: Slot,
    name: str,
    module: nn.Module,
    key: str,
) -> None:
    known = slots.setdefault(identity, slot)
    known.names.append(name)
    known.places.append((module, key))


def _computed(module: nn.Module) -> dict[str, Slot]:
    """Find the weights of a module that are computed from other tensors."""
    found: dict[str, Slot] = {}
    if parametrize.is_parametrized(module):
        table: Any = module.parametrizations
        for key, chain in table.items():
            originals = [*chain.parameters(recurse=False), *chain.buffers()]
            settable = all(hasattr(step, "right_inverse") for step in chain)
            found[key] = Slot([], [], read_computed(module, key), originals, settable=settable)
    hooks: list[Any] = list(module._forward_pre_hooks.values())
    for hook in hooks:
        if isinstance(hook, WeightNorm):
            names = [f"{hook.name}_v", f"{hook.name}_g"]
        elif isinstance(hook, SpectralNorm):
            names = [f"{hook.name}_{part}" for part in ("orig", "u", "v")]
        elif hasattr(hook, "apply_mask") and hasattr(hook, "_tensor_name"):  # of torch.nn.utils.prune
            names = [f"{hook._tensor_name}_orig"]
        else:
            continue
        originals = [part for name in names if isinstance(part := getattr(module, name, None), Tensor)]
        found[names[0].rpartition("_")[0]] = Slot([], [], originals[0], originals, hook)
    return found


def read_computed(module: nn.Module, key: str) -> Tensor:
    """Read a parametrised weight without the power iteration that spectral_norm makes in training mode."""
    table: Any = module.parametrizations
    with torch.no_grad(), _in_eval(table[key]):
        return getattr(module, key).detach()


@contextlib.contextmanager
def _in_eval(module: nn.Module) -> Iterator[None]:
    flags = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in flags:
            part.training = False
        yield
    finally:
        for part, flag in flags:
            part.training = flag


def write(slot: Slot, value: Tensor) -> float | None:
    """Give a computed weight its value through its setter; return how far the result is from what was asked."""
    module, key = slot.places[0]
    if slot.legacy is not None:
        slot.originals[0].copy_(value)
        result = _by_hook(slot, module)
        setattr(module, key, result.detach() if not result.requires_grad else result)
    else:
        setattr(module, key, value)
        _iterate(module, key)
        result = read_computed(module, key)
    return (result.detach().double() - value.double()).abs().max().item() if value.numel() else 0.0


def _by_hook(slot: Slot, module: nn.Module) -> Tensor:
    """Return the weight that a hook computes before each forward pass, from what it starts from."""
    hook = slot.legacy
    if isinstance(hook, WeightNorm):
        large, small = slot.originals
        small.copy_(torch.norm_except_dim(large, 2, hook.dim))
        return hook.compute_weight(module)
    if isinstance(hook, SpectralNorm):
        for _ in range(_ITERATIONS):
            hook.compute_weight(module, do_power_iteration=True)
        return hook.compute_weight(module, do_power_iteration=False)
    return hook.apply_mask(module)


def _iterate(module: nn.Module, key: str) -> None:
    """Let spectral_norm estimate the norm of the new weight; its vectors are still those of the old one."""
    table: Any = module.parametrizations
    for step in table[key]:
        if type(step).__name__ == "_SpectralNorm":
            was_training, step.training = step.training, True
            try:
                for _ in range(_ITERATIONS):
                    getattr(module, key)
            finally:
                step.training = was_training
