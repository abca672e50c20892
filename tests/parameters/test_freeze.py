"""`freeze` and `unfreeze`: frozen tensors do not move by a bit, whatever the optimizer, and come back as they were."""

import copy
import pickle

import pytest
import torch
from torch import nn

from linkboy.parameters import compare_models, freeze, unfreeze


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.lm_head = nn.Linear(4, 10, bias=False)
        self.lm_head.weight = self.embed.weight


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False))


def train(model, optimizer, steps=3):
    for _ in range(steps):

        def closure():
            optimizer.zero_grad(set_to_none=False)
            loss = model(torch.randn(8, 4)).square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "Adam": lambda p: torch.optim.Adam(p, weight_decay=0.1), "AdamW": lambda p: torch.optim.AdamW(p, weight_decay=0.1),
    "Adamax": torch.optim.Adamax, "NAdam": torch.optim.NAdam, "RAdam": torch.optim.RAdam, "ASGD": torch.optim.ASGD,
    "Adagrad": torch.optim.Adagrad, "Adadelta": torch.optim.Adadelta, "RMSprop": torch.optim.RMSprop,
    "Rprop": torch.optim.Rprop, "Adafactor": torch.optim.Adafactor,
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.01),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("hand_over", [True, False])
def test_frozen_tensors_do_not_move_by_a_bit_from_the_middle_of_training(name, hand_over):
    if name == "LBFGS" and not hand_over:
        pytest.skip("one direction over all parameters: LBFGS has to be told")
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer)
    freeze(model, ["0.*", "1.*"], optimizer=optimizer if hand_over else None)
    before = copy.deepcopy(model.state_dict())
    model.train()
    train(model, optimizer)
    for key, value in model.state_dict().items():
        if key.startswith(("0.", "1.")):
            assert torch.equal(value, before[key]), key
    assert not torch.equal(model[2].weight, before["2.weight"])


def test_requires_grad_alone_lets_a_left_over_gradient_move_the_weight():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(8, 4)).square().sum().backward()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    optimizer.step()
    assert not torch.equal(model[0].weight, before)  # the trap; the test above shows that freeze is free of it


def test_batchnorm_holds_still_through_train_deepcopy_and_pickle_and_is_released_exactly():
    model = network()
    assert freeze(model, "1.*").norms == ("1",)
    for held in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        held.train()
        statistics = held[1].running_mean.clone()
        held(torch.randn(8, 4))
        assert torch.equal(held[1].running_mean, statistics)
        assert unfreeze(held, "1.*").norms == ("1",)
        held(torch.randn(8, 4))
        assert not torch.equal(held[1].running_mean, statistics)
        assert held[1].training
        assert held[1].weight.requires_grad
        assert not held[1]._forward_pre_hooks
        assert not [key for key in held[1].__dict__ if "linkboy" in key]


def test_a_released_norm_follows_the_mode_that_the_model_has_got_since():
    model = network()
    freeze(model, "1.*")
    model.eval()
    unfreeze(model, "1.*")
    assert not model[1].training
    freeze(model, "1.*")
    model.train()
    freeze(model, "1.*")  # again, with no forward pass in between
    unfreeze(model, "1.*")
    assert model[1].training
    freeze(model.eval(), "1.*")
    model.train()(torch.randn(8, 4))
    model.eval()
    unfreeze(model, "1.*")
    assert not model[1].training
    model[1].train()  # in an eval model on purpose: freeze took it, unfreeze gives it back
    freeze(model, "1.*")
    unfreeze(model, "1.*")
    assert model[1].training
    norm = nn.BatchNorm1d(4)
    freeze(norm, "*")
    unfreeze(norm, "*")
    assert norm.training


def test_batchnorm_without_parameters_is_reached_by_its_statistics_and_keep_lets_it_move():
    model = network()
    assert freeze(model, "3.*").norms == ("3",)
    model = network()
    report = freeze(model, "1.*", batchnorm="keep")
    assert report.norms == ()
    model(torch.randn(8, 4))
    assert model[1].running_mean.abs().sum() > 0


def test_statistics_hold_still_exactly_while_nothing_of_the_norm_is_trained():
    model = network()
    assert freeze(model, "1.bias").norms == ()
    assert freeze(model, "1.weight").norms == ("1",)
    assert unfreeze(model, "1.weight").norms == ("1",)
    assert model[1].training
    assert unfreeze(model, "1.bias").norms == ()


def test_of_a_norm_that_somebody_else_froze_only_the_statistics_come_back():
    model = network()
    model[1].requires_grad_(False)
    assert freeze(model, "1.*").norms == ("1",)
    report = unfreeze(model, "1.*")
    assert (report.changed, report.norms) == ((), ("1",))
    assert not model[1]._forward_pre_hooks


def test_an_alias_freezes_the_tensor_and_all_names_are_listed():
    model = Tied()
    report = freeze(model, "lm_head.*")
    assert report.changed == (("embed.weight", "lm_head.weight"),)
    assert not model.embed.weight.requires_grad
    assert str(report) == "froze 1 tensor, 40 elements: embed.weight = lm_head.weight"
    assert unfreeze(model, "embed.*").changed == (("embed.weight", "lm_head.weight"),)


def test_unfreeze_gives_back_what_freeze_took_and_no_more():
    model = network()
    model[0].bias.requires_grad_(False)  # somebody else's
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    twice = freeze(model, "*"), freeze(model, "*")
    assert len(twice[0].changed) == 5
    assert twice[1].changed == ()
    report = unfreeze(model, "*")
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    assert report.unchanged == (("0.bias",),)
    assert "not frozen by freeze, so left unchanged: 0.bias" in str(report)
    assert not [key for module in model.modules() for key in module.__dict__ if "linkboy" in key]


def test_gradients_are_dropped_and_frozen_lazies_stay_lazy():
    model = network()
    model(torch.randn(8, 4)).sum().backward()
    freeze(model, "0.weight")
    assert model[0].weight.grad is None
    assert model[0].bias.grad is not None
    lazy = nn.Sequential(nn.LazyLinear(2))
    assert freeze(lazy, "*").element_count == 0
    lazy(torch.zeros(1, 3))
    assert not lazy[0].weight.requires_grad


def test_optimizer_groups_shrink_in_place_and_come_back_with_their_state():
    model = network()
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    train(model, optimizer)
    groups = optimizer.param_groups
    order = [id(p) for p in groups[0]["params"]]
    names, state = list(groups[0]["param_names"]), copy.deepcopy(optimizer.state[model[0].weight])
    assert freeze(model, "0.*", optimizer=optimizer).optimizer_tensor_count == 2
    assert optimizer.param_groups is groups
    train(model, optimizer, 1)
    scheduler.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert len(optimizer.param_groups[0]["params"]) == 4
    assert unfreeze(model, "*", optimizer=optimizer).optimizer_tensor_count == 2
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == order
    assert optimizer.param_groups[0]["param_names"] == names
    assert torch.equal(optimizer.state[model[0].weight]["exp_avg"], state["exp_avg"])
    train(model, optimizer, 1)
    scheduler.step()


def test_grad_scaler_and_frozen_parameters():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    freeze(model, "0.*")
    before = model[0].weight.clone()
    scaler.scale(model(torch.randn(8, 4)).square().sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(model[0].weight, before)


def test_compiled_model_respects_the_held_norm():
    model = network()
    freeze(model, "1.*")
    model.train()
    statistics = model[1].running_mean.clone()
    torch.compile(model, backend="eager")(torch.randn(8, 4))
    assert torch.equal(model[1].running_mean, statistics)


@pytest.mark.parametrize(
    ("patterns", "error", "message"),
    [
        ("2.wieght", ValueError, "pattern '2.wieght' matches none of the 6 parameter names; did you mean '2.weight'?"),
        ("0", ValueError, "pattern '0' matches none of the 6 parameter names; did you mean '0.*'?"),
        (
            "0.weight[0:2]",
            ValueError,
            "pattern '0.weight[0:2]' matches none of the 6 parameter names; rows of a tensor are not frozen by a "
            "pattern, use PretrainedEmbedding for them",
        ),
        ([], TypeError, "names must be a parameter name or pattern, or a sequence of them, got []"),
        (3, TypeError, "names must be a parameter name or pattern, or a sequence of them, got 3"),
        (
            nn.Linear(1, 1),
            TypeError,
            "names must be a parameter name or pattern, or a sequence of them, got a Linear; name what is in it, such as "
            "'encoder.*'",
        ),
        (
            list(nn.Linear(1, 1).parameters()),
            TypeError,
            "names must be a parameter name or pattern, or a sequence of them, got tensors; pass their names",
        ),
    ],
)
def test_messages_and_nothing_half_applied(patterns, error, message):
    model = network()
    for call in (freeze, unfreeze):
        with pytest.raises(error) as caught:
            call(model, patterns)
        assert str(caught.value) == message
    with pytest.raises(ValueError):
        freeze(model, ["0.*", "nothing"])
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError) as caught:
        freeze(model, "0.*", batchnorm="evl")
    assert str(caught.value) == "batchnorm must be one of ('eval', 'keep'), got 'evl'; did you mean 'eval'?"


def test_compare_names_every_difference():
    first, second = network(), network()
    assert compare_models(first, second).ok
    with torch.no_grad():
        second[0].weight[0, 0] += 0.25
        first[1].running_mean[0] = second[1].running_mean[0] = float("nan")
    second[2] = nn.Linear(4, 5)
    second[3].half()
    second[1].bias.requires_grad_(False)
    second.append(nn.Linear(1, 1))
    report = compare_models(first, second)
    assert not report.ok
    assert [(d.name, d.what) for d in report.differences] == [
        ("0.weight", "value"), ("1.bias", "requires_grad"), ("2.weight", "shape"), ("2.bias", "shape"),
        ("3.running_mean", "dtype"), ("3.running_var", "dtype"),
    ]  # fmt: skip
    assert report.differences[0].largest == 0.25
    assert report.only_in_second == ("4.weight", "4.bias")
    assert "f32[4, 4]  f32[5, 4]" in str(report)


def test_compare_sees_ties_and_what_has_no_values():
    tied, loose = Tied(), Tied()
    loose.lm_head.weight = nn.Parameter(tied.embed.weight.detach().clone())
    loose.embed.weight = nn.Parameter(tied.embed.weight.detach().clone())
    assert [(d.name, d.what) for d in compare_models(tied, loose).differences] == [
        ("embed.weight", "tie"),
        ("lm_head.weight", "tie"),
    ]
    meta = nn.Linear(2, 2, device="meta")
    assert compare_models(meta, meta).not_compared == ("weight", "bias")
    with pytest.raises(TypeError) as caught:
        compare_models(meta, {})
    assert str(caught.value) == "model_b must be an nn.Module, got dict"
