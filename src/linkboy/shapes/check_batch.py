"""Check that a model treats its batch as a batch: predicted shapes, the leading dim, no mixing of samples."""

import inspect
from collections.abc import Callable, Sequence

import torch

from linkboy._calls import HOW, How, Model, refuse_lazy, ways
from linkboy._checks import check_choice, check_number, describe
from linkboy._walk import unwrapped
from linkboy.shapes._mixing import BATCH, Tested, find_mixing
from linkboy.shapes._predict import Runs, compared, from_error, from_hazard, one_for_each_line, texts, wrong_output
from linkboy.shapes._runs import MakeInputs
from linkboy.shapes.hazards import Hazard
from linkboy.shapes.report import BatchReport, Finding


def check_batch(
    model: Model,
    make_inputs: MakeInputs,
    *,
    sizes: Sequence[int] = (1, 2, 3),
    probe: tuple[int, int] = (5, 7),
    run: How = "auto",
    mixing: bool = True,
    output_batch_dim: int | None = None,
) -> BatchReport:
    """Check that a model treats its batch as a batch, and name the line where it does not.

    Every torch call is traced at the two `probe` sizes, and each size is fitted as a function of the batch, which
    predicts the shapes at `sizes`; the first call that differs is a finding. A size that differs between draws of values
    at the same batch size is data, and is not compared. Then the output must have the batch as a dim, and the result of
    each sample may depend on that sample alone: not on other samples, its place in the batch, or the batch size. In eval
    mode a second call must give the same result, and dropout must be off.

    The model is run in the mode it is in: call `eval()` first, unless you want to check training mode. BatchNorm in
    training mode mixes samples by design; a note says so, and it runs in eval mode where mixing is tested. Flags, buffers,
    attributes and random generators are restored.

    Args:
        model: an `nn.Module`, or any function of tensors; a model inside `torch.compile` or `DataParallel` is unwrapped.
        make_inputs: a function from a batch size to the arguments: a tensor, a tuple of positional arguments, or a
            mapping of keywords. Its tensors are not written to.
        sizes: the batch sizes to check, each at least 1.
        probe: the two batch sizes to predict from, best primes that are not a feature size.
        run: `"shapes"` compares shapes on fake tensors, which cost no compute, after one real forward of 2 so that what
            the model caches is real; `"values"` compares on real data; `"auto"` turns to real data if the run on fake
            tensors raises, as it does at a data-dependent `.item()`.
        mixing: whether to test that the result of a sample depends on it alone, with three draws of real data: one sample
            of three is replaced, the samples change places, and are run alone, in a smaller batch and in one of eight.
        output_batch_dim: the dim of the first output that must be the batch; `None` accepts any.

    Returns:
        A report with `ok` and `findings`, shapes in terms of `B`, and the tests that could not run, which make `ok` false.

    Raises:
        ValueError: a size is below 1, the two probe sizes are equal, `run` is unknown, or a parameter is lazy.
        TypeError: `model` is a class, `model` or `make_inputs` cannot be called, or a size is not an integer.

    Examples:
        >>> import torch
        >>> from linkboy import check_batch
        >>> lstm = torch.nn.LSTM(4, 4)
        >>> report = check_batch(lambda x: lstm(x)[0], lambda B: torch.randn(B, 6, 4))
        >>> report.findings[0].kind, report.findings[0].got
        ('mixing', 'samples 1, 2 change with sample 0')
    """
    _check_arguments(model, make_inputs, sizes, probe, run)
    if output_batch_dim is not None:
        check_number("output_batch_dim", output_batch_dim, minimum=0, integer=True)
    model = unwrapped(model)
    runs = _runs(model, make_inputs, sizes, probe, run)
    findings, notes = compared(runs, output_batch_dim)
    failed = any(known.error for known in runs.probes)
    if runs.first_error and not any(finding.kind == "error" for finding in findings):
        first_error = runs.first_error
        findings.append(from_error(first_error.batch, first_error.error, first_error.error_place, on_values=True))
    tested = find_mixing(model, make_inputs, runs) if mixing and not failed else Tested()
    if tested.sizes_agree:
        findings, harmless = _without_harmless(findings, runs)
        notes += harmless
    first, hazards = runs.probes[0], _hazards(runs)
    warned = [from_hazard(first.batch, hazard) for hazard in hazards if _is_finding(hazard, first.batch)]
    notes += [
        f"{hazard.file}:{hazard.line} `{hazard.code}`: {hazard.advice}"
        for hazard in hazards
        if hazard.rule == "reshape-permutes"  # which no result tells from what is meant
    ]
    findings = [*findings, *tested.findings]
    findings = warned + findings if failed else findings + warned  # a hazard before an exception may be its cause
    every = (hazard for known in runs.draws.values() for one in known for hazard in one.trace.hazards)
    return BatchReport(
        findings=one_for_each_line(findings),
        inputs=texts(runs.inputs, first.input_names, first.batch),
        outputs=texts(runs.outputs, first.output_names, first.batch),
        call_count=len(first.rows),
        run="values" if runs.way == "values" else "shapes",
        hazards=tuple({(hazard.rule, hazard.file, hazard.line): hazard for hazard in every}.values()),
        untested=tuple(tested.untested),
        notes=tuple(dict.fromkeys([*notes, *tested.notes])),
    )


def _hazards(runs: Runs) -> list[Hazard]:
    """Return the hazards of both probes: one that shows in one only is a size that happens to be that of the batch."""
    first, second = runs.probes
    seen = {(hazard.rule, hazard.file, hazard.line) for hazard in second.trace.hazards}
    hazards = first.trace.hazards
    return [hazard for hazard in hazards if second.error or (hazard.rule, hazard.file, hazard.line) in seen]


def _is_finding(hazard: Hazard, batch: int) -> bool:
    """Return whether a hazard at a probe size is a finding.

    A squeeze of a tensor without the batch cannot remove it, and a mask of `t[:, None] >= t` mixes no samples.
    """
    without_batch = not any(batch in shape for shape in hazard.in_shapes)
    return hazard.level == "warn" and not (hazard.rule in ("squeeze-no-dim", "mutual-broadcast") and without_batch)


def _without_harmless(findings: list[Finding], runs: Runs) -> tuple[list[Finding], list[str]]:
    """Return the findings without special cases that were seen to give the same results, and a note for each of these."""
    harmless = [
        finding
        for finding in findings
        if finding.kind == "control-flow"
        and finding.batch < BATCH
        and wrong_output(runs, runs.at(finding.batch)) is None  # results of another shape cannot be compared
    ]
    notes = [
        f"a special case at batch {finding.batch}, {finding.file}:{finding.line} `{finding.code}`, gave the same results"
        for finding in harmless
    ]
    return [finding for finding in findings if finding not in harmless], notes


def _runs(model: Model, make_inputs: MakeInputs, sizes: Sequence[int], probe: tuple[int, int], run: How) -> Runs:
    if run == "auto" and isinstance(model, torch.jit.ScriptModule):
        run = "values"  # the tracer would see nothing but what fake tensors do inside
    first, *others = ways(model, run, devices=True)
    runs = Runs(model, make_inputs, probe, sizes, first)
    for way in others:
        if not runs.failed:
            break
        runs = Runs(model, make_inputs, probe, sizes, way)
    return runs


def assert_batch_safe(
    model: Model,
    make_inputs: MakeInputs,
    *,
    sizes: Sequence[int] = (1, 2, 3),
    probe: tuple[int, int] = (5, 7),
    run: How = "auto",
    mixing: bool = True,
    output_batch_dim: int | None = None,
) -> None:
    """Raise an `AssertionError` with the report of `check_batch` if it is not `ok`.

    Args:
        model: as for `check_batch`.
        make_inputs: as for `check_batch`.
        sizes: as for `check_batch`.
        probe: as for `check_batch`.
        run: as for `check_batch`.
        mixing: as for `check_batch`.
        output_batch_dim: as for `check_batch`.

    Raises:
        AssertionError: there is a finding, or a test could not run.

    Examples:
        >>> import torch
        >>> from linkboy import assert_batch_safe
        >>> assert_batch_safe(torch.nn.Linear(8, 3), lambda B: torch.randn(B, 8))
        >>> assert_batch_safe(lambda x: x.softmax(0), lambda B: torch.randn(B, 8))
        Traceback (most recent call last):
        AssertionError: batch check: 1 finding ...
    """
    report = check_batch(
        model, make_inputs, sizes=sizes, probe=probe, run=run, mixing=mixing, output_batch_dim=output_batch_dim
    )
    if not report.ok:
        raise AssertionError(str(report))


def _takes_one(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind(1)
    except TypeError:
        return False
    except ValueError:  # a function written in C may have no signature to read
        return True
    return True


def _check_arguments(model: Model, make_inputs: object, sizes: object, probe: object, run: object) -> None:
    if not callable(model):
        raise TypeError(f"model must be callable, got {describe(model)}")
    if not callable(make_inputs):
        raise TypeError(
            f"make_inputs must be a function of the batch size, got {describe(make_inputs)}; "
            "pass one such as lambda n: torch.randn(n, 10)"
        )
    if not _takes_one(make_inputs):
        raise TypeError(
            f"make_inputs must take the batch size, got a function of {inspect.signature(make_inputs)}; "
            "pass one such as lambda n: torch.randn(n, 10)"
        )
    if isinstance(model, type):
        raise TypeError(f"model must be a model or a function, got the class {model.__name__}; build it first")
    refuse_lazy(model)
    check_choice("run", run, HOW)
    for name, values in (("sizes", sizes), ("probe", probe)):
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise TypeError(f"{name} must be a sequence of batch sizes, got {type(values).__name__}")
        for value in values:
            check_number(f"each of {name}", value, minimum=1, integer=True)
    if not sizes:
        raise ValueError("sizes must have at least one batch size, got none")
    if len(set(probe)) != 2 or len(probe) != 2:  # type: ignore[arg-type]  # a sequence, as checked above
        raise ValueError(f"probe must be two different batch sizes, got {probe}")
