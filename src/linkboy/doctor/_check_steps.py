"""Checks of steps, rates and parameters: what the optimizer, the schedule and the gradients do."""

import dataclasses
from collections import defaultdict
from statistics import median

from linkboy._report import format_count, listed, plural
from linkboy._watch import Leaf, OptimizerFacts, Record, Severity, TrainingFinding, check
from linkboy._watch._checks import Answer, by_site, few, finding, trained
from linkboy.doctor._facts import SchedulerFacts, facts_of


def _stepped(record: Record) -> bool:
    return record.backwards > 0 and any(facts.steps for facts in record.optimizers)


# ----------------------------------------------------------------------------------------------------------- parameters
@check("unfrozen", trained)
def unfrozen(record: Record) -> Answer:
    """An attribute that looks like `requires_grad` and freezes nothing."""
    wrong = [leaf for leaf in record.leaves.values() if leaf.misspelled and leaf.in_graphs and leaf.optimizers]
    if not wrong:
        return None
    sentence = (
        f"{plural(len(wrong), 'parameter')} {'has' if len(wrong) == 1 else 'have'} the attribute "
        f"{wrong[0].misspelled!r} set to False, which freezes nothing: {few(wrong)} "
        f"{'is' if len(wrong) == 1 else 'are'} trained"
    )
    return finding(
        "unfrozen",
        "FAULT",
        sentence,
        "call requires_grad_(False) on the parameter or the module",
        [wrong[0].misspelled_at],
        tensors=len(wrong),
    )


@check("tied", lambda r: trained(r) and facts_of(r).ties_asked)
def tied(record: Record) -> Answer:
    """An embedding and an output layer that began equal and are two tensors."""
    for names, other, equal, rows in facts_of(record).ties:
        sentence = (
            f"{names} and {other} are two tensors that began with {equal} of {rows} rows equal: they were tied or "
            "copied, and go separate ways"
        )
        fix = f"tie them again after the last change: {other} = {names}"
        places = [_leaf_named(record, name).made for name in (other, names)]
        return finding("tied", "FAULT", sentence, fix, places[:1] or places, equal_rows=equal, rows=rows)
    return None


def _leaf_named(record: Record, name: str) -> Leaf:
    """Return the tensor of a name; one that nothing is known of where there is none."""
    return next((leaf for leaf in record.leaves.values() if f".{leaf.name}".endswith(f".{name}")), Leaf(name, ()))


@check("reset-optimizer", _stepped)
def reset_optimizer(record: Record) -> Answer:
    """Optimizers with averages that are made again and again over the same tensors."""
    for place, group in _by_place(record.optimizers).items():
        group = [facts for facts in group if facts.steps and facts.stateful]
        shared = set(group[0].leaves).intersection(*(facts.leaves for facts in group[1:])) if group else set()
        steps = [facts.steps for facts in group]
        if not shared or not place:
            continue
        if (len(group) >= 4 and median(steps) <= 2) or (len(group) >= 3 and max(steps[:-1]) < 200 and sum(steps) >= 12):
            sentence = (
                f"{group[0].kind} was made {len(group)} times over the same {plural(len(shared), 'tensor')}, for "
                f"{median(steps):g} steps each: its averages begin at zero every time"
            )
            fix = "make the optimizer once, before the loop"
            return finding("reset-optimizer", "FAULT", sentence, fix, [place], made=len(group), steps=median(steps))
    return None


def _by_place(optimizers: list[OptimizerFacts]) -> dict[str, list[OptimizerFacts]]:
    groups: dict[str, list[OptimizerFacts]] = defaultdict(list)
    for facts in optimizers:
        groups[facts.place].append(facts)
    return groups


@check("unloaded", lambda r: bool(facts_of(r).loads))
def unloaded(record: Record) -> Answer:
    """A state that was loaded without taking a single tensor."""
    for taken, offered, place in facts_of(record).loads:
        if taken == 0 and offered:
            sentence = (
                f"load_state_dict took none of the {offered} tensors it was given: no name matches, and strict is off"
            )
            fix = "compare the names (a prefix such as 'module.' is common), and load with strict=True"
            return finding("unloaded", "FAULT", sentence, fix, [place], offered=offered)
    return None


@check("checkpoint", _stepped)
def checkpoint(record: Record) -> Answer:
    """A state that is the model itself, kept as if it were a copy."""
    for age, made, used in facts_of(record).stale_loads:
        after = f"used {age} steps later" if used else f"still held {age} steps later"
        sentence = (
            f"a state_dict that was made as a snapshot and {after} shares the memory of the model: it went on "
            "training with it"
        )
        fix = "keep a copy: copy.deepcopy(model.state_dict()), or save it to a file"
        severity: Severity = "FAULT" if used else "LIKELY"
        return finding("checkpoint", severity, sentence, fix, [made, used], steps=age)
    return None


@check("symmetry", lambda r: r.steps >= 5)
def symmetry(record: Record) -> Answer:
    """A trained matrix whose rows are all equal."""
    equal = facts_of(record).equal_rows
    if not equal:
        return None
    names = listed([name for name, _, _ in equal], 4)
    sentence = (
        f"all rows of {names} are equal after {record.steps} steps ({equal[0][1]} units): units that start equal get "
        "equal gradients, and stay one unit"
    )
    fix = "initialise the weights at random (biases may be zero)"
    return finding(
        "symmetry",
        "FAULT",
        sentence,
        fix,
        [_leaf_named(record, equal[0][0]).place],
        rows=equal[0][1],
        tensors=len(equal),
    )


@check("decay", lambda r: any(facts.weight_decay for facts in r.optimizers))
def decay(record: Record) -> Answer:
    """Rows that never get a gradient and move all the same."""
    found = facts_of(record).decayed
    if not found:
        return None
    name, rows, change = found[0]
    sentence = (
        f"{plural(rows, 'row')} of {name} {'is' if rows == 1 else 'are'} read, never get a gradient, and yet moved by "
        f"{change:.2%}: weight decay shrinks what is meant to be frozen"
    )
    fix = "put the tensor into a group with weight_decay=0, or write the frozen rows back after each step"
    places = [facts.place or facts.place_step for facts in record.optimizers if facts.weight_decay]
    return finding("decay", "FAULT", sentence, fix, places[:1], rows=rows, change=change)


# ---------------------------------------------------------------------------------------------------------------- steps
@dataclasses.dataclass(frozen=True)
class _Repeated:
    """A fault that is one if it comes in many steps of an optimizer: how many, which share of them, and what is said."""

    least: int
    share: float
    sentence: str
    fix: str

    def ask(self, record: Record, word: str, counted: str, *places: str) -> TrainingFinding | None:
        """Return the finding for the first optimizer in which it comes often enough.

        Args:
            record: what was seen.
            word: the word of the finding.
            counted: the field of an optimizer that counts it.
            places: the fields of an optimizer that say where.
        """
        for facts in record.optimizers:
            count = getattr(facts, counted)
            if count >= self.least and count > self.share * facts.steps:
                sentence = self.sentence.format(count=count, steps=facts.steps, kind=facts.kind)
                evidence = {counted: count, "steps": facts.steps}
                return finding(
                    word, "FAULT", sentence, self.fix, [getattr(facts, place) for place in places], **evidence
                )
        return None


@check("stale-gradient", _stepped)
def stale_gradient(record: Record) -> Answer:
    """Steps on the sum of gradients that earlier steps had used."""
    said = _Repeated(
        2, 0.4,
        "{count} of {steps} steps of {kind} used gradients on top of those the step before had used: they are never emptied",
        "call optimizer.zero_grad() once per step, before backward",
    )  # fmt: skip
    return said.ask(record, "stale-gradient", "stale", "place_step", "place_zero")


@check("wiped-gradient", _stepped)
def wiped_gradient(record: Record) -> Answer:
    """Steps that find no gradient although backward had made one."""
    said = _Repeated(
        2, 0.5,
        "all gradients were empty at {count} of {steps} steps of {kind}, though backward had filled them",
        "call zero_grad before backward, or after the step; not between",
    )  # fmt: skip
    return said.ask(record, "wiped-gradient", "wiped", "place_zero", "place_step")


@check("double-step", _stepped)
def double_step(record: Record) -> Answer:
    """Steps without a backward pass since the last one."""
    said = _Repeated(
        3, 0.25,
        "{count} of {steps} steps of {kind} had no backward pass before them: the same gradient was used twice",
        "step once per backward pass; scaler.step(optimizer) steps already",
    )  # fmt: skip
    return said.ask(record, "double-step", "doubled", "place_again", "place_step")


@check("no-step")
def no_step(record: Record) -> Answer:
    """Backward passes without a single step."""
    facts = facts_of(record)
    idle = [each for each in record.optimizers if not each.steps and each.backwards >= 4]
    any_steps = any(each.steps for each in record.optimizers)
    if any_steps or record.backwards < 4 or (not idle and not (record.optimizers and facts.ended)):
        return None
    if any(loader.cut for loader in facts.loaders) and not facts.ended:
        return None
    what = idle[0].kind if idle else record.optimizers[0].kind
    sentence = f"{what} never made a step in {record.backwards} backward passes: the weights are what they were"
    fix = "call optimizer.step() after backward; with accumulation, let the last batches of an epoch step too"
    return finding(
        "no-step", "FAULT", sentence, fix, [(idle or record.optimizers)[0].place], backwards=record.backwards
    )


@check("accumulate-scale", _stepped)
def accumulate_scale(record: Record) -> Answer:
    """Accumulated losses that are not divided, or divided without being accumulated."""
    used = [facts for facts in record.optimizers if facts.steps]
    if len(used) != 1 or used[0].closure:
        return None
    facts = used[0]
    per_step = median(facts.per_step)
    for (_, place), calls in by_site(record.losses).items():
        factors = [call.coefficient for call in calls if call.coefficient is not None and call.reduction == "mean"]
        if not factors or _several_losses(record):
            continue
        factor = median(factors)
        if per_step >= 3 and abs(factor - 1) < 1e-3 and len(factors) >= 0.8 * record.backwards and not record.in_scaler:
            sentence = (
                f"each step sums {per_step:g} backward passes of a mean loss that is not divided: the gradient is "
                f"{per_step:g} times that of one batch"
            )
            fix = f"divide the loss by the number of batches of a step: (loss / {per_step:g}).backward()"
            return finding(
                "accumulate-scale", "FAULT", sentence, fix, [place, facts.place_step], passes=per_step, factor=factor
            )
        divided = record.extra.get("divided_roots", 0)
        if per_step == 1 and factor <= 0.26 and _power_of_two(factor) and divided >= 0.8 * record.backwards:
            sentence = (
                f"the loss is divided by {1 / factor:.0f}, as for accumulation, and every batch makes a step of its "
                f"own: the gradient is {factor:.3g} of the batch's; right where a weight of {factor:.3g} is meant"
            )
            fix = f"step every {1 / factor:.0f} batches, or do not divide"
            return finding(
                "accumulate-scale", "LIKELY", sentence, fix, [place, facts.place_step], passes=per_step, factor=factor
            )
    return None


def _power_of_two(factor: float) -> bool:
    inverse = 1 / factor if factor > 0 else 0.0
    return inverse >= 2 and abs(inverse - round(inverse)) < 1e-3 and (round(inverse) & (round(inverse) - 1)) == 0


def _several_losses(record: Record) -> bool:
    """Return whether a backward pass goes through more than one loss."""
    passes: dict[int, int] = defaultdict(int)
    for call in record.losses:
        passes[call.backward] += 1
    return any(count > 1 for count in passes.values())


@check("clip-late", lambda r: facts_of(r).clips > 0)
def clip_late(record: Record) -> Answer:
    """Clipping of gradients that were used already."""
    facts = facts_of(record)
    if facts.late_clips >= 2 and facts.late_clips > 0.5 * facts.clips:
        sentence = (
            f"{facts.late_clips} of {facts.clips} clips came after the step that used the gradient, so no step was "
            "clipped"
        )
        return finding(
            "clip-late", "FAULT", sentence, "clip between backward and step", [facts.clip_place], late=facts.late_clips,
            clips=facts.clips,
        )  # fmt: skip
    return None


@check("amp-order", lambda r: r.in_scaler)
def amp_order(record: Record) -> Answer:
    """Gradients that are clipped or used while they carry the factor of a GradScaler."""
    facts = facts_of(record)
    if facts.scaled_clips >= 2:
        sentence = (
            f"{facts.scaled_clips} of {facts.clips} clips saw gradients that still carry the factor of the GradScaler"
        )
        fix = "call scaler.unscale_(optimizer) before clipping"
        return finding("amp-order", "FAULT", sentence, fix, [facts.clip_place], clips=facts.scaled_clips)
    if facts.unscaled_steps >= 2:
        sentence = f"{facts.unscaled_steps} steps used gradients that still carry the factor of the GradScaler"
        fix = "step with scaler.step(optimizer)"
        return finding("amp-order", "FAULT", sentence, fix, [facts.unscaled_place], steps=facts.unscaled_steps)
    return None


@check("graph-growth", lambda r: r.steps >= 8)
def graph_growth(record: Record) -> Answer:
    """Graphs of steps long past that something still holds."""
    facts = facts_of(record)
    if not facts.graphs_alive:
        return None
    sentence = (
        f"the graphs of {facts.graphs_alive} earlier steps are still alive: {facts.holder[0] or 'something'} keeps a loss or an "
        "output with its history"
    )
    fix = "add loss.item() or loss.detach() to totals and lists"
    places = [facts.holder[1] or next((calls[0].place for calls in by_site(record.losses).values()), "")]
    return finding("graph-growth", "FAULT", sentence, fix, places, graphs=facts.graphs_alive)


@check("sign", lambda r: any(call.coefficient is not None for call in r.losses))
def sign(record: Record) -> Answer:
    """A likelihood that is maximised where it should be minimised."""
    for (kind, place), calls in by_site(record.losses).items():
        known = [call.coefficient for call in calls if call.coefficient]
        if kind not in ("nll", "bce", "bce_logits", "mse") or len(known) < 4 or not all(value < 0 for value in known):
            continue
        if _several_losses(record) or len([o for o in record.optimizers if o.steps]) > 1:
            continue
        sentence = (
            f"the gradient of the loss is multiplied by {median(known):.3g} in every step: the loss is maximised; "
            "right in a game against another model"
        )
        return finding("sign", "LIKELY", sentence, "minimise the loss itself", [place], factor=median(known))
    return None


# ---------------------------------------------------------------------------------------------------------------- rates
@check("lr-low", lambda r: any(len(facts.relative) >= 5 for facts in r.optimizers))
def lr_low(record: Record) -> Answer:
    """Steps that change next to nothing."""
    for facts in record.optimizers:
        steps = facts.relative
        if len(steps) < 5 or max(steps) >= 3e-6 or max(steps) == 0 or _rising(facts.lrs):
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


@check("vanishing", lambda r: len(facts_of(r).gradient_ratio) >= 3)
def vanishing(record: Record) -> Answer:
    """A gradient that is a millionth of another one in every step."""
    ratios = facts_of(record).gradient_ratio
    if max(ratio for ratio, _, _ in ratios) >= 1e-6:
        return None
    ratio, small, large = ratios[len(ratios) // 2]
    sentence = f"the gradient of {small} is {ratio:.1g} of that of {large} in every step: nothing arrives there"
    fix = "add shortcuts or norms between, use ReLU or GELU instead of sigmoid and tanh, or fewer layers"
    return finding("vanishing", "FAULT", sentence, fix, [_leaf_named(record, small).place], ratio=ratio)


@check("dead-units", lambda r: bool(r.units))
def dead_units(record: Record) -> Answer:
    """A ReLU nearly all of whose units are zero for every sample."""
    for units in record.units.values():
        if units.count >= 4 and units.batches >= 2 and units.samples >= 16 and units.dead >= 0.9 * units.count:
            sentence = (
                f"{units.dead} of {units.count} units of a ReLU are zero for every one of {units.samples} inputs: no "
                "gradient comes through them"
            )
            fix = "look at the bias and the scale before it; lower the rate; a LeakyReLU or GELU cannot die"
            low = [leaf.place for leaf in record.leaves.values() if leaf.offset < -1]
            return finding(
                "dead-units", "FAULT", sentence, fix, [*low[:1], units.place], dead=units.dead, units=units.count
            )
    return None


# ----------------------------------------------------------------------------------------------------------- schedules
@check("scheduler-order", lambda r: bool(facts_of(r).schedulers))
def scheduler_order(record: Record) -> Answer:
    """A schedule that steps before its optimizer does."""
    for each in facts_of(record).schedulers:
        optimizer = None if each.optimizer is None else record.optimizers[each.optimizer]
        if optimizer is None or not each.early or not optimizer.steps or each.skipped_by_scaler:
            continue
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


@check("scheduler-unused", lambda r: bool(facts_of(r).schedulers) and _stepped(r))
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
        if not each.steps and _had_time(record):
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
    gone = sum(lr < 1e-3 * top for lr in optimizer.lrs)
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
    sentence = (
        f"the rate never rose above {max(optimizer.lrs):.2g}, and {each.kind} is to reach {base:.2g}: it is stepped "
        "once per epoch and counts in batches"
    )
    fix = "step the schedule after every batch"
    return finding(
        "scheduler-pace", "FAULT", sentence, fix, [each.place_step, each.place], top=max(optimizer.lrs), base=base
    )
