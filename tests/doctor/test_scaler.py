"""Accumulated losses with and without a GradScaler: divided in every spelling, and not divided."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from linkboy import watch_training

PASSES = 4
BATCH = 16
KINDS = [pytest.param(False, id="plain"), pytest.param(True, id="scaler")]


class Plain:
    """A scaler that does nothing, so that one loop serves both."""

    def scale(self, loss):
        return loss

    def step(self, opt):
        opt.step()

    def update(self):
        pass

    def unscale_(self, opt):
        pass


def undivided(s, loss):
    s.scale(loss).backward()


def undivided_with_its_own_name(s, loss):
    scaled = s.scale(loss)
    torch.autograd.backward([scaled])


def undivided_in_a_list(s, loss):
    s.scale([loss])[0].backward()  # a GradScaler takes a list and gives one


def undivided_and_negated_twice(s, loss):
    s.scale(-loss).neg().backward()


def divided(s, loss):
    s.scale(loss / PASSES).backward()


def divided_after(s, loss):
    (s.scale(loss) / PASSES).backward()


def divided_before(s, loss):
    loss = loss / PASSES
    s.scale(loss).backward()


def divided_in_place(s, loss):
    loss /= PASSES
    s.scale(loss).backward()


def divided_by_a_tensor(s, loss):
    s.scale(loss / torch.tensor(float(PASSES))).backward()


def multiplied(s, loss):
    s.scale(loss * (1 / PASSES)).backward()


def multiplied_after(s, loss):
    (s.scale(loss) * (1 / PASSES)).backward()


def given_to_backward(s, loss):
    s.scale(loss).backward(torch.tensor(1 / PASSES))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 24), nn.ReLU(), nn.Linear(24, 3))


def scaler_of(scaled: bool, size: float = 2.0**16):
    return torch.amp.GradScaler("cpu", init_scale=size) if scaled else Plain()


def mean(logits, target):
    return F.cross_entropy(logits, target)


def summed(logits, target):
    return F.cross_entropy(logits, target, reduction="sum") / BATCH


def train(backward, scaled, *, passes=PASSES, before_step=lambda s, model, opt: None, size=2.0**16, reduced=mean):
    """Run a loop of 8 steps, each of some backward passes; return the report and the losses without the scaler's factor."""
    model = net()
    opt, scaler, losses = torch.optim.Adam(model.parameters(), lr=1e-3), scaler_of(scaled, size), []
    x = torch.randn(8 * passes, BATCH, 9)
    with watch_training() as watch:
        for i, rows in enumerate(x):
            loss = reduced(model(rows), rows[:, :3].argmax(1))
            losses.append(loss.item())
            backward(scaler, loss)
            if i % passes == passes - 1:
                before_step(scaler, model, opt)
                scaler.step(opt)
                scaler.update()
                opt.zero_grad()
    report = watch.report()
    assert not report.failed
    return report, losses


def words(report) -> list[str]:
    return [found.word for found in report.findings if found.severity != "NOTE"]


def shown(report) -> tuple[float, float]:
    found = re.search(r"first loss ([^,]+), last (\S+)", "; ".join(report.seen))
    assert found is not None
    return float(found[1]), float(found[2])


@pytest.mark.parametrize("scaled", KINDS)
@pytest.mark.parametrize(
    "backward", [undivided, undivided_with_its_own_name, undivided_in_a_list, undivided_and_negated_twice]
)
def test_four_passes_without_a_division_are_named(backward, scaled):
    report, losses = train(backward, scaled)
    assert [found.sentence for found in report.findings] == [
        "each step sums 4 backward passes of a mean loss that is not divided: the gradient is 4 times that of one batch"
    ]
    assert report.findings[0].fix == "divide the loss by the number of batches of a step: (loss / 4).backward()"
    assert shown(report) == pytest.approx((losses[0], losses[-1]), rel=1e-3)


@pytest.mark.parametrize("scaled", KINDS)
@pytest.mark.parametrize(
    "backward",
    [
        divided,
        divided_after,
        divided_before,
        divided_in_place,
        divided_by_a_tensor,
        multiplied,
        multiplied_after,
        given_to_backward,
    ],
)
def test_a_division_in_any_spelling_is_seen(backward, scaled):
    report, losses = train(backward, scaled)
    assert words(report) == []
    part = 1 if backward is given_to_backward else PASSES
    assert shown(report) == pytest.approx((losses[0] / part, losses[-1] / part), rel=1e-3)


@pytest.mark.parametrize("scaled", KINDS)
@pytest.mark.parametrize("backward", [divided, divided_after, divided_before])
def test_a_division_where_every_batch_makes_a_step_is_named(backward, scaled):
    report, _ = train(backward, scaled, passes=1)
    assert words(report) == ["accumulate-scale"]
    assert report.findings[0].severity == "LIKELY"
    assert report.findings[0].evidence == {"passes": 1, "factor": 0.25}


@pytest.mark.parametrize("scaled", KINDS)
def test_one_pass_a_step_is_right(scaled):
    assert words(train(undivided, scaled, passes=1)[0]) == []


@pytest.mark.parametrize("scaled", KINDS)
@pytest.mark.parametrize("together", [lambda many: torch.stack(many).mean(), lambda many: sum(many) / len(many)])
def test_the_mean_of_a_list_of_losses_is_right(together, scaled):
    model = net()
    opt, scaler = torch.optim.Adam(model.parameters(), lr=1e-3), scaler_of(scaled)
    with watch_training() as watch:
        for _ in range(8):
            rows = torch.randn(PASSES, BATCH, 9)
            loss = together([F.cross_entropy(model(each), each[:, :3].argmax(1)) for each in rows])
            scaler.scale(loss).backward()
            scaler.step(opt)
            scaler.update()
            opt.zero_grad()
    assert words(watch.report()) == []


def divide_gradients(s, model, opt):
    for p in model.parameters():
        p.grad.div_(PASSES)


def unscale_then_divide(s, model, opt):
    s.unscale_(opt)
    divide_gradients(s, model, opt)


def divide_then_clip(s, model, opt):
    unscale_then_divide(s, model, opt)
    nn.utils.clip_grad_norm_(model.parameters(), 0.05)


def clip(s, model, opt):
    s.unscale_(opt)
    nn.utils.clip_grad_norm_(model.parameters(), 0.05)


def clip_by_hand(s, model, opt):
    s.unscale_(opt)
    norm = math.hypot(*(float(p.grad.norm()) for p in model.parameters()))
    for p in model.parameters():
        p.grad.mul_(min(1.0, 0.05 / norm))


@pytest.mark.parametrize("scaled", KINDS)
@pytest.mark.parametrize("before_step", [divide_gradients, unscale_then_divide, divide_then_clip])
def test_gradients_that_the_loop_divides_itself_are_divided(before_step, scaled):
    assert words(train(undivided, scaled, before_step=before_step)[0]) == []


@pytest.mark.parametrize("scaled", KINDS)
@pytest.mark.parametrize("before_step", [clip, clip_by_hand])
def test_a_clip_is_no_division(before_step, scaled):
    assert words(train(undivided, scaled, before_step=before_step)[0]) == ["accumulate-scale"]


@pytest.mark.parametrize("scaled", KINDS)
def test_a_sum_over_what_it_is_divided_by_says_nothing(scaled):
    assert words(train(undivided, scaled, reduced=summed)[0]) == []


def test_a_disabled_scaler_is_none():
    assert words(train(lambda s, loss: OFF.scale(loss).backward(), False)[0]) == ["accumulate-scale"]


OFF = torch.amp.GradScaler("cpu", enabled=False)


def test_a_factor_that_grows_and_is_no_power_of_two_is_left_out():
    scaler = torch.amp.GradScaler("cpu", init_scale=1000.0, growth_interval=2, growth_factor=3.0)
    model, losses = net(), []
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    with watch_training() as watch:
        for i, rows in enumerate(torch.randn(40, BATCH, 9)):
            loss = F.cross_entropy(model(rows), rows[:, :3].argmax(1))
            losses.append(loss.item())
            scaler.scale(loss).backward()
            if i % 4 == 3:
                scaler.step(opt)
                scaler.update()
                opt.zero_grad()
    assert scaler.get_scale() > 1e5
    assert words(watch.report()) == ["accumulate-scale"]
    assert shown(watch.report()) == pytest.approx((losses[0], losses[-1]), rel=1e-3)


def test_the_factor_is_no_size_of_the_targets_of_a_mean_of_squares():
    model, scaler = nn.Linear(9, 1), torch.amp.GradScaler("cpu")
    opt = torch.optim.SGD(model.parameters(), lr=1e-2)
    with watch_training() as watch:
        for rows in torch.randn(12, BATCH, 9):
            loss = (model(rows) - rows.sum(1, keepdim=True)).square().mean()
            scaler.scale(loss).backward()
            scaler.step(opt)
            scaler.update()
            opt.zero_grad()
    assert words(watch.report()) == []


def fit_classifier(model, x, lr=1e-4):
    y, opt = (x.flatten(1).mean(1) > x.mean()).long(), torch.optim.SGD(model.parameters(), lr=lr)
    with watch_training() as watch:
        for rows in torch.randperm(len(x)).repeat(2).split(32):
            opt.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            opt.step()
    return watch.report().findings


def test_a_first_loss_that_large_inputs_make_is_laid_to_them():
    torch.manual_seed(0)
    found = fit_classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), torch.rand(320, 1, 8, 8) * 255, 1e-5)
    assert [(each.word, each.fix) for each in found] == [
        ("exploding", "bring the inputs to a size of about 1: divide bytes by 255, or standardise each column")
    ]
    assert re.search(r"before anything is learned; the inputs are 1[45]\d in size$", found[0].sentence)


def test_a_first_loss_that_large_weights_make_is_laid_to_them():
    torch.manual_seed(0)
    first, last = nn.Linear(64, 64), nn.Linear(64, 10)
    for layer in (first, last):
        nn.init.normal_(layer.weight, std=2.0)
    found = fit_classifier(nn.Sequential(nn.Flatten(), first, last), torch.randn(320, 1, 8, 8), 1e-7)
    assert [each.fix for each in found if each.word == "exploding"] == [
        "initialise the layers so that activations keep their size (lb.initialize, lb.audit_activations)"
    ]


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(16, 8), nn.Linear(8, 2)

    def forward(self, x):
        hidden = self.first(x)
        hidden = hidden - hidden.mean(dim=0)
        return self.last(hidden)


def test_the_fix_of_mixed_samples_is_that_of_the_line():
    torch.manual_seed(0)
    (found,) = fit_classifier(Centred(), torch.randn(320, 16), 1e-2)
    assert (found.word, found.fix) == ("batch-mixing", "this call works along the batch; choose another dim")
    assert "mean(dim=0)" in found.places[0]
