"""Give a model that was built on the meta device memory, with nothing in it left to chance."""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


def materialize(model: nn.Module, covered: set[int], generator: torch.Generator | None) -> Callable[[], None]:
    """Put every meta tensor on the CPU, ties kept, and run the layers' own resets; return a function that undoes it.

    Args:
        model: the module to change.
        covered: `id`s of the parameters that a rule will fill.
        generator: seeds the layers' own resets, which know only the global generator.

    Raises:
        ValueError: a parameter that no rule fills has no layer that would reset it, or a buffer would stay garbage;
            nothing was changed.
    """
    modules = list(model.named_modules())
    garbage: list[str] = []
    resets: list[tuple[nn.Module, Callable[[], object]]] = []
    for path, module in modules:
        prefix = f"{path}." if path else ""
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        # The layer's own tensors only: MultiheadAttention resets its projection, and so does the projection.
        open_names = [k for k, p in module._parameters.items() if p is not None and p.is_meta and id(p) not in covered]
        buffers = [k for k, b in module._buffers.items() if b is not None and b.is_meta]
        if reset is None:
            garbage += [prefix + key for key in open_names]
        if not isinstance(module, _NormBase):
            garbage += [prefix + key for key in buffers]
        elif buffers or open_names:
            resets.append((module, module.reset_parameters))
            continue
        if reset is not None and open_names:
            resets.append((module, reset))
    if garbage:
        raise ValueError(
            f"the model is on the meta device, and no rule and no reset_parameters would fill {', '.join(garbage[:10])}; "
            "add a rule, or build the model on a real device"
        )
    before = [(module, dict(module._parameters), dict(module._buffers)) for _, module in modules]
    made: dict[int, Tensor] = {}
    for module, parameters, buffers in before:
        for key, parameter in parameters.items():
            if parameter is not None and parameter.is_meta:
                module._parameters[key] = _real(parameter, made)  # type: ignore[assignment]
        for key, buffer in buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[key] = _real(buffer, made)

    def undo() -> None:
        for module, parameters, buffers in before:
            module._parameters.update(parameters)
            module._buffers.update(buffers)

    new = {id(tensor) for tensor in made.values()}
    held = [t for module, _ in resets for t in (*module.parameters(), *module.buffers()) if id(t) not in new]
    real = [(tensor, tensor.detach().clone()) for tensor in held]
    seeded = contextlib.nullcontext() if generator is None else torch.random.fork_rng(devices=[])
    try:
        with seeded:
            if generator is not None:
                torch.manual_seed(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
            for _, reset in resets:
                reset()
    except BaseException:
        undo()
        raise
    finally:  # a layer resets all it has, also what was never on the meta device
        with torch.no_grad():
            for tensor, old in real:
                tensor.copy_(old)
    return undo


def _real(tensor: Tensor, made: dict[int, Tensor]) -> Tensor:
    if id(tensor) not in made:
        empty = torch.empty_like(tensor, device="cpu")
        made[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return made[id(tensor)]
