"""Describe a model as a tree: shapes, parameters, FLOPs and memory, from a run that computes nothing."""

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from linkboy._calls import HOW, Arguments, How, arguments_of
from linkboy._checks import check_choice, check_number
from linkboy._report import listed
from linkboy._tensors import check_module
from linkboy._walk import unregistered, unwrapped
from linkboy.parameters._cost import Cost, cost_of, place_of
from linkboy.parameters.count import count_parameters
from linkboy.parameters.report import COLUMNS, Column, ModelSummary, ParameterCount, SummaryRow


def summarize(
    model: nn.Module, *inputs: object, depth: int = 3, run: How = "auto", columns: Sequence[Column] | None = None
) -> ModelSummary:
    """Show what a model is made of and what a forward pass costs, without computing it and without touching it.

    Without inputs nothing runs. With inputs the forward pass runs in the mode (train or eval) in which each module is.
    Whatever happens in it, the model keeps every flag, hook, parameter, buffer, gradient and plain attribute, and the
    random generators keep their state; an object of another kind that an attribute holds and that `forward` changes in
    place is not restored. Your own forward hooks do run, and if a first way of running fails and
    another is tried, they run again.

    Args:
        model: any module; of what torch.compile, DataParallel or DDP wrapped, the module inside is described.
        *inputs: what `forward` takes. A single one is read as an example is everywhere: a tuple or list holds arguments, a
            mapping holds keywords, anything else is the argument.
        depth: levels of modules below the root to show.
        run: `"shapes"` computes nothing; shapes and dtypes of the inputs are used, and the values of small integer inputs
            such as lengths. `"values"` computes; what the forward pass raises is raised. `"auto"` takes shapes, and values
            where the forward pass needs them.
        columns: what the printed table shows of each module, in this order: any of `"input"`, `"output"`, `"kernel"`,
            `"parameters"`, `"share"` (of the parameters of the model), `"trainable"`, `"dtype"`, `"calls"` and `"flops"`.
            `None` shows outputs, parameters and FLOPs, and whether they are trained and their dtype where these differ.

    Returns:
        A `ModelSummary`: the `ParameterCount`, a row for each module, FLOPs, and memory for training. If the forward pass
        fails, the rows have the figures up to the failure, `failed` names the module, and `notes` have the error.

    Raises:
        TypeError: `model` is not a module.
        ValueError: `depth`, `run` or `columns` is out of range, or `run` is `"values"` and the model is on the meta device.

    Examples:
        >>> import torch
        >>> from linkboy import summarize
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> print(summarize(model, torch.zeros(16, 8)))
        Sequential: 46 parameters, all trainable, 184 B
        <BLANKLINE>
        module      type        output  parameters  FLOPs
        Sequential  Sequential  16 x 2          46  1,280
          0         Linear      16 x 4          36  1,024
          1         ReLU        16 x 4           0      0
          2         Linear      16 x 2          10    256
        <BLANKLINE>
        FLOPs of one forward pass (a multiply-add counts 2): 1,280
        not counted, no formula: relu
        training memory 992 B: weights 184 B, buffers 0 B, gradients 184 B, AdamW states 368 B, activations 256 B

    Differs from torchinfo 1.8: tied weights count once, FLOPs are the operators' own rather than parameters times
    positions, the flags of submodules survive, and lazy modules stay lazy.
    """
    check_module("model", model)
    check_number("depth", depth, minimum=0, integer=True)
    check_choice("run", run, HOW)
    for column in columns or ():
        check_choice("columns", column, COLUMNS)
    model = unwrapped(model)  # wrappers change no shape, and hide the names of the modules inside
    count = count_parameters(model)
    cost, notes = _cost(model, inputs, count, run)
    tree = _Tree(cost, depth)
    held = tree.add(model, "", 0, ())
    complete = cost is not None and cost.failed is None
    if count.logical != count.total:
        notes.append("the training memory of packed weights is that of their trainable parameters")
    if plain := [name for name, thing in unregistered(model) if type(thing) is Tensor]:
        notes.append(f"plain tensors, which neither .to() nor state_dict() sees: {listed(plain)}")
    return ModelSummary(
        count=count,
        rows=tuple(tree.rows()),
        flops=sum(cost.flops.values()) if cost and complete else None,
        flops_are_lower_bound=bool(cost and cost.is_lower_bound),
        ops_without_flops=tuple(sorted(cost.ops_without_flops)) if cost else (),
        activation_nbytes=cost.saved_nbytes if cost and complete else None,
        training_memory=_training_memory(held, count, cost if complete else None),
        failed=tree.name_of(cost.failed) if cost and cost.failed else None,
        columns=None if columns is None else tuple(columns),
        notes=tuple(notes),
    )


def _cost(
    model: nn.Module, inputs: tuple[object, ...], count: ParameterCount, run: How
) -> tuple[Cost | None, list[str]]:
    if not inputs:
        return None, []
    if count.uninitialized:
        return None, ["no shapes: the model has lazy parameters; run one batch through it first"]
    try:
        arguments = arguments_of(inputs[0], model, name="inputs") if len(inputs) == 1 else Arguments(inputs, {})
    except TypeError as error:  # a bare shape: the table is worth showing all the same
        return None, [f"no shapes: {error}"]
    cost, error, reason = cost_of(model, arguments, run)
    if cost.failed is not None:
        return cost, [_failure(model, cost, cost.failed, error, run)]
    return cost, [f"computed on values, as shapes alone were not enough ({reason})"] if reason else []


def _failure(model: nn.Module, cost: Cost, failed: nn.Module, error: str, run: How) -> str:
    shapes = ", ".join(" x ".join(map(str, shape)) or "()" for shape in cost.inputs.get(id(failed), ()))
    note = (
        f"the forward pass failed in {place_of(model, failed)}"
        + f", called with {shapes}" * bool(shapes)
        + f": {error}"
    )
    return note + "; run='values' runs it on values instead" * (run == "shapes")


Size = tuple[int, int, str, int]  # elements, trainable elements, dtype, bytes of gradient


def _size(parameter: nn.Parameter) -> Size:
    if is_lazy(parameter):
        return 0, 0, str(parameter.dtype).removeprefix("torch."), 0
    numel, trained = parameter.numel(), parameter.requires_grad
    return numel, numel * trained, str(parameter.dtype).removeprefix("torch."), parameter.nbytes * trained


def _training_memory(held: dict[int, Size], count: ParameterCount, cost: Cost | None) -> dict[str, int]:
    gradients = sum(size[3] for size in held.values())
    parts = {"weights": count.nbytes, "buffers": count.buffer_nbytes, "gradients": gradients}
    parts["AdamW states"] = 2 * gradients
    return parts | ({"activations": cost.saved_nbytes} if cost else {})


class _Tree:
    """The rows of a model, each with the sum of what is below it."""

    def __init__(self, cost: Cost | None, depth: int) -> None:
        self.cost, self.depth = cost or Cost(), depth
        self.shown: list[tuple[nn.Module, str, int, list[Size]]] = []
        self.names: dict[int, str] = {}
        self.around: dict[int, set[int]] = {}  # the modules in which a module is, itself included

    def add(self, module: nn.Module, name: str, level: int, above: tuple[int, ...]) -> dict[int, Size]:
        """Add the rows of a module and its children; return the sizes of its parameters, each once."""
        place, key = len(self.shown), id(module)
        self.names.setdefault(key, name)
        self.around.setdefault(key, {key}).update(above)
        held = {id(p): _size(p) for p in module._parameters.values() if p is not None}
        if module._modules:
            path, prefix = (*above, key), f"{name}." if name else ""
            for child_name, child in module._modules.items():
                if child is not None and id(child) not in path:
                    held |= self.add(child, prefix + child_name, level + 1, path)
        if level <= self.depth:
            self.shown.insert(place, (module, name, level, list(held.values())))
        return held

    def name_of(self, module: nn.Module) -> str:
        """Return the path of a module; of one that is not registered, its class."""
        return self.names.get(id(module), type(module).__name__)

    def rows(self) -> Iterator[SummaryRow]:
        """Yield what was added, with the figures of the run."""
        cost, flops = self.cost, self._flops()
        for module, name, level, sizes in self.shown:
            key = id(module)
            yield SummaryRow(
                name=name,
                kind=type(module).__name__,
                depth=level,
                parameter_count=sum([size[0] for size in sizes]),
                trainable_count=sum([size[1] for size in sizes]),
                dtype=", ".join(dict.fromkeys([size[2] for size in sizes])),
                outputs=cost.outputs.get(key, ()),
                call_count=cost.calls.get(key, 0),
                flops=flops.get(key),
                inputs=cost.inputs.get(key, ()),
                kernel=_kernel(module),
            )

    def _flops(self) -> dict[int, int]:
        """Return the FLOPs of every module that ran, and of every container of one that ran."""
        cost = self.cost
        sums: dict[int, int] = dict.fromkeys(self._around(cost.calls), 0)
        for running, flops in cost.flops.items():
            for key in self._around(running):
                sums[key] = sums.get(key, 0) + flops
        if cost.failed is not None:
            for key in self._around(cost.calls.keys() - cost.outputs.keys()):
                del sums[key]
        return sums

    def _around(self, keys: Iterable[int]) -> set[int]:
        return set().union(*[self.around.get(key, (key,)) for key in keys])


def _kernel(module: nn.Module) -> tuple[int, ...]:
    size = getattr(module, "kernel_size", ())
    return (size,) if isinstance(size, int) else size if isinstance(size, tuple) else ()
