"""Predict the shapes of every call from two runs at prime batch sizes, and find the first call that differs."""

import ast
import dataclasses
import linecache
import math
from collections.abc import Iterable, Sequence

from linkboy._calls import Model, Way, without_values
from linkboy.shapes._calls import Place, Shape
from linkboy.shapes._fit import FittedShape, batch_dim, fit_shapes, fit_size, shape_text
from linkboy.shapes._rows import ShapeRow
from linkboy.shapes._runs import MakeInputs, Run, run_once
from linkboy.shapes.hazards import Hazard
from linkboy.shapes.report import Finding, FindingKind

Key = tuple[str, int, int, str]  # what identifies a call in another run

_LONGEST_ERROR = 300  # characters of its first line; torch lists every signature below it

_LOST = (
    "no dim holds the samples from here on; pass the batch size to view or reshape and use -1 for a feature dim, reduce "
    "over feature dims only, and compute the loss outside the model"
)
_MOVED = "the samples lie along another dim from here on; move it back with transpose or movedim"
_SAME_INPUTS = "the inputs are the same at every batch size; let make_inputs use the size that it is given"
_SPECIAL_CASE = "a special case for some batch sizes; let the same lines run for all"


class Runs:
    """The runs of one model, each made when first needed, and what the two probes predict for each call.

    Calls are matched by place and by how often the place was passed, so that a loop over the batch is predicted as well.
    """

    def __init__(self, model: Model, make_inputs: MakeInputs, probe: tuple[int, int], way: Way) -> None:
        self._model, self._make_inputs = model, make_inputs
        self.way: Way = way
        self.probe = probe
        self.known: dict[int, Run] = {}
        if way == "fake" and not without_values(
            model
        ):  # what a model caches outside itself, as with functools.lru_cache, must be real tensors
            run_once(model, make_inputs, 2, "values")
        self.probes = first, second = self.at(probe[0]), self.at(probe[1])
        self.inputs = fit_shapes(first.inputs, second.inputs, probe)
        self.outputs = fit_shapes(first.outputs, second.outputs, probe)
        groups = by_key(first.rows), by_key(second.rows)
        self.dim = next((dim for dim in map(batch_dim, self.inputs) if dim is not None), 0)  # of the batch
        self.counts = {key: fit_size(len(groups[0].get(key, ())), len(groups[1].get(key, ())), probe)
                       for key in groups[0] | groups[1]}  # fmt: skip
        self.fits = {
            key: [fit_shapes(a.out_shapes, b.out_shapes, probe) for a, b in zip(rows, groups[1][key], strict=False)]
            for key, rows in groups[0].items()
            if key in groups[1]
        }
        self.unsteady = set() if way == "fake" else self._unsteady()

    def at(self, batch: int) -> Run:
        """Return the run at a batch size."""
        if batch not in self.known:
            self.known[batch] = self.again(batch, seed=0)
        return self.known[batch]

    def again(self, batch: int, *, seed: int) -> Run:
        """Return another run at a batch size, with other random numbers."""
        return run_once(self._model, self._make_inputs, batch, self.way, number=seed)

    def fit_of(self, rows: Sequence[ShapeRow]) -> list[list[FittedShape | None]]:
        """Return, for each row of a run, the fitted shapes of its outputs; an empty list where there are none."""
        seen: dict[Key, int] = {}
        fits = []
        for row in rows:
            key = key_of(row)
            nth = seen[key] = seen.get(key, -1) + 1
            known = self.fits.get(key, [])
            fits.append(known[nth] if nth < len(known) and key not in self.unsteady else [])
        return fits

    def _unsteady(self) -> set[Key]:
        """Return the calls that depend on the data: their shapes, or how often they run, change with other values."""
        unsteady: set[Key] = set()
        for run in self.probes:
            one, other = by_key(run.rows), by_key(self.again(run.batch, seed=1).rows)
            unsteady |= {key for key in one | other if _shapes(one.get(key, [])) != _shapes(other.get(key, []))}
        return unsteady


def key_of(row: ShapeRow) -> Key:
    """Return what identifies a call in another run."""
    return row.file, row.line, row.column, row.op


def by_key(rows: Sequence[ShapeRow]) -> dict[Key, list[ShapeRow]]:
    """Group the rows of a run by place and operation, each group in order."""
    groups: dict[Key, list[ShapeRow]] = {}
    for row in rows:
        groups.setdefault(key_of(row), []).append(row)
    return groups


def compared(runs: Runs, sizes: Sequence[int]) -> tuple[list[Finding], list[str]]:
    """Return what differs from the prediction, the most likely cause first, and what could not be compared."""
    for run in runs.probes:
        if run.error is not None:
            always = all(other.error is not None for other in (*runs.probes, *map(runs.at, sizes)))
            return [*_lost_before_error(runs), from_error(run.batch, run.error, run.error_place, always=always)], []
    notes = []
    if not runs.probes[0].rows:
        notes.append("no call was seen (torch.jit.script, or another thread): only outputs were compared")
    if runs.unsteady:
        file, line, _, op = min(runs.unsteady)
        notes.append(
            f"{len(runs.unsteady)} places depend on the data and were not compared, such as {op} at {file}:{line}"
        )
    findings = []
    for batch in sizes:
        finding = _first_difference(runs, runs.at(batch))
        if (
            finding and runs.way == "values"
        ):  # the values may have chosen another path: a real finding shows with others
            again = _first_difference(runs, runs.again(batch, seed=1))
            finding = finding if again and (again.kind, again.line) == (finding.kind, finding.line) else None
        findings += [finding] if finding else []
    leading = _leading_dim(runs)
    return findings + ([leading] if leading else []), notes


def _first_difference(runs: Runs, run: Run) -> Finding | None:
    at, finding = _first_wrong_row(runs, run)
    if run.error is None:
        missing_at, missing = _first_missing(runs, run)
        if missing_at < at:
            return missing
    if finding is None and run.error is not None:
        return from_error(run.batch, run.error, run.error_place)
    return finding or _wrong_output(runs, run)


def _first_wrong_row(runs: Runs, run: Run) -> tuple[float, Finding | None]:
    for at, (row, fits) in enumerate(zip(run.rows, runs.fit_of(run.rows), strict=True)):
        key = key_of(row)
        if key not in runs.counts and key not in runs.unsteady:
            got = f"{row.op}, which does not run at batch {runs.probe[0]}"
            return at, _control_flow(run.batch, row, f"the calls of batch {runs.probe[0]}", got)
        for fitted, shape in zip(fits, row.out_shapes, strict=False):
            predicted = _at(fitted, run.batch)
            if not _fits(predicted, shape):
                return at, at_row(
                    "shape", run.batch, row, expected=_text(predicted), got=str(shape),
                    advice=_shape_advice(row, run),
                )  # fmt: skip
    return math.inf, None


def _first_missing(runs: Runs, run: Run) -> tuple[float, Finding | None]:
    passed = {key: len(rows) for key, rows in by_key(run.rows).items()}
    for at, row in enumerate(runs.probes[0].rows):
        key = key_of(row)
        predicted = runs.counts[key].at(run.batch)
        if key not in runs.unsteady and predicted is not None and passed.get(key, 0) != predicted:
            expected = f"{row.op}, as at batch {runs.probe[0]}"
            return at, _control_flow(
                run.batch, row, expected, f"{passed.get(key, 0)} calls of it instead of {predicted}"
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


def _wrong_output(runs: Runs, run: Run) -> Finding | None:
    for fitted, shape in zip(runs.outputs, run.outputs, strict=False):
        predicted = _at(fitted, run.batch)
        if not _fits(predicted, shape):
            advice = "at this batch size the shape of the output does not follow the rule of the others"
            return at_row("shape", run.batch, None, expected=_text(predicted), got=str(shape), advice=advice)
    return None


def _leading_dim(runs: Runs) -> Finding | None:
    """Check that the first output that is not a scalar has the batch in the dim where the first input has it."""
    dim = runs.dim
    outputs = [fitted for fitted in runs.outputs if fitted is None or fitted]
    if not runs.outputs or (outputs and outputs[0] is None):
        return None
    first = (outputs[0] or ()) if outputs else ()
    if len(first) > dim and first[dim].is_batch:
        return None
    moved = batch_dim(first) is not None
    follow = any(fit.power for fitted in runs.inputs for fit in fitted or ())
    advice = _MOVED if moved else _LOST if follow or not runs.inputs else _SAME_INPUTS
    got = shape_text(first) if first else "a scalar"
    return at_row(
        "leading-dim", runs.probe[0], _where_lost(runs, dim if moved else None), expected=f"an output with B at dim {dim}",
        got=got, advice=advice,
    )  # fmt: skip


def _lost_before_error(runs: Runs) -> list[Finding]:
    """Return the call before an exception that lost the batch dim, unless it only merged it with another dim."""
    row = _where_lost(runs, None)
    if row is None or row.out_shapes[0][1:] == row.in_shapes[0][2:]:
        return []
    fits = runs.fit_of(runs.probes[0].rows)[runs.probes[0].rows.index(row)]
    got = shape_text(fits[0]) if fits else str(row.out_shapes[0])
    return [at_row("leading-dim", runs.probe[0], row, expected="a result with B as a dim", got=got, advice=_LOST)]


def _where_lost(runs: Runs, dim: int | None) -> ShapeRow | None:
    """Return the first call that has the batch in its input, after the last that has it in its output (at `dim`, or any)."""
    rows, batch = runs.probes[0].rows, runs.probe[0]
    last = -1
    for at, fits in enumerate(runs.fit_of(rows)):
        found = [batch_dim(fitted) for fitted in fits]
        if any(place is not None and dim in (None, place) for place in found):
            last = at
    return next((row for row in rows[last + 1 :] if any(batch in shape for shape in row.in_shapes)), None)


def _shape_advice(row: ShapeRow, run: Run) -> str:
    hazard = next((h for h in run.trace.hazards if (h.file, h.line, h.op) == (row.file, row.line, row.op)), None)
    return hazard.advice if hazard else "this call treats some batch sizes differently; name the dims it works on"


def _shapes(rows: Sequence[ShapeRow]) -> list[tuple[Shape, ...]]:
    return [row.out_shapes for row in rows]


def _at(fitted: FittedShape | None, batch: int) -> tuple[int | None, ...] | None:
    return None if fitted is None else tuple(fit.at(batch) for fit in fitted)


def _fits(predicted: tuple[int | None, ...] | None, shape: Shape) -> bool:
    if predicted is None:
        return True
    return len(predicted) == len(shape) and all(a is None or a == b for a, b in zip(predicted, shape, strict=True))


def _text(predicted: tuple[int | None, ...] | None) -> str:
    return str(tuple("?" if size is None else size for size in predicted or ()))


def at_row(kind: FindingKind, batch: int, row: ShapeRow | None, *, expected: str, got: str, advice: str) -> Finding:
    """Return a finding on the line of a traced call, or on no line."""
    where = ("", "", 0, "") if row is None else (row.op, row.file, row.line, row.code)
    return Finding(kind, batch, *where, expected, got, advice)


def from_error(batch: int, error: Exception, place: Place | None, *, always: bool = False) -> Finding:
    """Return the finding for an exception, on the user's line that raised it.

    Args:
        batch: the batch size.
        error: what was raised.
        place: the user's line, if the exception passed through one.
        always: whether every batch size raises, so that the batch is not the cause.

    Returns:
        A finding of kind `"error"`.
    """
    said = (str(error).strip().splitlines() or [""])[0][:_LONGEST_ERROR]
    where = ("", 0, "") if place is None else (place.file, place.line, place.text)
    advice = "make this line work for every batch size"
    if always:
        advice = "every batch size raises: fix the model, or let make_inputs return the inputs that it takes"
    return Finding("error", batch, type(error).__name__, *where, "a result", f"{type(error).__name__}: {said}", advice)


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
