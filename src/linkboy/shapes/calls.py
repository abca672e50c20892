"""See each torch call that the user wrote, as it happens."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from linkboy.shapes.names import NOT_CALLS, VIEW_GETTERS
from linkboy.shapes.places import Place, Places

Shape = tuple[Any, ...]

_functorch: Any = torch._C._functorch  # type: ignore[attr-defined]  # private, as _is_alias_of is
_is_alias: Callable[[Tensor, Tensor], bool] | None = getattr(torch._C, "_is_alias_of", None)


class Call:
    """One call with its operands; `before` holds their shapes from before the call, `outputs` its tensors."""

    __slots__ = ("args", "before", "inputs", "kwargs", "name", "outputs", "place")

    def __init__(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        inputs: list[Tensor],
        before: list[Shape],
        outputs: Sequence[Tensor] = (),
    ) -> None:
        self.name, self.args, self.kwargs, self.inputs, self.before = name, args, kwargs, inputs, before
        self.outputs = outputs
        self.place: Place | None = None

    def argument(self, position: int, keyword: str) -> Any:
        """Return an argument by position or keyword, `None` where it was not given."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(keyword)


class CallMode(TorchFunctionMode):
    """Calls `called` after each call and `failed` where one raises; a subclass says what to do then.

    Nothing is read from the tensors and nothing of them is kept, so results, memory and timing of a device stay as
    they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places = Places()
        self._names: dict[Any, str] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_dynamo_compiling():  # a graph cannot hold this mode; see `trace_shapes`
            return func(*args, **kwargs)
        name = self._names.get(func)
        if name is None:
            name = self._names[func] = _name_of(func)
        if not name:
            return func(*args, **kwargs)
        inputs = _operands(args)
        if kwargs:
            inputs += _operands(kwargs.values())
        before = shapes_of(inputs)
        try:
            output = func(*args, **kwargs)
        except Exception as error:
            self.failed(Call(name, args, kwargs, inputs, before), error)
            raise
        outputs = [output] if type(output) is Tensor else _operands((output,))
        if self.wanted(name, before, outputs):
            self.called(Call(name, args, kwargs, inputs, before, outputs))
        return output

    def wanted(self, name: str, before: list[Shape], outputs: list[Tensor]) -> bool:
        """Say whether to take note of a call; asked for every call, so it must be quick."""
        return bool(outputs)

    def called(self, call: Call) -> None:
        """Take note of a call that is wanted."""

    def failed(self, call: Call, error: Exception) -> None:
        """Take note of a call that raised."""


def _name_of(func: Any) -> str:
    name = getattr(func, "__name__", "")
    if name == "__get__":
        attribute = getattr(getattr(func, "__self__", None), "__name__", "")
        return attribute if attribute in VIEW_GETTERS else ""
    return "" if name in NOT_CALLS else name


def _operands(values: Iterable[Any]) -> list[Tensor]:
    """Return the tensors of a torch call, which come alone or in lists and tuples; quicker than `tensors_of`."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif type(value) in (list, tuple) or isinstance(value, tuple):
            found += _operands(value)
    return found


def shapes_of(tensors: Sequence[Tensor]) -> list[Shape]:
    """Return the shapes of tensors."""
    try:
        return [tensor.shape for tensor in tensors]
    except RuntimeError:
        return [shape_of(tensor) for tensor in tensors]


def shape_of(tensor: Tensor) -> Shape:
    """Return the shape; a nested tensor may have none."""
    try:
        return tensor.shape
    except RuntimeError:
        return (tensor.size(0), "nested")


def tensors_of(values: Iterable[Any]) -> list[Tensor]:
    """Return the tensors among arguments or results, those in lists, tuples, dicts and dataclasses included."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_of(value)
        elif isinstance(value, Mapping):
            found += tensors_of(value.values())
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            found += tensors_of(getattr(value, field.name) for field in dataclasses.fields(value))
    return found


def is_view_of(output: Tensor, inputs: Iterable[Tensor]) -> bool:
    """Say whether `output` shares memory with one of `inputs`; looks below the wrappers of vmap and grad."""
    output = _unwrapped(output)
    return any(_share_memory(output, _unwrapped(tensor)) for tensor in inputs)


def _share_memory(first: Tensor, second: Tensor) -> bool:
    if _is_alias is not None:
        return _is_alias(first, second)
    return first.untyped_storage()._cdata == second.untyped_storage()._cdata


def _unwrapped(tensor: Tensor) -> Tensor:
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor
