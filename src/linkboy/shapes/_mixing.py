"""Whether the result of each sample depends on that sample alone: not on others, on its place, or on the batch size."""

import contextlib
import dataclasses
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from linkboy._calls import Arguments, Model, model_run, named_tensors, tensors_in, without_values
from linkboy._random import same_random_numbers, seed
from linkboy._report import listed, shorten
from linkboy.shapes._calls import Call, CallMode, user_place
from linkboy.shapes._fit import FittedShape, batch_dims, shape_text
from linkboy.shapes._predict import DRAWS, Runs, at_row, from_error, lists_of_samples, samples_in_lists
from linkboy.shapes._recorder import CallRecorder, Pick, cropped, differ
from linkboy.shapes._rows import ShapeRow
from linkboy.shapes._runs import MakeInputs, draw, padded
from linkboy.shapes.report import Finding, FindingKind

BATCH = 3
_SEEDS = 16  # a mask of 0.9 that is drawn for each of three samples keeps all of them in three runs of four
_ROTATED: Pick = (1, 2, 0)  # no sample keeps its place
_REARRANGED: tuple[tuple[FindingKind, Pick], ...] = (
    ("place", _ROTATED), ("batch-size", (0,)), ("batch-size", (1,)), ("batch-size", (2,)), ("batch-size", (0, 1)),
    ("batch-size", (0, 1, 2, 0, 1, 2, 0, 1)),  # room for all, and special cases for large batches
)  # fmt: skip
_EXPECTED: dict[FindingKind, str] = {
    "mixing": "samples that do not depend on each other",
    "place": "a result that does not depend on the place in the batch",
    "batch-size": "a result that does not depend on the batch size",
    "state": "the same result from a second call",
    "random": "the same result from every call in eval mode",
}
_ADVICE: dict[tuple[str, ...], str] = {
    ("lstm", "gru", "rnn_tanh", "rnn_relu"): "the first dim is treated as time; pass batch_first=True",
    ("multi_head_attention_forward", "scaled_dot_product_attention", "_native_multi_head_attention"): (
        "samples attend to each other; pass batch_first=True, or check which dim holds the batch"
    ),
    ("batch_norm", "instance_norm"): (
        "statistics of the batch mix its samples; use the running statistics outside of training"
    ),
    ("linear_dynamic", "linear_relu_dynamic", "quantized_lstm", "quantized_gru"): (
        "dynamic quantisation takes one scale for the whole batch; check the model before it is quantised"
    ),
    ("view", "reshape", "view_as", "reshape_as"): (
        "values of one sample end up in the place of another; to move dims use transpose, permute or einops.rearrange"
    ),
}
_ADVICE_FOR: dict[FindingKind, str] = {
    "mixing": "this call works along the batch; choose another dim",
    "place": "this result is read by the place in the batch; take the size of another dim, or the same for every sample",
    "batch-size": "this call uses the batch size, or values of all samples; use only what belongs to the sample",
    "state": "forward keeps something on the model; return it and pass it in, or clear it before the call",
    "random": (
        "this call draws random numbers in eval mode; pass training=self.training, dropout_p=0.0 in eval mode to attention, "
        "or use nn.Dropout"
    ),
}


@dataclasses.dataclass
class Tested:
    """What the tests on values found.

    Attributes:
        findings: at most one finding.
        notes: what is good to know.
        untested: why a test could not run.
        sizes_agree: whether the results in batches of one and two were compared in all draws, and were the same.
    """

    findings: list[Finding] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    untested: list[str] = dataclasses.field(default_factory=list)
    sizes_agree: bool = False


def find_mixing(model: Model, make_inputs: MakeInputs, runs: Runs) -> Tested:
    """Return the finding for samples that depend on more than themselves, on the first line where they do."""
    tested = Tested()
    reason = _reason_not_to_run(model, runs)
    if reason:
        tested.untested.append(f"mixing was not tested: {reason}")
        return tested
    _Test(model, make_inputs, runs, tested).run()
    return tested


def _reason_not_to_run(model: Model, runs: Runs) -> str:
    if without_values(model):
        return "the model is on the meta device and has no values; pass mixing=False to check shapes alone"
    if not runs.outputs:
        return "the model returned no tensor"
    return "" if lists_of_samples(runs) or any(map(batch_dims, runs.outputs)) else "no output has the batch as a dim"


@dataclasses.dataclass
class _Result:
    """The output tensors of a run, their paths, and whether random numbers were drawn."""

    tensors: list[Tensor]
    names: list[str]
    drew: bool


class _Test:
    """Runs a model on batches that differ in what no result may depend on; the random numbers are always the same."""

    def __init__(self, model: Model, make_inputs: MakeInputs, runs: Runs, tested: Tested) -> None:
        self._model, self._make_inputs, self._runs, self._tested = model, make_inputs, runs, tested
        self._trains = isinstance(model, nn.Module) and any(_trains(module) for module in model.modules())
        self._lists = self._lists_of_samples()
        # At every size, as a model may return as many tensors as a batch has samples.
        self._in_lists = lists_of_samples(runs)
        self._random, self._picks = False, 0
        self._flat = self._flat_inputs()
        self._can_replace, self._answered = False, False

    def run(self) -> None:
        """Make every test, until one finds something."""
        self._say_what_is_set_aside()
        try:
            for number in range(DRAWS):
                found = (self._first() if number == 0 else None) or self._draw(number)
                if found:
                    self._tested.findings.append(found)
                    return
        except _ModelError as raised:
            found = from_error(BATCH, raised.error, user_place(raised.error), on_values=self._runs.way != "values")
            self._tested.findings.append(found)
            return
        except _UntestedError as stopped:
            self._tested.untested.append(f"mixing was not tested: {stopped}")
            return
        except Exception as error:  # noqa: BLE001 - an output that cannot be compared, such as a sparse one
            self._tested.untested.append(f"mixing was not tested: {_said(error)}")
            return
        if not self._can_replace and self._flat:
            self._tested.untested.append(
                f"mixing was not tested: an input of {shape_text(self._flat[0])} holds samples of unknown bounds; pass "
                "mixing=False to check shapes alone"
            )
        elif not self._can_replace:
            self._tested.untested.append(
                "mixing was not tested: there is nothing to replace, because no input both follows the batch and holds "
                "different values; let make_inputs draw random values"
            )
        elif not self._answered:
            self._look_inside()
        else:
            self._tested.sizes_agree = self._picks == DRAWS * len(_REARRANGED)

    def _look_inside(self) -> None:
        """Compare every call, as the outputs tell nothing: at these weights they do not depend on the input."""
        arguments, recorder = self._arguments(0), CallRecorder(self._runs)
        self._outputs(arguments, mode=recorder)
        watcher = CallRecorder(self._runs, recorder, _without(0), BATCH)
        self._outputs(self._replaced(arguments, 0, 0), mode=watcher)
        same = "the output of a sample does not change when the sample is replaced"
        if watcher.found_any:
            self._tested.untested.append(f"mixing was not tested: {same}")
        else:
            self._tested.notes.append(f"{same}; mixing was tested on the results of the calls inside")

    def _say_what_is_set_aside(self) -> None:
        names = [name or "the model" for name, _ in _in_training(self._model, _BatchNorm)]
        if names:
            self._tested.notes.append(
                f"BatchNorm in training mode mixes samples by design ({listed(names, 3)}); the test for mixing ran it in "
                "eval mode"
            )

    def _say_what_is_not_a_number(self, arguments: Arguments, base: _Result) -> None:
        """Note NaN in the output, where nothing can be compared, and the call that it comes from."""
        if not any(_holds_nan(tensor) for tensor in base.tensors):
            return
        watcher = _FirstNaN()
        self._outputs(arguments, mode=watcher)
        where = f", first from {watcher.first}" if watcher.first else ""
        if all(_is_dense(tensor) and bool(tensor.isnan().all()) for tensor in base.tensors):
            raise _UntestedError(f"the output is NaN everywhere{where}")
        self._tested.notes.append(f"the output holds NaN{where}; NaN was taken for equal to NaN")

    # ------------------------------------------------------------------------------------------------ the runs
    def _outputs(
        self,
        arguments: Arguments,
        *,
        number: int = 0,
        mode: CallMode | None = None,
        after: Arguments | None = None,
    ) -> _Result:
        """Return the outputs of a run, of its second call if there is to be one `after` a call with other arguments."""
        with model_run(self._model, after or arguments, "values", seed=number) as run:
            for kind in (_BatchNorm, _DropoutNd):
                for _, module in _in_training(self._model, kind):
                    module.training = False
            if after is not None:
                run.call()
                seed(number)
                arguments = arguments.map(lambda tensor: tensor.detach().clone())
            before = _random_state()
            with mode or contextlib.nullcontext():
                output = run.call() if after is None else arguments.call(self._model)
            output = padded(output)
            tensors = tensors_in(output)
            if any(type(tensor).__name__ == "FakeTensor" for tensor in tensors):
                raise _UntestedError(
                    "a run on real data returned fake tensors of an earlier run, so forward keeps tensors outside of the "
                    "model; return them and pass them in"
                )
            return _Result(tensors, [name for name, _ in named_tensors(output)], _random_state() != before)

    def _given(self, arguments: Arguments, **options: Any) -> _Result:
        """Return the outputs for what make_inputs gave; that the model raises there is a finding."""
        try:
            return self._outputs(arguments, **options)
        except _UntestedError:
            raise
        except Exception as error:
            raise _ModelError(error) from error

    def _arguments(self, number: int) -> Arguments:
        return draw(self._model, self._make_inputs, BATCH, number)

    # ------------------------------------------------------------------------------------------------ the tests
    def _first(self) -> Finding | None:
        """Test once, as it does not depend on the values, whether the model is random or keeps state."""
        arguments = self._arguments(0)
        base, same = self._given(arguments), self._given(arguments)
        if self._changed(base, same, _all(BATCH)):
            raise _UntestedError("two equal runs gave different outputs")
        for number in range(1, _SEEDS if base.drew or _on_device(base) else 2):
            if self._changed(base, self._given(arguments, number=number), _all(BATCH)):
                return self._random_at(arguments, number)
        return None if self._trains else self._kept(arguments, base)

    def _random_at(self, arguments: Arguments, number: int) -> Finding | None:
        self._random = True
        row = self._culprit(arguments, lambda mode: self._outputs(arguments, number=number, mode=mode), _all(BATCH))
        if row and _is_dropout(row.op) and isinstance(self._model, nn.Module) and not self._trains:
            return self._finding("random", row, "another one with other random numbers")
        where = f", first by {row.op} at {row.file}:{row.line}" if row else ""
        self._tested.notes.append(f"the model draws random numbers{where}; other batch sizes were not compared")
        return None

    def _kept(self, arguments: Arguments, base: _Result) -> Finding | None:
        """Return the finding for a result that depends on the call before, of which `forward` keeps something."""
        other = self._arguments(1)
        try:
            second = self._outputs(arguments, after=other)
        except _UntestedError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a model raises when it is called twice
            return self._finding("state", None, _said(error))
        if not self._changed(base, second, _all(BATCH)):
            return None
        row = self._culprit(arguments, lambda mode: self._outputs(arguments, mode=mode, after=other), _all(BATCH))
        return self._finding("state", row, "another one")

    def _draw(self, number: int) -> Finding | None:
        """Test one draw of values: a sample replaced, the samples in other places, alone, and in a smaller batch."""
        arguments = self._arguments(number)
        base = self._given(arguments)
        self._say_what_is_not_a_number(arguments, base)
        sample = number % BATCH
        replaced = self._replaced(arguments, sample, number)
        found = self._compare("mixing", arguments, base, replaced, _without(sample))
        if found and any(part and part[1] > 1 for part in map(_part_of, self._runs.inputs)):
            replaced = self._replaced(arguments, sample, number, in_turn=True)
            found = found if self._compare("mixing", arguments, base, replaced, _without(sample)) else None
        if found or self._random or not self._can_replace:
            return found
        for kind, pick in _REARRANGED:
            picked = self._picked(arguments, pick)
            if picked is None:
                return None
            found = self._compare(kind, arguments, base, picked, pick)
            if found:
                return found
            self._picks += 1
        return None

    def _compare(
        self, kind: FindingKind, arguments: Arguments, base: _Result, other: Arguments, pick: Pick
    ) -> Finding | None:
        try:
            result = self._outputs(other)
        except Exception as error:
            raise _UntestedError(f"with {_what(kind, pick)} the model raised {_said(error)}") from error
        faint = False
        if kind == "mixing":
            sample = pick.index(None)
            self._answered |= self._answers(base, result, sample)
            faint = not self._changed(base, result, _all(BATCH), only=sample)
        changed = self._changed(base, result, pick, exactly=faint)
        if not changed:
            return None
        row = self._culprit(arguments, lambda mode: self._outputs(other, mode=mode), pick)
        if kind == "mixing":
            samples = "samples" if len(changed) > 1 else "sample"
            got = f"{samples} {', '.join(map(str, changed))} change{'s' * (len(changed) == 1)} with sample {pick.index(None)}"
        else:
            got = f"another result for sample {changed[0]} with {_what(kind, pick)}"
        return self._finding(kind, row, got)

    def _finding(self, kind: FindingKind, row: ShapeRow | None, got: str) -> Finding:
        known = next((text for ops, text in _ADVICE.items() if row is not None and row.op in ops), None)
        advice = known if known and kind in ("mixing", "batch-size") else _ADVICE_FOR[kind]
        return at_row(kind, BATCH, row, expected=_EXPECTED[kind], got=got, advice=advice)

    def _culprit(self, arguments: Arguments, rerun: Callable[[CallRecorder], _Result], pick: Pick) -> ShapeRow | None:
        recorder = CallRecorder(self._runs)
        self._outputs(arguments, mode=recorder)
        watcher = CallRecorder(self._runs, recorder, pick, BATCH)
        result = rerun(watcher)
        outputs = result.tensors
        if self._in_lists:  # what is made of a replaced sample may change
            positions = samples_in_lists(result.names, len(pick))
            kept = [at for at, sample in enumerate(pick) if sample is not None]
            outputs = [outputs[of_samples[at]] for of_samples in positions for at in kept]
        return watcher.culprit(outputs)

    # ------------------------------------------------------------------------------------------------ comparing results
    def _changed(
        self, base: _Result, other: _Result, pick: Pick, *, only: int | None = None, exactly: bool = False
    ) -> list[int]:
        """Return the samples of the base run that have another result in the other run.

        Args:
            base: the base run.
            other: the other run.
            pick: which samples the other run has.
            only: the one sample to look at.
            exactly: counts differences below rounding as well, for outputs that hardly depend on the input.
        """
        kept = [(at, sample) for at, sample in enumerate(pick) if sample is not None and only in (None, sample)]
        changed: set[int] = set()
        loose = len(pick) != BATCH
        for one, two in self._samples(base, other, pick):
            for at, sample in kept:
                (before, scale), (after, _) = one(sample), two(at)
                if not _same_bits(before, after) and (exactly or differ(before, after, scale=scale, loose=loose)):
                    changed.add(sample)
        return sorted(changed)

    def _answers(self, base: _Result, other: _Result, sample: int) -> bool:
        """Return whether the result of a replaced sample changed by a single bit."""
        pairs = self._samples(base, other, _without(sample))
        return any(not _same_bits(one(sample)[0], two(sample)[0]) for one, two in pairs)

    def _samples(self, base: _Result, other: _Result, pick: Pick) -> Iterable[tuple[Any, Any]]:
        """Yield, for each output, functions from a sample to its values and to those that tell their size."""
        if self._in_lists:
            lists = samples_in_lists(base.names, BATCH), samples_in_lists(other.names, len(pick))
            for before, after in zip(*lists, strict=False):
                yield _from_list(base.tensors, before), _from_list(other.tensors, after)
            return
        for before, after, fitted in zip(base.tensors, other.tensors, self._runs.outputs, strict=False):
            dims = batch_dims(fitted)
            if dims and before.dim() == after.dim() and not before.is_nested:
                if self._runs.varies:  # too few draws may have shown one size only
                    fitted = tuple(fit if fit and fit.is_batch else None for fit in fitted or ())
                one, two = cropped(before, after, fitted)
                yield _from_tensor(one, dims), _from_tensor(two, dims)

    # ------------------------------------------------------------------------------------------------ changing inputs
    def _replaced(self, arguments: Arguments, sample: int, number: int, *, in_turn: bool = False) -> Arguments:
        """Return the arguments with one sample of another draw, or with random values where all draws are the same.

        Args:
            arguments: what to change.
            sample: which one to replace.
            number: of the draw.
            in_turn: of dims that hold several entries of each sample, whether the first ones of all come first.
        """
        other = self._arguments(DRAWS + number)
        given, drawn = tensors_in((arguments.args, arguments.kwargs)), tensors_in((other.args, other.kwargs))
        slots = [
            (tensor, *part) for tensor, fitted in self._with_fits(arguments)
            if (part := self._entries_of(tensor, fitted, sample, in_turn=in_turn)) is not None
        ]  # fmt: skip
        fresh = dict(zip(map(id, given), drawn, strict=False))
        made = {id(tensor): _with_sample(tensor, fresh.get(id(tensor)), dim, which) for tensor, dim, which in slots}
        lists = dict(_items(other))
        entries = [(values[sample], lists[key][sample]) for key, values in _items(arguments) if key in self._lists]
        changed = any(repr(before) != repr(after) for before, after in entries)
        if not changed and all(_alike(made[id(tensor)], tensor) for tensor, _, _ in slots):
            with same_random_numbers():
                seed(DRAWS + number)
                made = {
                    id(tensor): _with_random_sample(tensor, dim, which) if _is_dense(tensor) else tensor
                    for tensor, dim, which in slots
                }
        self._can_replace |= changed or any(not _alike(made[id(tensor)], tensor) for tensor, _, _ in slots)
        new = arguments.map(lambda tensor: made.get(id(tensor), tensor))
        return self._with_lists(new, lambda key, values: [*values[:sample], lists[key][sample], *values[sample + 1 :]])

    def _entries_of(
        self, tensor: Tensor, fitted: FittedShape | None, sample: int, *, in_turn: bool
    ) -> tuple[int, slice] | None:
        """Return along which dim, and where there, an input holds a sample; `None` where that is not known."""
        if tensor.is_nested:
            return 0, slice(sample, sample + 1)
        part = _part_of(fitted)
        if part is None or (self._flat and not _is_real(tensor)):
            return None
        dim, each = part
        if tensor.dim() <= dim or tensor.shape[dim] != each * BATCH:
            return None
        return dim, slice(sample, None, BATCH) if in_turn else slice(each * sample, each * (sample + 1))

    def _picked(self, arguments: Arguments, pick: Pick) -> Arguments | None:
        """Return the arguments for some of the samples, `None` where an input does not say which samples are which."""
        fits = {id(tensor): fitted for tensor, fitted in self._told_by_shape(arguments)}
        for fitted in fits.values():
            merged = any(fit and fit.power and not fit.is_batch for fit in fitted or ())
            if fitted is None or merged or fitted in self._flat:
                note = (
                    f"an input of {shape_text(fitted)} holds samples of unknown bounds, so no other batch was compared"
                )
                self._tested.notes.append(note)
                return None
        index = torch.tensor([sample for sample in pick if sample is not None])

        def picked(tensor: Tensor) -> Tensor:
            if tensor.is_nested:
                return _nested_like(tensor, _entries(tensor.unbind(), pick))
            dense = tensor if _is_dense(tensor) else tensor.to_dense()
            for dim in batch_dims(fits.get(id(tensor))):
                dense = dense.index_select(dim, index.to(tensor.device))
            return dense if _is_dense(tensor) else dense.to_sparse(layout=tensor.layout)

        return self._with_lists(arguments.map(picked), lambda _, values: _entries(values, pick))

    def _with_fits(self, arguments: Arguments) -> list[tuple[Tensor, FittedShape | None]]:
        """Return the tensors of arguments with what is known of their shapes."""
        named = named_tensors((arguments.args, arguments.kwargs))
        return [(tensor, self._runs.inputs_by_name.get(name)) for name, tensor in named]

    def _told_by_shape(self, arguments: Arguments) -> list[tuple[Tensor, FittedShape | None]]:
        """Return those whose samples only their shapes tell apart: they are in no list of samples and not nested."""
        in_lists = {id(t) for key, value in _items(arguments) if key in self._lists for t in tensors_in(value)}
        pairs = self._with_fits(arguments)
        return [(tensor, fit) for tensor, fit in pairs if id(tensor) not in in_lists and not tensor.is_nested]

    def _flat_inputs(self) -> list[FittedShape]:
        """Return the shapes of inputs whose samples lie one behind the other, in pieces of another length each."""
        fits = [fitted for _, fitted in self._told_by_shape(self._arguments(0)) if fitted]
        return [fitted for fitted in fits if None in fitted and _part_of(fitted) is None]

    def _with_lists(
        self, arguments: Arguments, change: Callable[[int | str, Sequence[Any]], Sequence[Any]]
    ) -> Arguments:
        """Return the arguments with what `change` makes of each list of samples."""
        args, kwargs = list(arguments.args), dict(arguments.kwargs)
        for key in self._lists:
            if isinstance(key, int):
                args[key] = type(args[key])(change(key, args[key]))
            else:
                kwargs[key] = type(kwargs[key])(change(key, kwargs[key]))
        return Arguments(tuple(args), kwargs)

    def _lists_of_samples(self) -> set[int | str]:
        """Return the places of arguments that are lists as long as the batch, such as lengths, texts or pictures."""
        found: list[set[int | str]] = []
        for batch in (BATCH, *self._runs.probe):
            arguments = draw(self._model, self._make_inputs, batch, 0)
            found.append(
                {key for key, value in _items(arguments) if type(value) in (list, tuple) and len(value) == batch}
            )
        return set.intersection(*found)


class _FirstNaN(CallMode):
    """Finds the first call that gives NaN where no operand has any."""

    first = ""

    def called(self, call: Call) -> None:
        if self.first or not any(map(_holds_nan, call.outputs)) or any(map(_holds_nan, call.inputs)):
            return
        place = self.places.current()
        if place is not None:
            self.first = f"{place.where} `{place.text}`"


def _holds_nan(tensor: Tensor) -> bool:
    return _is_real(tensor) and _is_dense(tensor) and bool(tensor.isnan().any())


class _ModelError(Exception):
    """The model raised on what make_inputs gives."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _UntestedError(Exception):
    """A test could not run."""


def _all(batch: int) -> Pick:
    return tuple(range(batch))


def _without(sample: int) -> Pick:
    return tuple(None if other == sample else other for other in range(BATCH))


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {shorten(' '.join(str(error).split()), 200)}"


def _random_state() -> object:
    """Return the state of the random streams of the CPU, to compare."""
    numpy = sys.modules.get("numpy")
    drawn = None if numpy is None else numpy.random.get_state(legacy=True)[1:3]
    return torch.get_rng_state().tolist(), random.getstate(), None if drawn is None else (drawn[0].tolist(), drawn[1])


def _on_device(result: _Result) -> bool:
    return any(tensor.device.type != "cpu" for tensor in result.tensors)


def _is_dropout(op: str) -> bool:
    """Return whether an operation is random in training mode alone, such as attention with its `dropout_p`."""
    return "dropout" in op or op in _WITH_DROPOUT


_WITH_DROPOUT = frozenset((
    "scaled_dot_product_attention", "multi_head_attention_forward", "rrelu", "rrelu_", "lstm", "gru", "rnn_tanh", "rnn_relu",
))  # fmt: skip


def _what(kind: FindingKind, pick: Pick) -> str:
    if kind == "mixing":
        return f"sample {pick.index(None)} replaced"
    return "the samples in another order" if kind == "place" else f"a batch of {len(pick)}"


def _items(arguments: Arguments) -> list[tuple[int | str, Any]]:
    return [*enumerate(arguments.args), *arguments.kwargs.items()]


def _in_training(model: Model, kind: type[nn.Module]) -> list[tuple[str, nn.Module]]:
    named = model.named_modules() if isinstance(model, nn.Module) else ()
    return [(name, module) for name, module in named if isinstance(module, kind) and _trains(module)]


def _trains(module: nn.Module) -> bool:
    return getattr(module, "training", False)  # a frozen script has no such attribute


def _entries(values: Sequence[Any], pick: Pick) -> list[Any]:
    return [values[sample] for sample in pick if sample is not None]


def _from_list(tensors: Sequence[Tensor], positions: Sequence[int]) -> Callable[[int], tuple[Tensor, Tensor]]:
    return lambda sample: (tensors[positions[sample]], tensors[positions[sample]])


def _from_tensor(tensor: Tensor, dims: Sequence[int]) -> Callable[[int], tuple[Tensor, Tensor]]:
    def sample_of(sample: int) -> tuple[Tensor, Tensor]:
        chosen = tensor
        for dim in reversed(dims):  # of a table of all pairs, the entry of the sample with itself
            chosen = chosen.select(dim, sample)
        return chosen, tensor

    return sample_of


def _part_of(fitted: FittedShape | None) -> tuple[int, int] | None:
    """Return the dim along which the samples of an input lie, and how many entries each has there."""
    parts = [(dim, fit.per_sample) for dim, fit in enumerate(fitted or ()) if fit is not None and fit.per_sample]
    return min(parts, key=lambda part: part[1], default=None)  # the batch itself if there is a dim that is it


def _is_real(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _nested_like(tensor: Tensor, parts: Sequence[Tensor]) -> Tensor:
    return torch.nested.nested_tensor([part.detach() for part in parts], layout=tensor.layout)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two results are equal, where NaN counts as equal to NaN."""
    return torch.equal(one, other) or (
        _is_real(one) and one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    )


def _alike(one: Tensor, other: Tensor) -> bool:
    if one.is_nested:
        return all(torch.equal(*parts) for parts in zip(one.unbind(), other.unbind(), strict=True))
    return torch.equal(one, other) if _is_dense(one) else torch.equal(one.to_dense(), other.to_dense())


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_nested


def _with_sample(tensor: Tensor, other: Tensor | None, dim: int, which: slice) -> Tensor:
    if other is not None and tensor.is_nested and other.is_nested:
        parts = list(tensor.unbind())
        parts[which] = other.unbind()[which]
        return _nested_like(tensor, parts)
    if other is None or other.shape != tensor.shape or other.dtype != tensor.dtype:
        return tensor
    if tensor.layout is not torch.strided:
        return _with_sample(tensor.to_dense(), other.to_dense(), dim, which).to_sparse(layout=tensor.layout)
    new = tensor.clone(memory_format=torch.contiguous_format)
    new.movedim(dim, 0)[which].copy_(other.movedim(dim, 0)[which])
    return new


def _with_random_sample(tensor: Tensor, dim: int, which: slice) -> Tensor:
    """Return a copy in which one sample has new random values, of the same scale or in the same range of integers."""
    new = tensor.clone(memory_format=torch.contiguous_format)
    slot = new.movedim(dim, 0)[which]
    if tensor.is_floating_point() or tensor.is_complex():
        slot.add_(torch.randn_like(slot), alpha=3 * (float(tensor.abs().nan_to_num(0, 0, 0).mean()) or 1.0))
    elif tensor.numel():
        low, high = int(tensor.min()), int(tensor.max())
        slot.copy_(torch.randint(low, high + 1, slot.shape, device=slot.device))
    return new
