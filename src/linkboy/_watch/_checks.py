"""The checks that need no more than the record of a few steps: those that `fit` runs.

Each is a pure function of a `Record` that returns what it found. A rule speaks of the mechanism, and its guard names the right
programs that look the same.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from linkboy._report import format_count, listed, plural
from linkboy._watch._finding import Severity, TrainingFinding
from linkboy._watch._record import Leaf, LossCall, Record

Answer = TrainingFinding | None | Iterable[TrainingFinding]
Ask = Callable[[Record], Answer]


@dataclasses.dataclass(frozen=True)
class Check:
    """A question to a record.

    Attributes:
        word: the word of its findings.
        applies: whether the record holds what the question needs.
        ask: the question.
        fit: whether `fit` asks it.
    """

    word: str
    applies: Callable[[Record], bool]
    ask: Ask
    fit: bool = False


CHECKS: dict[str, Check] = {}


def check(word: str, applies: Callable[[Record], bool] | None = None, *, fit: bool = False) -> Callable[[Ask], Ask]:
    """Register a function as the check of a word."""

    def register(function: Ask) -> Ask:
        CHECKS[word] = Check(word, applies or (lambda record: record.backwards > 0), function, fit)
        return function

    return register


def ask(
    record: Record, checks: Mapping[str, Check], *, strict: bool = False
) -> tuple[list[TrainingFinding], list[str], list[str]]:
    """Ask every question that applies.

    Args:
        record: what was seen.
        checks: the questions.
        strict: let the exception of a check that raises through; otherwise it is listed.

    Returns:
        The findings, the words whose question was asked, and those whose check raised, each with its exception.
    """
    findings: list[TrainingFinding] = []
    asked: list[str] = []
    failed: list[str] = []
    for word, each in checks.items():
        try:
            if not each.applies(record):
                continue
            answer = each.ask(record)
            found = [answer] if isinstance(answer, TrainingFinding) else list(answer or ())
        except Exception as error:
            if strict:
                raise
            failed.append(f"{word}: {type(error).__name__}: {error}")
            continue
        asked.append(word)
        findings += found
    return findings, asked, failed


def finding(
    word: str, severity: Severity, sentence: str, fix: str, places: Iterable[str] = (), **evidence: Any
) -> TrainingFinding:
    """Make a finding, its places without repetition."""
    return TrainingFinding(
        word, severity, sentence, fix, tuple(dict.fromkeys(place for place in places if place)), evidence
    )


def leaf_named(record: Record, name: str) -> Leaf:
    """Return the tensor of a name; one that nothing is known of where there is none."""
    return next((leaf for leaf in record.leaves.values() if f".{leaf.name}".endswith(f".{name}")), Leaf(name, ()))


def few(leaves: Iterable[Leaf], most: int = 4) -> str:
    """Name the first of some tensors, and count the rest."""
    return listed([leaf.name for leaf in leaves], most)


def trained(record: Record) -> bool:
    """Return whether there were steps and graphs."""
    return record.steps > 0 and record.walks > 0


def stepped(record: Record) -> bool:
    """Return whether there were backward passes, and steps of an optimizer that was seen."""
    return record.backwards > 0 and any(facts.steps for facts in record.optimizers)


def nothing_trains(record: Record) -> bool:
    """Return whether every step of every optimizer found no gradient."""
    used = [facts for facts in record.optimizers if facts.steps]
    steps = sum(facts.steps for facts in used)
    return (
        steps >= 3
        and record.backwards not in (1, 2)
        and all(facts.empty == facts.steps and not facts.wiped for facts in used)
    )


# ----------------------------------------------------------------------------------------------------------- parameters
@check("unoptimized", lambda r: trained(r) and bool(r.optimizers), fit=True)
def unoptimized(record: Record) -> Answer:
    """Leaves of a loss that stand in a model and in no optimizer."""
    missing = _in_no_optimizer(record)
    if not missing:
        return None
    total = sum(leaf.numel for leaf in record.leaves.values() if leaf.root in {m.root for m in missing})
    count = sum(leaf.numel for leaf in missing)
    stale = _stale_leaves(record)
    are = "is" if len(missing) == 1 else "are"
    change = "changes" if len(missing) == 1 else "change"
    sentence = (
        f"{plural(len(missing), 'parameter')} of the loss {are} in no optimizer and never {change}: {few(missing)} "
        f"({format_count(count)} of {plural(total, 'number')})"
    )
    if stale:
        sentence += f"; the optimizer holds {plural(len(stale), 'tensor')} that no model has any more"
        fix = "make the optimizer after the last change of the model, or call optimizer.add_param_group"
    else:
        fix = "give them to the optimizer, or set requires_grad_(False) on them if they are meant to be frozen"
    before = any(leaf.feeds_trained for leaf in missing)
    severity: Severity = "FAULT" if stale or before else "LIKELY"
    places = [facts.place or facts.place_step for facts in record.optimizers[:2]]
    return finding("unoptimized", severity, sentence, fix, places, tensors=len(missing), numbers=count)


def _in_no_optimizer(record: Record) -> list[Leaf]:
    """Return the leaves of a loss that a model holds and no optimizer, but for models that are used only."""
    missing = [
        leaf
        for leaf in record.leaves.values()
        if leaf.in_graphs and leaf.requires_grad and leaf.registered and leaf.root is not None and not leaf.optimizers
    ]
    meant = {number for leaf in missing if (number := leaf.root) is not None and _is_used_only(record, number)}
    return [leaf for leaf in missing if leaf.root not in meant]


def _is_used_only(record: Record, number: int) -> bool:
    """Return whether a model of which the optimizers hold nothing is used, and is not meant to be trained.

    Such are a perceptual loss, an attacked classifier, and a copy of a trained model such as a target network. One in training
    mode whose output feeds no trained tensor's past is a part that was forgotten, and so is any where nothing else is trained.
    """
    if nothing_trains(record):
        return False
    root = record.roots[number]
    parts = [leaf for leaf in record.leaves.values() if leaf.root == number]
    if any(leaf.optimizers for leaf in parts):
        return False
    copied = any(leaf.copied for leaf in parts) and not any(leaf.feeds_trained for leaf in parts)
    return copied or root.modes.get("eval", 0) > root.modes.get("train", 0) or not _model_is_trained(record)


def _model_is_trained(record: Record) -> bool:
    return any(leaf.optimizers and leaf.root is not None for leaf in record.leaves.values())


def _stale_leaves(record: Record) -> list[Leaf]:
    """Return tensors of an optimizer that no model holds and no loss reaches."""
    return [
        leaf
        for leaf in record.leaves.values()
        if leaf.optimizers and leaf.root is None and not leaf.in_graphs and leaf.requires_grad
    ]


@check("unregistered", trained, fit=True)
def unregistered(record: Record) -> Answer:
    """Trained tensors that no model has among its parameters and no optimizer holds."""
    missing = [
        leaf
        for leaf in record.leaves.values()
        if leaf.in_graphs
        and leaf.requires_grad
        and not leaf.optimizers
        and (not leaf.registered or (leaf.root is None and leaf.is_parameter))
    ]
    if not missing:
        return None
    late = [leaf for leaf in missing if leaf.born > 0]
    holder = next((leaf.held_by for leaf in missing if leaf.held_by), "")
    count = sum(leaf.numel for leaf in missing)
    what = f" in {holder}" if holder else ""
    sentence = (
        f"{plural(len(missing), 'tensor')} with a gradient{what} ({plural(count, 'number')}) "
        f"{'is' if len(missing) == 1 else 'are'} not registered in the model, so that neither optimizer, state_dict "
        f"nor to(device) sees {'it' if len(missing) == 1 else 'them'}"
    )
    fix = "hold modules in nn.ModuleList or nn.ModuleDict, and tensors in nn.Parameter as an attribute of the module"
    if len(late) > len(missing) // 2 and len(late) > 1:
        sentence += "; new ones appear in every pass, so what they learn is thrown away"
        fix = "make the layers in __init__ and only call them in forward"
    places = [leaf.made for leaf in missing[:2]]
    return finding("unregistered", "FAULT", sentence, fix, places, tensors=len(missing), numbers=count)


def _without_gradient(record: Record) -> list[Leaf]:
    swallowed = {number for facts in record.optimizers if facts.steps == 0 for number in facts.leaves}
    chosen = {_list_of(leaf) for leaf in record.leaves.values() if 0 < leaf.in_graphs < leaf.walks} - {""}
    return [
        leaf
        for number, leaf in record.leaves.items()
        if leaf.optimizers
        and leaf.requires_grad
        and not leaf.in_graphs
        and leaf.walks >= 2
        and leaf.root is not None
        and number not in swallowed
        and _list_of(leaf) not in chosen
    ]


def _list_of(leaf: Leaf) -> str:
    """Return the list of modules that holds a tensor: some batches may choose one of its parts, and others another."""
    found = _NUMBERED.match(leaf.owner)
    return f"{leaf.root} {found[1] or ''}" if found else ""


_NUMBERED = re.compile(r"(?:(.*?)\.)?\d+(?:\.|$)")


@check("cut", lambda r: (trained(r) and r.walks >= 2) or nothing_trains(r), fit=True)
def cut(record: Record) -> Answer:
    """Tensors of an optimizer whose layer ran, and that no loss reaches."""
    if nothing_trains(record) and not any(facts.backwards for facts in record.optimizers):
        return None if _in_no_optimizer(record) else _cut_off(record)
    lost = [leaf for leaf in _without_gradient(record) if leaf.ran]
    if not lost:
        return None
    severity: Severity = "NOTE" if all(_left_by_a_library(record, leaf) for leaf in lost) else "FAULT"
    count = sum(leaf.numel for leaf in lost)
    sentence = (
        f"{plural(len(lost), 'parameter')} of layers that run {'gets' if len(lost) == 1 else 'get'} no gradient from "
        f"any loss: {few(lost)} ({plural(count, 'number')}); between the layer and the loss the graph is cut"
    )
    fix = (
        "look for detach, no_grad, .data, .item(), numpy, argmax or a new tensor between the layer and the loss; if "
        "the layer is meant to be frozen, set requires_grad_(False) and leave it out of the optimizer"
    )
    places = [*(leaf.cut_at for leaf in lost), *_called_at(record, lost)]
    return finding("cut", severity, sentence, fix, places, tensors=len(lost), numbers=count)


def _cut_off(record: Record) -> TrainingFinding:
    """Return the finding where no loss reaches any tensor that is trained."""
    used = [facts for facts in record.optimizers if facts.steps]
    sentence = (
        f"no loss reaches a tensor that {used[0].kind} holds: its {plural(used[0].steps, 'step')} had no gradient at all, and "
        "nothing is trained"
    )
    fix = (
        "look for detach, no_grad, .data, .item(), numpy, argmax or a new tensor between the model and the loss; a "
        "requires_grad that is set on the loss only hides it"
        if record.backwards
        else "call loss.backward(), with its brackets, before optimizer.step()"
    )
    held = [leaf for leaf in record.leaves.values() if leaf.optimizers]
    places = [*(leaf.cut_at for leaf in held), *_called_at(record, held), used[0].place_step]
    return finding("cut", "FAULT", sentence, fix, places[-2:], steps=used[0].steps)


@check("unused", lambda r: trained(r) and r.walks >= 2, fit=True)
def unused(record: Record) -> Answer:
    """Tensors of an optimizer whose layer never ran."""
    idle = [leaf for leaf in _without_gradient(record) if not leaf.ran]
    if not idle:
        return None
    severity: Severity = "NOTE" if all(_left_by_a_library(record, leaf) for leaf in idle) else "LIKELY"
    count = sum(leaf.numel for leaf in idle)
    owners = list(dict.fromkeys(leaf.owner or leaf.name for leaf in idle))
    sentence = (
        f"{listed(owners, 4)} {'is' if len(owners) == 1 else 'are'} in the optimizer and never called: "
        f"{plural(len(idle), 'parameter')} ({few(idle)}), {plural(count, 'number')}; right where a later phase of the "
        "program uses it"
    )
    return finding(
        "unused", severity, sentence, "call the layer in forward, or remove it",
        [*(leaf.made for leaf in idle[:1]), *_called_at(record, idle)],
        tensors=len(idle), numbers=count,
    )  # fmt: skip


@check("frozen-moved", trained, fit=True)
def frozen_moved(record: Record) -> Answer:
    """Tensors that ask for no gradient and are changed by a step."""
    moved = [leaf for leaf in record.leaves.values() if leaf.moved]
    if not moved:
        return None
    sentence = f"{plural(len(moved), 'parameter')} with requires_grad=False changed in a step: {few(moved)}"
    fix = "leave them out of the optimizer: weight decay and momentum move what still has a gradient"
    places = [record.optimizers[index].place_step for leaf in moved for index in leaf.optimizers[:1]]
    return finding("frozen-moved", "LIKELY", sentence, fix, places, tensors=len(moved))


def _left_by_a_library(record: Record, leaf: Leaf) -> bool:
    """Return whether a tensor belongs to an installed model of which other parts are trained, such as its pooler."""
    return leaf.library and any(other.library and other.in_graphs for other in record.leaves.values())


def _called_at(record: Record, leaves: Iterable[Leaf]) -> list[str]:
    return [record.roots[number].place for number in dict.fromkeys(leaf.root for leaf in leaves) if number is not None]


# --------------------------------------------------------------------------------------------------------------- losses
def _squashing(record: Record, word: str) -> Answer:
    found = [each for each in record.squashed if each.loss == word]
    if not found:
        return None
    first = found[0]
    flat = "every loss stays near that of guessing" if first.after.startswith("log") else "the gradient shrinks with it"
    sentence = f"a {first.before} stands before a {first.after}: values between 0 and 1 are squashed again, and {flat}"
    fix = (
        f"return the values before the {first.before}; use it only where probabilities are shown"
        if first.after != "softmax"
        else f"apply {first.before} once"
    )
    made = record.extra.get("squashers", {}).get(first.before, "")
    places = [made, first.before_place, first.place]
    return finding(word, "FAULT", sentence, fix, places, graphs=len(found))


@check("double-softmax", trained, fit=True)
def double_softmax(record: Record) -> Answer:
    """A softmax or sigmoid directly before the softmax of a loss."""
    return _squashing(record, "double-softmax")


@check("double-sigmoid", trained, fit=True)
def double_sigmoid(record: Record) -> Answer:
    """A sigmoid or softmax directly before the sigmoid of a loss."""
    return _squashing(record, "double-sigmoid")


@check("relu-logits", trained)
def relu_logits(record: Record) -> Answer:
    """A ReLU directly before the softmax or sigmoid of a loss."""
    found = [each for each in record.squashed if each.loss == "relu-logits"]
    if not found:
        return None
    sentence = (
        "a ReLU stands before the softmax of the loss: what is below zero becomes zero and gets no gradient, and no class can "
        "be ruled out"
        if found[0].after == "log-softmax"
        else "a ReLU stands before the sigmoid of the loss: what is below zero becomes zero and gets no gradient, and no "
        "probability can be below one half"
    )
    fix = "return what the last layer gives; a ReLU belongs between layers"
    return finding("relu-logits", "FAULT", sentence, fix, [found[0].before_place, found[0].place], graphs=len(found))


def by_site(calls: Iterable[LossCall]) -> dict[tuple[str, str], list[LossCall]]:
    """Group calls of losses by their kind and line."""
    sites: dict[tuple[str, str], list[LossCall]] = defaultdict(list)
    for call in calls:
        sites[call.kind, call.place].append(call)
    return sites


@check("raw-nll", lambda r: any(call.kind in ("nll", "kl_div") for call in r.losses), fit=True)
def raw_nll(record: Record) -> Answer:
    """An NLL whose input is not log-probabilities."""
    for (kind, place), calls in by_site(record.losses).items():
        if kind == "kl_div":
            wrong = [call for call in calls if call.distribution]
            if calls and len(wrong) == len(calls):
                sentence = "kl_div gets probabilities as its input, and wants their logarithms"
                return finding("raw-nll", "FAULT", sentence, "pass F.log_softmax(logits, dim)", [place])
            continue
        looked = [call for call in calls if call.exp_sums is not None and not call.from_log_softmax]
        wrong = [call for call in looked if _not_log_probabilities(call)]
        if not looked or kind != "nll" or len(wrong) < len(looked):
            continue
        low, high = wrong[0].exp_sums or (math.nan, math.nan)
        if wrong[0].distribution:
            sentence = (
                f"nll_loss gets probabilities: exp of a row sums to {low:.2f}..{high:.2f} instead of 1, "
                "and the loss runs below zero"
            )
        else:
            sentence = (
                f"nll_loss gets values that are not log-probabilities: exp of a row sums to {low:.3g}..{high:.3g} "
                "instead of 1"
            )
        return finding(
            "raw-nll", "FAULT", sentence, "use cross_entropy on the logits, or apply log_softmax first", [place],
            exp_sum_low=low, exp_sum_high=high,
        )  # fmt: skip
    return None


def _not_log_probabilities(call: LossCall) -> bool:
    low, high = call.exp_sums or (1.0, 1.0)
    return not (0.97 < low <= high < 1.03)


@check("broadcast", trained, fit=True)
def broadcast(record: Record) -> Answer:
    """A loss over a table of all pairs that comes of `(N, 1)` against `(N,)`."""
    if not record.broadcasts:
        return None
    first = record.broadcasts[0]
    other = first.operand[:-2] + (first.operand[-2:-1] if first.operand[-1:] == (1,) else (*first.operand[-1:], 1))
    sentence = (
        f"{list(first.operand)} against {list(other)} gives {list(first.shape)}: every output is compared with every "
        "target, and is pulled to their mean"
    )
    fix = "give both the same shape: output.squeeze(1), or target.unsqueeze(1)"
    return finding("broadcast", "FAULT", sentence, fix, [first.place], graphs=len(record.broadcasts))


@check("ignored-samples", lambda r: trained(r) and bool(r.output_rows or r.losses), fit=True)
def ignored_samples(record: Record) -> Answer:
    """Positions of the batch that get no gradient in any batch."""
    for (_, place), calls in by_site(record.losses).items():
        looked = [call for call in calls if call.silent is not None and call.reduction == "none"]
        count = looked[0].shape[0] if looked and looked[0].shape else 0
        found = _always_silent([(call.shape[0] if call.shape else 0, call.silent or ()) for call in looked])
        if found:
            return _ignored(found, count, next((call.part_at for call in looked if call.part_at), place))
    rows: dict[int, list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
    for each in record.output_rows:
        rows[each.root].append((each.count, each.silent))
    for number, looked in rows.items():
        found = _always_silent(looked)
        few_of_many = len(found) < 0.1 * looked[0][0]  # such as the row that others are compared with
        if found and not few_of_many and number in record.extra.get("independent_rows", ()):
            return _ignored(found, looked[0][0], record.roots[number].place)
    return _only_the_last(record)


def _only_the_last(record: Record) -> TrainingFinding | None:
    """Return a finding where several losses of one line are made for each backward pass, and one of them is used."""
    uses: list[tuple[str, int, int]] = record.extra.get("loss_uses", [])
    dropped = [(place, made) for place, made, used in uses if made >= 2 and used == 1]
    if len(dropped) < 4 or len(dropped) < 0.8 * record.backwards:
        return None
    place, made = dropped[0]
    sentence = (
        f"{made} losses are computed at one line for each backward pass, and the gradient of one of them is used: the "
        "other batches are thrown away; right where the others are only looked at"
    )
    return finding(
        "ignored-samples", "LIKELY", sentence, "add up the losses, or call backward for each", [place], made=made
    )


def _always_silent(looked: list[tuple[int, tuple[int, ...]]]) -> tuple[int, ...]:
    """Return the positions that are silent in every batch, if some but not all of a batch are."""
    if len(looked) < 4:
        return ()
    sizes = {count for count, _ in looked}
    common = set(looked[0][1]).intersection(*(silent for _, silent in looked[1:]))
    if not common or max(sizes) < 4 or len(common) >= min(sizes):
        return ()
    return tuple(sorted(common))


def _ignored(silent: tuple[int, ...], count: int, place: str) -> TrainingFinding:
    shown = listed(silent, 4)
    sentence = f"{len(silent)} of {count} samples of every batch get no gradient, always at the same places ({shown})"
    return finding(
        "ignored-samples", "FAULT", sentence, "take the mean over all samples of the batch", [place],
        silent=len(silent), batch=count,
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- numbers
@check("nan", fit=True)
def nan(record: Record) -> Answer:
    """The first loss or gradient that is not finite."""
    bad = record.not_finite
    if bad is None:
        return None
    why = f"; a graph of this step holds {bad.reason}" if bad.reason else ""
    sentence = f"the {bad.what} is not finite from step {bad.step + 1} on (first seen in {bad.name}){why}"
    fix = (
        "add a small number inside the root, the logarithm or the divisor, where the value can be 0"
        if bad.reason
        else "lower the rate, clip the gradient, or look at the inputs of this step"
    )
    return finding("nan", "FAULT", sentence, fix, [bad.place], step=bad.step + 1)


@check("exploding", lambda r: any(call.value is not None for call in r.losses), fit=True)
def exploding(record: Record) -> Answer:
    """A first loss far above that of guessing."""
    for (kind, place), calls in by_site(record.losses).items():
        first = next((call for call in calls if call.step == 0 and call.value is not None), None)
        if first is None or first.value is None or not math.isfinite(first.value) or kind not in ("nll", "bce_logits"):
            continue
        if kind == "nll" and (not first.from_log_softmax or first.class_count < 2):
            continue
        guess = math.log(first.class_count) if kind == "nll" else math.log(2)
        if first.value > 5 * guess + 1:
            over = f"ln {first.class_count}" if kind == "nll" else "ln 2"
            sentence = (
                f"the first loss is {first.value:.3g}, and guessing would give {guess:.2f} ({over}): the outputs are "
                f"{first.output_rms or 0:.3g} in size before anything is learned"
            )
            fix = "initialise the layers so that activations keep their size (lb.initialize, lb.audit_activations)"
            loud = max(record.leaves.values(), key=lambda leaf: leaf.gain, default=None)
            cause = loud.place if loud is not None and loud.gain > 3 else ""
            size = record.extra.get("input_rms", 0.0)
            if size > max(10, loud.gain if loud is not None else 0):
                sentence += f"; the inputs are {size:.3g} in size"
                fix = "bring the inputs to a size of about 1: divide bytes by 255, or standardise each column"
                cause = ""
            return finding("exploding", "FAULT", sentence, fix, [cause, place], first_loss=first.value, guess=guess)
    return None


@check("heavy-dropout", lambda r: any(any(root.training) and root.noisy for root in r.roots))
def heavy_dropout(record: Record) -> Answer:
    """A dropout that leaves next to nothing."""
    for root in record.roots:
        if root.heavy and any(root.training):
            name, share = root.heavy[0]
            sentence = (
                f"{name} of {root.name} sets {share:.0%} of its values to zero in training, and hardly anything is left to "
                "learn from; right where values are hidden on purpose"
            )
            fix = "p is the share that is set to zero; where the share to keep was meant, pass 1 - p"
            return finding("heavy-dropout", "LIKELY", sentence, fix, [root.place], share=share)
    return None


@check("eval-in-training", lambda r: any(root.training and root.noisy for root in r.roots), fit=True)
def eval_in_training(record: Record) -> Answer:
    """Steps on a model in eval mode, with Dropout or BatchNorm inside."""
    for root in record.roots:
        off = sum(not mode for mode in root.training)
        if root.noisy and off >= 3 and off >= len(root.training) / 4:
            sentence = (
                f"{off} of {len(root.training)} steps trained {root.name} in eval mode: {listed(root.noisy, 3)} "
                f"{'is' if len(root.noisy) == 1 else 'are'} switched off; right where the whole model is fine-tuned so"
            )
            return finding(
                "eval-in-training", "FAULT", sentence, "call model.train() before each epoch, after validation",
                [root.eval_at, root.place], steps=off, of=len(root.training),
            )  # fmt: skip
    return None


# ----------------------------------------------------------------------------------------------------------------- data
@check("unshuffled", lambda r: sum(bool(call.classes) for call in r.losses) >= 8, fit=True)
def unshuffled(record: Record) -> Answer:
    """Batches that hold far fewer classes than batches of shuffled rows would."""
    if (order := record.extra.get("sorted_labels")) is not None:
        rows, classes, runs, place, made = order
        sentence = (
            f"{rows} rows from all over the dataset hold {classes} classes in {runs} runs, and the loader takes them "
            "in this order: the rows come class by class; right where classes are learned one after another on purpose"
        )
        fix = "shuffle the training rows: DataLoader(..., shuffle=True)"
        return finding("unshuffled", "FAULT", sentence, fix, [made, place], rows=rows, classes=classes, runs=runs)
    for (kind, place), calls in by_site(record.losses).items():
        batches = [call.classes for call in calls if call.classes]
        if kind != "nll" or len(batches) < 8 or any(len(call.shape) != 2 for call in calls):
            continue
        total: dict[int, int] = defaultdict(int)
        for batch in batches:
            for label, count in batch.items():
                total[label] += count
        rows = sum(total.values())
        size = rows / len(batches)
        if size < 6 or len(total) < 2:
            continue
        expected = sum(1 - (1 - count / rows) ** size for count in total.values())
        seen = sum(len(batch) for batch in batches) / len(batches)
        rarest_two = sorted(total.values())[-2] / rows
        if rarest_two > 0.15 and seen <= (0.6 if len(total) > 2 else 0.65) * expected:
            sentence = (
                f"a batch of {size:.0f} rows holds {seen:.1f} classes on average, and shuffled rows would give "
                f"{expected:.1f} of the {len(total)} seen: the rows come class by class; right where classes are "
                "learned one after another on purpose"
            )
            return finding(
                "unshuffled", "FAULT", sentence, "shuffle the training rows: DataLoader(..., shuffle=True)", [place],
                seen=seen, expected=expected,
            )  # fmt: skip
    return None


FIT = {word: each for word, each in CHECKS.items() if each.fit}
