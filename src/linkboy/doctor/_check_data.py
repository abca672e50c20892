"""Checks of losses, forward passes and data: targets, reruns, rows and loaders."""

from collections import Counter
from statistics import median

from linkboy._report import listed, plural
from linkboy._watch import LossCall, Record, Severity, TrainingFinding, check
from linkboy._watch._checks import Answer, by_site, finding
from linkboy.doctor._facts import Rerun, facts_of

CLASSES = ("nll",)
IDLE = 3  # calls on data that no backward pass uses, from which on they are a validation
REGRESSIONS = ("mse", "l1", "smooth_l1", "huber")


# --------------------------------------------------------------------------------------------------------------- losses
@check("label-range", lambda r: any(call.classes for call in r.losses))
def label_range(record: Record) -> Answer:
    """Class 0 never comes and all others do."""
    for (_, place), calls in by_site(record.losses).items():
        total: Counter[int] = Counter()
        for call in calls:
            total.update(call.classes or {})
        count = calls[0].class_count
        if count < 3 or calls[0].ignore_index == 0 or 0 in total or set(total) != set(range(1, count)):
            continue
        tokens = {vocabulary for _, _, vocabulary, _ in facts_of(record).ids}
        if count in tokens or any(call.ignored for call in calls):
            continue  # the class of padding, which is never a label, or is left out as one
        if sum(total.values()) >= 10 * count and min(total.values()) > 1:
            sentence = (
                f"{count} classes have an output and the labels run from 1 to {count - 1}: class 0 never comes in "
                f"{sum(total.values())} labels"
            )
            fix = f"subtract 1 from the labels and give the model {count - 1} outputs"
            return finding("label-range", "FAULT", sentence, fix, [place], classes=count)
    return None


@check("constant-target", lambda r: len(r.losses) >= 3)
def constant_target(record: Record) -> Answer:
    """A target that is the same for every sample of every batch."""
    for (kind, place), calls in by_site(record.losses).items():
        looked = [call for call in calls if call.classes or call.target_low is not None]
        if len(looked) < 3 or any(call.made_by_hand for call in looked):
            continue
        value = _only_class(looked) if kind in CLASSES else _only_value(looked)
        if value is None:
            continue
        sentence = f"every target of {len(looked)} batches is {value:g}: there is nothing to tell apart"
        fix = "look at how the target is made: a cast to whole numbers, a wrong column, a filter that left one class"
        return finding("constant-target", "FAULT", sentence, fix, [place], value=value, batches=len(looked))
    return None


def _only_class(calls: list[LossCall]) -> float | None:
    total: Counter[int] = Counter()
    for call in calls:
        total.update(call.classes or {})
    return float(next(iter(total))) if len(total) == 1 and total.total() >= 32 else None


def _only_value(calls: list[LossCall]) -> float | None:
    values = {value for call in calls for value in (call.target_low, call.target_high)}
    return values.pop() if len(values) == 1 else None


@check(
    "unscaled-target",
    lambda r: any(call.kind in (*REGRESSIONS, "bce_logits") for call in r.losses) or bool(facts_of(r).residuals),
)
def unscaled_target(record: Record) -> Answer:
    """Targets that the outputs cannot reach, at all or in the steps seen."""
    for (kind, place), calls in by_site(record.losses).items():
        beyond = [call.outside for call in calls if call.outside >= 0.05]
        if len(beyond) >= max(3, 0.8 * len(calls)):
            return _out_of_reach(kind, calls[0].before, median(beyond), place)
        known = [call for call in calls if call.target_rms is not None and call.output_rms is not None]
        if kind not in REGRESSIONS or len(known) < 3:
            continue
        target, output = median(c.target_rms or 0 for c in known), median(c.output_rms or 0 for c in known)
        if target > 1e3 and target > 50 * output and not _halved(record):
            return _unscaled(target, output, place)
    known_residuals = facts_of(record).residuals
    if len(known_residuals) >= 3:
        residual, output = median(r for r, _ in known_residuals), median(o for _, o in known_residuals)
        if residual > 1e3 and residual > 50 * output and not _halved(record):
            return _unscaled(residual, output, "")
    return None


_REACH = {"relu": "[0, inf)", "sigmoid": "[0, 1]", "softmax": "[0, 1]", "tanh": "[-1, 1]"}


def _out_of_reach(kind: str, before: str, share: float, place: str) -> TrainingFinding:
    if kind == "bce_logits":
        sentence = (
            f"{share:.0%} of the targets of a cross-entropy with logits are outside 0 to 1, and are no probabilities"
        )
        fix = "divide masks of 0 and 255 by 255; take a loss of regression for other numbers"
    else:
        sentence = (
            f"{share:.0%} of the targets are outside {_REACH[before]}, and a {before} directly before the loss keeps all outputs "
            "in there"
        )
        fix = "leave out the last activation, or scale the targets into its range"
    return finding("unscaled-target", "FAULT", sentence, fix, [place], outside=share)


def _unscaled(target: float, output: float, place: str) -> Answer:
    sentence = f"the targets are {target:.3g} in size and the outputs {output:.3g}; at this pace they never meet"
    fix = "standardise the target with the mean and deviation of the training part, and undo it after prediction"
    return finding("unscaled-target", "FAULT", sentence, fix, [place], target=target, output=output)


def _halved(record: Record) -> bool:
    values = record.loss_values
    return len(values) >= 4 and min(values[-3:]) < 0.5 * values[0]


@check("padding-counted", lambda r: facts_of(r).sequence_batches > 0 or bool(facts_of(r).padding) or _embeds(r))
def padding_counted(record: Record) -> Answer:
    """Padded places whose labels count in the loss."""
    facts = facts_of(record)
    if len(facts.padding) < 3:
        return None
    labels = {label for _, _, label, _ in facts.padding}
    if len(labels) != 1:
        return None
    places = sum(count for _, _, _, count in facts.padding)
    sentence = (
        f"{places} padded places in {len(facts.padding)} batches count in the loss, all with label {labels.pop()}"
    )
    fix = "pad the labels with -100, or pass ignore_index"
    return finding(
        "padding-counted", "FAULT", sentence, fix, [facts.padding_place], positions=places, batches=len(facts.padding)
    )


def _embeds(record: Record) -> bool:
    return bool(facts_of(record).ids)


@check("unshifted", lambda r: facts_of(r).sequence_batches >= 2)
def unshifted(record: Record) -> Answer:
    """A language model that is asked for the word it has just read."""
    facts = facts_of(record)
    if facts.same < 2 or facts.same < 0.9 * facts.sequence_batches:
        return None
    if any(each.future is False and each.present is False for each in facts.reruns):
        return None  # a decoder that is given the labels and shifts them itself
    causal = any(each.future is False for each in facts.reruns)
    sentence = (
        f"the labels of {facts.same} of {facts.sequence_batches} batches are the inputs themselves: the model is "
        "asked for what it has just read" + ("" if causal else "; right for an autoencoder")
    )
    severity: Severity = "FAULT" if causal else "NOTE"
    fix = "shift the labels by one: model(ids[:, :-1]) against ids[:, 1:]"
    return finding("unshifted", severity, sentence, fix, [facts.sequence_place], batches=facts.same)


@check("future", lambda r: facts_of(r).shifted >= 2 and any(each.future is not None for each in facts_of(r).reruns))
def future(record: Record) -> Answer:
    """A model of the next word that reads it."""
    facts = facts_of(record)
    if facts.shifted < 0.9 * facts.sequence_batches or not any(each.future for each in facts.reruns):
        return None
    root = record.roots[next(each.root for each in facts.reruns if each.future)]
    sentence = (
        f"the labels are the inputs one place later, and later inputs change earlier outputs of {root.name}: each "
        "position reads what it is to predict"
    )
    fix = (
        "pass a causal mask (is_causal=True, generate_square_subsequent_mask), or a layer that runs in one "
        "direction only"
    )
    return finding("future", "FAULT", sentence, fix, [root.place, facts.sequence_place])


@check("train-in-eval", lambda r: any(root.noisy for root in r.roots))
def train_in_eval(record: Record) -> Answer:
    """A measurement without gradient in training mode."""
    for root in record.roots:
        if root.eval_losses >= 2 and root.noisy:
            sentence = (
                f"{root.name} was measured {root.eval_losses} times without gradient in training mode: "
                f"{listed(root.noisy, 3)} {'is' if len(root.noisy) == 1 else 'are'} on, and what is measured is "
                "another model"
            )
            fix = "call model.eval() before validation, and model.train() after it"
            return finding("train-in-eval", "FAULT", sentence, fix, [root.eval_place], measured=root.eval_losses)
    return _measured_with_gradient(record)


def _measured_with_gradient(record: Record) -> TrainingFinding | None:
    """A validation that forgot `no_grad` as well: a loader whose data no backward pass ever uses."""
    loaders = facts_of(record).loaders
    trained = {loader.dataset for loader in loaders if loader.backwards}
    for loader in loaders:
        number, calls = next(iter(loader.idle_calls.most_common(1)), (0, 0))
        if calls < IDLE or loader.dataset in trained or not trained or not record.roots[number].noisy:
            continue
        root = record.roots[number]
        sentence = (
            f"{root.name} was called in training mode on the data of a loader that no backward pass uses: "
            f"{listed(root.noisy, 3)} {'is' if len(root.noisy) == 1 else 'are'} on, and what is measured is another model"
        )
        fix = "call model.eval() before validation, run it under torch.no_grad(), and call model.train() after it"
        return finding("train-in-eval", "LIKELY", sentence, fix, [loader.idle_place], measured=calls)
    return None


@check("metric", lambda r: bool(facts_of(r).metric_dims))
def metric(record: Record) -> Answer:
    """An argmax over the batch instead of over the classes."""
    facts = facts_of(record)
    for key, count in facts.metric_dims.items():
        dim, _, place = key.partition("  ")
        if dim == "0" and count >= 2:
            sentence = (
                f"argmax over dim 0 of an output of shape {list(facts.metric_shape)} picks a sample for each class "
                "instead of a class for each sample"
            )
            return finding(
                "metric", "FAULT", sentence, "take argmax over the last dim: argmax(1)", [place], calls=count
            )
    return None


# -------------------------------------------------------------------------------------------------------------- forward
def _sample_dim(record: Record, each: Rerun) -> bool:
    """Return whether the first dim of the inputs is the batch, as a loader shows, or rows in other company."""
    facts = facts_of(record)
    if facts.rows_regrouped:
        return True
    sizes = {loader.batch_size for loader in facts.loaders if loader.backwards}
    if each.batch and each.batch in sizes:
        return True
    varied = len(set(facts.batch_hashes)) > 1
    per_sample = any(len(call.shape) <= 2 and call.shape[:1] == (each.batch,) for call in record.losses)
    return (varied or each.sequences) and per_sample


def _mixers(record: Record) -> list[Rerun]:
    return [each for each in facts_of(record).reruns if each.independent is False and _sample_dim(record, each)]


def _normalised_over_batch(record: Record, batch: int) -> str | None:
    """Return the line of a softmax over the first dim; `None` where there is none."""
    for each in record.softmaxes:
        if each.dim == 0 and len(each.shape) >= 2 and each.shape[0] == batch and not each.log:
            return each.place
    return None


@check("wrong-dim", lambda r: bool(r.softmaxes))
def wrong_dim(record: Record) -> Answer:
    """A softmax over the batch."""
    for each in _mixers(record):
        place = _normalised_over_batch(record, each.batch)
        if place is not None:
            return _over_batch(place, each.batch)
    shapes = {call.shape for call in record.losses if call.kind == "nll"}
    for each in record.softmaxes:
        if each.log and each.dim == 0 and len(each.shape) == 2 and each.shape in shapes:
            return _over_batch(each.place, each.shape[0])
    return None


def _over_batch(place: str, batch: int) -> Answer:
    sentence = (
        f"a softmax normalises over dim 0, the {batch} samples of the batch: each sample's result depends on the others"
    )
    return finding(
        "wrong-dim", "FAULT", sentence, "normalise over the last dim, or over the positions", [place], batch=batch
    )


@check("batch-mixing", lambda r: any(each.independent is not None for each in facts_of(r).reruns))
def batch_mixing(record: Record) -> Answer:
    """A sample's result that depends on other samples."""
    for each in _mixers(record):
        root = record.roots[each.root]
        sentence = (
            f"with another sample 0, the results of {plural(each.mixed, 'other sample')} of {each.batch} change in "
            f"{root.name}, in eval mode: samples are mixed; right where a model compares the samples of a batch on "
            "purpose"
        )
        fix = each.mixing_fix or (
            "use transpose or permute, not view, to exchange dims; pass batch_first=True to recurrent and "
            "attention layers"
        )
        return finding(
            "batch-mixing",
            "FAULT",
            sentence,
            fix,
            [each.mixing_place, root.place],
            changed=each.mixed,
            batch=each.batch,
        )
    return None


@check("squeeze", lambda r: any(each.one_shape is not None or each.one_error for each in facts_of(r).reruns))
def squeeze(record: Record) -> Answer:
    """An output that loses the batch when the batch holds one sample."""
    for each in facts_of(record).reruns:
        if each.one_shape is None or not each.many_shape or each.independent is False:
            continue
        if len(each.one_shape) < len(each.many_shape) and each.one_shape[:1] != (1,):
            root = record.roots[each.root]
            sentence = (
                f"{root.name} gives {list(each.many_shape)} for {each.batch} samples and {list(each.one_shape)} for "
                "one: the batch is squeezed away with the rest"
            )
            fix = "name the dim: squeeze(-1), or squeeze(1)"
            return finding("squeeze", "FAULT", sentence, fix, [each.squeeze_place, root.place])
    return None


@check("state-carry", lambda r: any(each.carries is not None for each in facts_of(r).reruns))
def state_carry(record: Record) -> Answer:
    """A result that depends on the batches before."""
    facts = facts_of(record)
    for each in facts.reruns:
        if each.carries and (facts.rows_regrouped or _shuffles(record)):
            root = record.roots[each.root]
            sentence = (
                f"{root.name} gives another result for the same batch when it is called twice, in eval mode and with "
                "the same random numbers: it carries something from call to call; right where batches follow one "
                "another in time"
            )
            fix = "begin each batch from a fresh state; pass a state as an argument where it is meant"
            return finding("state-carry", "FAULT", sentence, fix, [each.carried_at, root.place])
    return None


def _shuffles(record: Record) -> bool:
    loader = facts_of(record).loader_of_training()
    return loader is not None and not loader.in_order


@check("always-dropout", lambda r: any(each.ran for each in facts_of(r).reruns))
def always_dropout(record: Record) -> Answer:
    """Dropout that stays on in eval mode."""
    for each in facts_of(record).reruns:
        if each.dropout:
            sentence = (
                f"dropout is on while {record.roots[each.root].name} is in eval mode; right where predictions are "
                "drawn at random on purpose"
            )
            fix = "pass training=self.training to F.dropout, or make nn.Dropout a module of the model"
            return finding("always-dropout", "FAULT", sentence, fix, each.dropout)
    return None


@check("mask", lambda r: any(each.mask for each in facts_of(r).reruns))
def mask(record: Record) -> Answer:
    """A mask that hides nothing."""
    for each in facts_of(record).reruns:
        if each.mask == "ignored":
            root = record.roots[each.root]
            sentence = (
                f"other values at the places that {each.mask_name} hides change the output of {root.name}: padding "
                "goes into the result"
            )
            fix = (
                "use the mask where positions are mixed: in attention (True hides in key_padding_mask), in means "
                "and maxima"
            )
            return finding("mask", "FAULT", sentence, fix, [root.place])
    return None


@check("ignored-input", lambda r: any(each.asked_inputs for each in facts_of(r).reruns))
def ignored_input(record: Record) -> Answer:
    """Inputs that do not change the output."""
    for each in facts_of(record).reruns:
        whole = [silent == count for _, silent, count in each.ignored]
        if all(whole) and len(whole) == each.input_count:
            continue  # nothing has any influence: the model has collapsed, which is another finding
        for name, silent, count in each.ignored:
            if count > 1 and (silent < 2 or silent < 0.25 * count):
                continue
            what = f"{silent} of {count} columns of {name}" if count > 1 else f"the input {name}"
            sentence = (
                f"{what} {'have' if count > 1 else 'has'} no influence on {record.roots[each.root].name}: no gradient, "
                "and the same output when their values are exchanged between samples"
            )
            fix = "look for a slice or a variable used twice in forward, or leave the input out"
            return finding(
                "ignored-input",
                "LIKELY",
                sentence,
                fix,
                [*each.ignored_at, record.roots[each.root].place],
                columns=silent,
                of=count,
            )
    return None


@check("wrong-backward", lambda r: facts_of(r).functions_asked > 0)
def wrong_backward(record: Record) -> Answer:
    """A backward pass written by hand that is not the derivative."""
    for name, what, place in facts_of(record).functions:
        sentence = f"the backward of {name} is not the derivative of its forward: {what}"
        fix = (
            "correct backward (lb.check_op shows the numbers); a gradient that is another on purpose is not the "
            "derivative of anything flat"
        )
        return finding("wrong-backward", "FAULT", sentence, fix, [place])
    return None


# ----------------------------------------------------------------------------------------------------------------- data
@check("same-batch", lambda r: len(facts_of(r).batch_hashes) >= 8 and bool(facts_of(r).loaders))
def same_batch(record: Record) -> Answer:
    """One batch in every step while the loader has more."""
    facts = facts_of(record)
    loader = facts.loader_of_training()
    if loader is None or loader.batches is None or loader.batches < 2 or len(set(facts.batch_hashes)) != 1:
        return None
    sentence = (
        f"all {len(facts.batch_hashes)} steps used one and the same batch, and the loader has {loader.batches}; right "
        "where a model is to learn one batch by heart as a test"
    )
    fix = "iterate over the loader; next(iter(loader)) begins again each time"
    return finding(
        "same-batch", "FAULT", sentence, fix, [loader.place], steps=len(facts.batch_hashes), batches=loader.batches
    )


@check("same-order", lambda r: len(facts_of(r).batch_hashes) >= 4 and bool(facts_of(r).loaders))
def same_order(record: Record) -> Answer:
    """A training loader that hands out the same batches in every pass."""
    facts = facts_of(record)
    loader = facts.loader_of_training()
    if loader is None or not loader.in_order or loader.batch_size is None or loader.passes < 2:
        return None
    again = len(facts.batch_hashes) - len(set(facts.batch_hashes))
    if len(set(facts.batch_hashes)) < 2 or not again:
        return None
    sentence = (
        f"the training loader gave its rows in the same order in {loader.passes} passes; right where the order is a part of "
        "the data, as in a series"
    )
    fix = "pass shuffle=True to the DataLoader of the training"
    return finding("same-order", "NOTE", sentence, fix, [loader.made, loader.place], passes=loader.passes)


@check("worker-seed", lambda r: facts_of(r).workers_asked > 0)
def worker_seed(record: Record) -> Answer:
    """Workers that draw the same random numbers."""
    for name, place in facts_of(record).twin_items:
        sentence = (
            f"two workers would draw the same random numbers: copies of {name} give the same item under other seeds, "
            "and another one the next time"
        )
        fix = "seed the generator of the dataset in worker_init_fn from torch.initial_seed(), or make it on first use"
        return finding("worker-seed", "FAULT", sentence, fix, [place])
    return None


@check("random-validation", lambda r: facts_of(r).items_asked > 0 or facts_of(r).eval_changes[1] > 0)
def random_validation(record: Record) -> Answer:
    """Validation rows that are others each time."""
    facts = facts_of(record)
    for name, place in facts.random_items:
        sentence = (
            f"an item of {name}, which is evaluated, is another one each time it is read: two epochs cannot be compared"
        )
        fix = "leave random augmentation out of the validation part, or seed it by the index"
        return finding("random-validation", "LIKELY", sentence, fix, [place])
    changed, count = facts.eval_changes
    if changed >= 2 and changed > 0.9 * count:
        sentence = (
            f"{changed} of {count} evaluation batches came again with the same targets and other inputs: two epochs "
            "cannot be compared"
        )
        fix = "leave noise and random augmentation out of the validation part"
        return finding("random-validation", "LIKELY", sentence, fix, [], changed=changed, batches=count)
    return None


@check("leakage", lambda r: bool(facts_of(r).overlaps))
def leakage(record: Record) -> Answer:
    """Evaluated rows that were trained on."""
    for each in facts_of(record).overlaps:
        if each.evaluated >= 8 and each.shared >= max(2, 0.04 * each.evaluated):
            sentence = f"{each.shared} of {each.evaluated} evaluated rows are among those that are trained on"
            fix = "make the training loader from the training part of the split, and remove duplicates before splitting"
            return finding(
                "leakage", "FAULT", sentence, fix, [each.made, each.place], shared=each.shared, evaluated=each.evaluated
            )
    return None


@check("target-leak", lambda r: facts_of(r).leak_batches >= 3)
def target_leak(record: Record) -> Answer:
    """A column of the input that is the target."""
    facts = facts_of(record)
    places = [root.place for root in record.roots if root.training][:1]
    fix = "remove the target from the inputs"
    looked_for: tuple[tuple[Counter[int], int, str, Severity], ...] = (
        (facts.leak_columns, facts.leak_batches, "equals the target", "FAULT"),
        (facts.scaled_columns, facts.scaled_batches, "is the target times one number plus another", "LIKELY"),
    )
    for columns, batches, how, severity in looked_for:
        full = sorted(column for column, count in columns.items() if count == batches >= 3)
        if full:
            sentence = (
                f"column {listed(full, 3)} of the {facts.columns} columns of the input {how} in all {batches} batches"
                + ("" if severity == "FAULT" else "; right where a linear rule is to be found again, as an exercise")
            )
            return finding("target-leak", severity, sentence, fix, places, columns=len(full))
    return None


@check("unscaled-input", lambda r: facts_of(r).inputs_asked > 0)
def unscaled_input(record: Record) -> Answer:
    """Inputs far from the scale that layers are made for."""
    found = facts_of(record).raw_inputs
    if len(found) < max(1, 0.5 * min(facts_of(record).inputs_asked, 6)):
        return None
    what, high, place = found[0]
    if what == "bytes":
        sentence = f"the first layer gets whole numbers from 0 to {high:.0f}, as they come from a file"
    elif what == "values":
        sentence = f"the first layer gets values of up to {high:.3g}"
    else:
        sentence = (
            f"{what} of the input is {high:.3g} times the size of a typical one; the first layer hears nothing else"
        )
    fix = (
        "divide bytes by 255 and standardise each column with the training part's mean and deviation, or begin "
        "with a norm"
    )
    return finding("unscaled-input", "FAULT", sentence, fix, [place], high=high)


@check("eval-scale", lambda r: any(each.trained and each.evaluated for each in facts_of(r).scales.values()))
def eval_scale(record: Record) -> Answer:
    """Inputs of another size in evaluation than in training."""
    for (number, name, _), each in facts_of(record).scales.items():
        root, usual = record.roots[number], median(each.trained or [0.0])
        if not root.training or len(each.trained) < 3 or len(each.evaluated) < 2 or usual <= 0:
            continue
        ratio = median(each.evaluated) / usual
        if 0.1 < ratio < 10 or max(each.trained) > 3 * usual or min(each.trained) < usual / 3:
            continue
        sentence = (
            f"the input {name} of {root.name} is {ratio:.3g} times as large in evaluation as in training: the two parts are "
            "prepared in different ways; right where a model is tried on data of another kind"
        )
        fix = "prepare both parts by one function, with the mean and deviation of the training part"
        return finding("eval-scale", "LIKELY", sentence, fix, [each.place], ratio=ratio)
    return None


@check("unknowns", lambda r: len(facts_of(r).ids) >= 3)
def unknowns(record: Record) -> Answer:
    """Ids most of which are one and the same."""
    ids = facts_of(record).ids
    values = {value for value, share, _, padding in ids if share > 0.6 and not padding}
    if len(values) != 1 or not all(share > 0.6 and not padding for _, share, _, padding in ids):
        return None
    share = median(share for _, share, _, _ in ids)
    sentence = f"{share:.0%} of the ids are {values.pop()}: most words are unknown to the vocabulary"
    fix = "build the vocabulary from these texts, with the same lower case and the same tokenizer"
    return finding("unknowns", "LIKELY", sentence, fix, [], share=share)
