"""Record what comes out of every module while a model runs, and where a run fails: producer, consumer, reason.

A run on fake tensors lets two faults pass, which are looked for on the way: mixed floating dtypes in a matrix product
or convolution, and ids beyond the rows of an embedding, read from the real example.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from linkboy._checks import describe
from linkboy.editing._names import kind_of

_PRODUCTS = frozenset((
    F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
    F.scaled_dot_product_attention, torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm,
    Tensor.matmul, Tensor.__matmul__, Tensor.mm, Tensor.bmm, Tensor.addmm, Tensor.baddbmm,
))  # fmt: skip


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


class Recorder(TorchFunctionMode):
    """Know at every moment which module runs, and which module each tensor comes from."""

    def __init__(self, model: nn.Module, run: Run) -> None:
        super().__init__()
        self.run, self.names = run, {id(module): name for name, module in model.named_modules()}
        self.kinds = {id(module): kind_of(module) for module in model.modules()}
        self.makers: Any = WeakIdKeyDictionary()  # tensor -> (name of a module, whether it is its very output)
        self.real: Any = WeakIdKeyDictionary()  # fake tensor -> the real one it stands for
        self.running: list[tuple[nn.Module, Any]] = []  # what runs now, outermost first, with its arguments
        self.finished: tuple[str, tuple[str, ...]] = "", ()  # the module that ended last, and what it gave

    def mark_example(self, args: Any, kwargs: Any) -> None:
        """Let the tensors of the example be known as such in messages."""
        for tensor in tensors_in((args, kwargs)):
            self.makers[tensor] = ("the example", True)

    def attach(self, module: nn.Module) -> None:
        """Take note of each call of a module."""
        module.register_forward_pre_hook(self._enter_module, with_kwargs=True)
        module.register_forward_hook(self._leave_module)

    def _enter_module(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.running.append((module, (args, kwargs)))

    def _leave_module(self, module: nn.Module, _: Any, output: Any) -> None:
        while self.running and self.running[-1][0] is not module:  # a forward caught an error from below
            self.running.pop()
        if self.running:
            self.running.pop()
        found = [output] if isinstance(output, Tensor) else tensors_in(output)
        name = self.names.get(id(module), "")
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
        readable = isinstance(real, Tensor) and not real.is_meta and not real.is_floating_point() and real.numel()
        if not readable or weight is None:
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
        module, arguments = self.running[-1]
        name = self.names.get(id(module), "")
        weight = module._parameters.get("weight")
        kind = self.kinds.get(id(module), kind_of(module))
        kind += f", weight {describe(weight)}" if weight is not None else ""
        got = " and ".join(self._origin(tensor) for tensor in tensors_in(arguments)[:3])
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
