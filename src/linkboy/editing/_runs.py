"""Run a model on an example, for real or on fake tensors, which have shapes, dtypes and devices only."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map_only

from linkboy._untouched import same_random_numbers, untouched
from linkboy.editing._recorder import Recorder, Run

Mode = Literal["auto", "fake", "real"]


@dataclasses.dataclass(frozen=True)
class Example:
    """The arguments of one forward pass."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, example: Any) -> "Example":
        """Read what the caller passed: a tuple of arguments, a mapping of keywords, or one tensor."""
        if isinstance(example, Mapping):
            return cls((), dict(example))
        if isinstance(example, Tensor):
            return cls((example,), {})
        if isinstance(example, (tuple, list)):
            if len(example) > 1 and all(type(size) is int for size in example):
                raise TypeError(
                    f"example must hold tensors, got what looks like a shape; pass torch.zeros{tuple(example)}"
                )
            return cls(tuple(example), {})
        raise TypeError(
            f"example must be a tuple of arguments, a mapping of keyword arguments or a tensor, got {type(example).__name__}"
        )


def run_model(model: nn.Module, example: Example, *, fake: bool) -> Run:
    """Run a model in evaluation mode without gradients, and leave it and the random generators as they were."""
    run = Run(fake)
    recorder = Recorder(model, run)
    with contextlib.ExitStack() as stack:
        stack.enter_context(untouched(model))
        stack.enter_context(same_random_numbers())
        stack.enter_context(torch.no_grad())
        stack.enter_context(_quiet_fakes())
        for module in model.modules():
            if not isinstance(module, torch.jit.ScriptModule):
                module.training = False
                recorder.attach(module)
        try:
            args, kwargs = _prepare(model, example, recorder, stack, fake=fake)
            stack.enter_context(recorder)
            run.output = model(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - a forward may fail in any way, and that is the result of the check
            run.error, run.failure = error, recorder.explain(error)
    return run


def without_values(model: nn.Module) -> bool:
    """Say whether parameters are on the meta device, so that the model can run on shapes alone."""
    return any(tensor.is_meta for tensor in model.parameters())


@contextlib.contextmanager
def _quiet_fakes() -> Iterator[None]:
    # Fake tensors log a traceback of their own for a wrong shape, which here is a result and not an accident.
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _prepare(
    model: nn.Module, example: Example, recorder: Recorder, stack: contextlib.ExitStack, *, fake: bool
) -> tuple[Any, Any]:
    """Put fakes in the place of all tensors, or copies in that of the buffers, and make the arguments to match."""
    made: dict[int, Tensor] = {}
    mode = FakeTensorMode(allow_non_fake_inputs=True) if fake else None

    def stand_in(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            own = tensor.detach()
            made[id(tensor)] = own.clone() if mode is None else _fake(mode, own)
            recorder.real[made[id(tensor)]] = tensor
        return made[id(tensor)]

    _swap(model, stand_in, buffers_only=not fake)
    # Copies of containers and tensors: a forward may write into its input, and the example is used again.
    arguments = tree_map_only(Tensor, stand_in, (example.args, example.kwargs))
    recorder.mark_example(*arguments)
    if mode is not None:
        stack.enter_context(mode)
    return arguments


def _fake(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    """Return a fake of a tensor; that of a plain dense one is made at a sixth of the cost of `from_tensor`."""
    dense = type(tensor) is Tensor and tensor.layout is torch.strided and not tensor.is_quantized
    if not dense or tensor.is_conj() or tensor.is_neg():
        return mode.from_tensor(tensor)
    twin = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return FakeTensor(mode, twin, tensor.device)


def _swap(model: nn.Module, change: Callable[[Tensor], Tensor], *, buffers_only: bool = False) -> None:
    """Exchange the tensors of a model; its attributes are given back by `untouched`."""
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for table in [module._buffers] if buffers_only else [module._parameters, module._buffers]:
            for key, tensor in table.items():
                if tensor is not None:
                    table[key] = change(tensor)  # type: ignore[index]
        flat = module.__dict__.get("_flat_weights")  # recurrent layers keep their parameters a second time
        if flat is not None and not buffers_only:
            flat[:] = [tensor if tensor is None else change(tensor) for tensor in flat]
