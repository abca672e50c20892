"""The rules: what a call does silently with shapes that its author may not have meant."""

import dataclasses
import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from linkboy._report import Block, Report, format_bytes, format_count
from linkboy.shapes._calls import Call, Shape, is_view_of
from linkboy.shapes._rows import Kind

# These rearrange, select or join values without computing any.
RESHAPING = frozenset((
    "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "transpose", "permute", "t", "adjoint", "T",
    "mT", "H", "mH", "movedim", "moveaxis", "swapaxes", "swapdims", "expand", "expand_as", "repeat", "tile",
    "repeat_interleave", "contiguous", "narrow", "select", "__getitem__", "chunk", "split", "tensor_split",
    "hsplit", "vsplit", "dsplit", "unbind", "cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack",
    "column_stack", "row_stack", "unfold", "fold", "broadcast_to", "broadcast_tensors", "view_as", "reshape_as",
    "ravel", "diagonal", "as_strided", "pad", "flip", "roll", "rot90", "index_select", "gather", "take_along_dim",
    "atleast_1d", "atleast_2d", "atleast_3d", "meshgrid", "pixel_shuffle", "pixel_unshuffle", "masked_select",
))  # fmt: skip

# Losses whose operands must have the same shape.
LOSSES = frozenset((
    "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss", "gaussian_nll_loss", "kl_div",
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "soft_margin_loss", "multilabel_soft_margin_loss",
    "hinge_embedding_loss",
))  # fmt: skip

# These broadcast their operands against each other; operators are listed without their underscores.
ELEMENTWISE = frozenset((
    "add", "sub", "mul", "div", "true_divide", "divide", "multiply", "subtract", "floor_divide", "rsub", "rdiv",
    "remainder", "fmod", "pow", "eq", "ne", "lt", "le", "gt", "ge", "maximum", "minimum", "fmax", "fmin", "where",
    "atan2", "hypot", "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor", "and",
    "or", "xor", "isclose", "greater", "greater_equal", "less", "less_equal", "not_equal", "copysign", "xlogy",
    "rpow", "lerp", "squared_difference", "floordiv", "mod", "truediv", "min", "max", "addcmul", "addcdiv", "arctan2",
    "float_power", "logaddexp", "logaddexp2", "clamp", "clip", "masked_fill",
))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Hazard(Report):
    """Something that a call did silently, and what to write instead.

    Attributes:
        rule: name of the rule, such as `"squeeze-no-dim"`.
        level: `"warn"`: rarely what was meant; `"info"`: a cost, or good to know; `"error"`: the call raised.
        op: name of the torch function.
        file: file of the call.
        line: line of the call.
        code: source text of the call; empty where there is no source.
        in_shapes: shapes of the operands before the call.
        out_shape: shape of the result; of the first one, if there are several.
        is_view: whether the result shares memory with an operand.
        nbytes: bytes that were copied, 0 for a view.
        advice: what happened, and how to fix it.

    Examples:
        >>> import torch
        >>> from linkboy import trace_shapes
        >>> with trace_shapes(hazards="collect") as trace:
        ...     _ = torch.zeros(1, 3, 1).squeeze()
        >>> trace.hazards[0].rule, trace.hazards[0].in_shapes, trace.hazards[0].out_shape
        ('squeeze-no-dim', ((1, 3, 1),), (3,))
    """

    rule: str
    level: Literal["error", "warn", "info"]
    op: str
    file: str
    line: int
    code: str
    in_shapes: tuple[Shape, ...]
    out_shape: Shape
    is_view: bool
    nbytes: int
    advice: str

    def _blocks(self) -> Iterable[Block]:
        text = f" `{self.code}`" if self.code else ""
        yield f"{self.file}:{self.line}{text}: {self.advice} [{self.rule}]"


Verdict = tuple[str, Literal["warn", "info"], str]  # rule, level, advice
Rule = Callable[[Call, Kind], Verdict | None]


@functools.cache
def base_name(name: str) -> str:
    """Return the name without what marks it as in-place or as an operator: `add` for `add_`, `__add__`, `__iadd__`."""
    if name.startswith("__"):
        bare = name.strip("_")
        if bare == "getitem":
            return name
        return bare[1:] if bare[:1] == "i" and bare[1:] in ELEMENTWISE else bare
    return name.removesuffix("_")


@functools.cache
def is_reshaping(name: str) -> bool:
    """Return whether a function only rearranges, selects or joins values."""
    return base_name(name) in RESHAPING


def may_matter(name: str) -> bool:
    """Return whether a call is of interest even if its result has the shape of its first operand."""
    return is_reshaping(name) or name in LOSSES


def judge(call: Call, kind: Kind) -> Verdict | None:
    """Return what is wrong with a call, or `None`."""
    rule = _rule_of(call.name)
    if rule is None or not call.before or any(tensor.is_nested for tensor in (*call.inputs, *call.outputs)):
        return None
    return rule(call, kind)


@functools.cache
def _rule_of(name: str) -> Rule | None:
    if name in LOSSES:
        return _loss_shapes
    base = base_name(name)
    return _mutual_broadcast if base in ELEMENTWISE else _RULES.get(base)


def _squeeze(call: Call, _: Kind) -> Verdict | None:
    before = call.before[0]
    dim = call.argument(1, "dim")
    if dim is not None:
        return _squeeze_dims(call, tuple(dim) if isinstance(dim, (tuple, list)) else (dim,))
    removed = [d for d, size in enumerate(before) if size == 1]
    if removed == [0]:
        return "squeeze-no-dim", "warn", (
            "squeeze() without dim removed dim 0 (batch of one?); name the dim that you mean, or leave squeeze out if no "
            "other dim is ever of size 1"
        )  # fmt: skip
    if len(removed) < 2:
        what = f"removed dim {removed[0]}" if removed else "removed nothing"
        return "squeeze-no-dim", "info", f"squeeze() without dim {what}; that depends on the sizes, so name the dim"
    batch = " including dim 0 (batch of one?)" if 0 in removed else ""
    meant = [d - len(before) for d in removed if d != 0]
    named = f"dim, such as squeeze({meant[0]})" if len(meant) == 1 else f"dims, such as squeeze({tuple(meant)})"
    return "squeeze-no-dim", "warn", f"squeeze() without dim removed dims {removed}{batch}; name the {named}"


def _squeeze_dims(call: Call, dims: tuple[int, ...]) -> Verdict | None:
    before = call.before[0]
    if not dims or not before or before != call.outputs[0].shape:
        return None
    sizes = ", ".join(str(before[d]) for d in dims)
    what = f"the size is {sizes}" if len(dims) == 1 else f"the sizes are {sizes}"
    return "squeeze-no-op", "warn", (
        f"squeeze({', '.join(map(str, dims))}) did nothing, because {what} and not 1; name a dim of size 1, or "
        "select an entry with select(dim, index)"
    )  # fmt: skip


def _mutual_broadcast(call: Call, _: Kind) -> Verdict | None:
    for (first, one), (second, other) in itertools.combinations(zip(call.before, call.inputs, strict=True), 2):
        if len(first) == len(second) or is_view_of(one, [other]):  # `t[:, None] >= t` is meant
            continue
        pairs = list(itertools.zip_longest(reversed(first), reversed(second), fillvalue=1))
        both = {b for a, b in pairs if a == 1} & {a for a, b in pairs if b == 1} - {1}
        if both:
            out = tuple(call.outputs[0].shape)
            times = call.outputs[0].numel() // max(_count(first), _count(second), 1)
            return "mutual-broadcast", "warn", (
                f"mutual broadcast: {tuple(first)} with {tuple(second)} -> {out} ({format_count(times)}x elements); give "
                "both operands the same shape, for instance with squeeze(-1) or unsqueeze(-1) on one of them"
            )  # fmt: skip
    return None


def _loss_shapes(call: Call, _: Kind) -> Verdict | None:
    if len(call.before) < 2 or call.before[0] == call.before[1]:
        return None
    first, second = (tuple(shape) for shape in call.before[:2])
    return "loss-shapes", "warn", (
        f"{call.name} of {first} and {second} broadcasts: every prediction is compared with targets of other samples; "
        "give both the same shape"
    )  # fmt: skip


def _copies(call: Call, kind: Kind) -> Verdict | None:
    if kind == "copy" and call.outputs[0].numel():
        size = format_bytes(call.outputs[0].nbytes)
        if base_name(call.name) == "contiguous":
            return "reshape-copy", "info", (
                f"contiguous() copied {size}; it is needed only before view() or for a kernel that requires it"
            )  # fmt: skip
        return "reshape-copy", "info", (
            f"{call.name} copied {size}: the memory layout of {tuple(call.before[0])} allows no view of the new shape"
        )  # fmt: skip
    return _permutes(call, kind)


def _permutes(call: Call, _: Kind) -> Verdict | None:
    try:
        moved = _moves_a_dim(call.before[0], call.outputs[0].shape)
    except TypeError:  # sizes of an exported graph have no hash, nor one value
        return None
    if not moved:
        return None
    return "reshape-permutes", "info", (
        f"{call.name} only relabels {tuple(call.before[0])} as {tuple(call.outputs[0].shape)}: values of one row end up "
        "in another; to move dims use transpose, permute or einops.rearrange"
    )  # fmt: skip


@functools.lru_cache(maxsize=4096)  # a model asks for the same few shapes in every layer
def _moves_a_dim(before: Shape, after: Shape) -> bool:
    """Return whether a reshape puts a dim elsewhere; `view(dtype)` is none."""
    return _count(before) == _count(after) and any(_keeps_a_size(*block) for block in _blocks(before, after))


def _blocks(before: Shape, after: Shape) -> Iterator[tuple[list[int], list[int]]]:
    """Yield runs of neighbouring dims that a reshape made of each other, the shortest that there are."""
    given, made = ([size for size in shape if size != 1] for shape in (before, after))
    if 0 in given:
        return
    while given or made:
        one, two = [given.pop()], [made.pop()]
        while (difference := math.prod(one) - math.prod(two)) != 0:
            if difference < 0:
                one.append(given.pop())
            else:
                two.append(made.pop())
        yield one, two


def _keeps_a_size(before: list[int], after: list[int]) -> bool:
    """Return whether dims that were split and merged have a size in common: a dim whose values ended up in other dims."""
    old, new = Counter(before), Counter(after)
    return len(before) > 1 and len(after) > 1 and any(old[size] == new[size] == 1 for size in old)


def _indexes_pairs(call: Call, _: Kind) -> Verdict | None:
    """Find `x[:, i]` that takes all entries of an index from each row, where one a row would fit as well."""
    parts, rows = call.args[1], call.before[0]
    if not isinstance(parts, tuple) or len(call.inputs) != 2 or call.before[1] != rows[:1]:
        return None
    at = next(place for place, part in enumerate(parts) if isinstance(part, Tensor))
    others = [part for part in parts if not isinstance(part, Tensor)]
    dim = len(rows) + at - len(parts) if Ellipsis in parts[:at] else at
    if not all(part is Ellipsis or part == slice(None) for part in others) or dim == 0 or rows[dim] == rows[0]:
        return None
    if rows[0] == 1 or call.inputs[1].dtype is torch.bool or is_view_of(call.inputs[1], call.inputs[:1]):
        return None
    return "index-pairs", "warn", (
        f"an index of {tuple(rows[:1])} took {rows[0]} entries from each of {rows[0]} rows: {tuple(rows)} -> "
        f"{tuple(call.outputs[0].shape)}; for one entry a row write x[torch.arange(len(x)), i], or use gather"
    )  # fmt: skip


def _repeats(call: Call, _: Kind) -> Verdict | None:
    output = call.outputs[0]
    pairs = list(itertools.zip_longest(reversed(call.before[0]), reversed(output.shape), fillvalue=1))
    if output.numel() <= _count(call.before[0]) or not all(a in (1, b) for a, b in pairs):
        return None
    sizes = ", ".join(str(size) for size in output.shape)
    return "repeat-for-expand", "info", (
        f"{call.name} copied {format_bytes(output.nbytes)} where expand({sizes}) is a view of 0 bytes, "
        "as long as nothing writes into the result"
    )  # fmt: skip


_RULES: dict[str, Rule] = {
    "squeeze": _squeeze,
    "reshape": _copies,
    "reshape_as": _copies,
    "flatten": _copies,
    "ravel": _copies,
    "contiguous": _copies,
    "view": _permutes,
    "view_as": _permutes,
    "__getitem__": _indexes_pairs,
    "repeat": _repeats,
    "tile": _repeats,
    "repeat_interleave": _repeats,
}


def _count(shape: Shape) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def failure_note(call: Call, error: Exception) -> str:
    """Return a description of the operands of a call that raised; for a view also what a reshape would cost."""
    operands = "; ".join(_layout(tensor, shape) for tensor, shape in zip(call.inputs, call.before, strict=True))
    what = f"linkboy: in {call.name} of {operands}" if operands else f"linkboy: in {call.name}"
    if call.place is not None:
        text = f" `{call.place.text}`" if call.place.text else ""
        what = f"linkboy: {call.place.where}{text}: {call.name} of {operands or 'no tensor'}"
    if failed_for_strides(call, error):
        what += f"; reshape would copy {format_bytes(call.inputs[0].nbytes)}"
    return what


def failed_for_strides(call: Call, error: Exception) -> bool:
    """Return whether a view failed because of the memory layout of its input; torch and fake tensors word it differently."""
    told = "not compatible with input tensor's size and stride" in str(error) or "Cannot view a tensor" in str(error)
    return base_name(call.name) in ("view", "view_as") and told


def _layout(tensor: Tensor, shape: Shape) -> str:
    if tensor.is_nested or tensor.layout is not torch.strided:
        return f"{tuple(shape)}"
    kind = "contiguous" if tensor.is_contiguous() else "not contiguous"
    return f"{tuple(shape)} strides {tuple(tensor.stride())} {kind}"
