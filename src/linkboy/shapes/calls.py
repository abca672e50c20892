"""See each torch call that the user wrote, as it happens."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
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
        self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], inputs: list[Tensor], before: list[Shape]
    ) -> None:
        self.name, self.args, self.kwargs, self.inputs, self.before = name, args, kwargs, inputs, before
        self.outputs: list[Tensor] = []
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
        inputs = tensors_of(args)
        if kwargs:
            inputs += tensors_of(kwargs.values())
        call = Call(name, args, kwargs, inputs, [shape_of(tensor) for tensor in inputs])
        try:
            output = func(*args, **kwargs)
        except Exception as error:
            self.failed(call, error)
            raise
        call.outputs = [output] if type(output) is Tensor else tensors_of((output,))
        if call.outputs:
            self.called(call)
        return output

    def called(self, call: Call) -> None:
        """Take note of a call that gave tensors."""

    def failed(self, call: Call, error: Exception) -> None:
        """Take note of a call that raised."""


def _name_of(func: Any) -> str:
    name = getattr(func, "__name__", "")
    if name == "__get__":
        attribute = getattr(getattr(func, "__self__", None), "__name__", "")
        return attribute if attribute in VIEW_GETTERS else ""
    return "" if name in NOT_CALLS else name


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
