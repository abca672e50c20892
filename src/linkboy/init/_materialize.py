"""Give a model that was built on the meta device memory, with no tensor in it left uninitialised."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from linkboy import _random
from linkboy._report import listed

Reset = tuple[nn.Module, Callable[[], object]]


def materialize(model: nn.Module, covered: set[int], generator: torch.Generator | None) -> Callable[[], None]:
    """Put every meta tensor on the CPU, ties kept, and run the layers' own resets; return a function that undoes it.

    Args:
        model: the module to change.
        covered: `id`s of the parameters that a rule will fill.
        generator: seeds the layers' own resets, which know only the global generator.

    Raises:
        ValueError: a parameter that no rule fills has no layer that would reset it, or a buffer would stay uninitialised;
            nothing was changed.
    """
    resets = _resets(model, covered)
    undo, made = _put_on_cpu(model)
    try:
        with _others_unchanged(resets, made), _seeded(generator):
            for _, reset in resets:
                reset()
    except BaseException:
        undo()
        raise
    return undo


def _resets(model: nn.Module, covered: set[int]) -> list[Reset]:
    """Return the modules whose own resets are needed, or raise for tensors that nothing would fill."""
    resets: list[Reset] = []
    unfilled: list[str] = []
    rule_helps = False  # a rule fills parameters alone
    for path, module in model.named_modules():
        # The layer's own tensors only: MultiheadAttention resets its projection, and so does the projection.
        parameters, buffers = _meta_keys(module._parameters, covered), _meta_keys(module._buffers, set())
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        needed = (
            parameters + buffers if isinstance(module, _NormBase) else parameters
        )  # it resets its statistics as well
        if reset is not None and needed:
            resets.append((module, reset))
        left = [key for key in parameters + buffers if reset is None or key not in needed]
        rule_helps |= any(key in parameters for key in left)
        unfilled += [f"{path}.{key}" if path else key for key in left]
    if unfilled:
        raise ValueError(
            "the model is on the meta device, and no rule and no reset_parameters would fill "
            f"{listed(unfilled, most=10)}; {'add a rule, or ' * rule_helps}build the model on a real device"
        )
    return resets


def _meta_keys(table: Mapping[str, Tensor | None], covered: set[int]) -> list[str]:
    return [key for key, each in table.items() if each is not None and each.is_meta and id(each) not in covered]


def _put_on_cpu(model: nn.Module) -> tuple[Callable[[], None], set[int]]:
    """Give every meta tensor memory; return a function that undoes it, and the `id`s of the new tensors."""
    before = [(module, dict(module._parameters), dict(module._buffers)) for module in model.modules()]
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for key, tensor in table.items():
                if tensor is not None and tensor.is_meta:
                    table[key] = _real(tensor, made)  # type: ignore[index, assignment]

    def undo() -> None:
        for module, parameters, buffers in before:
            module._parameters.update(parameters)
            module._buffers.update(buffers)

    return undo, {id(tensor) for tensor in made.values()}


def _real(tensor: Tensor, made: dict[int, Tensor]) -> Tensor:
    if id(tensor) not in made:
        empty = torch.empty_like(tensor, device="cpu")
        made[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return made[id(tensor)]


@contextlib.contextmanager
def _others_unchanged(resets: list[Reset], made: set[int]) -> Iterator[None]:
    """Give back what was never on the meta device: a layer resets all its tensors."""
    held = [tensor for module, _ in resets for tensor in (*module.parameters(), *module.buffers())]
    values = [(tensor, tensor.detach().clone()) for tensor in held if id(tensor) not in made]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, old in values:
                tensor.copy_(old)


@contextlib.contextmanager
def _seeded(generator: torch.Generator | None) -> Iterator[None]:
    if generator is None:
        yield
        return
    with _random.same_random_numbers():
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
        yield
