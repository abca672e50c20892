"""Checks of steps: which gradient each of them uses, and what a step is made of."""

import dataclasses
from collections import defaultdict
from statistics import median

from linkboy._watch import Record, TrainingFinding, check
from linkboy._watch._checks import Answer, by_site, finding, stepped
from linkboy.doctor._facts import facts_of
from linkboy.doctor._rates import FEWEST_SUMMED


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


@check("stale-gradient", stepped)
def stale_gradient(record: Record) -> Answer:
    """Steps on the sum of gradients that earlier steps had used."""
    said = _Repeated(
        2, 0.4,
        "{count} of {steps} steps of {kind} used gradients on top of those the step before had used: they are never emptied",
        "call optimizer.zero_grad() once per step, before backward",
    )  # fmt: skip
    return said.ask(record, "stale-gradient", "stale", "place_step", "place_zero")


@check("wiped-gradient", stepped)
def wiped_gradient(record: Record) -> Answer:
    """Steps that find no gradient although backward had made one."""
    said = _Repeated(
        2, 0.5,
        "all gradients were empty at {count} of {steps} steps of {kind}, though backward had filled them",
        "call zero_grad before backward, or after the step; not between",
    )  # fmt: skip
    return said.ask(record, "wiped-gradient", "wiped", "place_zero", "place_step")


@check("double-step", stepped)
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


@check("accumulate-scale", stepped)
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
        undivided = abs(factor * _constant(facts.by_hand) - 1) < 1e-3
        if per_step >= FEWEST_SUMMED and undivided and len(factors) >= 0.8 * record.backwards:
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


def _constant(factors: list[float]) -> float:
    """Return the factor of all steps, as a division by hand has it; 1 where they differ, as those of a clip do."""
    return median(factors) if factors and max(factors) <= 1.01 * min(factors) else 1.0


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
    changed = [change for change in facts.scaled_changes if abs(change - 1) > 1e-3]
    # One and the same factor in every step is that of an accumulation.
    if len(changed) >= 2 and max(changed) > 1.01 * min(changed):
        sentence = (
            f"the gradient was made {min(changed):.2g} to {max(changed):.2g} times its size in {len(changed)} steps while it "
            "still carried the factor of the GradScaler, as a clip by hand does"
        )
        places = [facts.place_step for facts in record.optimizers if facts.steps][:1]
        fix = "call scaler.unscale_(optimizer) before the gradients are clipped"
        return finding("amp-order", "FAULT", sentence, fix, places, steps=len(changed))
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
