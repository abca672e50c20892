"""Prove that a model treats its batch as a batch: shapes foretold from two prime sizes, leading dim, leaks."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from linkboy._checks import check_choice, check_number
from linkboy._report import Block, Report, format_count
from linkboy.shapes.findings import Finding, from_hazard, one_for_each_line
from linkboy.shapes.fits import shape_text
from linkboy.shapes.forecast import Runs, compared
from linkboy.shapes.hazards import Hazard
from linkboy.shapes.leaks import find_leak
from linkboy.shapes.running import MakeInputs, Model


@dataclasses.dataclass(frozen=True)
class BatchReport(Report):
    """Whether a model treats its batch as a batch; see `check_batch`.

    Attributes:
        findings: what is wrong, at most one for each line.
        inputs: shapes of the input tensors in terms of `B`.
        outputs: shapes of the output tensors in terms of `B`.
        calls: how many torch calls were compared.
        fake: whether shapes were compared on fake tensors, without data.
        hazards: hazards of every level that a run showed.
        notes: what could not be checked, in sentences.

    Examples:
        >>> import torch
        >>> from linkboy import check_batch
        >>> report = check_batch(torch.nn.Linear(8, 3), lambda B: torch.randn(B, 8))
        >>> report.ok, report.inputs, report.outputs
        (True, ('(B, 8)',), ('(B, 3)',))
    """

    findings: tuple[Finding, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    calls: int
    fake: bool
    hazards: tuple[Hazard, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no finding."""
        return not self.findings

    def _blocks(self) -> Iterable[Block]:
        verdict = "no finding" if self.ok else f"{len(self.findings)} finding{'s' if len(self.findings) > 1 else ''}"
        kind = "fake tensors" if self.fake else "real data"
        yield f"batch check: {verdict}   {format_count(self.calls)} call{'s' * (self.calls != 1)} compared on {kind}"
        yield f"{', '.join(self.inputs) or 'no tensor'} -> {', '.join(self.outputs) or 'no tensor'}"
        yield from map(str, self.findings)
        yield from (f"note: {note}" for note in self.notes)

    def to_dict(self) -> dict[str, object]:
        """Return the fields and `ok` as plain Python values."""
        return {"ok": self.ok, **super().to_dict()}


def check_batch(
    model: Model,
    make_inputs: MakeInputs,
    *,
    sizes: Sequence[int] = (1, 2, 3),
    probe: tuple[int, int] = (5, 7),
    fake: bool | Literal["auto"] = "auto",
    leaks: bool = True,
) -> BatchReport:
    """Check that a model treats its batch as a batch, and name the line where it does not.

    Every torch call is traced at the two `probe` sizes and each size fitted as a function of the batch, which foretells
    the shapes at `sizes`; the first call that differs is a finding. Then the output must follow the batch, and no
    sample may depend on another one (one sample is replaced, the others must stay as they are).

    The model is run as it is: call `eval()` first, unless training mode is what you want to check; BatchNorm in training
    mode mixes samples by design and is found. Flags, buffers, attributes and random generators are left as they were.

    Args:
        model: an `nn.Module`, or any function of tensors; what `torch.compile` or `DataParallel` wrapped is looked at
            inside.
        make_inputs: from a batch size to the arguments: a tensor, a tuple of positional arguments, or a mapping of
            keywords. Its tensors are not written to.
        sizes: the batch sizes to check, each at least 1.
        probe: the two batch sizes to foretell from; primes that are no feature size.
        fake: `True` compares shapes on fake tensors, which cost no compute, after one real forward of 2 that leaves what
            the model caches real; `False` on real data; `"auto"` turns to real data where the fake run raises, as it
            must at a data-dependent `.item()`.
        leaks: also test whether samples mix, with real data at a batch of 3.

    Returns:
        `ok` and `findings`, shapes in terms of `B`, and notes on what could not be checked.

    Raises:
        ValueError: a size is below 1, the two probe sizes are equal, `fake` is unknown, or a parameter is lazy.
        TypeError: `model` is a class, `model` or `make_inputs` cannot be called, or a size is no integer.

    Examples:
        >>> import torch
        >>> from linkboy import check_batch
        >>> lstm = torch.nn.LSTM(4, 4)
        >>> report = check_batch(lambda x: lstm(x)[0], lambda B: torch.randn(B, 6, 4))
        >>> report.findings[0].kind, report.findings[0].got
        ('leak', 'samples 1, 2 change with sample 0')
    """
    _check_arguments(model, make_inputs, sizes, probe, fake)
    model = _unwrapped(model)
    if fake == "auto" and isinstance(model, torch.jit.ScriptModule):
        fake = False  # nothing passes the trace but what fake tensors do inside
    runs = Runs(model, make_inputs, probe, fake=fake is not False)
    if fake == "auto" and any(run.error for run in (*runs.probes, *map(runs.at, sizes))):
        runs = Runs(model, make_inputs, probe, fake=False)
    findings, notes = compared(runs, sizes)
    failed = any(run.error for run in runs.probes)
    if leaks and not failed:
        leak, note = find_leak(model, make_inputs, runs)
        findings += [leak] if leak else []
        notes += [note] if note else []
    first = runs.probes[0]
    warned = [from_hazard(first.batch, hazard) for hazard in first.trace.hazards if hazard.level == "warn"]
    findings = warned + findings if failed else findings + warned  # what came before an exception may be its cause
    hazards = {(h.code, h.file, h.line): h for run in runs.known.values() for h in run.trace.hazards}
    return BatchReport(
        one_for_each_line(findings), tuple(map(shape_text, runs.inputs)), tuple(map(shape_text, runs.outputs)),
        len(first.rows), runs.fake, tuple(hazards.values()), tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def _unwrapped(model: Model) -> Model:
    """Return what torch.compile, DataParallel or DistributedDataParallel was put around; they change no shape."""
    model = getattr(model, "_orig_mod", model)
    wrappers = nn.DataParallel, nn.parallel.DistributedDataParallel
    return model.module if isinstance(model, wrappers) else model


def assert_batch_safe(
    model: Model,
    make_inputs: MakeInputs,
    *,
    sizes: Sequence[int] = (1, 2, 3),
    probe: tuple[int, int] = (5, 7),
    fake: bool | Literal["auto"] = "auto",
    leaks: bool = True,
) -> None:
    """Raise an `AssertionError` that holds the report of `check_batch`, unless it has no finding.

    Args:
        model: as for `check_batch`.
        make_inputs: as for `check_batch`.
        sizes: as for `check_batch`.
        probe: as for `check_batch`.
        fake: as for `check_batch`.
        leaks: as for `check_batch`.

    Raises:
        AssertionError: there is a finding.

    Examples:
        >>> import torch
        >>> from linkboy import assert_batch_safe
        >>> assert_batch_safe(torch.nn.Linear(8, 3), lambda B: torch.randn(B, 8))
        >>> assert_batch_safe(lambda x: x.softmax(0), lambda B: torch.randn(B, 8))
        Traceback (most recent call last):
        AssertionError: batch check: 1 finding ...
    """
    report = check_batch(model, make_inputs, sizes=sizes, probe=probe, fake=fake, leaks=leaks)
    if not report.ok:
        raise AssertionError(str(report))


def _check_arguments(model: object, make_inputs: object, sizes: object, probe: object, fake: object) -> None:
    for name, value in (("model", model), ("make_inputs", make_inputs)):
        if not callable(value):
            raise TypeError(f"{name} must be callable, got {type(value).__name__}")
    if isinstance(model, type):
        raise TypeError(f"model must be a model or a function, got the class {model.__name__}; build it first")
    lazy = (name for name, p in model.named_parameters() if is_lazy(p)) if isinstance(model, nn.Module) else iter(())
    if (name := next(lazy, None)) is not None:
        raise ValueError(
            f"model must have no lazy parameters, which a run would fill, and {name!r} is one; "
            "run one batch through the model first"
        )
    check_choice("fake", fake, (True, False, "auto"))
    for name, values in (("sizes", sizes), ("probe", probe)):
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise TypeError(f"{name} must be a sequence of batch sizes, got {type(values).__name__}")
        for value in values:
            check_number(f"each of {name}", value, minimum=1, integer=True)
    if len(set(probe)) != 2 or len(probe) != 2:  # type: ignore[arg-type]  # a sequence, as checked above
        raise ValueError(f"probe must be two different batch sizes, got {probe}")
