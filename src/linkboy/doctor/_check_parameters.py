"""Checks of parameters and units: what is tied, loaded, kept and frozen, and what cannot learn."""

from collections import defaultdict
from statistics import median

from linkboy._report import listed, plural
from linkboy._watch import OptimizerFacts, Record, Severity, TrainingFinding, check
from linkboy._watch._checks import Answer, few, finding, leaf_named, nothing_trains, stepped, trained
from linkboy.doctor._facts import facts_of


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
        places = [leaf_named(record, name).made for name in (other, names)]
        return finding("tied", "FAULT", sentence, fix, places[:1] or places, equal_rows=equal, rows=rows)
    return None


@check("reset-optimizer", stepped)
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
                f"{median(steps):g} {'step' if median(steps) == 1 else 'steps'} each: its averages begin at zero every time"
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
                f"load_state_dict took none of the {plural(offered, 'tensor')} it was given: no name "
                "matches, and strict is off"
            )
            fix = "compare the names (a prefix such as 'module.' is common), and load with strict=True"
            return finding("unloaded", "FAULT", sentence, fix, [place], offered=offered)
    return None


@check("checkpoint", stepped)
def checkpoint(record: Record) -> Answer:
    """A state that is the model itself, kept as if it were a copy."""
    for age, made, used in facts_of(record).stale_loads:
        after = f"{'used' if used else 'still held'} {plural(age, 'step')} later"
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
        [leaf_named(record, equal[0][0]).place],
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


@check(
    "vanishing", lambda r: len(facts_of(r).gradient_ratio) >= 3 or bool(facts_of(r).zero_slopes) or nothing_trains(r)
)
def vanishing(record: Record) -> Answer:
    """A gradient that is a millionth of another one in every step, or all of them zero."""
    if nothing_trains(record):
        return _all_zero(record) if any(facts.backwards for facts in record.optimizers) else None
    facts = facts_of(record)
    flat = [name for name, count in facts.slopes.items() if 8 <= count == facts.zero_slopes[name]]
    if flat:
        sentence = (
            f"the gradient of {listed(flat, 4)} is exactly zero in every step, and that of other matrices is not; right where "
            "a loss is multiplied by 0 for now"
        )
        fix = "look for round, sign, floor, a comparison or a softmax over one value on the way to the loss: they are flat"
        places = [leaf_named(record, flat[0]).place]
        return finding("vanishing", "LIKELY", sentence, fix, places, tensors=len(flat))
    ratios = facts.gradient_ratio
    if len(ratios) < 3 or max(ratio for ratio, _, _ in ratios) >= 1e-6:
        return None
    ratio, small, large = ratios[len(ratios) // 2]
    sentence = f"the gradient of {small} is {ratio:.1g} of that of {large} in every step: nothing arrives there"
    fix = "add shortcuts or norms between, use ReLU or GELU instead of sigmoid and tanh, or fewer layers"
    return finding("vanishing", "FAULT", sentence, fix, [leaf_named(record, small).place], ratio=ratio)


def _all_zero(record: Record) -> TrainingFinding:
    steps = sum(facts.steps for facts in record.optimizers)
    one = next((each for each in record.softmaxes if each.shape and each.shape[each.dim] == 1), None)
    why = "; a softmax over one value gives 1 whatever that is" if one is not None else ""
    sentence = (
        f"the gradient of every parameter is exactly zero in all of {plural(steps, 'step')}: nothing is trained{why}"
    )
    fix = (
        "give the last layer one output for each class, or take a sigmoid of the one output"
        if one is not None
        else "look for round, sign, floor or a comparison between the model and the loss: they are flat"
    )
    places = ["" if one is None else one.place, *(facts.place_step for facts in record.optimizers)]
    return finding("vanishing", "FAULT", sentence, fix, places[:2], steps=steps)


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
