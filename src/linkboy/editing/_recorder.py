"""Run a model on an example and record what comes out of every module, and where a run fails: producer, consumer, reason.

A run on shapes lets two faults pass, which are looked for on the way: mixed floating dtypes in a matrix product or
convolution, and ids beyond the rows of an embedding, which are read from the example itself.
"""

import contextlib
import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from linkboy._calls import Arguments, Way, model_run, tensors_in
from linkboy._checks import describe
from linkboy._compat import autocast_enabled
from linkboy._report import plural
from linkboy.editing._names import kind_of, named_once

_PRODUCTS = frozenset((
    F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
    F.scaled_dot_product_attention, torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm,
    Tensor.matmul, Tensor.__matmul__, Tensor.mm, Tensor.bmm, Tensor.addmm, Tensor.baddbmm,
))  # fmt: skip

_SAME_VALUES = frozenset((
    Tensor.view, Tensor.reshape, Tensor.flatten, Tensor.contiguous, Tensor.clone, Tensor.detach, Tensor.to, Tensor.long,
    Tensor.int, Tensor.unsqueeze, Tensor.squeeze, Tensor.transpose, Tensor.permute, Tensor.t,
    torch.reshape, torch.flatten, torch.clone, torch.unsqueeze, torch.squeeze, torch.transpose, torch.permute,
))  # fmt: skip


_SUMS = frozenset(("add", "add_", "__add__", "__radd__", "__iadd__"))


class Refused(Exception):  # noqa: N818 - it never leaves this room
    """A check of this room failed during a run; its text is the reason."""


@dataclasses.dataclass
class RecordedRun:
    """One forward pass, as far as it came.

    Attributes:
        on_values: whether it computed values, not shapes alone.
        shapes: what each module gave at its first call, by its `id`.
        called: the `id` of each module that ended its forward.
        added: the name of each module whose very output was added to something.
        output: what the model returned.
        failure: why and where it failed; `None` if it did not.
        error: the exception behind it.
    """

    on_values: bool
    shapes: dict[int, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    called: set[int] = dataclasses.field(default_factory=set)
    added: set[str] = dataclasses.field(default_factory=set)
    output: Any = None
    failure: str | None = None
    error: Exception | None = None


class Recorder(TorchFunctionMode):
    """Knows at every moment which module runs, and which module each tensor comes from."""

    def __init__(self, model: nn.Module, run: RecordedRun) -> None:
        super().__init__()
        self.run, self.modules = run, list(model.modules())
        self.names = named_once(model)
        self.kinds = {id(module): kind_of(module) for module in self.modules}  # a lazy module changes its class
        self.makers: Any = WeakIdKeyDictionary()  # tensor -> (name of a module, whether it is its very output)
        self.originals: Any = WeakIdKeyDictionary()  # stand-in -> the tensor it stands for
        self.running: list[tuple[nn.Module, Any]] = []  # outermost first, with their arguments
        self.finished: tuple[str, tuple[str, ...]] = "", ()  # the module that ended last, and what it gave

    def begin(self, originals: Any, arguments: Arguments) -> None:
        """Watch the modules of a model that is ready to run, and know the tensors of the example in messages."""
        self.originals = originals
        for tensor in tensors_in((arguments.args, arguments.kwargs)):
            self.makers[tensor] = ("the example", True)
        for module in self.modules:
            if not isinstance(module, torch.jit.ScriptModule):
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
            if not (exact and maker.startswith(f"{name}." if name else "")):  # the innermost maker says most
                self.makers[tensor] = (name, True)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _PRODUCTS:
            self._check_dtypes(args)
        elif func is F.embedding:
            self._check_ids(*args[:2])
        elif getattr(func, "__name__", "") in _SUMS:
            makers = [self.makers.get(arg, ("", False)) for arg in args if isinstance(arg, Tensor)]
            self.run.added |= {name for name, exact in makers if exact}
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result not in self.makers:
            source = next((arg for arg in args if isinstance(arg, Tensor) and arg in self.makers), None)
            if source is not None:
                self.makers[result] = (self.makers[source][0], False)
                if func in _SAME_VALUES and result.numel() == source.numel() and source in self.originals:
                    self.originals[result] = self.originals[source]
        return result

    def _check_dtypes(self, args: tuple[Any, ...]) -> None:
        floating = [arg for arg in args if isinstance(arg, Tensor) and arg.is_floating_point()]
        dtypes = {tensor.dtype for tensor in floating}
        if len(dtypes) > 1 and not autocast_enabled(floating[0].device):
            raise Refused(
                f"it mixes {' and '.join(sorted(describe(tensor) for tensor in floating[:2]))} in one product"
            )

    def _check_ids(self, ids: Any, weight: Any = None) -> None:
        real = ids if self.run.on_values else self.originals.get(ids)
        readable = isinstance(real, Tensor) and not real.is_meta and not real.is_floating_point() and real.numel()
        if not readable or weight is None:
            return
        with unset_fake_temporarily():
            low, high = int(real.min()), int(real.max())
        if low < 0 or high >= weight.shape[0]:
            raise Refused(f"ids from {low} to {high} do not fit its {plural(weight.shape[0], 'row')}")

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


def record(model: nn.Module, arguments: Arguments, way: Way, *, training: bool = False) -> RecordedRun:
    """Run a model without gradients, in evaluation mode unless told otherwise, leave no trace, and return what was seen."""
    run = RecordedRun(on_values=way == "values")
    recorder = Recorder(model, run)
    with contextlib.ExitStack() as stack:
        try:
            ready = stack.enter_context(model_run(model, arguments, way, training=training))
            recorder.begin(ready.originals, ready.arguments)
            stack.enter_context(recorder)
            run.output = ready.call()
        except Exception as error:  # noqa: BLE001 - a forward may fail in any way, and that is the result of the check
            run.error, run.failure = error, recorder.explain(error)
    return run
