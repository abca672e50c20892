"""Every check on records: one that it must speak of, and those of right trainings, of which it must not."""

from collections import Counter

import pytest

from linkboy._watch import CHECKS, Leaf, LossCall, OptimizerFacts, Record, Root, TrainingFinding, ask
from linkboy._watch._causes import SWALLOWS, causes
from linkboy._watch._record import Broadcasted, NotFinite, OutputRows, SoftmaxDim, Squashed, Units
from linkboy.doctor import _finish
from linkboy.doctor._facts import InputScale, LoaderFacts, Overlap, Rerun, SchedulerFacts, facts_of

STEPS = 20


def right() -> Record:
    """A training of 20 steps in which nothing is wrong: a classifier of four classes, shuffled, with a schedule per epoch."""
    record = Record(backwards=STEPS, walks=6, steps=STEPS, loss_values=[1.4 - 0.04 * n for n in range(STEPS)])
    record.roots = [Root("net", "Net", parameter_count=50, noisy=("drop",), training=[True] * STEPS)]
    record.roots[0].modes = Counter(train=STEPS, eval=4)
    for number, name in enumerate(("body.weight", "head.weight")):
        record.leaves[number] = Leaf(name, (5, 5), 0, ran=True, optimizers=[0], walks=6, in_graphs=6, owner=name[:4])
    record.optimizers = [
        OptimizerFacts(
            "Adam", "train.py:9", [0, 1], STEPS, STEPS, per_step=[1] * STEPS, lrs=[1e-3] * STEPS, relative=[0.01] * 12
        )
    ]
    for n in range(STEPS):
        classes = Counter({0: 8, 1: 8, 2: 8, 3: 8})
        call = LossCall("nll", "train.py:20", n, n, shape=(32, 4), value=1.4, coefficient=1.0, classes=classes)
        call.class_count, call.ignore_index, call.from_log_softmax, call.output_rms = 4, -100, True, 0.5
        record.losses.append(call)
        record.output_rows.append(OutputRows(0, n, 32, ()))
    record.units = {"0:16": Units("train.py:4", 16, 2, 640, 6)}
    record.softmaxes = [SoftmaxDim(1, (32, 4), "train.py:20", log=True)]
    facts = facts_of(record)
    facts.ended = True
    facts.ties_asked = True
    facts.schedulers = [SchedulerFacts("StepLR", "train.py:10", 0, 2)]
    facts.loaders = [LoaderFacts(0, 10, 32, passes=2, taken=20, backwards=20, place="train.py:18")]
    facts.batch_hashes = list(range(STEPS))
    facts.reruns = [
        Rerun(
            0, True, batch=32, independent=True, one_shape=(1, 4), many_shape=(32, 4), carries=False, asked_inputs=True
        )
    ]
    facts.reruns[0].input_count = 1
    facts.gradient_ratio = [(0.1, "body.weight", "head.weight")] * 12
    facts.rows_regrouped = True
    facts.inputs_asked, facts.functions_asked, facts.items_asked, facts.workers_asked = 6, 1, 1, 1
    facts.scales = {(0, "x", 2): InputScale([1.0, 1.1, 0.9], [1.0, 1.3], "train.py:30")}
    facts.loads, facts.overlaps = [(4, 4, "train.py:3")], [Overlap(0, 64, True, "train.py:30")]
    facts.metric_dims, facts.leak_batches, facts.columns = Counter({"1  train.py:31": 4}), STEPS, 8
    facts.clips, facts.sequence_batches = STEPS, 0
    return record


def leaf(record: Record, number: int) -> Leaf:
    return record.leaves[number]


def set_all(calls: list[LossCall], **values: object) -> None:
    for call in calls:
        for name, value in values.items():
            setattr(call, name, value)


PLANTED = {}


def plants(function):
    PLANTED[function.__name__.replace("_", "-").removesuffix("-")] = function
    return function


@plants
def unoptimized(r):
    leaf(r, 1).optimizers = []
    leaf(r, 1).feeds_trained = True


@plants
def unregistered(r):
    r.leaves[2] = Leaf("Linear", (5, 5), 0, registered=False, held_by="the list blocks", in_graphs=6, walks=6)


@plants
def cut(r):
    leaf(r, 0).in_graphs = 0


@plants
def unused(r):
    leaf(r, 0).in_graphs, leaf(r, 0).ran = 0, False


@plants
def unfrozen(r):
    leaf(r, 0).misspelled = "require_grad"


@plants
def tied(r):
    facts_of(r).ties = [("emb.weight", "out.weight", 30, 30)]


@plants
def reset_optimizer(r):
    r.optimizers = [OptimizerFacts("Adam", "train.py:9", [0, 1], 1, 1, relative=[0.01], lrs=[1e-3]) for _ in range(6)]


@plants
def unloaded(r):
    facts_of(r).loads = [(0, 12, "train.py:5")]


@plants
def checkpoint(r):
    facts_of(r).stale_loads = [(12, "train.py:25", "train.py:40")]


@plants
def symmetry(r):
    facts_of(r).equal_rows = [("body.weight", 24, 20)]


@plants
def decay(r):
    r.optimizers[0].weight_decay = 0.1
    facts_of(r).decayed = [("emb.weight", 60, -0.02)]


@plants
def stale_gradient(r):
    r.optimizers[0].stale = 19


@plants
def wiped_gradient(r):
    r.optimizers[0].wiped = 20


@plants
def double_step(r):
    r.optimizers[0].doubled = 10


@plants
def no_step(r):
    r.optimizers[0].steps, r.steps = 0, 0


@plants
def accumulate_scale(r):
    r.optimizers[0].per_step = [4] * STEPS


@plants
def clip_late(r):
    facts_of(r).late_clips = 19


@plants
def amp_order(r):
    r.in_scaler = True
    facts_of(r).scaled_clips = 20


@plants
def graph_growth(r):
    facts_of(r).graphs_alive = 14


@plants
def sign(r):
    set_all(r.losses, coefficient=-1.0)


@plants
def lr_low(r):
    r.optimizers[0].relative = [1e-8] * 12


@plants
def lr_high(r):
    r.optimizers[0].relative = [3.0] * 12


@plants
def vanishing(r):
    facts_of(r).gradient_ratio = [(1e-9, "body.weight", "head.weight")] * 12


@plants
def dead_units(r):
    r.units["0:16"].dead = 16


@plants
def scheduler_order(r):
    facts_of(r).schedulers[0].early = 1


@plants
def scheduler_unused(r):
    facts_of(r).schedulers[0].steps = 0


@plants
def scheduler_pace(r):
    each = facts_of(r).schedulers[0]
    each.steps = STEPS
    r.optimizers[0].lrs = [0.1 * 0.5**n for n in range(STEPS)]


@plants
def double_softmax(r):
    r.squashed = [Squashed("double-softmax", "softmax", "log-softmax", "train.py:20", "model.py:7")]


@plants
def double_sigmoid(r):
    r.squashed = [Squashed("double-sigmoid", "sigmoid", "sigmoid of the loss", "train.py:20", "model.py:7")]


@plants
def relu_logits(r):
    r.squashed = [Squashed("relu-logits", "relu", "log-softmax", "train.py:20", "model.py:7")]


@plants
def heavy_dropout(r):
    r.roots[0].heavy = (("Dropout drop", 0.99),)


@plants
def same_order(r):
    facts = facts_of(r)
    facts.loaders[0].in_order = True
    facts.batch_hashes = [*range(STEPS // 2)] * 2


@plants
def eval_scale(r):
    facts_of(r).scales = {(0, "x", 2): InputScale([1.0, 1.1, 0.9], [130.0, 120.0], "train.py:30")}


@plants
def raw_nll(r):
    set_all(r.losses, from_log_softmax=False, exp_sums=(4.0, 5.0), distribution=True)


@plants
def broadcast(r):
    r.broadcasts = [Broadcasted((32, 32), (32, 1), "train.py:20", "sub")]


@plants
def ignored_samples(r):
    for each in r.output_rows:
        each.silent = tuple(range(1, 32))
    r.extra["independent_rows"] = {0}


@plants
def nan(r):
    r.not_finite = NotFinite("gradient", "body.weight", 3, "train.py:19", "the square root of 0")


@plants
def exploding(r):
    set_all(r.losses, value=90.0)


@plants
def eval_in_training(r):
    r.roots[0].training = [True] * 10 + [False] * 10


@plants
def unshuffled(r):
    for n, call in enumerate(r.losses):
        call.classes = Counter({n // 5: 32})


@plants
def label_range(r):
    set_all(r.losses, classes=Counter({1: 10, 2: 11, 3: 11}))


@plants
def constant_target(r):
    set_all(r.losses, classes=Counter({2: 32}))


@plants
def unscaled_target(r):
    set_all(r.losses, kind="mse", classes=None, target_rms=3e5, output_rms=0.2, target_low=1e5, target_high=5e5)
    r.loss_values = [1e11] * STEPS


@plants
def padding_counted(r):
    facts_of(r).padding = [(12, 5, 0, 60)] * 6


@plants
def unshifted(r):
    facts = facts_of(r)
    facts.sequence_batches = facts.same = STEPS
    facts.reruns[0].future = False


@plants
def future(r):
    facts = facts_of(r)
    facts.sequence_batches = facts.shifted = STEPS
    facts.reruns[0].future = True


@plants
def train_in_eval(r):
    r.roots[0].eval_losses = 4


@plants
def frozen_moved(r):
    leaf(r, 1).requires_grad, leaf(r, 1).moved = False, True


@plants
def metric(r):
    facts_of(r).metric_dims = Counter({"0  train.py:31": 4})


@plants
def wrong_dim(r):
    facts_of(r).reruns[0].independent = False
    r.softmaxes.append(SoftmaxDim(0, (32, 9, 1), "model.py:8", log=False))


@plants
def batch_mixing(r):
    facts_of(r).reruns[0].independent, facts_of(r).reruns[0].mixed = False, 31


@plants
def squeeze(r):
    facts_of(r).reruns[0].one_shape, facts_of(r).reruns[0].many_shape = (), (32,)


@plants
def state_carry(r):
    facts_of(r).reruns[0].carries = True


@plants
def always_dropout(r):
    facts_of(r).reruns[0].dropout = ("model.py:12",)


@plants
def mask(r):
    facts_of(r).reruns[0].mask = "ignored"


@plants
def ignored_input(r):
    facts_of(r).reruns[0].ignored = (("row", 8, 16),)


@plants
def wrong_backward(r):
    facts_of(r).functions = [("Swish", "0.5 instead of 0.7", "ops.py:3")]


@plants
def same_batch(r):
    facts_of(r).batch_hashes = [7] * STEPS


@plants
def worker_seed(r):
    facts_of(r).twin_items = [("Noisy", "train.py:18")]


@plants
def random_validation(r):
    facts_of(r).random_items = [("Noisy", "train.py:30")]


@plants
def leakage(r):
    facts_of(r).overlaps = [Overlap(64, 64, True, "train.py:30")]


@plants
def target_leak(r):
    facts_of(r).leak_columns = Counter({7: STEPS})


@plants
def unscaled_input(r):
    facts_of(r).raw_inputs = [("bytes", 255.0, "train.py:20")] * 6


@plants
def unknowns(r):
    facts_of(r).ids = [(1, 0.8, 80, False)] * STEPS


ONLY_NOTES = ("same-order",)


def words(record: Record) -> list[str]:
    findings, _, failed = ask(record, CHECKS, strict=True)
    assert not failed
    return [found.word for found in causes(findings) if found.severity != "NOTE" or found.word in ONLY_NOTES]


def test_a_right_training_has_no_finding_and_nearly_every_question_is_asked():
    findings, asked, _ = ask(right(), CHECKS, strict=True)
    assert findings == []
    assert len(asked) >= 50


def test_there_is_a_planted_record_for_every_word():
    assert set(PLANTED) == set(CHECKS) == set(_finish.WORDS)


@pytest.mark.parametrize("word", sorted(PLANTED))
def test_a_planted_fault_is_found_under_its_word_and_no_other(word):
    record = right()
    PLANTED[word](record)
    assert words(record) == [word]


@pytest.mark.parametrize("word", sorted(PLANTED))
def test_a_finding_has_a_sentence_a_fix_and_an_explanation(word):
    record = right()
    PLANTED[word](record)
    found = next(f for f in ask(record, CHECKS, strict=True)[0] if f.word == word)
    assert len(found.sentence) > 30
    assert len(found.fix) > 10
    assert len(found.explanation) > 30
    assert found.to_dict()["explanation"] == found.explanation


def test_every_swallowed_word_exists_and_swallows_nothing_that_swallows_it_first():
    assert set(SWALLOWS) <= set(CHECKS)
    assert {word for others in SWALLOWS.values() for word in others} <= set(CHECKS)


def test_a_cause_swallows_its_symptoms_and_a_note_swallows_nothing():
    def made(word, severity="FAULT"):
        return TrainingFinding(word, severity, "s", "f")

    assert [f.word for f in causes([made("lr-low"), made("wiped-gradient"), made("mask", "NOTE")])] == [
        "wiped-gradient",
        "mask",
    ]
    assert [f.word for f in causes([made("wiped-gradient", "NOTE"), made("lr-low")])] == ["lr-low", "wiped-gradient"]


def test_a_check_that_raises_is_listed_and_raises_where_that_is_asked_for():
    record = right()
    record.losses[0].classes = 5
    _, asked, failed = ask(record, CHECKS)
    assert "label-range" not in asked
    assert any(line.startswith("label-range: ") for line in failed)
    with pytest.raises(AttributeError):
        ask(record, CHECKS, strict=True)


def guard(change):
    record = right()
    change(record)
    return words(record)


def test_guards_of_right_programs():
    def frozen_from_step_ten(r):  # a model that is only used: eval mode, nothing of it in an optimizer
        r.roots.append(Root("judge", "Vgg", modes=Counter(eval=20)))
        r.leaves[2] = Leaf("judge.weight", (5, 5), 1, in_graphs=6, walks=6, ran=True)

    def library_pooler(r):
        r.leaves[2] = Leaf("bert.pooler", (5, 5), 0, ran=True, library=True, optimizers=[0], walks=6)
        leaf(r, 0).library = True

    def warm_up(r):
        r.optimizers[0].relative = [1e-8 * (n + 1) for n in range(12)]
        r.optimizers[0].lrs = [1e-9 * (n + 1) for n in range(STEPS)]

    def two_losses(r):  # a game, or two tasks: the coefficient of one of them says nothing
        r.losses += [
            LossCall("mse", "train.py:21", n, n, coefficient=-1.0, target_low=0, target_high=1) for n in range(STEPS)
        ]

    def handmade(r):
        set_all(r.losses, classes=Counter({0: 32}), made_by_hand=True)

    def time_first(r):  # rows that never come in other company, of a size that no loader has
        facts_of(r).rows_regrouped = False
        facts_of(r).reruns[0].independent, facts_of(r).reruns[0].batch = False, 9

    def windows(r):
        facts_of(r).rows_regrouped, facts_of(r).loaders[0].in_order = False, True
        facts_of(r).reruns[0].carries = True

    def halved_while_scaled(r):  # one factor in all steps is that of two batches
        r.in_scaler, facts_of(r).scaled_changes = True, [0.5] * 12

    def scaled_by_chance(r):  # in most batches, and not in all
        facts_of(r).scaled_columns, facts_of(r).scaled_batches = Counter({3: STEPS - 1}), STEPS

    def collapsed(r):
        facts_of(r).reruns[0].ignored = (("row", 16, 16),)

    for change in (
        frozen_from_step_ten, library_pooler, warm_up, two_losses, handmade, time_first, windows, collapsed,
        halved_while_scaled, scaled_by_chance,
    ):  # fmt: skip
        assert guard(change) == [], change.__name__


def test_an_order_is_the_same_where_a_sampler_gives_it_and_batches_come_again():
    def again(r, *, in_order=True, batch_size=32, passes=2, hashes=(*range(10), *range(10))):
        (loader,) = facts_of(r).loaders
        loader.in_order, loader.batch_size, loader.passes = in_order, batch_size, passes
        facts_of(r).batch_hashes = list(hashes)

    assert guard(again) == ["same-order"]
    for change in (
        {"in_order": False},
        {"batch_size": None},  # a sampler of batches
        {"passes": 1},
        {"hashes": range(20)},  # augmentation, or a dataset that is shuffled in place
    ):
        assert guard(lambda r, change=change: again(r, **change)) == []


def test_scales_differ_where_training_has_one_and_evaluation_another():
    def scales(r, trained=(1.0, 1.1, 0.9), evaluated=(130.0, 120.0), trains=True):
        facts_of(r).scales = {(0, "x", 2): InputScale(list(trained), list(evaluated), "train.py:30")}
        r.roots[0].training = r.roots[0].training if trains else []

    assert guard(scales) == guard(lambda r: scales(r, evaluated=(0.01, 0.02))) == ["eval-scale"]
    for change in (
        {"trained": (0.2, 5.0, 40.0)},  # of no size of its own
        {"trained": (1.0, 1.1)},
        {"trained": (0.0, 0.0, 0.0)},
        {"evaluated": (130.0,)},
        {"evaluated": (9.0, 9.5)},
        {"evaluated": (0.12, 0.2)},
    ):
        assert guard(lambda r, change=change: scales(r, **change)) == []


def test_further_forms_of_a_fault_are_found_in_a_record():
    def clipped_by_hand(r):
        r.in_scaler, facts_of(r).scaled_changes = True, [0.01, 0.02, 0.3]

    def scaled_copy(r):
        facts_of(r).scaled_columns, facts_of(r).scaled_batches = Counter({3: STEPS}), STEPS

    assert [guard(change) for change in (clipped_by_hand, scaled_copy)] == [["amp-order"], ["target-leak"]]
