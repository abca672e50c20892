"""The first call whose result differs between two runs in more than the samples that were meant to differ."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from linkboy._tensors import transforms_active
from linkboy.shapes._calls import Call, CallMode, shapes_of
from linkboy.shapes._fit import FittedShape, batch_dims
from linkboy.shapes._predict import Key, Runs
from linkboy.shapes._rows import ShapeRow, Step

Pick = tuple[int | None, ...]  # for each sample of a run the sample of the base run that it is, `None`: a replaced one


@dataclasses.dataclass(frozen=True)
class _Node:
    """A call: whether its result differs, whether it follows the batch, and the calls its operands came from."""

    call: Call
    follows: bool
    differs: bool
    sources: tuple[int, ...]


class CallRecorder(CallMode):
    """Keeps the result of each call; given an earlier recorder, finds the calls whose results differ from its own.

    Args:
        runs: what is known of the calls.
        base: the recorder of the base run.
        pick: which samples of the base run this run has.
        size: the batch size of the base run.
    """

    def __init__(self, runs: Runs, base: "CallRecorder | None" = None, pick: Pick = (), size: int = 0) -> None:
        super().__init__()
        self._runs, self._base, self._pick, self._size = runs, base, pick, size
        self._kept: dict[tuple[Key, int], Sequence[Tensor]] = {}
        self._passed: Counter[Key] = Counter()
        self._nodes: list[_Node] = []
        self._maker: dict[int, int] = {}  # the node of a tensor, by id; the nodes keep the tensors alive
        # The node that made or wrote a storage, by its address; `None` for what no call made.
        self._memory: dict[int | None, int | None] = {None: None}

    def called(self, call: Call) -> None:
        """Keep the result of a call, or compare it with the one kept."""
        if transforms_active():  # what vmap hands on holds all samples behind the shape of one, and cannot be compared
            return
        place = call.place = self.places.current()
        if place is None:
            return
        key = (place.file, place.line, place.column, call.name)
        nth = self._passed[key]
        self._passed[key] += 1
        if self._base is None:
            self._kept[key, nth] = [output.detach().clone() for output in call.outputs]
            return
        known = self._runs.fits.get(key, [])
        fits = known[nth] if nth < len(known) else [None] * len(call.outputs)
        befores = self._base._kept.get((key, nth), [])
        differs = any(self._differs(*three) for three in zip(befores, call.outputs, fits, strict=False))
        follows = any(fit and fit.per_sample for fitted in fits for fit in fitted or ())
        sources = tuple(node for node in map(self._made_by, call.inputs) if node is not None)
        for tensor in call.inputs:
            self._memory.setdefault(_storage_address(tensor), None)
        for output in call.outputs:
            self._maker[id(output)] = len(self._nodes)
            if any(output is tensor for tensor in call.inputs):  # written in place: whoever reads the memory reads this
                self._memory[_storage_address(output)] = len(self._nodes)
            else:  # a view adds nothing to the memory, and that of an input of the model belongs to no call
                self._memory.setdefault(_storage_address(output), len(self._nodes))
        self._nodes.append(_Node(call, follows, differs, sources))

    @property
    def found_any(self) -> bool:
        """Whether the result of any call differs."""
        return any(node.differs for node in self._nodes)

    def culprit(self, outputs: Sequence[Tensor]) -> ShapeRow | None:
        """Return the first call whose result differs, followed back from an output, operand by operand.

        If the calls that made the outputs agree, values decided which calls run, and it is the first of all that differ.
        """
        made_by = map(self._made_by, outputs)
        at = next((node for node in made_by if node is not None and self._nodes[node].differs), None)
        if at is None:  # other calls made the output: a value that differs decided which
            at = next((number for number, node in enumerate(self._nodes) if node.differs), None)
        if at is None:
            return None
        while differing := [source for source in self._nodes[at].sources if self._nodes[source].differs]:
            at = next((source for source in differing if self._nodes[source].follows), differing[0])
        call = self._nodes[at].call
        if call.place is None:
            return None
        return Step(call.name, call.place, call.before, shapes_of(call.outputs), "", 0, ()).row()

    def _made_by(self, tensor: Tensor) -> int | None:
        """Return the node of a tensor; what no call made, such as `x.data` or `Variable(x)`, is found by its memory."""
        node = self._maker.get(id(tensor))
        return self._memory.get(_storage_address(tensor)) if node is None else node

    def _differs(self, before: Tensor, after: Tensor, fitted: FittedShape | None) -> bool:
        """Return whether samples differ, however they may be laid out along the dims that follow the batch.

        A result that follows no batch, such as a mean over all samples, differs if it changed at all.
        """
        if before.is_nested or before.dim() != after.dim():
            return not before.is_nested
        loose = len(self._pick) != self._size
        readings = list(self._by_sample(before, after, fitted))
        if not readings:
            return differ(before, after, loose=loose)
        places = [(at, sample) for at, sample in enumerate(self._pick) if sample is not None]
        if (
            len(dims := batch_dims(fitted)) > 1 and not loose
        ):  # a table of all pairs: those of the samples that were kept
            for dim in dims:
                before = before.index_select(dim, torch.tensor([sample for _, sample in places], device=before.device))
                after = after.index_select(dim, torch.tensor([at for at, _ in places], device=after.device))
            return differ(before, after)
        return all(
            any(differ(one[sample], other[at], scale=one, loose=loose) for at, sample in places)
            for one, other in readings
        )

    def _by_sample(self, before: Tensor, after: Tensor, fitted: FittedShape | None) -> Iterator[tuple[Tensor, Tensor]]:
        old, new = self._size, len(self._pick)
        for dim, fit in enumerate(fitted or ()):
            each = 0 if fit is None else fit.per_sample
            if each and (before.shape[dim], after.shape[dim]) == (each * old, each * new):
                one, other = cropped(before, after, fitted, dim)
                one, other = one.movedim(dim, 0), other.movedim(dim, 0)
                if one.shape[1:] != other.shape[1:]:
                    continue
                yield one.reshape(old, -1), other.reshape(new, -1)  # all of a sample side by side
                if each > 1:
                    yield _in_turn(one, each, old), _in_turn(other, each, new)


def _storage_address(tensor: Tensor) -> int | None:
    """Return where the memory of a tensor starts, `None` where it is empty or in several pieces, as that of a sparse one."""
    try:
        return tensor.untyped_storage().data_ptr() or None
    except (NotImplementedError, RuntimeError):
        return None


def _in_turn(tensor: Tensor, each: int, size: int) -> Tensor:
    """Return `(size, n)` of a tensor whose first dim holds an entry of every sample, then the next one of every sample."""
    return tensor.reshape(each, size, -1).transpose(0, 1).reshape(size, -1)


def cropped(one: Tensor, other: Tensor, fitted: FittedShape | None, *but: int) -> tuple[Tensor, Tensor]:
    """Return what two results have in common along the dims whose size depends on the values; the rest is padding."""
    for dim, fit in enumerate(fitted or ()):
        if fit is None and dim not in but and one.shape[dim] != other.shape[dim]:
            size = min(one.shape[dim], other.shape[dim])
            one, other = one.narrow(dim, 0, size), other.narrow(dim, 0, size)
    return one, other


def differ(before: Tensor, after: Tensor, *, scale: Tensor | None = None, loose: bool = False) -> bool:
    """Return whether values differ by more than rounding: kernels add groups of another size in another order.

    Args:
        before: a result.
        after: the same result of another run.
        scale: values that say how large the results are; `before` by default.
        loose: allow what kernels for batches of another size differ in.

    Returns:
        Whether shapes or values differ.
    """
    if before.shape != after.shape:
        return True
    if not (before.dtype.is_floating_point or before.dtype.is_complex):
        return not torch.equal(before, after)
    bound = torch.finfo(before.dtype).eps ** (0.6 if loose else 0.75) * _size_of(before if scale is None else scale)
    return not torch.allclose(before, after, rtol=0, atol=bound, equal_nan=True)


def _size_of(values: Tensor) -> float:
    return float(values.abs().nan_to_num(0, 0, 0).max()) if values.numel() else 0.0
