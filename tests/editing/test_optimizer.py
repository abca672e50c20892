"""The optimizer after an edit: removed tensors out, new ones in, the state of the others to the bit."""

import pytest
import torch
from tests.editing import models
from tests.editing.models import outputs
from torch import nn

from linkboy.editing import insert_layer, keep_layers, remove_layer, replace_layer, surgery


def grouped(model, example, kind=torch.optim.AdamW):
    """An optimizer with matrices and vectors in two named groups, after two steps."""
    named = list(model.named_parameters())
    groups = [
        {"params": [(name, p) for name, p in named if p.dim() > 1], "weight_decay": 0.1},
        {"params": [(name, p) for name, p in named if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = kind(groups, lr=1e-2)
    for _ in range(2):
        step(model, example, optimizer)
    return optimizer


def step(model, example, optimizer):
    optimizer.zero_grad()
    out = model(**example) if isinstance(example, dict) else model(*example)
    (out if isinstance(out, torch.Tensor) else out[0]).square().mean().backward()
    optimizer.step()


def held(optimizer):
    return [[id(tensor) for tensor in group["params"]] for group in optimizer.param_groups]


def states(optimizer, tensors):
    return {
        id(tensor): {key: value.clone() for key, value in optimizer.state[tensor].items()}
        for tensor in tensors
        if tensor in optimizer.state
    }


def assert_holds_exactly(optimizer, model):
    ours = {id(p) for p in model.parameters() if p.requires_grad}
    theirs = [key for group in held(optimizer) for key in group]
    assert len(theirs) == len(set(theirs))
    assert set(theirs) == ours
    assert {id(tensor) for tensor in optimizer.state} <= ours


def test_the_trap_without_rewiring_the_new_head_never_moves():
    model, example = models.mlp()
    optimizer = grouped(model, example)
    model.set_submodule("5", nn.Linear(8, 4))
    before = model[5].weight.detach().clone()
    step(model, example, optimizer)
    assert torch.equal(model[5].weight, before)


def test_a_replaced_head_trains_in_the_group_of_the_old_one_and_survivors_keep_their_state():
    torch.manual_seed(0)
    model, example = models.mlp()
    optimizer = grouped(model, example)
    survivors = [p for name, p in model.named_parameters() if not name.startswith("5.")]
    before, places = states(optimizer, survivors), held(optimizer)
    old = {id(model[5].weight), id(model[5].bias)}
    report = replace_layer(model, "5", nn.Linear(8, 3), example=example, optimizer=optimizer)
    assert_holds_exactly(optimizer, model)
    new = {id(model[5].weight): 0, id(model[5].bias): 1}
    for index, (then, now) in enumerate(zip(places, held(optimizer), strict=True)):
        assert [a if a not in old else "old" for a in then] == [b if b not in new else "old" for b in now]
        assert all(new.get(key, index) == index for key in now)
    after = states(optimizer, survivors)
    assert all(torch.equal(after[key][name], value) for key, state in before.items() for name, value in state.items())
    weight = model[5].weight.detach().clone()
    step(model, example, optimizer)
    assert not torch.equal(model[5].weight, weight)
    assert report.repairs[-1] == (
        "optimizer: 0 tensors removed, 2 replaced in place, 0 added; the state of all others is unchanged, "
        "and an optimizer file saved before the edit no longer fits"
    )
    assert optimizer.param_groups[0]["param_names"] == ["0.weight", "2.weight", "5.weight"]


def test_removed_and_copied_layers_leave_and_enter_with_their_groups():
    torch.manual_seed(0)
    model, example = models.bert()
    optimizer = grouped(model, example)
    keep_layers(model, "encoder.layer", [0, 3, 3], example=example, optimizer=optimizer)
    assert_holds_exactly(optimizer, model)
    dims = [{p.dim() > 1 for p in group["params"]} for group in optimizer.param_groups]
    assert dims == [{True}, {False}]
    names = optimizer.param_groups[0]["param_names"]
    assert len(names) == len(optimizer.param_groups[0]["params"])
    assert names[-1].startswith("encoder.layer.2.")
    step(model, example, optimizer)


def test_inserted_layers_join_the_groups_of_their_neighbour_matrices_and_vectors_apart():
    model, example = models.mlp()
    optimizer = grouped(model, example)
    insert_layer(model, "0", nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)), example=example, optimizer=optimizer)
    assert_holds_exactly(optimizer, model)
    assert id(model[1][0].weight) in held(optimizer)[0]
    assert {id(model[1][1].weight), id(model[1][1].bias)} <= set(held(optimizer)[1])


def test_an_adapter_of_a_frozen_layer_joins_what_is_trained():
    model, example = models.mlp()
    for p in model.parameters():
        p.requires_grad_(False)
    model[5].requires_grad_(True)
    optimizer = torch.optim.SGD(model[5].parameters(), lr=0.1, momentum=0.9)
    with surgery(model, example=example, optimizer=optimizer) as s:
        s.wrap("0", lambda old: nn.Sequential(old, nn.Linear(8, 8)))
    assert_holds_exactly(optimizer, model)
    frozen = nn.Linear(8, 8).requires_grad_(False)
    insert_layer(model, "2", frozen, example=example, optimizer=optimizer)
    assert_holds_exactly(optimizer, model)


def test_resized_tensors_take_the_place_of_the_old_ones_once():
    model, example = models.tagger()
    optimizer = grouped(model, example)
    with surgery(model, example=example, optimizer=optimizer) as s:
        s.resize_embeddings(70)
    assert_holds_exactly(optimizer, model)
    assert optimizer.param_groups[0]["params"][0] is model.embed.weight
    step(model, (models.IDS + 40,), optimizer)


def test_groups_keep_their_number_so_that_schedulers_go_on():
    model, example = models.mlp()
    groups = [{"params": list(model[i].parameters())} for i in (0, 2, 5)]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda _: 0.5, lambda _: 0.4, lambda _: 0.3])
    remove_layer(model, "2", example=example, optimizer=optimizer)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 0, 2]
    step(model, example, optimizer)
    scheduler.step()
    assert [round(group["lr"], 6) for group in optimizer.param_groups] == [0.005, 0.004, 0.003]


def test_an_optimizer_over_two_models_keeps_the_other_one():
    model, example = models.mlp()
    other = nn.Linear(3, 3)
    optimizer = torch.optim.AdamW([*model.parameters(), *other.parameters()])
    remove_layer(model, "2", example=example, optimizer=optimizer)
    assert {id(p) for p in other.parameters()} <= set(held(optimizer)[0])


def test_lbfgs_forgets_its_flat_history():
    model, example = models.mlp()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)

    def closure():
        optimizer.zero_grad()
        loss = model(*example).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    remove_layer(model, "2", example=example, optimizer=optimizer)
    optimizer.step(closure)
    assert_holds_exactly(optimizer, model)


def test_accelerates_wrapper_is_opened():
    accelerate = pytest.importorskip("accelerate")
    model, example = models.mlp()
    wrapped = accelerate.Accelerator(cpu=True).prepare_optimizer(torch.optim.AdamW(model.parameters()))
    replace_layer(model, "5", nn.Linear(8, 3), example=example, optimizer=wrapped)
    assert_holds_exactly(wrapped.optimizer, model)


def test_a_grad_scaler_goes_on():
    model, example = models.mlp()
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu")
    for _ in range(2):
        optimizer.zero_grad()
        scaler.scale(model(*example).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        replace_layer(model, "5", nn.Linear(8, 3), example=example, optimizer=optimizer)
    assert_holds_exactly(optimizer, model)


def test_without_an_optimizer_the_report_says_what_is_stale():
    model, example = models.mlp()
    report = remove_layer(model, "2", example=example)
    assert report.notes == (
        "an optimizer made before the edit is stale: it holds removed tensors and lacks the new ones; "
        "pass optimizer= to have it updated",
    )
    assert remove_layer(model, "2", example=example).notes == ()  # a Dropout holds no tensors


def test_messages_about_the_optimizer():
    model, _ = models.mlp()
    with pytest.raises(TypeError) as caught:
        surgery(model, optimizer=3)
    assert str(caught.value) == "optimizer must be a torch.optim.Optimizer, got int"
    with pytest.raises(ValueError) as caught:
        surgery(model, optimizer=torch.optim.SGD(nn.Linear(2, 2).parameters()))
    assert str(caught.value) == "optimizer must hold parameters of the model, and this one holds none of them"


def test_training_goes_on_as_if_the_survivors_had_always_been_alone():
    """An independent oracle: the same tensors, with the same state, in an optimizer made by hand."""
    torch.manual_seed(0)
    model, example = models.residual()
    optimizer = grouped(model, example)
    keep_layers(model, "blocks", [0, 2], example=example, optimizer=optimizer)
    twin, _ = models.residual()
    del twin.blocks[3], twin.blocks[1]
    twin.load_state_dict(model.state_dict())
    by_name = dict(model.named_parameters())
    other = torch.optim.AdamW(
        [
            {"params": [p for p in twin.parameters() if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in twin.parameters() if p.dim() <= 1], "weight_decay": 0.0},
        ],
        lr=1e-2,
    )
    for name, p in twin.named_parameters():
        other.state[p] = {key: value.clone() for key, value in optimizer.state[by_name[name]].items()}
    for _ in range(3):
        torch.manual_seed(1)
        step(model, example, optimizer)
        torch.manual_seed(1)
        step(twin, example, other)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model, example), outputs(twin, example), strict=True))
