"""A transaction commits wholly or leaves model, configs and optimizer as they were, to the bit."""

import copy
import random
import sys

import pytest
import torch
from tests.editing import models
from tests.editing.models import fingerprint
from torch import nn

from linkboy.editing import remove_layer, replace_layer, surgery

SESSION = sys.modules["linkboy.editing.surgery"]  # the file; the package has the class under this name

STEPS = [
    "changed_stacks", "keep_first_owner", "renumber", "retie", "set_depth", "rewire", "check", "check_config", "make_report",
]  # fmt: skip


def trained(model, example):
    """An AdamW in the middle of a training run, with two groups."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    out = model(**example) if isinstance(example, dict) else model(*example)
    tensor = out if isinstance(out, torch.Tensor) else out[0]
    tensor.square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def many_edits(s, stack):
    """Edit the stack, its layers, and the objects around it."""
    s.keep_layers(stack, [3, 0, 0, 2])
    s.remove(f"{stack}.-1")
    s.insert_after(f"{stack}.0", copy.deepcopy(s._model.get_submodule(f"{stack}.0")))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("failure", [KeyboardInterrupt, pytest.param(RuntimeError, marks=pytest.mark.slow)])
def test_a_failure_in_any_step_of_the_commit_restores_everything(step, failure, monkeypatch):
    torch.manual_seed(0)
    model, example = models.bert()
    optimizer = trained(model, example)

    def fail(*args, **kwargs):
        raise failure("planted")

    before = fingerprint(model, optimizer)
    monkeypatch.setattr(SESSION, step, fail)
    with pytest.raises(failure) as caught, surgery(model, example=example, optimizer=optimizer) as s:
        many_edits(s, "encoder.layer")
    assert fingerprint(model, optimizer) == before
    assert caught.value.__notes__ == ["linkboy.surgery undid the edit; the model is unchanged"]
    monkeypatch.undo()
    assert remove_layer(
        model, "encoder.layer.0", example=example, optimizer=optimizer
    ).parameter_count_after  # not locked


def test_the_injected_failures_happen_late(monkeypatch):
    """The test above would prove nothing if the model had not been changed by the time of the failure."""
    model, example = models.bert()
    optimizer = trained(model, example)
    before, seen = fingerprint(model, optimizer), []
    monkeypatch.setattr(SESSION, "make_report", lambda *_: seen.append(fingerprint(model, optimizer)))
    with surgery(model, example=example, optimizer=optimizer) as s:
        many_edits(s, "encoder.layer")
    assert seen[0][0] != before[0]
    assert seen[0][1] != before[1]
    assert seen[0][2] != before[2]


@pytest.mark.parametrize("failure", [ValueError("mine"), KeyboardInterrupt()], ids=repr)
def test_an_error_in_the_block_restores_and_goes_on_to_the_caller(failure):
    model, example = models.tagger()
    optimizer = trained(model, example)
    before = fingerprint(model, optimizer)

    def edit_and_fail():
        with surgery(model, example=example, optimizer=optimizer) as s:
            s.replace("head", nn.Linear(8, 64))
            s.resize_embeddings(70)
            s.wrap("layers.0", lambda old: nn.Sequential(old, nn.ReLU()))
            raise failure

    with pytest.raises(type(failure)):
        edit_and_fail()
    assert fingerprint(model, optimizer) == before


def test_an_edit_that_fails_is_undone_even_if_the_block_goes_on():
    model, example = models.mlp()
    with surgery(model, example=example) as s:
        s.remove("3")
        with pytest.raises(KeyError):
            s.remove("17")
        with pytest.raises(ValueError):
            s.replace("0", nn.Linear(8, 8, device="meta"))
    assert [type(layer).__name__ for layer in model] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert s.report.edits == ("removed 3 (Dropout)",)


def test_a_module_cast_for_an_edit_that_failed_has_its_values_back():
    model, example = models.mlp()
    model.double()
    new = nn.Linear(5, 5)
    weight, values = new.weight, new.weight.detach().clone()
    dtypes = []
    new.register_forward_pre_hook(lambda module, _: dtypes.append(module.weight.dtype))
    with pytest.raises(RuntimeError):
        replace_layer(model, "0", new, example=(example[0].double(),))
    assert set(dtypes) == {torch.float64}
    assert new.weight is weight
    assert new.weight.dtype == torch.float32
    assert torch.equal(new.weight, values)


def test_the_check_changes_no_buffer_no_flag_and_no_random_number():
    model, example = models.residual()
    model.train()
    model.blocks[1].eval()
    model.norm(torch.randn(2, 8, 4, 4))
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    flags = {name: module.training for name, module in model.named_modules()}
    numbers = torch.get_rng_state()
    with surgery(model, example=example) as s:
        s.remove("drop")
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in model.named_buffers())
    assert {name: module.training for name, module in model.named_modules()} == flags | {"drop": True}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_a_forward_hangs_on_its_modules_in_the_check_is_taken_away():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls, self.seen = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), 0, []

        def forward(self, x):
            self.calls += 1
            self.seen.append(self.calls)
            self.last = self.inner(x)
            return self.last

    model = Counting()
    remove_layer(model, "inner.1", example=torch.ones(1, 2))
    assert (model.calls, model.seen, hasattr(model, "last")) == (0, [], False)


def test_nested_transactions_are_refused_and_the_outer_one_goes_on():
    model, _ = models.mlp()
    with surgery(model) as s:
        with pytest.raises(RuntimeError) as caught, surgery(model):
            pass
        assert str(caught.value) == "this model is in an open transaction; do all edits in one, or end that one first"
        with pytest.raises(RuntimeError), surgery(nn.Sequential(model)):
            pass
        s.remove("3")
    assert len(model) == 5


def test_a_transaction_is_used_once_and_inside_its_block():
    model, _ = models.mlp()
    s = surgery(model)
    with pytest.raises(RuntimeError) as caught:
        s.remove("0")
    assert str(caught.value) == "remove needs an open transaction: with surgery(model) as s: s.remove(...)"
    with s:
        with pytest.raises(RuntimeError) as caught:
            s.report
        message = "there is no report: the block has not ended, or the edit was rolled back"
        assert str(caught.value) == message
    with pytest.raises(RuntimeError) as caught, s:
        pass
    assert str(caught.value) == "this transaction has been used; start a new one with surgery(model)"
    with pytest.raises(RuntimeError):
        s.remove("0")


def test_an_interrupt_while_restoring_is_delivered_after_the_restore():
    model, example = models.mlp()
    before = fingerprint(model)
    interrupts = [KeyboardInterrupt()]

    def interrupted():
        if interrupts:
            raise interrupts.pop()

    def edit_and_fail():
        with surgery(model, example=example) as s:
            s.remove("0")
            s._changes.snapshot._undo.append(interrupted)
            raise ValueError

    with pytest.raises(KeyboardInterrupt):
        edit_and_fail()
    assert fingerprint(model) == before


def random_edit(s, model, stack, chance):
    length = len(model.get_submodule(stack)._modules)
    choices = [
        lambda: s.remove(f"{stack}.{chance.randrange(length)}"),
        lambda: s.keep_layers(stack, [chance.randrange(length) for _ in range(3)]),
        lambda: s.insert_after(f"{stack}.0", model.get_submodule(f"{stack}.0")),
        lambda: s.wrap(f"{stack}.-1", lambda old: nn.ModuleList([old])),
    ]
    chance.choice(choices)()


@pytest.mark.parametrize("seed", [0, 1, 2, *[pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 24)]])
def test_random_edits_with_a_failure_at_a_random_point_leave_no_trace(seed):
    chance = random.Random(seed)
    torch.manual_seed(seed)
    name = chance.choice(["bert", "gpt2", "llama", "t5", "tagger", "residual"])
    build, stacks = models.STACKS[name]
    model, example = build()
    optimizer = trained(model, example)
    before = fingerprint(model, optimizer)

    def edit_and_fail():
        with surgery(model, example=example, optimizer=optimizer) as s:
            for _ in range(chance.randint(1, 4)):
                random_edit(s, model, chance.choice(stacks), chance)
            if name != "residual":
                s.resize_embeddings(chance.choice([32, 70]), "embed" if name == "tagger" else None)
            1 / 0

    with pytest.raises(ZeroDivisionError):
        edit_and_fail()
    assert fingerprint(model, optimizer) == before
