"""Tensors leave an optimizer and come back in place: nothing else in it changes, and it goes on."""

import copy

import pytest
import torch
from torch import nn

from linkboy._optimizers import append, exchange, put_back, take_out, torch_optimizer

OPTIMIZERS = [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad, torch.optim.LBFGS]


def parameters(count=5):
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(3)) for _ in range(count)]


def made(kind, ours):
    groups = [{"params": [(f"p{i}", p) for i, p in enumerate(ours)]}]
    if kind is not torch.optim.LBFGS:
        groups = [{"params": groups[0]["params"][:3]}, {"params": groups[0]["params"][3:], "lr": 0.01}]
    optimizer = kind(groups, lr=0.1)
    step(optimizer, ours)
    return optimizer


def step(optimizer, ours):
    def closure():
        optimizer.zero_grad()
        loss = sum(((p - 1) ** 2).sum() for p in ours)
        loss.backward()
        return loss

    optimizer.step(closure)


def content(optimizer):
    groups = [[*map(id, group["params"]), *group["param_names"]] for group in optimizer.param_groups]
    return groups, {id(p): copy.deepcopy(dict(state)) for p, state in optimizer.state.items()}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_what_is_taken_out_comes_back_to_its_place_with_its_state(kind):
    ours = parameters()
    optimizer = made(kind, ours)
    groups, states = content(optimizer)
    held = [id(group) for group in optimizer.param_groups]
    taken = take_out(optimizer, [ours[0], ours[2], ours[4]])
    assert len(taken) == 3
    assert [p for group in optimizer.param_groups for p in map(id, group["params"])] == [id(ours[1]), id(ours[3])]
    before = ours[0].detach().clone()
    step(optimizer, ours)
    assert torch.equal(ours[0], before)
    put_back(optimizer, taken)
    assert content(optimizer)[0] == groups
    assert [id(group) for group in optimizer.param_groups] == held, "schedulers hold the groups"
    if kind is not torch.optim.LBFGS:
        after = content(optimizer)[1]
        assert all(str(after.get(id(ours[i]))) == str(states.get(id(ours[i]))) for i in (0, 2, 4))
    step(optimizer, ours)
    assert not torch.equal(ours[0], before)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_exchanged_tensor_has_the_place_but_not_the_state_of_the_old_one(kind):
    ours = parameters()
    optimizer = made(kind, ours)
    groups, _ = content(optimizer)
    new = nn.Parameter(torch.zeros(7))
    assert exchange(optimizer, {id(ours[3]): new, 0: ours[0]}) == 1
    old = id(ours[3])
    assert content(optimizer)[0] == [[id(new) if entry == old else entry for entry in group] for group in groups]
    assert not any(
        state.any() for state in optimizer.state.get(new, {}).values()
    )  # Adagrad begins at 0 before torch 2.13
    assert ours[3] not in optimizer.state
    step(optimizer, [*ours[:3], new, ours[4]])


def test_a_new_tensor_goes_to_the_end_of_its_group_under_its_name():
    ours = parameters()
    optimizer = made(torch.optim.AdamW, ours)
    new = nn.Parameter(torch.zeros(2))
    append(optimizer, 1, "head.weight", new)
    assert optimizer.param_groups[1]["param_names"][-1] == "head.weight"
    step(optimizer, [*ours, new])
    assert new.abs().min() > 0


def test_the_optimizer_is_found_inside_of_accelerates_wrapper():
    inner = torch.optim.SGD(parameters())
    wrapper = type("AcceleratedOptimizer", (), {"optimizer": inner})()
    assert torch_optimizer(wrapper) is torch_optimizer(inner) is inner
    with pytest.raises(TypeError) as caught:
        torch_optimizer("adam")
    assert str(caught.value) == "optimizer must be a torch.optim.Optimizer, got str"
