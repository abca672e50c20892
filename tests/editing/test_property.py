"""Random legal edits of many architectures keep the invariants that an edited model must have."""

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.editing import models
from tests.editing.models import fingerprint, outputs
from torch import nn

from linkboy.editing import surgery

NAMES = sorted(models.STACKS)
QUICK = [name for name in NAMES if name not in ("gemma3", "modernbert", "qwen3", "smollm3")]  # kin of Llama and BERT
DECODERS = ("gpt2", "llama", "qwen3", "smollm3", "gemma3", "t5", "whisper")


def edit_at_random(s, model, stack, chance):
    """Make one edit that keeps all shapes: any layer fits where any other stood."""
    length = len(model.get_submodule(stack)._modules)
    layer = chance.randrange(length)
    kind = chance.choice(["remove", "keep", "copy", "wrap", "swap"])
    if kind == "remove" and length > 1:
        s.remove(f"{stack}.{layer}")
    elif kind == "keep":
        s.keep_layers(stack, [chance.randrange(-length, length) for _ in range(chance.randint(1, 5))])
    elif kind == "copy":
        s.insert_after(f"{stack}.{layer}", model.get_submodule(f"{stack}.{chance.randrange(length)}"))
    elif kind == "swap":
        order = list(range(length))
        chance.shuffle(order)
        s.keep_layers(stack, order)
    elif isinstance(model.get_submodule(f"{stack}.{layer}"), (nn.Linear, nn.Conv2d)):
        s.wrap(f"{stack}.{layer}", lambda old: nn.Sequential(old, nn.Identity()))


def check_invariants(model, example, optimizer, report, kept):
    """What must hold whatever was edited, read off the model alone."""
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held})
    assert {id(p) for p in held} == {id(p) for p in model.parameters() if p.requires_grad}
    survivors = {id(p) for p in model.parameters()} & set(kept)
    assert all(torch.equal(optimizer.state[p]["momentum_buffer"], kept[id(p)]) for p in held if id(p) in survivors)
    state = model.state_dict()
    assert set(report.keys) | set(report.new_keys) | set(report.resized_keys) == set(state)
    assert report.parameter_count_after == sum(p.numel() for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    first, again = outputs(model, example), outputs(model, example)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    with torch.no_grad():
        (model(**example) if isinstance(example, dict) else model(*example))
    return first


@pytest.mark.slow
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(seed=st.integers(0, 10**6))
@pytest.mark.parametrize("name", NAMES)
def test_random_legal_edits_leave_a_sound_model(name, seed):
    run_random_edits(name, seed)


@pytest.mark.parametrize("name", QUICK)
def test_one_random_sequence_of_legal_edits_for_ten_architectures(name):
    run_random_edits(name, NAMES.index(name))


def run_random_edits(name, seed):
    chance = random.Random(seed)
    torch.manual_seed(seed)
    build, stacks = models.STACKS[name]
    model, example = build()
    old = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
    out = model(**example) if isinstance(example, dict) else model(*example)
    (out if isinstance(out, torch.Tensor) else out[0]).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    model.load_state_dict(old)
    kept = {id(p): optimizer.state[p]["momentum_buffer"].clone() for p in model.parameters() if p in optimizer.state}
    before = fingerprint(model, optimizer)
    with surgery(model, example=example, optimizer=optimizer) as s:
        for _ in range(chance.randint(1, 3)):
            edit_at_random(s, model, chance.choice(stacks), chance)
    if not s.report.edits:
        assert fingerprint(model, optimizer) == before
    value = check_invariants(model, example, optimizer, s.report, kept)
    if name in DECODERS:
        assert s.report.cache_difference < 1e-4
    # the key map, applied to the old checkpoint, gives the edited model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    missing = model.load_state_dict(s.report.convert(old), strict=not s.report.new_keys)
    assert set(missing.missing_keys) == set(s.report.new_keys)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model, example), value, strict=True))
