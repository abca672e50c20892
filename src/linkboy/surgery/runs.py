"""Run a model on an example, for real or on fake tensors, and record what came out of every module.

A fake run computes shapes, dtypes and devices only. What it would let pass is checked on the way: mixed floating
dtypes in a matrix product or convolution, and ids beyond the rows of an embedding, read from the real example.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from linkboy._checks import describe
from linkboy._untouched import same_random_numbers
from linkboy.surgery.names import kind_of
from linkboy.surgery.snapshot import restored

_PRODUCTS = frozenset((
    F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
    F.scaled_dot_product_attention, torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm,
    Tensor.matmul, Tensor.__matmul__, Tensor.mm, Tensor.bmm, Tensor.addmm, Tensor.baddbmm,
))  # fmt: skip


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
            return cls(tuple(example), {})
        raise TypeError(
            f"example must be a tuple of arguments, a mapping of keyword arguments or a tensor, got {type(example).__name__}"
        )


class Refused(Exception):  # noqa: N818 - it never leaves this room
    """A check of ours failed during a run; its text is the reason."""


@dataclasses.dataclass
class Run:
    """One forward pass. `shapes` and `called` are keyed by the `id` of a module; `failure` is `None` if it ended well."""

    fake: bool
    shapes: dict[int, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    called: set[int] = dataclasses.field(default_factory=set)
    output: Any = None
    failure: str | None = None
    error: Exception | None = None


def run_model(model: nn.Module, example: Example, *, fake: bool) -> Run:
    """Run a model in evaluation mode without gradients, and leave it and the random generators as they were."""
    run = Run(fake)
    recorder = _Recorder(model, run)
    with contextlib.ExitStack() as stack:
        stack.enter_context(restored(model))
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
    model: nn.Module, example: Example, recorder: "_Recorder", stack: contextlib.ExitStack, *, fake: bool
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
    """Exchange the tensors of a model; its attributes are given back by `restored`."""
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


class _Recorder(TorchFunctionMode):
    """Know at every moment which module runs, and which module each tensor comes from."""

    def __init__(self, model: nn.Module, run: Run) -> None:
        super().__init__()
        self.run, self.names = run, {id(module): name for name, module in model.named_modules()}
        self.kinds = {id(module): kind_of(module) for module in model.modules()}
        self.makers: Any = WeakIdKeyDictionary()  # tensor -> (name of a module, whether it is its very output)
        self.real: Any = WeakIdKeyDictionary()  # fake tensor -> the real one it stands for
        self.running: list[tuple[nn.Module, list[Tensor]]] = []
        self.finished: tuple[str, tuple[str, ...]] = "", ()  # the module that ended last, and what it gave

    def mark_example(self, args: Any, kwargs: Any) -> None:
        for tensor in tensors_in((args, kwargs)):
            self.makers[tensor] = ("the example", True)

    def attach(self, module: nn.Module) -> None:
        module.register_forward_pre_hook(self._enter_module, with_kwargs=True)
        module.register_forward_hook(self._leave_module)

    def _enter_module(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.running.append((module, tensors_in((args, kwargs))))

    def _leave_module(self, module: nn.Module, _: Any, output: Any) -> None:
        while self.running and self.running[-1][0] is not module:  # a forward caught an error from below
            self.running.pop()
        if self.running:
            self.running.pop()
        found, name = tensors_in(output), self.names.get(id(module), "")
        with torch._C.DisableTorchFunction():  # or each shape that is read would come by here
            shapes = tuple(map(describe, found))
        self.finished = name, shapes
        self.run.called.add(id(module))
        self.run.shapes.setdefault(id(module), shapes)
        for tensor in found:
            maker, exact = self.makers.get(tensor, ("", False))
            if not (exact and maker.startswith(f"{name}." if name else "")):  # the innermost maker is the telling one
                self.makers[tensor] = (name, True)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _PRODUCTS:
            self._check_dtypes(args)
        elif func is F.embedding:
            self._check_ids(*args[:2])
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result not in self.makers:
            source = next((arg for arg in args if isinstance(arg, Tensor) and arg in self.makers), None)
            if source is not None:
                self.makers[result] = (self.makers[source][0], False)
                if result.dtype == source.dtype and result.numel() == source.numel() and source in self.real:
                    self.real[result] = self.real[source]  # a view or a reshape has the same values
        return result

    def _check_dtypes(self, args: tuple[Any, ...]) -> None:
        floating = [arg for arg in args if isinstance(arg, Tensor) and arg.is_floating_point()]
        dtypes = {tensor.dtype for tensor in floating}
        if len(dtypes) > 1 and not torch.is_autocast_enabled(floating[0].device.type):
            raise Refused(
                f"it mixes {' and '.join(sorted(describe(tensor) for tensor in floating[:2]))} in one product"
            )

    def _check_ids(self, ids: Any, weight: Any = None) -> None:
        real = self.real.get(ids) if self.run.fake else ids
        if (
            not isinstance(real, Tensor)
            or weight is None
            or real.is_meta
            or not real.numel()
            or real.is_floating_point()
        ):
            return
        with unset_fake_temporarily():
            low, high = int(real.min()), int(real.max())
        if low < 0 or high >= weight.shape[0]:
            raise Refused(f"ids from {low} to {high} do not fit its {weight.shape[0]} rows")

    def explain(self, error: Exception) -> str:
        """Name the edge at which a run failed: consumer, what it got, producer, and the reason."""
        lines = str(error).strip().splitlines()
        reason = lines[0][:300] if lines else type(error).__name__
        if not isinstance(error, Refused):
            reason = f"{type(error).__name__}: {reason}"
        if not self.running:
            return reason
        module, inputs = self.running[-1]
        name = self.names.get(id(module), "")
        weight = next((tensor for key, tensor in module._parameters.items() if key == "weight"), None)
        kind = self.kinds.get(id(module), kind_of(module)) + (
            f", weight {describe(weight)}" if weight is not None else ""
        )
        got = " and ".join(self._origin(tensor) for tensor in inputs[:3])
        text = f"{name or 'the model'} ({kind})" + f" got {got}" * bool(got)
        last, gave = self.finished
        if last and last.startswith(f"{name}." if name else ""):  # it went on with what a child of its own gave
            text += f", and after {last} gave {' and '.join(gave[:3]) or 'no tensor'}"
        return f"{text}: {reason}"

    def _origin(self, tensor: Tensor) -> str:
        maker = self.makers.get(tensor)
        if maker is None:
            return describe(tensor)
        return f"{describe(tensor)} {'from' if maker[1] else 'derived from'} {maker[0] or 'the model'}"


def tensors_in(value: Any) -> list[Tensor]:
    """List the tensors in an output, looking into mappings, lists and tuples."""
    return [tensor for _, tensor in named_tensors(value)]


def named_tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in an output with a name each, such as `logits` or `hidden_states.0`."""
    if isinstance(value, Tensor):
        yield name or "output", value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from named_tensors(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            yield from named_tensors(item, f"{name}.{index}" if name else str(index))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from named_tensors(getattr(value, field.name), f"{name}.{field.name}" if name else field.name)
