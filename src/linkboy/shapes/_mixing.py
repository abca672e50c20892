"""Whether samples mix: replace one sample, and see whether the results of another one change."""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from linkboy._calls import Arguments, Model, model_run, tensors_in, without_values
from linkboy._random import same_random_numbers, seed
from linkboy.shapes._calls import Call, CallMode, shapes_of
from linkboy.shapes._fit import FittedShape, batch_dim
from linkboy.shapes._predict import Key, Runs, at_row
from linkboy.shapes._rows import ShapeRow, Step
from linkboy.shapes._runs import MakeInputs, draw
from linkboy.shapes.report import Finding

BATCH = 3
_ADVICE = {
    ("lstm", "gru", "rnn_tanh", "rnn_relu"): "the first dim is treated as time; pass batch_first=True",
    ("multi_head_attention_forward", "scaled_dot_product_attention", "_native_multi_head_attention"): (
        "samples attend to each other; pass batch_first=True, or check which dim holds the batch"
    ),
    ("batch_norm", "instance_norm"): (
        "BatchNorm in training mode mixes the batch by design; call eval() before the check to see the rest"
    ),
    ("view", "reshape", "view_as", "reshape_as"): (
        "values of one sample end up in the place of another; to move dims use transpose, permute or einops.rearrange"
    ),
}  # fmt: skip


def find_mixing(model: Model, make_inputs: MakeInputs, runs: Runs) -> tuple[Finding | None, str]:
    """Return the finding for samples that mix, on the first line where they do, and a note on what was not tested."""
    if without_values(model):
        return None, "mixing was not tested: the model is on the meta device and has no values"
    if not runs.outputs:
        return None, "mixing was not tested: the model returned no tensor"
    followed = [fitted for fitted in runs.outputs if _single_batch(fitted)]
    if not followed:
        return None, "mixing was not tested: no output has the batch in exactly one dim"
    test = _Test(model, make_inputs, runs)
    try:
        base = test.outputs(None)
        if any(map(_differ, base, test.outputs(None))):
            return None, "mixing was not tested: two equal runs gave different outputs"
        if not test.can_replace:
            return None, (
                "mixing was not tested: there is nothing to replace, because no input both follows the batch and holds "
                "different values; let make_inputs draw random values"
            )
        answered = False
        for sample in range(BATCH):
            changed = _changed_samples(base, test.outputs(sample), runs.outputs)
            answered |= sample in changed
            if changed - {sample}:
                return test.finding(sample, sorted(changed - {sample})), ""
        if not answered:
            return None, "mixing was not tested: the output of a sample does not change when the sample is replaced"
    except Exception as error:  # noqa: BLE001 - a model that passed the check of shapes may still refuse other values
        return (
            None,
            f"mixing was not tested: the model raised {type(error).__name__}: {' '.join(str(error).split())[:200]}",
        )
    return None, ""


class _Test:
    """Runs a model on a batch of `BATCH` samples, one of them replaced, always with the same random numbers."""

    def __init__(self, model: Model, make_inputs: MakeInputs, runs: Runs) -> None:
        self._model, self._make_inputs, self._runs = model, make_inputs, runs
        self.can_replace = False

    def outputs(self, sample: int | None, mode: CallMode | None = None) -> list[Tensor]:
        with same_random_numbers():
            seed(1)  # with that of the inputs, a replacement could be the sample itself
            arguments = self._arguments(sample)
        # The same seed for each run: dropout draws the same masks, whatever the replacement drew.
        with model_run(self._model, arguments, "values", seed=0) as run, mode or contextlib.nullcontext():
            return tensors_in(run.call())

    def finding(self, sample: int, changed: Sequence[int]) -> Finding:
        recorder = _Recorder(self._runs, None, sample)
        self.outputs(None, recorder)
        watcher = _Recorder(self._runs, recorder, sample)
        row = watcher.culprit(self.outputs(sample, watcher))
        advice = next((text for ops, text in _ADVICE.items() if row is not None and row.op in ops), None)
        return at_row(
            "mixing", BATCH, row, expected="samples that do not depend on each other",
            got=f"samples {', '.join(map(str, changed))} change with sample {sample}",
            advice=advice or "this call works along the batch; choose another dim",
        )  # fmt: skip

    def _arguments(self, sample: int | None) -> Arguments:
        arguments = draw(self._model, self._make_inputs, BATCH, 0)
        fits = iter(self._runs.inputs)

        def changed(tensor: Tensor) -> Tensor:
            dim = batch_dim(next(fits, None))
            if dim is None or tensor.dim() <= dim or tensor.shape[dim] != BATCH:
                return tensor
            other = _with_other_sample(tensor, dim, sample or 0)
            self.can_replace |= not torch.equal(other, tensor)
            return tensor if sample is None else other

        return arguments.map(changed)


@dataclasses.dataclass(frozen=True)
class _Node:
    """A call in the run with the other sample: whether its result mixes samples, and the calls its operands came from."""

    call: Call
    follows: bool
    mixed: bool
    sources: tuple[int, ...]


class _Recorder(CallMode):
    """Keeps the result of each call; given an earlier recorder, finds the calls whose other samples changed."""

    def __init__(self, runs: Runs, base: "_Recorder | None", sample: int) -> None:
        super().__init__()
        self._runs, self._base, self._sample = runs, base, sample
        self._kept: dict[tuple[Key, int], Sequence[Tensor]] = {}
        self._passed: Counter[Key] = Counter()
        self._nodes: list[_Node] = []
        self._maker: dict[int, int] = {}  # the node of a tensor, by id; the nodes keep the tensors alive

    def called(self, call: Call) -> None:
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
        fits = known[nth] if nth < len(known) and key not in self._runs.unsteady else [None] * len(call.outputs)
        befores = self._base._kept.get((key, nth), [])
        mixed = any(_mixes(*three, self._sample) for three in zip(befores, call.outputs, fits, strict=False))
        follows = any(fit.per_sample for fitted in fits for fit in fitted or ())
        sources = tuple(self._maker[id(tensor)] for tensor in call.inputs if id(tensor) in self._maker)
        self._maker |= {id(output): len(self._nodes) for output in call.outputs}
        self._nodes.append(_Node(call, follows, mixed, sources))

    def culprit(self, outputs: Sequence[Tensor]) -> ShapeRow | None:
        """Return the first call that mixes samples, followed back from an output, operand by operand."""
        at = next(
            (n for n in (self._maker.get(id(output)) for output in outputs) if n is not None and self._nodes[n].mixed),
            None,
        )
        if at is None:
            return None
        while True:
            mixed = [source for source in self._nodes[at].sources if self._nodes[source].mixed]
            if not mixed:
                return _row_of(self._nodes[at].call)
            at = next((source for source in mixed if self._nodes[source].follows), mixed[0])


def _row_of(call: Call) -> ShapeRow | None:
    if call.place is None:
        return None
    return Step(call.name, call.place, call.before, shapes_of(call.outputs), "", 0, ()).row()


def _mixes(before: Tensor, after: Tensor, fitted: FittedShape | None, sample: int) -> bool:
    """Return whether other samples changed, however the samples may be laid out along the dims that follow the batch.

    A result that follows no batch, such as a mean over all samples, mixes them if it changed at all.
    """
    if before.is_nested or before.shape != after.shape:
        return not before.is_nested
    readings = list(zip(_by_sample(before, fitted), _by_sample(after, fitted), strict=True))
    return all(_others(one, other, sample) for one, other in readings) if readings else _differ(before, after)


def _by_sample(tensor: Tensor, fitted: FittedShape | None) -> Iterator[Tensor]:
    for dim, fit in enumerate(fitted or ()):
        each = fit.per_sample
        if each and tensor.shape[dim] == each * BATCH:
            moved = tensor.movedim(dim, 0)
            yield moved.reshape(BATCH, -1)  # all of a sample side by side
            if each > 1:
                yield moved.reshape(each, BATCH, -1).transpose(0, 1).reshape(BATCH, -1)  # the samples in turn


def _changed_samples(base: Sequence[Tensor], other: Sequence[Tensor], fits: Sequence[FittedShape | None]) -> set[int]:
    changed: set[int] = set()
    for before, after, fitted in zip(base, other, fits, strict=False):
        dim = batch_dim(fitted)
        if dim is not None and _single_batch(fitted) and before.shape == after.shape:
            one, two = before.movedim(dim, 0), after.movedim(dim, 0)
            changed |= {i for i in range(BATCH) if _differ(one[i], two[i], scale=one)}
    return changed


def _single_batch(fitted: FittedShape | None) -> bool:
    return sum(fit.is_batch for fit in fitted or ()) == 1


def _others(before: Tensor, after: Tensor, sample: int) -> list[int]:
    """Return the samples other than the one replaced whose values differ; both are `(BATCH, n)`."""
    return [i for i in range(BATCH) if i != sample and _differ(before[i], after[i], scale=before)]


def _differ(before: Tensor, after: Tensor, scale: Tensor | None = None) -> bool:
    """Return whether values differ by more than rounding: kernels add groups of another size in another order."""
    if before.shape != after.shape:
        return True
    if not before.dtype.is_floating_point:
        return not torch.equal(before, after)
    finite = (before if scale is None else scale).abs().nan_to_num(0, 0, 0)
    bound = torch.finfo(before.dtype).eps ** 0.75 * float(finite.max()) if finite.numel() else 0.0
    return not torch.allclose(before, after, rtol=0, atol=bound, equal_nan=True)


def _with_other_sample(tensor: Tensor, dim: int, sample: int) -> Tensor:
    """Return a copy in which one sample has new random values, of the same scale or in the same range of integers."""
    new = tensor.clone(memory_format=torch.contiguous_format)
    slot = new.select(dim, sample)
    if tensor.is_floating_point() or tensor.is_complex():
        spread = float(tensor.abs().nan_to_num(0, 0, 0).mean()) or 1.0
        slot.add_(torch.randn_like(slot), alpha=3 * spread)
    elif tensor.numel():
        low, high = int(tensor.min()), int(tensor.max())
        slot.copy_(torch.randint(low, high + 1, slot.shape, device=slot.device))
    return new
