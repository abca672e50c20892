"""Predict the shapes of every call from two runs at prime batch sizes, and find the first call that differs."""

import ast
import dataclasses
import itertools
import linecache
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from linkboy._calls import Model, Way, without_values
from linkboy._report import plural
from linkboy.shapes._calls import Place, Shape
from linkboy.shapes._fit import Fit, FittedShape, batch_dims, fit_shape, fit_shapes, fit_size, follows_batch, shape_text
from linkboy.shapes._rows import ShapeRow
from linkboy.shapes._runs import MakeInputs, Run, draw, run_once, seen_on_shapes
from linkboy.shapes.hazards import Hazard
from linkboy.shapes.report import Finding, FindingKind

Key = tuple[str, int, int, str]  # what identifies a call in another run

DRAWS = 3  # of values, for each batch size
_MORE_DRAWS = 6  # before a difference counts that values could explain
_LONGEST_ERROR = 300  # characters of its first line; torch lists every signature below it

_LOST = (
    "no dim holds the samples from here on; pass the batch size to view or reshape and use -1 for a feature dim, reduce "
    "over feature dims only, and compute the loss outside the model"
)
_MOVED = "the samples lie along another dim from here on; move it back with transpose or movedim"
_SAME_INPUTS = "the inputs are the same at every batch size; let make_inputs use the size that it is given"
_SPREAD = "a list holds the arguments; let make_inputs return a list that is one argument in a tuple: (samples,)"
_SPECIAL_CASE = "a special case for some batch sizes; let the same lines run for all"


class Runs:
    """The runs of one model at all batch sizes, and what the two probes predict for each call.

    Calls are matched by place and by how often the place was passed, so that a loop over the batch is predicted as well.
    On values every size is run with several draws: a size that differs between draws is data, and nothing is predicted. So
    it is on fake tensors if draws differ in what these show, such as lengths in a list.
    """

    def __init__(
        self, model: Model, make_inputs: MakeInputs, probe: tuple[int, int], sizes: Sequence[int], way: Way
    ) -> None:
        self._model, self._make_inputs = model, make_inputs
        self.way: Way = way
        self.probe, self.sizes = probe, tuple(dict.fromkeys(sizes))
        self.first_error: Run | None = None  # of a run on values
        if way == "fake" and not without_values(model):  # what functools.cache and the like keep must be real tensors
            warm = run_once(model, make_inputs, 2, "values")
            self.first_error = warm if warm.error else None
        self.several = way == "values" or self._draws_differ()
        draws = range(DRAWS if self.several else 1)
        self.draws: dict[int, list[Run]] = {
            batch: [self.again(batch, number) for number in draws] for batch in dict.fromkeys((*probe, *sizes))
        }
        self.probes = tuple(self.at(batch) for batch in probe)
        self._fit()

    def _draws_differ(self) -> bool:
        for batch in (*self.probe, *self.sizes):
            drawn = [draw(self._model, self._make_inputs, batch, number) for number in range(DRAWS)]
            if len(set(map(seen_on_shapes, drawn))) > 1:
                return True
        return False

    def again(self, batch: int, number: int) -> Run:
        """Return another run at a batch size, with the draw of values of this number."""
        return run_once(self._model, self._make_inputs, batch, self.way, number=number)

    def at(self, batch: int) -> Run:
        """Return a run at a batch size, one that raised if there is one."""
        return next((run for run in self.draws[batch] if run.error), self.draws[batch][0])

    @property
    def failed(self) -> bool:
        """Whether a run raised."""
        return any(run.error for runs in self.draws.values() for run in runs)

    def _fit(self) -> None:
        first, second = (self.draws[batch] for batch in self.probe)
        # By name: behind a list of samples a tensor has another number at another batch size.
        self.inputs_by_name = {name: self._fit_input(name, first, second) for name in first[0].input_names}
        self.inputs = list(self.inputs_by_name.values())
        self.outputs = fit_shapes([run.outputs for run in first], [run.outputs for run in second], self.probe)
        self.dim = next((dims[0] for dims in map(batch_dims, self.inputs) if dims), 0)  # of the batch
        passes = {id(run): by_key(run.rows) for runs in self.draws.values() for run in runs}
        one, two = ([passes[id(run)] for run in runs] for runs in (first, second))
        self.counts: dict[Key, Fit | None] = {}
        self.fits: dict[Key, list[list[FittedShape | None]]] = {}
        for key in dict.fromkeys(itertools.chain(*one, *two)):
            self._fit_call(key, [groups.get(key, []) for groups in one], [groups.get(key, []) for groups in two])
        self.pieces = {key for key in self.counts if _in_pieces([groups.get(key, ()) for groups in passes.values()])}
        self.data_dependent = {key for key, count in self.counts.items() if count is None or self._varies(key)}
        self.varies = bool(self.data_dependent)  # whether some size was seen to depend on the values

    def _fit_input(self, name: str, first: list[Run], second: list[Run]) -> FittedShape | None:
        """Return the fitted shape of an input without the sizes that another batch size or draw contradicts."""
        one, two = ([run.input_shape(name) for run in runs] for runs in (first, second))
        if None in one or None in two:
            return None
        fitted = fit_shape([shape for shape in one if shape], [shape for shape in two if shape], self.probe)
        for run in itertools.chain(*self.draws.values()):
            shape = run.input_shape(name)
            if fitted is not None and shape is not None and len(shape) == len(fitted):
                fitted = tuple(
                    fit if fit is None or fit.at(run.batch) in (None, size) else None
                    for fit, size in zip(fitted, shape, strict=True)
                )
        return fitted

    def _fit_call(self, key: Key, first: list[list[ShapeRow]], second: list[list[ShapeRow]]) -> None:
        """Fit how often a call runs and the shapes of its results, given its rows in each draw at both probes."""
        counts = [set(map(len, draws)) for draws in (first, second)]
        if any(len(count) > 1 for count in counts):
            self.counts[key] = None
            return
        one, two = len(first[0]), len(second[0])
        self.counts[key] = fit_size(one, two, self.probe)
        self.fits[key] = [
            fit_shapes([rows[n].out_shapes for rows in first], [rows[n].out_shapes for rows in second], self.probe)
            for n in range(min(one, two))
        ]

    def _varies(self, key: Key) -> bool:
        return any(fit is None for fits in self.fits[key] for fitted in fits for fit in fitted or ())

    def fit_of(self, rows: Sequence[ShapeRow]) -> list[list[FittedShape | None]]:
        """Return, for each row of a run, the fitted shapes of its outputs; an empty list where there are none."""
        seen: Counter[Key] = Counter()
        fits = []
        for row in rows:
            key = key_of(row)
            known = self.fits.get(key, [])
            fits.append(known[seen[key]] if seen[key] < len(known) else [])
            seen[key] += 1
        return fits


def _in_pieces(runs: Sequence[Sequence[ShapeRow]]) -> bool:
    """Return whether a call works through the batch in pieces: it always runs, but not always as often or in as many parts.

    Which pieces there are is the model's choice, as with `x.split(2)`; whether they fit together is tested on values.
    """
    parts = {tuple(len(row.out_shapes) for row in rows) for rows in runs}
    return len(parts) > 1 and all(runs)


def key_of(row: ShapeRow) -> Key:
    """Return what identifies a call in another run."""
    return row.file, row.line, row.column, row.op


def by_key(rows: Sequence[ShapeRow]) -> dict[Key, list[ShapeRow]]:
    """Group the rows of a run by place and operation, each group in order."""
    groups: dict[Key, list[ShapeRow]] = {}
    for row in rows:
        groups.setdefault(key_of(row), []).append(row)
    return groups


def compared(runs: Runs, output_batch_dim: int | None) -> tuple[list[Finding], list[str]]:
    """Return what differs from the prediction, the most likely cause first, and what could not be compared."""
    for run in runs.probes:
        if run.error is not None:
            always = all(runs.at(batch).error is not None for batch in runs.draws)
            finding = from_error(run.batch, run.error, run.error_place, always=always)
            if isinstance(run.error, TypeError) and all(each.argument_count == each.batch for each in runs.probes):
                finding = dataclasses.replace(finding, advice=_SPREAD)
            return [*_lost_before_error(runs), finding], []
    notes = []
    if not runs.probes[0].rows:
        notes.append("no call was seen (torch.jit.script, or another thread): only outputs were compared")
    if runs.data_dependent:
        file, line, _, op = min(runs.data_dependent)
        count = len(runs.data_dependent)
        notes.append(
            f"{plural(count, 'place')} where sizes depend on the values {'was' if count == 1 else 'were'} not compared in "
            f"full, such as {op} at {file}:{line}"
        )
    findings = [finding for finding in (_difference_at(runs, batch) for batch in runs.sizes) if finding]
    lost = _leading_dim(runs, output_batch_dim)
    return findings + ([lost] if lost else []), notes


def _difference_at(runs: Runs, batch: int) -> Finding | None:
    """Return the first difference at a batch size, if every draw shows it: values may choose another path in some."""
    if (failed := runs.at(batch)).error:
        return _first_difference(runs, failed)
    found = _first_difference(runs, runs.draws[batch][0])
    if found is None or not runs.several:
        return found
    others = (*runs.draws[batch][1:], *(runs.again(batch, DRAWS + n) for n in range(_MORE_DRAWS)))
    if all(_same(found, _first_difference(runs, other)) for other in others):
        return found
    runs.varies = True
    return None


def _same(one: Finding, other: Finding | None) -> bool:
    """Return whether two draws show the same difference; where the number of dims is wrong, sizes may be data."""
    if other is None or (one.kind, one.line) != (other.kind, other.line):
        return False
    dims, expected = (len(re.findall(r"\d+|\?", text)) for text in (one.got, one.expected))
    return one.kind != "shape" or one.got == other.got or dims != expected


def _first_difference(runs: Runs, run: Run) -> Finding | None:
    at, finding = _first_wrong_row(runs, run)
    if run.error is None:
        missing_at, missing = _first_missing(runs, run)
        if missing_at < at:
            return missing
    if finding is None and run.error is not None:
        return from_error(run.batch, run.error, run.error_place)
    return finding or wrong_output(runs, run)


def _first_wrong_row(runs: Runs, run: Run) -> tuple[float, Finding | None]:
    for at, (row, fits) in enumerate(zip(run.rows, runs.fit_of(run.rows), strict=True)):
        key = key_of(row)
        if key not in runs.counts:
            got = f"{row.op}, which does not run at batch {runs.probe[0]}"
            return at, _control_flow(run.batch, row, f"the calls of batch {runs.probe[0]}", got)
        if key in runs.pieces:
            continue
        for fitted, shape in zip(fits, row.out_shapes, strict=False):
            predicted = _at(fitted, run.batch)
            if not _fits(predicted, shape):
                return at, at_row(
                    "shape", run.batch, row, expected=_text(predicted), got=str(shape),
                    advice=_shape_advice(row, run),
                )  # fmt: skip
    return math.inf, None


def _first_missing(runs: Runs, run: Run) -> tuple[float, Finding | None]:
    passed = Counter(map(key_of, run.rows))
    for at, row in enumerate(runs.probes[0].rows):
        key = key_of(row)
        count = runs.counts[key]
        predicted = None if count is None or key in runs.pieces else count.at(run.batch)
        if predicted is not None and passed[key] != predicted:
            expected = f"{row.op}, as at batch {runs.probe[0]}"
            return at, _control_flow(
                run.batch, row, expected, f"{plural(passed[key], 'call')} of it instead of {predicted}"
            )
    return math.inf, None


def _control_flow(batch: int, row: ShapeRow, expected: str, got: str) -> Finding:
    line, text = _condition_around(row)
    finding = at_row("control-flow", batch, row, expected=expected, got=got, advice=_SPECIAL_CASE)
    return dataclasses.replace(finding, line=line, code=text)


def _condition_around(row: ShapeRow) -> tuple[int, str]:
    """Return the line and condition of the `if` around a call, or those of the call itself where there is none."""
    lines = linecache.getlines(row.file)
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:  # a notebook cell with magics
        return row.line, row.code
    around = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and node.lineno <= row.line <= (node.end_lineno or node.lineno)
    ]
    innermost = max(around, key=lambda node: node.lineno, default=None)
    return (row.line, row.code) if innermost is None else (innermost.lineno, ast.unparse(innermost.test))


def wrong_output(runs: Runs, run: Run) -> Finding | None:
    """Return the finding for an output whose shape is not that of the prediction."""
    for fitted, shape in zip(runs.outputs, run.outputs, strict=False):
        predicted = _at(fitted, run.batch)
        if not _fits(predicted, shape):
            advice = "at this batch size the shape of the output does not follow the rule of the others"
            return at_row("shape", run.batch, None, expected=_text(predicted), got=str(shape), advice=advice)
    return None


def _leading_dim(runs: Runs, dim: int | None) -> Finding | None:
    """Check that the first output that is not a scalar has the batch as a dim, or as the list of its samples."""
    outputs = [fitted for fitted in runs.outputs if fitted is None or fitted]
    if not runs.outputs or (outputs and outputs[0] is None) or lists_of_samples(runs):
        return None
    first = (outputs[0] or ()) if outputs else ()
    dims = batch_dims(first)
    if dims if dim is None else dim in dims:
        return None
    follow = any(map(follows_batch, runs.inputs))
    advice = _MOVED if dims else _LOST if follow or not runs.inputs else _SAME_INPUTS
    return at_row(
        "leading-dim", runs.probe[0], _where_lost(runs, dim if dims else None),
        expected="an output with B as a dim" if dim is None else f"an output with B at dim {dim}",
        got=shape_text(first) if first else "a scalar", advice=advice,
    )  # fmt: skip


def lists_of_samples(runs: Runs) -> bool:
    """Return whether the model returns a list with an entry for each sample, as detectors do."""
    return all(samples_in_lists(run.output_names, run.batch) for runs_at in runs.draws.values() for run in runs_at)


def texts(fits: Sequence[FittedShape | None], names: Sequence[str], batch: int) -> tuple[str, ...]:
    """Return the shapes of tensors as text; those of a list with an entry for each sample as one, `B x (3, 8, 8)`."""
    groups: dict[tuple[str, ...], list[int]] = {}
    whole = bool(samples_in_lists(names, batch))
    for position, name in enumerate(names):  # of arguments, the names begin with args or kwargs and the argument
        groups.setdefault(() if whole else tuple(name.split(".")[:2]), []).append(position)
    found: list[str] = []
    for group in groups.values():
        shapes = [fits[position] for position in group]
        if lists := samples_in_lists([names[position] for position in group], batch):
            every = [{shape_text(shapes[position]) for position in positions} for positions in lists]
            found += [f"B x {one.pop() if len(one) == 1 else '(?)'}" for one in every]
        else:
            found += map(shape_text, shapes)
    return tuple(found)


def samples_in_lists(names: Sequence[str], batch: int) -> list[list[int]]:
    """Return the positions of the tensors of each list of samples, given the paths of all tensors; nothing if there is none.

    Examples:
        >>> samples_in_lists(["0.boxes", "0.scores", "1.boxes", "1.scores"], 2)
        [[0, 2], [1, 3]]
        >>> samples_in_lists(["0", "1"], 5)
        []
    """
    paths = [name.split(".") for name in names]
    for level in range(min(map(len, paths), default=0)):
        lists: dict[tuple[str, ...], list[int]] = {}
        for position, path in enumerate(paths):
            lists.setdefault((*path[:level], "*", *path[level + 1 :]), []).append(position)
        entries = [[paths[position][level] for position in positions] for positions in lists.values()]
        if all(entry == [str(sample) for sample in range(batch)] for entry in entries):
            return list(lists.values())
    return []


def _lost_before_error(runs: Runs) -> list[Finding]:
    """Return the call before an exception that lost the batch dim, unless it only merged it with another dim."""
    rows = runs.probes[0].rows
    fits = runs.fit_of(rows)
    row = _where_lost(runs, None)
    if row is None:  # the batch came back from elsewhere: the last call whose result follows the batch no longer
        dropped = [row for row, fitted in zip(rows, fits, strict=True) if _drops_batch(row, fitted, runs.probe[0])]
        row = dropped[-1] if dropped else None
    if row is None or _only_merges(row) or row.out_shapes[0] == ():  # a scalar replaces no tensor
        return []
    fitted = fits[rows.index(row)]
    got = shape_text(fitted[0]) if fitted else str(row.out_shapes[0])
    return [at_row("leading-dim", runs.probe[0], row, expected="a result with B as a dim", got=got, advice=_LOST)]


def _only_merges(row: ShapeRow) -> bool:
    given, made = row.in_shapes[0], row.out_shapes[0]
    return len(given) > 1 and made == (given[0] * given[1], *given[2:])


def _drops_batch(row: ShapeRow, fits: Sequence[FittedShape | None], batch: int) -> bool:
    known = [fitted for fitted in fits if fitted]
    return any(batch in shape for shape in row.in_shapes) and bool(known) and not any(map(follows_batch, known))


def _where_lost(runs: Runs, dim: int | None) -> ShapeRow | None:
    """Return the first call that has the batch in its input, after the last that has it in its output (at `dim`, or any).

    Where the batch was first moved to another dim, so that the call could take it for something else, that is the call.
    """
    rows, batch = runs.probes[0].rows, runs.probe[0]
    lost = _first_without(runs, rows, dim, batch)
    if dim is None and lost and not any(shape[runs.dim : runs.dim + 1] == (batch,) for shape in lost.in_shapes):
        return _first_without(runs, rows, runs.dim, batch)
    return lost


def _first_without(runs: Runs, rows: Sequence[ShapeRow], dim: int | None, batch: int) -> ShapeRow | None:
    last = -1
    for at, fits in enumerate(runs.fit_of(rows)):
        if any(found for found in map(batch_dims, fits) if dim is None or dim in found):
            last = at
    return next((row for row in rows[last + 1 :] if any(batch in shape for shape in row.in_shapes)), None)


def _shape_advice(row: ShapeRow, run: Run) -> str:
    hazard = next((h for h in run.trace.hazards if (h.file, h.line, h.op) == (row.file, row.line, row.op)), None)
    return hazard.advice if hazard else "this call treats some batch sizes differently; name the dims it works on"


def _at(fitted: FittedShape | None, batch: int) -> tuple[int | None, ...] | None:
    return None if fitted is None else tuple(None if fit is None else fit.at(batch) for fit in fitted)


def _fits(predicted: tuple[int | None, ...] | None, shape: Shape) -> bool:
    if predicted is None:
        return True
    return len(predicted) == len(shape) and all(a is None or a == b for a, b in zip(predicted, shape, strict=True))


def _text(predicted: tuple[int | None, ...] | None) -> str:
    sizes = ["?" if size is None else str(size) for size in predicted or ()]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def at_row(kind: FindingKind, batch: int, row: ShapeRow | None, *, expected: str, got: str, advice: str) -> Finding:
    """Return a finding on the line of a traced call, or on no line."""
    where = ("", "", 0, "") if row is None else (row.op, row.file, row.line, row.code)
    return Finding(kind, batch, *where, expected, got, advice)


def from_error(
    batch: int, error: Exception | None, place: Place | None, *, always: bool = False, on_values: bool = False
) -> Finding:
    """Return the finding for an exception, on the user's line that raised it.

    Args:
        batch: the batch size.
        error: what was raised.
        place: the user's line, if the exception passed through one.
        always: whether every batch size raises, so that the batch is not the cause.
        on_values: whether a run on real data raised where the shapes alone did not.

    Returns:
        A finding of kind `"error"`.
    """
    said = (str(error).strip().splitlines() or [""])[0][:_LONGEST_ERROR]
    where = ("", 0, "") if place is None else (place.file, place.line, place.text)
    advice = "make this line work for every batch size"
    if _NO_VARIANCE in said:
        advice = "BatchNorm in training mode has no variance to take; leave out a last batch of one with drop_last=True"
    elif on_values:
        advice = "real data raises here, though shapes are right: fix the model, or let make_inputs return values that it takes"
    elif always:
        advice = "every batch size raises: fix the model, or let make_inputs return the inputs that it takes"
    return Finding("error", batch, type(error).__name__, *where, "a result", f"{type(error).__name__}: {said}", advice)


_NO_VARIANCE = "Expected more than 1 value per channel when training"  # of torch


def from_hazard(batch: int, hazard: Hazard) -> Finding:
    """Return the finding for a hazard of the trace."""
    where = hazard.op, hazard.file, hazard.line, hazard.code
    return Finding("hazard", batch, *where, "no hazard", hazard.rule, hazard.advice)


def one_for_each_line(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return the first finding of each line: the same mistake often shows in several ways."""
    kept: dict[object, Finding] = {}
    for finding in findings:
        kept.setdefault((finding.file, finding.line) if finding.line else finding.kind, finding)
    return tuple(kept.values())
