"""One traced run of a model on a batch of a given size."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from linkboy._calls import Arguments, Model, Way, arguments_of, model_run, named_tensors, tensors_in
from linkboy._random import same_random_numbers, seed
from linkboy.shapes._calls import Place, Shape, shape_of, user_place
from linkboy.shapes._rows import ShapeRow, plain_shapes
from linkboy.shapes.report import ShapeTrace
from linkboy.shapes.trace import trace_shapes

MakeInputs = Callable[[int], Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """One forward pass: the input shapes, the trace, and the output shapes and their paths, or the exception."""

    batch: int
    inputs: tuple[Shape, ...]
    trace: ShapeTrace
    outputs: tuple[Shape, ...] = ()
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    argument_count: int = 0  # by position
    error: Exception | None = None

    @functools.cached_property
    def rows(self) -> tuple[ShapeRow, ...]:
        """The traced calls."""
        return self.trace.rows

    def input_shape(self, name: str) -> Shape | None:
        """Return the shape of an input by its path, `None` where this run has none of that path."""
        return next((shape for key, shape in zip(self.input_names, self.inputs, strict=True) if key == name), None)

    @property
    def error_place(self) -> Place | None:
        """The user's line that raised the exception."""
        return user_place(self.error) if self.error else None


def draw(model: Model, make_inputs: MakeInputs, batch: int, number: int) -> Arguments:
    """Return the arguments that `make_inputs` gives for a batch size and a seed; the random streams are kept."""
    with same_random_numbers():
        seed(number)
        return arguments_of(make_inputs(batch), model, name="what make_inputs returns")


def run_once(model: Model, make_inputs: MakeInputs, batch: int, way: Way, *, number: int = 0) -> Run:
    """Return one run of a model on `make_inputs(batch)`, without gradients, with the random streams seeded by `number`."""
    arguments = draw(model, make_inputs, batch, number)
    given = (arguments.args, arguments.kwargs)
    inputs, input_names = _shapes_in(given), tuple(name for name, _ in named_tensors(given))
    trace, outputs, names, error = ShapeTrace(), (), (), None
    try:
        with model_run(model, arguments, way, seed=number) as run:
            with trace_shapes(hazards="collect", ops="all") as trace:
                output = run.call()
            output = padded(output)
            outputs, names = _shapes_in(output), tuple(name for name, _ in named_tensors(output))
    except Exception as raised:  # noqa: BLE001 - whatever a model raises at some batch size is a finding
        error = raised
    return Run(batch, inputs, trace, outputs, input_names, names, len(arguments.args), error)


def padded(output: Any) -> Any:
    """Return an output with its packed sequences and nested tensors padded, so that their samples lie along a dim."""
    if isinstance(output, PackedSequence):
        return pad_packed_sequence(output, batch_first=True)
    if isinstance(output, Tensor):
        return torch.nested.to_padded_tensor(output, 0.0) if output.is_nested else output
    if type(output) in (tuple, list):
        return type(output)(map(padded, output))
    return {key: padded(value) for key, value in output.items()} if type(output) is dict else output


def seen_on_shapes(arguments: Arguments) -> str:
    """Return, as text to compare, what a run on fake tensors sees of its arguments: shapes, and values outside tensors."""
    plain: list[object] = []

    def note(value: Any) -> None:
        if isinstance(value, Tensor):
            plain.append(tuple(shape_of(value)))
        elif isinstance(value, Mapping):
            plain.extend(value)
            for item in value.values():
                note(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                note(item)
        else:
            plain.append(value)

    note((arguments.args, arguments.kwargs))
    return repr(plain)


def _shapes_in(value: Any) -> tuple[Shape, ...]:
    return plain_shapes(shape_of(tensor) for tensor in tensors_in(value))
