"""Run a model once on a batch of a given size, trace it, and leave it as it was."""

import contextlib
import dataclasses
import functools
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

from linkboy._untouched import same_random_numbers, untouched
from linkboy.shapes.calls import Shape, shape_of, tensors_of
from linkboy.shapes.places import Place, user_place
from linkboy.shapes.report import ShapeRow, ShapeTrace, plain_shapes
from linkboy.shapes.tracing import trace_shapes

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
    with left_alone(model, seed), _fake_tensors() if fake else contextlib.nullcontext():
        inputs = make_inputs(batch)
        shapes = plain_shapes(shape_of(tensor) for tensor in input_tensors(inputs))
        outputs: tuple[Shape, ...] = ()
        error = None
        with trace_shapes(hazards="collect", ops="all") as trace:
            try:
                outputs = plain_shapes(shape_of(tensor) for tensor in tensors_of((run_model(model, inputs),)))
            except Exception as raised:  # noqa: BLE001 - whatever a model raises at some batch size is a finding
                error = raised
    return Run(batch, shapes, trace, outputs, error)


@contextlib.contextmanager
def _fake_tensors() -> Iterator[None]:
    """Run on fake tensors; what they cannot do is an exception, and torch's log of it would only repeat it."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    log.addFilter(_nothing)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        log.removeFilter(_nothing)


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


def input_tensors(inputs: Any) -> list[Tensor]:
    """Return the tensors among the inputs, in the order in which `tree_map` meets them."""
    return [
        leaf
        for leaf in tree_leaves(dict(inputs) if isinstance(inputs, Mapping) else inputs)
        if isinstance(leaf, Tensor)
    ]
