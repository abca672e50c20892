"""Call a model with what a user passes: read the example, find its tensors, run once and leave no trace.

`run="auto" | "shapes" | "values"` has one meaning in all rooms. `"shapes"` computes no values: tensors have shapes, dtypes
and devices only, so that the largest model runs in milliseconds. `"values"` computes. `"auto"` runs on shapes where that is
enough and on values otherwise: if a run on shapes raises (values decide what `forward` does, or a kernel has no shape
function), or if a question cannot be answered without values.

A room asks `arguments_of` for the arguments, `ways` for the ways to try in turn, and opens a `model_run` for each; it adds its
observers (hooks, function and dispatch modes) inside the block and need not remove them.
"""

import collections
import contextlib
import copy
import dataclasses
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence
from torch.utils.weak import WeakIdKeyDictionary

from linkboy import _random
from linkboy._untouched import untouched
from linkboy._walk import first_lazy, unwrapped

Model = nn.Module | Callable[..., Any]
How = Literal["auto", "shapes", "values"]
Way = Literal["meta", "fake", "values"]
HOW: tuple[How, ...] = ("auto", "shapes", "values")


# ------------------------------------------------------------------------------------------ from an example to arguments
@dataclasses.dataclass(frozen=True)
class Arguments:
    """The arguments of one call.

    Attributes:
        args: the positional ones.
        kwargs: those given by name.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def map(self, change: Callable[[Tensor], Tensor]) -> "Arguments":
        """Return the same arguments in containers of their own, with `change(tensor)` for each tensor."""
        return Arguments(map_tensors(self.args, change), map_tensors(self.kwargs, change))

    def call(self, model: Model) -> Any:
        """Return what the model returns for these arguments."""
        try:
            return model(*self.args, **self.kwargs)
        except TypeError as error:
            if len(self.args) > 1 and not _takes(model, self) and _takes(model, Arguments(self.args[:1], {})):
                error.add_note(
                    f"{len(self.args)} arguments were given, the model takes one; of a pair of input and target pass the input"
                )
            raise


def arguments_of(example: Any, model: Model | None = None, *, name: str = "example") -> Arguments:
    """Read the arguments of a call from what a user passes as an example or takes from a loader.

    A tuple or list holds positional arguments, a mapping holds keywords, anything else is the one argument. If the keys of
    a mapping or the fields of a named tuple are not arguments of the model and the model takes one positional argument, the
    mapping or tuple is that argument, as in `forward(self, batch)`. A `PackedSequence`, which is also a tuple, is one argument.

    Args:
        example: a tensor, a tuple, list or mapping (also a `UserDict`, such as a tokenizer's `BatchEncoding`), or anything
            else the model takes. Its containers are copied, so a call cannot write into them.
        model: what will be called; without it every mapping holds keywords.
        name: the name of the caller's argument, for messages.

    Returns:
        The `Arguments`, with the tensors of the example themselves.

    Raises:
        TypeError: the example is a bare shape, such as `(2, 3)`, or a loader.

    Examples:
        >>> x = torch.zeros(2, 3)
        >>> arguments_of([x, x]).call(torch.add).shape
        torch.Size([2, 3])
        >>> arguments_of({"batch": x, "mask": x}, lambda batch: sorted(batch)).args[0].keys()
        dict_keys(['batch', 'mask'])
        >>> arguments_of((2, 3))
        Traceback (most recent call last):
        TypeError: example must hold tensors, got what looks like a shape; pass torch.zeros(2, 3)
    """
    if isinstance(example, (Tensor, PackedSequence)):
        return Arguments((example,), {})
    if isinstance(example, (tuple, list)):
        fields = getattr(example, "_fields", None)  # of a named tuple
        if fields and _is_the_argument(dict(zip(fields, example, strict=True)), model):
            return Arguments((example,), {})
        if len(example) > 1 and all(type(size) is int for size in example):
            raise TypeError(f"{name} must hold tensors, got what looks like a shape; pass torch.zeros{tuple(example)}")
        if example and all(map(_is_shape, example)):
            zeros = ", ".join(f"torch.zeros{tuple(shape)}" for shape in example)
            raise TypeError(f"{name} must hold tensors, got what looks like shapes; pass [{zeros}]")
        return Arguments(tuple(example), {})
    if isinstance(example, torch.utils.data.DataLoader):
        raise TypeError(f"{name} must be one batch, got a DataLoader; pass next(iter(loader))")
    if isinstance(example, Mapping) and not _is_the_argument(example, model):
        return Arguments((), dict(example))
    if isinstance(example, (dict, collections.UserDict)):  # of other mappings a copy may hold less
        return Arguments((_mapping_like(example, dict(example)),), {})
    return Arguments((example,), {})


def _is_shape(value: object) -> bool:
    return isinstance(value, tuple) and len(value) > 1 and all(type(size) is int for size in value)


def _is_the_argument(example: Mapping[Any, Any], model: Model | None) -> bool:
    if model is None:
        return False
    signature = _signature(model)
    if signature is None:
        return False
    try:
        signature.bind(**example)
    except TypeError:  # keys that it does not take, keys that are missing, or keys that are not strings
        positional = [
            p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        needed = [p for p in positional if p.default is p.empty]
        return len(positional) == 1 or (len(needed) == 1 and signature.parameters.keys().isdisjoint(example))
    return False


def _takes(model: Model, arguments: Arguments) -> bool:
    """Return whether a model can be called with so many arguments of these names, as far as its signature tells."""
    signature = _signature(model)
    if signature is None:
        return True
    try:
        signature.bind(*arguments.args, **arguments.kwargs)
    except TypeError:
        return False
    return True


def _signature(model: Model) -> inspect.Signature | None:
    model = unwrapped(model)  # a wrapper's own forward takes anything
    try:
        return inspect.signature(model.forward if isinstance(model, nn.Module) else model)
    except (TypeError, ValueError):  # some builtins have none
        return None


# ------------------------------------------------------------------------------------------------- tensors in containers
def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in a value, in order: in mappings, lists, tuples, named tuples and dataclasses, also nested.

    Examples:
        >>> len(tensors_in({"logits": torch.zeros(1), "hidden_states": (torch.zeros(2), None)}))
        2
    """
    if isinstance(value, Tensor):
        return [value]
    return [tensor for _, item in _items(value) for tensor in tensors_in(item)]


def named_tensors(value: Any, alone: str = "output") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in a value, as `tensors_in` does, each with its path; a tensor that is not in a container is `alone`.

    Examples:
        >>> [name for name, _ in named_tensors({"logits": torch.zeros(1), "hidden_states": (torch.zeros(2),)})]
        ['logits', 'hidden_states.0']
    """
    if isinstance(value, Tensor):
        yield alone, value
        return
    for key, item in _items(value):
        if isinstance(item, Tensor):
            yield str(key), item
        else:
            yield from ((f"{key}.{path}", tensor) for path, tensor in named_tensors(item))


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a value with `change(tensor)` in place of each tensor, in the order of `tensors_in`.

    Containers are copied, class and other contents included; the caller's are never written into, and writing into the
    copies does not show in them. What is neither a tensor nor a container stays the same object.

    Examples:
        >>> batch = collections.UserDict(ids=torch.ones(2), words=["a", "b"])
        >>> map_tensors(batch, torch.neg)
        {'ids': tensor([-1., -1.]), 'words': ['a', 'b']}
        >>> batch["ids"]
        tensor([1., 1.])
    """
    if isinstance(value, Tensor):
        return change(value)
    items = [(key, map_tensors(item, change)) for key, item in _items(value)]
    if isinstance(value, PackedSequence):  # its `batch_sizes` are numbers that an LSTM reads on the CPU
        return value._make(value.batch_sizes if key == "batch_sizes" else item for key, item in items)
    if isinstance(value, Mapping):
        return _mapping_like(value, dict(items))
    if isinstance(value, tuple):
        parts = [item for _, item in items]
        if hasattr(value, "_make"):
            return value._make(parts)  # type: ignore[attr-defined]  # a named tuple
        return tuple(parts) if type(value) is tuple else type(value)(parts)
    if isinstance(value, (list, collections.deque)):
        made = copy.copy(value)
        for place, item in items:
            made[place] = item
        return made
    if _is_record(value):
        made = copy.copy(value)
        for key, item in items:
            object.__setattr__(made, key, item)  # also where it is frozen
        return made
    return value


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    """Return the keys and items of a container, nothing for anything else."""
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, (tuple, list, collections.deque)):
        fields = getattr(value, "_fields", None)  # of a named tuple
        return zip(fields, value, strict=True) if fields else enumerate(value)
    if _is_record(value):
        names = [field.name for field in dataclasses.fields(value)]
        return [(name, getattr(value, name)) for name in names if hasattr(value, name)]
    return ()


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, (type, nn.Module))


def _mapping_like(value: Mapping[Any, Any], items: dict[Any, Any]) -> Mapping[Any, Any]:
    if type(value) is dict:
        return items
    if isinstance(value, (dict, collections.UserDict)):
        made = copy.copy(value)
        if getattr(value, "__dict__", None) is value:  # the well-known AttrDict, whose attributes are its items
            made.__dict__ = made  # type: ignore[assignment]
        for key, item in items.items():
            made[key] = item
        return made
    try:
        made = type(value)(items)  # type: ignore[call-arg]  # a copy of an unknown class might share its storage
        return made if list(made) == list(items) else items
    except Exception:  # noqa: BLE001 - a class may want anything of its caller; a dict has the same items
        return items


# ---------------------------------------------------------------------------------------------------------- the one run
@dataclasses.dataclass(frozen=True)
class ModelRun:
    """A model ready to run once, with stand-ins for its own tensors and those of its arguments.

    Attributes:
        model: the model itself, or the function.
        arguments: the arguments to call it with.
        way: `"meta"`, `"fake"` or `"values"`.
        originals: from a stand-in to the tensor it stands for, of the model and of the arguments; weak, so an observer may
            add what it derives.
    """

    model: Model
    arguments: Arguments
    way: Way
    originals: Any

    def call(self) -> Any:
        """Return what the model returns; stand-ins, where it runs on shapes."""
        return self.arguments.call(self.model)


def ways(model: Model, how: How, *, devices: bool = False) -> tuple[Way, ...]:
    """Return the ways to run a model, to be tried in turn; see the top of this file for what `how` means.

    Args:
        model: the model.
        how: `"auto"`, `"shapes"` or `"values"`.
        devices: whether a run on shapes must distinguish devices; fake tensors do, meta tensors do not and take two thirds of
            the time.

    Returns:
        Those of `"meta"`, `"fake"` and `"values"` that `how` allows; never `"values"` for a model on the meta device.

    Raises:
        ValueError: `how` is `"values"` and the model is on the meta device.

    Examples:
        >>> ways(nn.Linear(2, 2), "auto")
        ('meta', 'fake', 'values')
    """
    shapes: tuple[Way, ...] = ("fake",) if devices else ("meta", "fake")
    if how == "shapes" or (how == "auto" and without_values(model)):
        return shapes
    if without_values(model):
        raise ValueError("run='values' needs a model with values, got one on the meta device; load its weights first")
    return ("values",) if how == "values" else (*shapes, "values")


def without_values(model: Model) -> bool:
    """Return whether tensors of a model are on the meta device, so that it can run on shapes alone."""
    return isinstance(model, nn.Module) and any(tensor.is_meta for tensor in _state(model))


def refuse_lazy(model: Model) -> None:
    """Raise for a model with lazy parameters, which a run would fill."""
    if isinstance(model, nn.Module) and (name := first_lazy(model)) is not None:
        raise ValueError(
            f"model must have no lazy parameters, which a run would fill, and {name!r} is one; "
            "run one batch through the model first"
        )


@contextlib.contextmanager
def model_run(
    model: Model,
    arguments: Arguments,
    way: Way,
    *,
    grad: bool = False,
    training: bool | None = None,
    seed: int | None = None,
    integers: bool = False,
) -> Iterator[ModelRun]:
    """Make a model ready to run once, and leave no trace of the run, whatever happens in it.

    When the block ends, the attributes of every module (mode, hooks, tensors, the flat weights of recurrent layers, what
    `forward` added), the gradients and flags of parameters, and the random streams are restored. On values the
    model runs on copies of its buffers, of its plain tensor attributes and of its inputs; on shapes all tensors are
    stand-ins. Not restored: an object of another kind that an attribute holds and that `forward` changes in place, what a
    function closes over, and parameters that `forward` writes into on values (only those of `max_norm` are copied).

    Args:
        model: a module or any other callable.
        arguments: what to call it with; neither containers nor tensors are written into.
        way: `"meta"` runs shapes on the meta device; `"fake"` runs shapes, distinguishes devices and continues where a
            constant is read; `"values"` computes.
        grad: whether gradients are recorded.
        training: the mode of all modules; `None` leaves each in its own.
        seed: seeds the random streams of torch, Python and NumPy for the run; `None` leaves them as they are.
        integers: whether a run on fakes follows the values of small integer tensors, so that it continues where lengths,
            masks or ids decide what `forward` does.

    Yields:
        A `ModelRun`; its `call()` runs the model, and hooks registered on modules are removed at the end.

    Raises:
        ValueError: the model has lazy parameters, or is to run on values and the arguments have none.

    Examples:
        >>> model = nn.BatchNorm1d(3)
        >>> with model_run(model, arguments_of(torch.ones(8, 3)), "values") as run:
        ...     y = run.call()
        >>> model.num_batches_tracked.item()
        0
        >>> with model_run(model, arguments_of(torch.ones(8, 3)), "meta") as run:
        ...     run.call()
        tensor(..., device='meta', size=(8, 3))
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    parameters = [tensor for module in modules for tensor in module.parameters(recurse=False)]
    buffers = (tensor for module in modules for tensor in module.buffers(recurse=False))
    if any(map(is_lazy, (*parameters, *buffers))):
        refuse_lazy(model)
    if way == "values" and any(tensor.is_meta for tensor in tensors_in((arguments.args, arguments.kwargs))):
        raise ValueError("a run on values needs an example with values, got a tensor on the meta device")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_random.same_random_numbers())
        if seed is not None:
            _random.seed(seed)
        if isinstance(model, nn.Module):
            stack.enter_context(untouched(model))
            stack.enter_context(_scripts_kept(modules))
        stack.enter_context(torch.set_grad_enabled(grad))
        if training is not None:
            for module in modules:
                module.training = training
        stand_ins = _StandIns(way)
        if way == "values":
            stack.enter_context(_gradients_kept(parameters))
        for module in modules:
            if not isinstance(module, torch.jit.ScriptModule):
                stand_ins.swap(module)
        run = ModelRun(model, arguments.map(stand_ins.of_input), way, stand_ins.originals)
        if way == "meta":
            stack.enter_context(torch.device("meta"))
        elif stand_ins.mode is not None:
            stack.enter_context(_no_log_of_fakes())
            stack.enter_context(stand_ins.mode)
            if integers:
                from linkboy._integers import known_integers

                stack.enter_context(known_integers(stand_ins.mode, stand_ins.originals))
        yield run


class _StandIns:
    """Makes one stand-in for each tensor, so that tied tensors stay tied."""

    def __init__(self, way: Way) -> None:
        self.way, self.mode = way, None
        self.made: dict[int, tuple[Tensor, Tensor]] = {}  # id -> original, which keeps the id its own, and stand-in
        self.originals: Any = WeakIdKeyDictionary()
        if way == "fake":
            from torch._subclasses.fake_tensor import FakeTensorMode  # a compiler's tool: costs memory where unused

            self.mode = FakeTensorMode(allow_non_fake_inputs=True)

    def swap(self, module: nn.Module) -> None:
        """Replace a module's tensors by stand-ins, also those that torch does not register."""
        for table in (module._parameters, module._buffers):
            for key, tensor in table.items():
                if tensor is not None:
                    table[key] = self.of_model(tensor)  # type: ignore[index, assignment]
        if (
            self.way == "values" and getattr(module, "max_norm", None) is not None
        ):  # an Embedding that writes its weight
            for key, tensor in module._parameters.items():
                if tensor is not None:
                    module._parameters[key] = self._keep(tensor, tensor.clone())  # type: ignore[assignment]
        for key, value in module.__dict__.items():
            if type(value) not in _PLAIN and key not in _TABLES and _holds_tensors(value):
                module.__dict__[key] = map_tensors(value, self.of_model)

    def of_model(self, tensor: Tensor) -> Tensor:
        """Return the stand-in of a tensor of the model; on values, a parameter stands for itself."""
        if id(tensor) in self.made:
            return self.made[id(tensor)][1]
        if self.way != "values":
            return self.of_input(tensor)
        return tensor if isinstance(tensor, nn.Parameter) else self._keep(tensor, tensor.clone())

    def of_input(self, tensor: Tensor) -> Tensor:
        """Return the stand-in of a tensor: a leaf that requires a gradient where the tensor does."""
        if id(tensor) in self.made:
            return self.made[id(tensor)][1]
        own = tensor.detach()
        if self.way == "meta":
            own = own.to("meta")
        elif self.mode is not None:
            own = _fake(self.mode, own)
        else:
            own = own.clone()
        return self._keep(tensor, own.requires_grad_(tensor.requires_grad))

    def _keep(self, tensor: Tensor, made: Tensor) -> Tensor:
        self.made[id(tensor)] = tensor, made
        self.originals[made] = tensor
        return made


_TABLES = frozenset(("_parameters", "_buffers", "_modules"))
_PLAIN = frozenset(
    (bool, int, float, str, type(None), set, collections.OrderedDict)
)  # most attributes, at a tenth the cost


def _holds_tensors(value: Any) -> bool:
    if type(value) not in (list, tuple, dict):
        return isinstance(value, Tensor)
    # one level deep: a plain attribute may be a vocabulary with a million entries
    return any(isinstance(item, Tensor) for item in (value.values() if isinstance(value, dict) else value))


def _fake(mode: Any, tensor: Tensor) -> Tensor:
    """Return a fake of a tensor; that of a plain dense one is made at a sixth of the cost of `from_tensor`."""
    from torch._subclasses.fake_tensor import FakeTensor

    dense = type(tensor) is Tensor and tensor.layout is torch.strided and not tensor.is_quantized
    if not dense or tensor.is_conj() or tensor.is_neg():
        return mode.from_tensor(tensor)
    twin = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return FakeTensor(mode, twin, tensor.device)


@contextlib.contextmanager
def _gradients_kept(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Set gradients aside: a backward pass would add to them in place."""
    kept = [(parameter, parameter.grad, parameter.requires_grad) for parameter in parameters]
    try:
        for parameter, gradient, _ in kept:
            if gradient is not None:
                parameter.grad = None
        yield
    finally:
        for parameter, gradient, required in kept:
            if parameter.grad is not gradient:
                parameter.grad = gradient
            if parameter.requires_grad != required:
                parameter.requires_grad_(required)


@contextlib.contextmanager
def _scripts_kept(modules: list[nn.Module]) -> Iterator[None]:
    """Restore the modes and buffers of scripted modules, whose attributes Python does not hold."""
    scripts = [module for module in modules if isinstance(module, torch.jit.ScriptModule)]
    modes = [(script, script.training) for script in scripts if hasattr(script, "training")]  # a frozen one has none
    buffers = [(buffer, buffer.clone()) for script in scripts for buffer in script.buffers(recurse=False)]
    try:
        yield
    finally:
        for script, training in modes:
            script.training = training
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


@contextlib.contextmanager
def _no_log_of_fakes() -> Iterator[None]:
    # Fake tensors log a traceback of their own for a wrong shape, which the exception says as well.
    log = logging.getLogger("torch._subclasses.fake_tensor")
    log.addFilter(_nothing)
    try:
        yield
    finally:
        log.removeFilter(_nothing)


def _nothing(_: logging.LogRecord) -> bool:
    return False


def _state(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():  # a fraction of the time of `parameters()` and `buffers()`, which join names
        for table in (module._parameters, module._buffers):
            yield from (tensor for tensor in table.values() if tensor is not None)
