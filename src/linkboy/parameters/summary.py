"""Describe a model as a tree: shapes, parameters, FLOPs and memory, from a run that computes nothing."""

from torch import nn
from torch.nn.parameter import is_lazy

from linkboy._calls import HOW, Arguments, How, arguments_of
from linkboy._checks import check_choice, check_number
from linkboy._tensors import check_module
from linkboy._walk import unwrapped
from linkboy.parameters._cost import Cost, cost_of
from linkboy.parameters.count import count_parameters
from linkboy.parameters.report import ModelSummary, ParameterCount, SummaryRow


def summarize(model: nn.Module, *inputs: object, depth: int = 3, run: How = "auto") -> ModelSummary:
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
        run: `"shapes"` computes nothing; only shapes and dtypes of the inputs are used. `"values"` computes; what the
            forward pass raises is raised. `"auto"` takes shapes, and values where the forward pass needs them.

    Returns:
        A `ModelSummary`: the `ParameterCount`, a row for each module, FLOPs, and memory for training. A run that fails
        leaves the table without shapes, and its `notes` say why.

    Raises:
        TypeError: `model` is not a module.
        ValueError: `depth` or `run` is out of range, or `run` is `"values"` and the model is on the meta device.

    Examples:
        >>> import torch
        >>> from linkboy import summarize
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> print(summarize(model, torch.zeros(16, 8)))
        Sequential: 46 parameters, all trainable, 184 B
        <BLANKLINE>
        module      type        output  parameters  trainable  dtype    FLOPs
        Sequential  Sequential  16 x 2          46       100%  float32  1,280
          0         Linear      16 x 4          36       100%  float32  1,024
          1         ReLU        16 x 4           0          -  -            0
          2         Linear      16 x 2          10       100%  float32    256
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
    model = unwrapped(model)  # wrappers change no shape, and hide the names of the modules inside
    count = count_parameters(model)
    cost, note = _cost(model, inputs, count, run)
    rows: list[SummaryRow] = []
    held = _describe(model, "", depth, 0, cost, rows, set())
    packed = "the training memory of packed weights is that of their trainable parameters"
    return ModelSummary(
        count=count,
        rows=tuple(rows),
        flops=cost.flops.get("", 0) if cost else None,
        ops_without_flops=tuple(sorted(cost.ops_without_flops)) if cost else (),
        activation_nbytes=cost.saved_nbytes if cost else None,
        training_memory=_training_memory(held, count, cost),
        notes=(note,) * bool(note) + (packed,) * (count.logical != count.total),
    )


def _cost(model: nn.Module, inputs: tuple[object, ...], count: ParameterCount, run: How) -> tuple[Cost | None, str]:
    if not inputs:
        return None, ""
    if count.uninitialized:
        return None, "no shapes: the model has lazy parameters; run one batch through it first"
    try:
        arguments = arguments_of(inputs[0], model, name="inputs") if len(inputs) == 1 else Arguments(inputs, {})
    except TypeError as error:  # a bare shape: the table is worth showing all the same
        return None, f"no shapes: {error}"
    return cost_of(model, arguments, run)


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


def _describe(
    module: nn.Module, name: str, depth: int, level: int, cost: Cost | None, rows: list[SummaryRow], above: set[int]
) -> dict[int, Size]:
    """Append the rows of a module and its children; return the sizes of its parameters, each once."""
    place = len(rows)
    held = {id(p): _size(p) for p in module._parameters.values() if p is not None}
    children = [(key, child) for key, child in module._modules.items() if child is not None and id(child) not in above]
    if children:
        above = above | {id(module)}
    for key, child in children:
        held |= _describe(child, f"{name}.{key}" if name else key, depth, level + 1, cost, rows, above)
    if level <= depth:
        sizes = held.values()
        rows.insert(
            place,
            SummaryRow(
                name=name,
                kind=type(module).__name__,
                depth=level,
                parameter_count=sum(size[0] for size in sizes),
                trainable_count=sum(size[1] for size in sizes),
                dtype=", ".join(dict.fromkeys(size[2] for size in sizes)),
                outputs=cost.outputs.get(id(module), ()) if cost else (),
                call_count=cost.calls.get(id(module), 0) if cost else 0,
                flops=cost.flops.get(name, 0) if cost else None,
            ),
        )
    return held
