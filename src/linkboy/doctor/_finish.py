"""At the end of a watch: run models again, ask datasets and operators, and make the report."""

import contextlib
import os
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import Tensor

from linkboy._calls import tensors_in
from linkboy._checks import did_you_mean
from linkboy._report import plural
from linkboy._watch import CHECKS, Record, TrainingFinding, ask, causes
from linkboy.doctor import (  # noqa: F401 - the checks register themselves
    _check_data,
    _check_parameters,
    _check_rates,
    _check_steps,
    _data,
    _rows,
)
from linkboy.doctor._facts import Facts, Overlap, Rerun
from linkboy.doctor._reruns import rerun
from linkboy.doctor._watcher import Example, Watcher, _argument_names
from linkboy.doctor.report import TrainingCheck

SLOW = 0.5  # seconds of a forward pass: the tracer of shapes runs dozens of them

WORDS = tuple(sorted(CHECKS))


def check_words(name: str, words: Iterable[str]) -> tuple[str, ...]:
    """Return the words of an argument, each of which must be one of the doctor's.

    Args:
        name: the argument, for the message.
        words: what was passed.
    """
    given = (words,) if isinstance(words, str) else tuple(words)
    for word in given:
        if word not in CHECKS:
            raise ValueError(f"{name} must hold words of the doctor, got {word!r}{did_you_mean(word, WORDS)}")
    return given


def finish(watcher: Watcher, *, source: str, ignore: Collection[str] = (), notes: Iterable[str] = ()) -> TrainingCheck:
    """Ask everything that is asked at the end, and return the report."""
    strict = bool(os.environ.get("LINKBOY_DEBUG"))
    failed = list(watcher.failed)
    with watcher.quiet():
        for question in (_names, _rerun_all, _mixing_places, _datasets, _functions, _parameters, _overlaps, _states):
            try:
                question(watcher)
            except Exception as error:
                if strict:
                    raise
                failed.append(f"{question.__name__.lstrip('_')}: {type(error).__name__}: {error}")
        findings, asked, more = ask(watcher.record, CHECKS, strict=strict)
    return report_of(watcher.record, watcher.facts, findings, asked, [*failed, *more], source, ignore, notes)


def report_of(
    record: Record,
    facts: Facts,
    findings: list[TrainingFinding],
    asked: list[str],
    failed: list[str],
    source: str,
    ignore: Collection[str],
    notes: Iterable[str],
) -> TrainingCheck:
    """Make the report of what was asked."""
    kept = [found for found in causes(findings) if found.word not in ignore]
    words = tuple(word for word in WORDS if word in asked)
    return TrainingCheck(
        ok=not any(found.severity != "NOTE" for found in kept),
        findings=tuple(kept),
        asked=words,
        not_asked=tuple(word for word in WORDS if word not in words),
        failed=tuple(failed),
        steps=record.steps,
        seen=tuple(_seen(record, facts)),
        notes=tuple(notes),
        source=source,
    )


def _seen(record: Record, facts: Facts) -> Iterable[str]:
    for root in record.roots[:4]:
        yield f"{root.name} ({root.kind}, {plural(root.parameter_count, 'parameter')})"
    for each in record.optimizers[:4]:
        rate = f" {each.lrs[0]:.3g}" if each.lrs else ""
        yield f"{each.kind}{rate}, {plural(each.steps, 'step')}"
    kinds = dict.fromkeys(call.kind for call in record.losses)
    if kinds:
        yield f"losses {', '.join(kinds)}"
    for loader in facts.loaders[:4]:
        size = "" if loader.batches is None else f" of {plural(loader.batches, 'batch', 'batches')}"
        yield f"a loader{size}, {plural(loader.passes, 'pass', 'passes')}"
    if record.loss_values:
        yield f"first loss {record.loss_values[0]:.4g}, last {record.loss_values[-1]:.4g}"


# ------------------------------------------------------------------------------------------------------------- questions
def _names(watcher: Watcher) -> None:
    watcher.observer.name_leaves()
    _leaf_places(watcher)
    for number, root in enumerate(watcher.record.roots):
        module = watcher.observer.root_module(number)
        root.eval_at = "" if module is None else watcher.lines.switched_at(module)
    watcher.record.extra["squashers"] = watcher.lines.squashers()


def _leaf_places(watcher: Watcher) -> None:
    lines, observer = watcher.lines, watcher.observer
    for tensor, leaf in observer.live_leaves():
        leaf.place, leaf.made = lines.place_of(tensor), lines.made_at(tensor)
        number = observer.leaf_number(tensor)
        leaf.cut_at = next((line for line, below in lines.cuts.items() if number in below), "")
        if leaf.misspelled:
            leaf.misspelled_at = lines.attribute_set_at(leaf.misspelled.rpartition(".")[2])
    for number, _ in enumerate(watcher.record.roots):
        module = observer.root_module(number)
        for each in () if module is None else module.modules():
            if line := lines.without_gradient.get(id(each)):
                for parameter in each.parameters(recurse=False):
                    observer.leaf(parameter).cut_at = line


def _rerun_all(watcher: Watcher) -> None:
    facts, record = watcher.facts, watcher.record
    sequence = facts.sequence_batches > 0 and max(facts.same, facts.shifted) >= 0.9 * facts.sequence_batches
    for number, example in sorted(watcher.examples.items()):
        if not record.roots[number].training or any(t.is_meta for t in example.model.parameters()):
            continue
        found = Rerun(number)
        asked = facts.sequence_input if sequence else None
        rerun(example.model, example.arguments, _argument_names(example.model), found, sequence=asked)
        if found.carries and found.carried_by:
            found.carried_at = watcher.lines.attribute_set_at(found.carried_by)
        facts.reruns.append(found)
    positions = {number for number, example in watcher.examples.items() if _reads_positions(example)}
    record.extra["independent_rows"] = {each.root for each in facts.reruns if each.independent} - positions


def _reads_positions(example: Example) -> bool:
    """Return whether a model is given one number after another, so that its rows are positions and not samples."""
    given = tensors_in((example.arguments.args, example.arguments.kwargs))
    return any(
        tensor.dim() == 1 and not tensor.is_floating_point() and len(tensor) > 1 and bool((tensor.diff() == 1).all())
        for tensor in given
    )


def _mixing_places(watcher: Watcher) -> None:
    """Name the lines of what the reruns found, by the tracer of shapes."""
    from linkboy.shapes import check_batch

    for each in watcher.facts.reruns:
        lost = each.one_shape is not None and len(each.one_shape) < len(each.many_shape)
        if (each.independent is not False and not lost) or each.seconds > SLOW:
            continue
        example = watcher.examples[each.root]
        with contextlib.suppress(Exception), torch.no_grad():
            made = _maker(example, each.batch)
            report = check_batch(example.model, made, run="values")
            for found in report.findings:
                place = f"{os.path.basename(found.file)}:{found.line}  {found.code}" if found.file else ""  # noqa: PTH119
                if found.kind == "mixing" and not each.mixing_place:
                    each.mixing_place, each.mixing_fix = place, found.advice if place else ""
                elif lost and not each.squeeze_place:
                    each.squeeze_place = place


def _maker(example: Example, size: int) -> Callable[[int], Any]:
    def make(count: int) -> Any:
        def rows(tensor: Tensor) -> Tensor:
            if tensor.dim() < 1 or tensor.shape[0] != size:
                return tensor
            return tensor[torch.randint(0, size, (count,))]

        changed = example.arguments.map(rows)
        return changed.kwargs if not changed.args else changed.args

    return make


def _datasets(watcher: Watcher) -> None:
    facts = watcher.facts
    for loader, each in zip(watcher.loaders.loaders, facts.loaders, strict=True):
        name = type(loader.dataset).__name__
        if each.backwards and each.in_order:
            with contextlib.suppress(Exception):
                order = _data.label_order(loader.dataset)
                if order is not None and loader.batch_sampler is not None:
                    watcher.record.extra["sorted_labels"] = (*order, each.place, each.made)
        if each.workers and each.backwards:
            answer = _data.twins(loader.dataset, loader.worker_init_fn)
            facts.workers_asked += answer is not None
            if answer:
                facts.twin_items.append((name, each.made or each.place))
        elif not each.backwards and each.taken and watcher.record.steps:
            answer = _data.changes(loader.dataset)
            facts.items_asked += answer is not None
            if answer:
                facts.random_items.append((name, each.place))


def _functions(watcher: Watcher) -> None:
    for name, (cls, args, place) in watcher.functions.items():
        with contextlib.suppress(NotImplementedError):
            wrong = _data.wrong_gradient(cls, args)
            watcher.facts.functions_asked += 1
            if wrong:
                watcher.facts.functions.append((name, wrong, place))


def _parameters(watcher: Watcher) -> None:
    record, facts = watcher.record, watcher.facts
    _equal_rows(watcher)
    record.extra["loss_uses"] = facts.loss_uses
    record.extra["base_rates"] = {}
    for scheduler, each in watcher.rates.schedulers.values():
        if each.optimizer is not None:
            record.extra["base_rates"][each.optimizer] = _base_rate(scheduler)
    for number, known in watcher._moved.items():
        _decayed(watcher, number, known)
    facts.ties_asked = bool(watcher.observer.ties_asked)
    facts.ties += watcher.observer.ties


def _base_rate(scheduler: Any) -> float:
    groups = getattr(getattr(scheduler, "optimizer", None), "param_groups", [])
    tops = [float(group["max_lr"]) for group in groups if "max_lr" in group]
    return max(tops or [float(rate) for rate in getattr(scheduler, "base_lrs", [0.0])], default=0.0)


def _equal_rows(watcher: Watcher) -> None:
    for parameter, leaf in watcher.observer.live_leaves():
        if not leaf.optimizers or parameter.dim() < 2 or parameter.shape[0] < 2 or not leaf.in_graphs:
            continue
        if parameter.layout is not torch.strided or parameter.is_meta:
            continue
        rows = parameter.detach().flatten(1).float()
        # Kernels round the rows of one product differently, so equal units part by rounding, and by no more.
        apart = float((rows - rows[0]).abs().max())
        if rows.shape[0] >= 3 and apart <= 1e-4 * float(rows.abs().max()) and bool(rows.isfinite().all()):
            watcher.facts.equal_rows.append((leaf.name, len(rows), watcher.record.steps))


def _decayed(watcher: Watcher, number: int, known: dict[str, Any]) -> None:
    record = watcher.record
    leaf = record.leaves[number]
    decays = any(record.optimizers[index].weight_decay for index in leaf.optimizers)
    silent, first, last = known.get("silent"), known.get("first"), known.get("last")
    if not decays or silent is None or first is None or last is None or first.shape != last.shape:
        return
    read = watcher.losses.read_rows.get(number)
    rows = silent[: len(first)].clone()
    if read is not None:
        seen = torch.zeros(len(silent), dtype=torch.bool)
        seen[[row for row in read if row < len(silent)]] = True
        rows &= seen[: len(first)].to(rows.device)
        if not known.get("hooked"):
            by_itself = known.get("by itself")
            if by_itself is None:
                return
            rows &= ~by_itself[: len(first)]  # what the program masks, not a position that no label asks for
    elif not known.get("hooked"):
        return
    moved = (first != last).flatten(1).any(1) & rows
    if int(moved.sum()) >= 1 and int(moved.sum()) >= 0.5 * int(rows.sum()):
        change = float((last - first)[moved].norm() / first[moved].norm().clamp(min=1e-12))
        watcher.facts.decayed.append((leaf.name, int(moved.sum()), change))


def _overlaps(watcher: Watcher) -> None:
    rows, facts = watcher.rows, watcher.facts
    trains = [
        (loader, each) for loader, each in zip(watcher.loaders.loaders, facts.loaders, strict=True) if each.backwards
    ]
    tests = [
        (loader, each)
        for loader, each in zip(watcher.loaders.loaders, facts.loaders, strict=True)
        if each.taken and not each.backwards
    ]
    for one, first in trains:
        for other, second in tests:
            if first.dataset == second.dataset or (first.roots and second.roots and not first.roots & second.roots):
                continue  # also where each fold has a model of its own
            shared = _data.shared_rows(one.dataset, other.dataset)
            if shared is not None:
                facts.overlaps.append(Overlap(*shared, exact=True, place=second.place, made=first.made))
    for key in rows.evaluated:
        dataset, root = key
        if not watcher.record.roots[root].training:
            continue  # of a model that is not trained: a target network, an average, a teacher
        trained_with = set(rows.trained.get(root, {}).values())
        shared, evaluated = _rows.overlap_of(rows, key)
        if dataset in trained_with and dataset != -1:
            continue  # the rows of the training itself
        if evaluated:
            facts.overlaps.append(Overlap(shared, evaluated, exact=False, place=rows.eval_places.get(key, "")))


def _states(watcher: Watcher) -> None:
    watcher.states.states_alive()
