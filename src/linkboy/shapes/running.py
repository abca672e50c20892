"""Run a model once on a batch of a given size, trace it, and leave it as it was."""

import contextlib
import dataclasses
import functools
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map_only

from linkboy._untouched import same_random_numbers, untouched
from linkboy.shapes._calls import Place, Shape, shape_of, user_place
from linkboy.shapes._rows import ShapeRow, plain_shapes
from linkboy.shapes.report import ShapeTrace
from linkboy.shapes.trace import trace_shapes


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


Model = nn.Module | Callable[..., Any]
MakeInputs = Callable[[int], Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """One forward pass: what went in, what was traced, what came out or was raised."""

    batch: int
    inputs: tuple[Shape, ...]
    trace: ShapeTrace
    outputs: tuple[Shape, ...] = ()
    error: Exception | None = None

    @functools.cached_property
    def rows(self) -> tuple[ShapeRow, ...]:
        """The traced calls."""
        return self.trace.rows

    @property
    def error_place(self) -> Place | None:
        """Where in the user's code the exception came from."""
        return user_place(self.error) if self.error else None


def run_once(model: Model, make_inputs: MakeInputs, batch: int, *, fake: bool, seed: int = 0) -> Run:
    """Run `model` on `make_inputs(batch)` without gradients, on fake tensors or on real ones."""
    with left_alone(model, seed):
        given = make_inputs(batch)
        shapes = plain_shapes(shape_of(tensor) for tensor in input_tensors(given))
        outputs: tuple[Shape, ...] = ()
        error = None
        with _stand_ins(fake=fake) as stand_in:
            inputs = with_tensors(given, stand_in)
            with trace_shapes(hazards="collect", ops="all") as trace:
                try:
                    outputs = plain_shapes(shape_of(tensor) for tensor in tensors_of((run_model(model, inputs),)))
                except Exception as raised:  # noqa: BLE001 - whatever a model raises at some batch size is a finding
                    error = raised
    return Run(batch, shapes, trace, outputs, error)


@contextlib.contextmanager
def _stand_ins(*, fake: bool) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield what makes inputs that a model may write into: fake tensors, in a mode for them, or clones."""
    if not fake:
        yield torch.clone
        return
    log = logging.getLogger("torch._subclasses.fake_tensor")
    log.addFilter(_nothing)  # what fakes cannot do is an exception here, which the log would only repeat
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            yield functools.partial(_fake, mode)
    finally:
        log.removeFilter(_nothing)


def _fake(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    try:
        return mode.from_tensor(tensor)
    except Exception:  # noqa: BLE001 - nested tensors have no fake; the model is then told so when it uses them
        return tensor


def _nothing(_: logging.LogRecord) -> bool:
    return False


@contextlib.contextmanager
def left_alone(model: Model, seed: int) -> Iterator[None]:
    """Give the model's attributes and the random generators back when the block ends; seed them in it."""
    with untouched(model) if isinstance(model, nn.Module) else contextlib.nullcontext(), same_random_numbers():
        torch.manual_seed(seed)
        random.seed(seed)
        with torch.no_grad():
            yield


def run_model(model: Model, inputs: Any) -> Any:
    """Call the model with positional arguments, keywords of a mapping, or one tensor; its buffers stay as they are."""
    args = inputs if isinstance(inputs, tuple) else () if isinstance(inputs, Mapping) else (inputs,)
    keywords = dict(inputs) if isinstance(inputs, Mapping) else {}
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        return model(*args, **keywords)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return functional_call(model, buffers, args, keywords)


def with_tensors(inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return the inputs with every tensor exchanged; a mapping becomes a dict."""
    return tree_map_only(Tensor, change, dict(inputs) if isinstance(inputs, Mapping) else inputs)


def input_tensors(inputs: Any) -> list[Tensor]:
    """Return the tensors among the inputs, in the order in which `with_tensors` meets them."""
    return [
        leaf
        for leaf in tree_leaves(dict(inputs) if isinstance(inputs, Mapping) else inputs)
        if isinstance(leaf, Tensor)
    ]
