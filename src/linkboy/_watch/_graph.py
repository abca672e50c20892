"""Walk an autograd graph from a loss to its leaves, and read what it says of the program that built it.

Nothing of a program's style is in its graph, so this works for loops, classes, functions and trainers alike. The attributes
read are those that torch saves for its own backward pass; no node is kept.
"""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from linkboy._watch._places import node_line
from linkboy._watch._record import Broadcasted, LossCall, SoftmaxDim, Squashed

Node = Any
MOST_READ = 2**16  # labels of a loss that are counted, and a sixteenth of the numbers of its input that are read
REDUCTIONS = ("none", "mean", "sum")
LOSSES = {
    "NllLoss": "nll", "NllLoss2D": "nll", "BinaryCrossEntropyWithLogits": "bce_logits", "BinaryCrossEntropy": "bce",
    "MseLoss": "mse", "SmoothL1Loss": "smooth_l1", "HuberLoss": "huber", "SoftMarginLoss": "soft_margin",
}  # fmt: skip
# Change the shape or the layout and leave the values: what stands before them stands before the loss.
_VIEWS = frozenset(
    [
        "View",
        "UnsafeView",
        "Reshape",
        "ReshapeAlias",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Permute",
        "T",
        "Clone",
        "ToCopy",
        "Contiguous",
        "Alias",
        "Select",
        "Slice",
        "Index",
        "Expand",
        "Flatten",
        "Unflatten",
        "Split",
        "SplitWithSizes",
        "Unbind",
        "Narrow",
        "MoveDim",
        "Cat",
        "Stack",
        "Gather",
        "IndexSelect",
        "AsStrided",
        "Diagonal",
    ]
)
# What a loss is built of by hand; a matrix product or a softmax ends the head of the graph.
_HEAD = _VIEWS | frozenset(
    [
        "Mean",
        "Sum",
        "Add",
        "Sub",
        "Rsub",
        "Mul",
        "Div",
        "Neg",
        "Pow",
        "Abs",
        "Sqrt",
        "Rsqrt",
        "Exp",
        "Log",
        "Log1P",
        "Clamp",
        "ClampMin",
        "ClampMax",
        "Where",
        "MseLoss",
        "SmoothL1Loss",
        "HuberLoss",
        "Softplus",
        "Relu",
        "Sign",
        "Square",
        "Max",
        "Min",
        "Maximum",
        "Minimum",
        "LogCosh",
        "Cosh",
        "MaskedFill",
        "MaskedSelect",
    ]
)
_PAIRWISE = frozenset({"Sub", "Rsub", "Add", "Mul", "Div"})
_SUFFIX = re.compile(r"Backward\d*$")


def op_of(node: Node) -> str:
    """Return the operation of a node: `"Mul"` for `MulBackward0`."""
    return _op_named(node.name())


@functools.cache  # a program has few kinds of nodes, and a walk asks for thousands
def _op_named(name: str) -> str:
    return _SUFFIX.sub("", name.rpartition("::")[2])


@dataclasses.dataclass
class Walked:
    """What a walk found; it holds nodes, and is dropped before the backward pass begins.

    Attributes:
        leaves: the tensors that will get a gradient, each with the nodes that use it.
        nodes: every node that was visited.
        losses: the known losses with their nodes and targets.
        scale: the factor of a GradScaler on the way from the roots down, 1 where there is none.
    """

    leaves: dict[int, tuple[Tensor, list[Node]]] = dataclasses.field(default_factory=dict)
    nodes: list[Node] = dataclasses.field(default_factory=list)
    losses: list[tuple[Node, LossCall, Tensor | None, Tensor | None]] = dataclasses.field(default_factory=list)
    scale: float = 1.0


SCALE = "linkboy scale"  # in the metadata of a node: by what a GradScaler multiplied there


def mark_scaled(scaled: Tensor, factor: float) -> None:
    """Write into the graph of a tensor that a GradScaler has made by what it multiplied."""
    if scaled.grad_fn is not None:
        scaled.grad_fn.metadata[SCALE] = factor  # type: ignore[index]  # a dict, whatever its annotation


def _factor_at(node: Node) -> float | None:
    return node.metadata.get(SCALE)


def below_scale(node: Node) -> Node:
    """Return the node that a GradScaler multiplied; any other node is returned as it is."""
    return node.next_functions[0][0] if op_of(node) == "Mul" and _factor_at(node) else node


def walk(roots: Iterable[Tensor], *, deep: bool, scaled: bool = False, most: int = 100_000) -> Walked:
    """Visit the nodes from some losses down.

    Args:
        roots: the tensors that `backward` was called on.
        deep: visit every node; otherwise only those of the head, down to the known losses.
        scaled: look for the factors of a GradScaler.
        most: visit no more nodes than these.
    """
    found = Walked()
    begin = [root.grad_fn for root in roots if root.grad_fn is not None]
    seen, waiting = set(begin), [(node, 1.0) for node in begin]
    while waiting and len(found.nodes) < most:
        node, scale = waiting.pop()
        found.nodes.append(node)
        op = op_of(node)
        if scaled and op == "Mul" and (factor := _factor_at(node)):
            scale *= factor
            found.scale = factor if found.scale == 1 else found.scale
        if op in LOSSES:
            found.losses.append(_loss_of(node, LOSSES[op]))
            found.losses[-1][1].scale = scale
        if not deep and (op in LOSSES or op not in _HEAD):
            continue
        for below, _ in node.next_functions:
            if below is None:
                continue
            if (variable := getattr(below, "variable", None)) is not None:
                found.leaves.setdefault(id(variable), (variable, []))[1].append(node)
            elif below not in seen:
                seen.add(below)
                waiting.append((below, scale))
    for root in roots:
        if root.grad_fn is None and root.requires_grad:
            found.leaves.setdefault(id(root), (root, []))
    return found


def reaches(nodes: Iterable[Node], wanted: Callable[[Tensor], bool]) -> bool:
    """Return whether something below these nodes is a leaf that is wanted."""
    seen: set[Node] = set()
    waiting = list(nodes)
    first = True
    while waiting:
        node = waiting.pop()
        for below, _ in node.next_functions:
            if below is None or below in seen:
                continue
            variable = getattr(below, "variable", None)
            if variable is None:
                seen.add(below)
                waiting.append(below)
            elif not first and wanted(variable):
                return True
        first = False
    return False


def input_of(node: Node, number: int = 0) -> Node | None:
    """Return the node before another, views and copies passed over; `None` at a leaf or where there is no gradient."""
    edges = node.next_functions
    before = edges[number][0] if number < len(edges) else None
    while before is not None and op_of(before) in _VIEWS:
        before = next((below for below, _ in before.next_functions if below is not None), None)
    return before


def shape_of(node: Node, number: int = 0) -> tuple[int, ...]:
    """Return the shape of a result of a node."""
    metadata = node._input_metadata
    return tuple(int(size) for size in metadata[number].shape) if number < len(metadata) else ()


def part_taken(nodes: Iterable[Node], loss: Node) -> str:
    """Return the line that takes a part of the losses of an unreduced loss; an empty string where none does."""
    for node in nodes:
        if op_of(node) in ("Select", "Slice", "Index") and _stands_on(node, loss) and (line := node_line(node)):
            return line
    return ""


def _stands_on(node: Node, loss: Node) -> bool:
    while node is not None and node is not loss and op_of(node) in _VIEWS:
        node = node.next_functions[0][0]
    return node is loss


# -------------------------------------------------------------------------------------------------------------- losses
def _loss_of(node: Node, kind: str) -> tuple[Node, LossCall, Tensor | None, Tensor | None]:
    call = LossCall(kind, place=node_line(node))
    given, target = _saved(node, "_saved_self"), _saved(node, "_saved_target")
    reduction = getattr(node, "_saved_reduction", 1)
    call.reduction = REDUCTIONS[reduction] if 0 <= reduction < 3 else "mean"
    if given is not None:
        call.shape = tuple(given.shape)
    if kind in BOUNDED_KINDS and (before := input_of(node)) is not None:
        call.before = op_of(before).lower()
    if kind == "nll":
        before = input_of(node)
        call.from_log_softmax = before is not None and op_of(before) == "LogSoftmax"
        ignored = int(node._saved_ignore_index)
        call.ignore_index = ignored if ignored < 2**63 else ignored - 2**64  # torch shows it without its sign
        if given is not None:
            call.class_count = given.shape[1 if given.dim() > 1 else 0]
    return node, call, given, target


BOUNDED_KINDS = ("mse", "l1", "smooth_l1", "huber")
RANGES = {"relu": (0.0, math.inf), "sigmoid": (0.0, 1.0), "softmax": (0.0, 1.0), "tanh": (-1.0, 1.0)}
BEYOND = 0.05  # so far outside a target may lie by rounding, or to be clear of the end


def _saved(node: Node, name: str) -> Tensor | None:
    try:
        return getattr(node, name)
    except (AttributeError, RuntimeError):  # freed by an earlier backward pass, or unpacked by a hook that raises
        return None


def fill_values(call: LossCall, given: Tensor | None, target: Tensor | None, *, full: bool) -> None:
    """Read from the tensors of a loss what the checks need, as plain numbers.

    Args:
        call: the call to fill.
        given: its input.
        target: its target.
        full: also the figures that read all of the input.
    """
    with torch.no_grad():
        if target is not None and target.numel():
            if call.kind == "nll":
                flat = target.flatten()
                flat = flat[:: max(1, flat.numel() // MOST_READ)]
                kept = flat[flat != call.ignore_index]
                call.ignored = flat.numel() - kept.numel()
                if kept.numel():
                    values, counts = kept.unique(return_counts=True)
                    call.classes = Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))
                else:
                    call.classes = Counter()
            elif target.is_floating_point():
                low, high = torch.aminmax(target.detach().float())
                call.target_low, call.target_high = low.item(), high.item()
                call.target_rms = target.detach().float().square().mean().sqrt().item()
                low, high = RANGES.get("sigmoid" if call.kind == "bce_logits" else call.before, (-math.inf, math.inf))
                outside = (target.detach() < low - BEYOND) | (target.detach() > high + BEYOND)
                call.outside = outside.float().mean().item()
        if full and given is not None and given.numel():
            _fill_input(call, given.detach(), target)


def _fill_input(call: LossCall, given: Tensor, target: Tensor | None) -> None:
    if given.numel() > 16 * MOST_READ and given.dim() > 1:
        rows = max(1, 16 * MOST_READ * len(given) // given.numel())
        given, target = given[:rows], target if target is None else target[:rows]
    call.output_rms = given.float().square().mean().sqrt().item()
    if call.kind == "nll":
        dim = 1 if given.dim() > 1 else 0
        if not call.from_log_softmax:
            sums = given.float().exp().sum(dim)
            call.exp_sums = (sums.min().item(), sums.max().item())
            call.distribution = bool((given >= 0).all()) and bool((given.float().sum(dim) - 1).abs().max() < 1e-2)
        if target is not None:
            call.value = torch.nn.functional.nll_loss(
                given.float(), target, ignore_index=-100 if call.ignore_index is None else call.ignore_index
            ).item()
    elif call.kind == "bce_logits" and target is not None and target.shape == given.shape:
        call.value = torch.nn.functional.binary_cross_entropy_with_logits(given.float(), target.float()).item()


# ------------------------------------------------------------------------------------------------------- double squashing
def squashed(nodes: Iterable[Node]) -> Iterator[Squashed]:
    """Yield the losses and softmaxes whose input was squashed before, or cut at zero."""
    for node in nodes:
        op = op_of(node)
        if op == "LogSoftmax":
            before = _input_as_it_is(node)
            if before is not None and op_of(before) in ("Softmax", "Sigmoid"):
                yield _squash("double-softmax", before, "log-softmax", node)
            elif before is not None and op_of(before) == "Relu":
                yield _squash("relu-logits", before, "log-softmax", node)
        elif op == "Softmax":
            before = input_of(node)
            if before is not None and op_of(before) == "Softmax" and before._saved_dim == node._saved_dim:
                yield _squash("double-softmax", before, "softmax", node)
        elif op == "BinaryCrossEntropyWithLogits":
            before = _input_as_it_is(node)
            if before is not None and op_of(before) in ("Softmax", "Sigmoid"):
                yield _squash("double-sigmoid", before, "sigmoid of the loss", node)
            elif before is not None and op_of(before) == "Relu":
                yield _squash("relu-logits", before, "sigmoid of the loss", node)
        elif op in ("Sigmoid", "LogSigmoid", "LogSigmoidForward"):
            before = input_of(node)
            if before is not None and op_of(before) == "Sigmoid":
                yield _squash("double-sigmoid", before, "sigmoid", node)


def _input_as_it_is(node: Node) -> Node | None:
    """Return the node before another, past a clamp or the addition of a small number, which hardly change a probability."""
    before = input_of(node)
    while before is not None and (op := op_of(before)) in ("Clamp", "ClampMin", "ClampMax", "Add"):
        if op == "Add" and sum(below is not None for below, _ in before.next_functions) > 1:
            return before
        before = input_of(before)
    return before


def _squash(word: str, before: Node, after: str, node: Node) -> Squashed:
    return Squashed(word, op_of(before).lower(), after, node_line(node), node_line(before))


# --------------------------------------------------------------------------------------------------------------- tables
def broadcasts(roots: Iterable[Tensor]) -> Iterator[Broadcasted]:
    """Yield the operations near a loss that made a table of all pairs out of `(N, 1)` and `(N,)` by accident."""
    waiting: list[tuple[Node, tuple[Node, ...]]] = [(root.grad_fn, ()) for root in roots if root.grad_fn is not None]
    seen = {node for node, _ in waiting}
    while waiting:
        node, above = waiting.pop()
        op = op_of(node)
        if op not in _HEAD:
            continue
        # An expand of the user's own is meant; that of a loss of torch is what it does to shapes that differ.
        if (op in _PAIRWISE or (op == "Expand" and _in_a_loss(above))) and (found := _table(node, op)) is not None:
            yield found
        for below, _ in node.next_functions:
            if below is not None and below not in seen and getattr(below, "variable", None) is None:
                seen.add(below)
                waiting.append((below, (*above[-1:], node)))


def _in_a_loss(above: tuple[Node, ...]) -> bool:
    """Return whether the last of some nodes is a loss of torch, of which `l1_loss` is an absolute difference to a target."""
    ops = [op_of(node) for node in above]
    absolute = ops == ["Abs", "Sub"] and any(below is None for below, _ in above[-1].next_functions)
    return absolute or (bool(ops) and ops[-1] in LOSSES)


def _table(node: Node, op: str) -> Broadcasted | None:
    shape = shape_of(node)
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] < 2:
        return None
    edges = [(below, number) for below, number in node.next_functions if below is not None]
    operands = [shape_of(below, number) for below, number in edges]
    column, row = (*shape[:-2], shape[-1], 1), shape[:-2] + shape[-1:]
    if not operands or not all(operand in (column, row) for operand in operands):
        return None
    if any(op_of(below) in _PAIRS_ON_PURPOSE for below, _ in edges):
        return None
    if len(edges) == 2 and (operands[0] == operands[1] or _source(edges[0][0]) is _source(edges[1][0])):
        return None
    return Broadcasted(shape, operands[0], node_line(node), op.lower())


_PAIRS_ON_PURPOSE = ("Unsqueeze", "Transpose", "T", "Permute")  # x[:, None], and x.T of a column


def _source(node: Node) -> Node:
    while op_of(node) in _VIEWS and (below := node.next_functions[0][0]) is not None:
        node = below
    return node


# ---------------------------------------------------------------------------------------------------------------- units
def relu_results(nodes: Iterable[Node]) -> Iterator[tuple[str, Tensor, int]]:
    """Yield for each ReLU its line, which units were above zero for some sample, and how many samples there were."""
    for node in nodes:
        if op_of(node) != "Relu":
            continue
        result = _saved(node, "_saved_result")
        if result is None or result.dim() < 2 or not result.numel():
            continue
        dim = 1 if result.dim() >= 4 else result.dim() - 1
        alive = (result.detach() > 0).movedim(dim, 0).flatten(1)
        yield node_line(node), alive.any(1), alive.shape[1]


def softmax_dims(nodes: Iterable[Node]) -> Iterator[SoftmaxDim]:
    """Yield the softmaxes of a graph."""
    for node in nodes:
        if (op := op_of(node)) in ("Softmax", "LogSoftmax"):
            shape, dim = shape_of(node), int(node._saved_dim)
            dim = dim - 2**64 if dim > 2**63 else dim  # torch shows it without its sign
            yield SoftmaxDim(dim % len(shape) if shape else 0, shape, node_line(node), op == "LogSoftmax")


_STEEP = {
    "Sqrt": ("_saved_result", "the square root of 0, whose slope is infinite"),
    "Rsqrt": ("_saved_result", "the reciprocal square root of 0"),
    "Log": ("_saved_self", "the logarithm of 0, whose slope is infinite"),
    "Div": ("_saved_other", "a division by 0"),
    "Reciprocal": ("_saved_result", "a division by 0"),
    "Pow": ("_saved_self", "a fractional power of 0, whose slope is infinite"),
    "Acos": ("_saved_self", "acos of 1 or -1, whose slope is infinite"),
    "Asin": ("_saved_self", "asin of 1 or -1, whose slope is infinite"),
}


def steep_places(nodes: Iterable[Node]) -> Iterator[tuple[str, str]]:
    """Yield the operations whose gradient is not finite on the values they had: what it is, and its line."""
    for node in nodes:
        op = op_of(node)
        if op not in _STEEP:
            continue
        attribute, what = _STEEP[op]
        saved = _saved(node, attribute)
        if not isinstance(saved, Tensor) or not saved.is_floating_point():
            continue
        if _is_steep(op, node, saved.detach()):
            yield what, node_line(node)


def _is_steep(op: str, node: Node, saved: Tensor) -> bool:
    if op in ("Rsqrt", "Reciprocal"):
        return bool(saved.isinf().any())
    if op in ("Acos", "Asin"):
        return bool((saved.abs() >= 1).any())
    if op == "Pow":
        exponent = node._saved_exponent
        return isinstance(exponent, float) and exponent < 1 and bool((saved == 0).any())
    return bool((saved == 0).any())
