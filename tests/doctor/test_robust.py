"""What a program does that a watch must survive: errors, transforms, and mistakes of the watch itself."""

import warnings

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from linkboy import watch_training
from linkboy._watch import TrainingObserver


def trained(net, forward, steps=6):
    x = torch.randn(20, 3)
    opt = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(steps):
        opt.zero_grad()
        (forward(x) - x[:, :1]).square().mean().backward()
        opt.step()


def test_a_forward_that_raises_raises_its_own_error_and_nothing_else():
    class Broken(nn.Linear):
        def forward(self, x):
            raise KeyError("its own")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeyError, match="its own"), watch_training():
            Broken(3, 1)(torch.randn(2, 3))


def test_a_model_under_vmap_is_passed_over():
    nets = [nn.Linear(3, 1) for _ in range(3)]
    params, _ = stack_module_state(nets)
    opt = torch.optim.Adam(params.values(), lr=1e-2)
    x = torch.randn(30, 3)
    with watch_training() as watch:
        for _ in range(8):
            out = vmap(lambda p, rows: functional_call(nets[0], p, (rows,)), (0, None))(params, x)
            opt.zero_grad()
            (out - x[None, :, :1]).square().mean().backward()
            opt.step()
    assert watch.report().findings == ()


def test_a_mistake_of_the_watch_is_listed_and_the_program_goes_on(monkeypatch):
    def broken(self, *args, **kwargs):
        raise ZeroDivisionError("ours")

    monkeypatch.delenv("LINKBOY_DEBUG", raising=False)
    net = nn.Linear(3, 1)
    for name in ("backward_begins", "step_ended", "called"):
        with monkeypatch.context() as patch:
            patch.setattr(TrainingObserver, name, broken)
            with watch_training() as watch:
                trained(net, net)
        assert any("ZeroDivisionError: ours" in line for line in watch.report().failed)
    assert torch.isfinite(net.weight).all()


def tagger(mask):
    """Train on texts whose last positions are never asked for; the rows of some words are masked after the backward pass."""
    torch.manual_seed(0)
    words, places, head = nn.Embedding(30, 8), nn.Embedding(10, 8), nn.Linear(8, 4)
    opt = torch.optim.AdamW([*words.parameters(), *places.parameters(), *head.parameters()], lr=1e-2, weight_decay=0.1)
    ids = torch.randint(0, 30, (160, 10))
    tags = (ids % 4).masked_fill(torch.arange(10) > 6, -100)
    for step in range(14):
        batch = slice(10 * step, 10 * step + 10)
        out = head(words(ids[batch]) + places(torch.arange(10)))
        loss = nn.functional.cross_entropy(out.flatten(0, 1), tags[batch].flatten())
        opt.zero_grad()
        loss.backward()
        if mask:
            words.weight.grad[:20] = 0
        opt.step()


@pytest.mark.parametrize(("mask", "expected"), [(False, []), (True, ["decay"])])
def test_rows_that_a_program_masks_decay_and_positions_that_no_label_asks_for_do_not_matter(mask, expected):
    with watch_training() as watch:
        tagger(mask)
    assert [found.word for found in watch.report().findings] == expected


class Answering(nn.Module):
    """A model that computes its own loss, and may be told labels that it does not look at."""

    def __init__(self, use: bool):
        super().__init__()
        self.lines, self.use = nn.Linear(6, 2), use
        nn.init.zeros_(self.lines.weight)
        nn.init.constant_(self.lines.bias[0], 0.5) if use else None

    def forward(self, x, labels):
        out = self.lines(x * 1e-7)
        return nn.functional.cross_entropy(out, labels) if self.use else out.logsumexp(1).mean() + out.square().mean()


@pytest.mark.parametrize(("use", "expected"), [(True, False), (False, True)])
def test_labels_that_are_only_averaged_have_influence_although_exchanging_them_changes_nothing(use, expected):
    torch.manual_seed(0)
    net = Answering(use)
    opt = torch.optim.SGD(net.parameters(), lr=1e-6)
    with watch_training() as watch:
        for _ in range(8):
            loss = net(torch.randn(8, 6), torch.randint(0, 2, (8,)))
            opt.zero_grad()
            loss.backward()
            opt.step()
    named = [found for found in watch.report().findings if found.word == "ignored-input" and "labels" in found.sentence]
    assert bool(named) == expected, watch.report()


def test_a_schedule_of_a_wrapped_optimizer_turns_the_one_inside():
    class Wrapper(torch.optim.Optimizer):
        def __init__(self, optimizer):
            self.optimizer = optimizer

        param_groups = property(lambda self: self.optimizer.param_groups)
        state = property(lambda self: self.optimizer.state)

        def step(self, closure=None):
            return self.optimizer.step(closure)

        def zero_grad(self, set_to_none=True):
            self.optimizer.zero_grad(set_to_none)

    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    with watch_training() as watch:
        opt = Wrapper(torch.optim.AdamW(net.parameters(), lr=1e-2))
        schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda step: 1 / (step + 1))
        for _ in range(10):
            x = torch.randn(20, 3)
            loss = (net(x) - x[:, :1]).square().mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
            schedule.step()
    assert "scheduler-unused" not in [found.word for found in watch.report().findings]
    assert len([line for line in watch.report().seen if "steps" in line]) == 1
