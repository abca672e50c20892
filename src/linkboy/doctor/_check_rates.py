"""Checks of rates: how far a step goes, and when a schedule turns it."""

from statistics import median

from linkboy._report import format_count, plural
from linkboy._watch import OptimizerFacts, Record, Severity, TrainingFinding, check
from linkboy._watch._checks import Answer, finding, stepped
from linkboy.doctor._facts import SchedulerFacts, facts_of


@check("lr-low", lambda r: any(len(facts.relative) >= 5 for facts in r.optimizers))
def lr_low(record: Record) -> Answer:
    """Steps that change next to nothing."""
    for facts in record.optimizers:
        steps = facts.relative
        if len(steps) < 5 or max(steps) >= 3e-6 or _rising(facts.lrs):
            continue
        if max(steps) == 0:
            if not facts.empty:
                return _no_change(record, facts)
            continue
        sentence = (
            f"a step of {facts.kind} changes the weights by {median(steps):.1g} of their size, at a rate of "
            f"{facts.lrs[0]:.3g}: {format_count(round(0.01 / max(median(steps), 1e-12)))} steps would change them by "
            "one percent"
        )
        fix = "raise the rate; 1e-3 of the size per step is usual (lb.lr_find looks for it)"
        return finding(
            "lr-low", "FAULT", sentence, fix, [facts.place, facts.place_step], relative=median(steps), lr=facts.lrs[0]
        )
    return None


def _no_change(record: Record, facts: OptimizerFacts) -> TrainingFinding:
    """Return the finding where steps with a gradient change no weight."""
    rate = max(facts.lrs)
    index = next(index for index, each in enumerate(record.optimizers) if each is facts)
    turns = [each for each in facts_of(record).schedulers if each.optimizer == index]
    rises = f"; right where {turns[0].kind} raises it from 0 later on" if turns and not rate else ""
    sentence = f"{plural(facts.steps, 'step')} of {facts.kind} at a rate of {rate:.3g} changed no weight at all{rises}"
    fix = "let the schedule begin above 0" if turns else "raise the rate"
    severity: Severity = "LIKELY" if turns else "FAULT"
    places = [*(each.place for each in turns), facts.place, facts.place_step]
    return finding("lr-low", severity, sentence, fix, places, relative=0.0, lr=rate)


def _rising(lrs: list[float]) -> bool:
    return len(lrs) >= 2 and lrs[-1] > 1.5 * lrs[0]


@check("lr-high", lambda r: any(len(facts.relative) >= 3 for facts in r.optimizers))
def lr_high(record: Record) -> Answer:
    """Steps that replace the weights."""
    for facts in record.optimizers:
        steps = facts.relative
        if len(steps) < 2 or facts.from_zero or facts.kind == "LBFGS":
            continue
        typical, first = median(steps), steps[0]
        if not (typical > 0.5 or ((first > 1 or typical > 0.15) and not _improves(record))):
            continue
        sentence = (
            f"a step of {facts.kind} changes the weights by {typical:.0%} of their size (the first one by "
            f"{first:.0%}), at a rate of {facts.lrs[0]:.3g}"
        )
        fix = "lower the rate until a step changes the weights by about 0.1 % (lb.lr_find looks for it)"
        return finding(
            "lr-high",
            "FAULT",
            sentence,
            fix,
            [facts.place, facts.place_step],
            relative=typical,
            first=first,
            lr=facts.lrs[0],
        )
    return None


def _improves(record: Record) -> bool:
    values = record.loss_values
    third = max(1, len(values) // 3)
    # a first step too far makes what follows look better
    start = min(values[0], median(values[:third])) if values else 0.0
    return len(values) >= 6 and median(values[-third:]) < 0.9 * start


# ----------------------------------------------------------------------------------------------------------- schedules
@check("scheduler-order", lambda r: bool(facts_of(r).schedulers))
def scheduler_order(record: Record) -> Answer:
    """A schedule that steps before its optimizer does."""
    for each in facts_of(record).schedulers:
        optimizer = None if each.optimizer is None else record.optimizers[each.optimizer]
        if optimizer is None or not each.early or not optimizer.steps or each.skipped_by_scaler:
            continue
        if each.early == each.in_advance > 1:
            continue  # brought to the epoch from which a run goes on
        sentence = (
            f"{each.kind} was stepped {plural(each.early, 'time')} before the first step of {optimizer.kind}: the "
            "first rates are skipped"
        )
        return finding(
            "scheduler-order",
            "FAULT",
            sentence,
            "call scheduler.step() after optimizer.step()",
            [each.place_step],
            early=each.early,
        )
    return None


@check("scheduler-unused", lambda r: bool(facts_of(r).schedulers) and stepped(r))
def scheduler_unused(record: Record) -> Answer:
    """A schedule that turns no rate that is used."""
    facts = facts_of(record)
    for each in facts.schedulers:
        optimizer = None if each.optimizer is None else record.optimizers[each.optimizer]
        if each.steps and optimizer is not None and not optimizer.steps:
            others = [other for other in record.optimizers if other.steps and set(other.leaves) & set(optimizer.leaves)]
            used = others or [other for other in record.optimizers if other.steps]
            if used:
                sentence = (
                    f"{each.kind} turns the rate of {_a(optimizer.kind)} that never steps; {used[0].kind}, which does, "
                    f"keeps {used[0].lrs[-1]:.3g}"
                )
                fix = "make the schedule after the optimizer that is used"
                return finding("scheduler-unused", "FAULT", sentence, fix, [each.place, used[0].place])
        taken_up = any(other.steps and other.optimizer == each.optimizer for other in facts.schedulers)
        if not each.steps and not taken_up and _had_time(record):  # one may follow another, as SWALR does
            sentence = f"{each.kind} was made and never stepped in {record.steps} steps: the rate stays what it was"
            fix = "call scheduler.step() once per epoch, or per batch, as the schedule counts"
            return finding("scheduler-unused", "FAULT", sentence, fix, [each.place], steps=record.steps)
    return None


def _a(kind: str) -> str:
    return f"an {kind}" if kind[:1] in "AEIOU" else f"a {kind}"


def _had_time(record: Record) -> bool:
    facts = facts_of(record)
    loader = facts.loader_of_training()
    return facts.ended or (loader is not None and loader.passes >= 3)


@check("scheduler-pace", lambda r: any(each.steps for each in facts_of(r).schedulers))
def scheduler_pace(record: Record) -> Answer:
    """A schedule that counts epochs and is stepped per batch, or the other way round."""
    for each in facts_of(record).schedulers:
        if each.optimizer is None or not record.optimizers[each.optimizer].lrs:
            continue
        optimizer = record.optimizers[each.optimizer]
        found = _too_fast(each, optimizer) or _too_slow(record, each, optimizer)
        if found is not None:
            return found
    return None


def _per_batch(each: SchedulerFacts, optimizer: OptimizerFacts) -> bool:
    return each.steps >= 8 and each.steps >= 0.5 * optimizer.steps


def _too_fast(each: SchedulerFacts, optimizer: OptimizerFacts) -> TrainingFinding | None:
    top = max(optimizer.lrs)
    if not _per_batch(each, optimizer) or top <= 0:
        return None
    gone = sum(lr < 1e-3 * top for lr in optimizer.lrs[optimizer.lrs.index(top) :])  # a rate may rise from very little
    turns = each.steps / each.period if each.period and each.kind == "CosineAnnealingLR" else 0
    if gone > 0.25 * len(optimizer.lrs):
        sentence = (
            f"{each.kind} is stepped after every batch, and the rate is below a thousandth of {top:.3g} in {gone} of "
            f"{len(optimizer.lrs)} steps: it counts in epochs"
        )
    elif turns >= 2:
        sentence = (
            f"{each.kind} comes down in {each.period} steps and was stepped {each.steps} times, after every batch: the "
            "rate goes up and down again; it counts in epochs"
        )
    else:
        return None
    fix = "step the schedule once per epoch, or give it numbers of batches"
    return finding(
        "scheduler-pace", "FAULT", sentence, fix, [each.place_step, each.place], gone=gone, steps=len(optimizer.lrs)
    )


def _too_slow(record: Record, each: SchedulerFacts, optimizer: OptimizerFacts) -> TrainingFinding | None:
    base = record.extra.get("base_rates", {}).get(each.optimizer)
    per_epoch = each.steps >= 2 and each.steps <= 0.34 * optimizer.steps
    if not base or not per_epoch or len(optimizer.lrs) < 8 or max(optimizer.lrs) >= 0.06 * base:
        return None
    if optimizer.lrs[-1] <= optimizer.lrs[0]:
        return _rate_as_factor(each, optimizer, base) if each.kind == "LambdaLR" and any(optimizer.lrs) else None
    sentence = (
        f"the rate never rose above {max(optimizer.lrs):.2g}, and {each.kind} is to reach {base:.2g}: it is stepped "
        "once per epoch and counts in batches"
    )
    fix = "step the schedule after every batch"
    return finding(
        "scheduler-pace", "FAULT", sentence, fix, [each.place_step, each.place], top=max(optimizer.lrs), base=base
    )


def _rate_as_factor(each: SchedulerFacts, optimizer: OptimizerFacts, base: float) -> TrainingFinding:
    top = max(optimizer.lrs)
    sentence = (
        f"LambdaLR multiplies the rate of the optimizer, {base:.2g}, by what its function returns: the highest rate of a step "
        f"was {top:.2g}, and the factor {top / base:.2g}; right where it is to be so small"
    )
    fix = "return a factor, which is 1 for the rate of the optimizer, and not a rate"
    return finding("scheduler-pace", "LIKELY", sentence, fix, [each.place, each.place_step], top=top, base=base)
