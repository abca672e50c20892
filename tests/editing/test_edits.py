"""Edits of plain modules: stacks, attributes, aliases, hooks, dtypes."""

import copy
import pickle
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
from tests.editing import models
from tests.editing.models import outputs
from torch import nn

from linkboy.editing import insert_layer, keep_layers, remove_layer, replace_layer, surgery


def kinds(container):
    return [type(child).__name__ for child in container.children()]


class Twice(nn.Module):
    """One module under two names, in a list, a dict and a tuple."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 4)
        self.fc = self.head
        self.listed, self.keyed, self.tupled = [self.head], {"a": self.head}, (None, self.head)
        object.__setattr__(self, "hidden", self.head)

    def forward(self, x):
        return self.listed[0](self.fc(self.head(x)))


def test_numbered_sequentials_are_numbered_again_and_named_ones_keep_their_names():
    model, example = models.mlp()
    expected = nn.Sequential(*[layer for index, layer in enumerate(model) if index != 3])
    value = outputs(expected, example)[0]
    report = remove_layer(model, "3", example=example)
    assert list(model._modules) == ["0", "1", "2", "3", "4"]
    assert torch.equal(outputs(model, example)[0], value)
    assert report.keys["4.weight"] == "5.weight"
    model, example = models.named()
    remove_layer(model, "norm", example=example)
    assert list(model._modules) == ["fc1", "act", "fc2"]


def test_the_snippet_renames_what_it_deletes_from():
    """The trap: `del` on a named Sequential renames every key."""
    model, _ = models.named()
    del model[1]
    assert list(model._modules) == ["0", "1", "2"]


def test_the_copied_children_snippet_drops_what_the_forward_does_between_children():
    model, example = models.residual()
    snippet = nn.Sequential(*list(model.children()))
    with pytest.raises(RuntimeError):
        outputs(snippet, example)  # flatten is lost
    with surgery(model, example=example) as s:
        s.remove("fc")
    features = outputs(model, example)[0]
    assert features.shape == (2, 8)
    with torch.no_grad():
        x = model.norm(model.stem(example[0])).relu()
        assert torch.equal(features, (x + model.blocks(x)).mean((2, 3)).reshape(2, 8)) or torch.allclose(
            features, (x + model.blocks(x)).mean((2, 3))
        )
    assert s.report.repairs == ("fc is an nn.Identity now: the forward calls it",)


def test_an_attribute_that_the_forward_never_calls_or_asks_for_is_none_afterwards():
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.maybe, self.unused = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
            self.needed = nn.ReLU()

        def forward(self, x):
            x = self.first(x)
            x = self.maybe(x) if self.maybe is not None else x
            return self.needed(x)

    model = Optional()
    with surgery(model, example=torch.ones(1, 2)) as s:
        for name in ("maybe", "unused", "needed"):
            s.remove(name)
    assert model.maybe is None
    assert model.unused is None
    assert isinstance(model.needed, nn.Identity)
    assert s.report.repairs == (
        "maybe is gone: the forward runs without it",
        "unused is gone: the forward runs without it",
        "needed is an nn.Identity now: the forward calls it",
    )


def test_without_an_example_an_attribute_becomes_an_identity_and_the_report_says_what_is_not_known():
    model, _ = models.residual()
    report = remove_layer(model, "drop")
    assert isinstance(model.drop, nn.Identity)
    assert report.repairs == ("drop is an nn.Identity now",)
    assert report.notes == ("whether the forward calls drop is not known without an example",)
    assert report.checked == "not run, as no example was given"


def test_a_module_dict_loses_its_key_or_keeps_an_identity():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.branches = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})

        def forward(self, x):
            return sum(branch(x) for branch in self.branches.values())

    model = Branches()
    remove_layer(model, "branches.a", example=torch.ones(1, 2))
    assert list(model.branches) == ["b"]


def test_a_module_under_two_names_in_lists_dicts_and_attributes_is_replaced_everywhere():
    model, new = Twice(), nn.Linear(4, 4)
    report = replace_layer(model, "fc", new, example=torch.ones(1, 4))
    assert model.head is model.fc is new
    assert model.listed[0] is model.keyed["a"] is model.tupled[1] is model.hidden is new
    assert report.repairs[0] == ("head, listed[0], keyed['a'], tupled[1], hidden followed fc, being the same module")


def test_a_list_that_still_holds_a_removed_module_is_named():
    model, example = models.tagger()
    report = remove_layer(model, "layers.0", example=example)
    assert "everything[0] still holds a module that has left the model" in report.notes


def test_what_a_closure_holds_is_found_by_the_run():
    class Closure(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)
            layer = self.layer
            self.call = lambda x: layer(x)

        def forward(self, x):
            return self.call(x)

    report = replace_layer(Closure(), "layer", nn.Linear(2, 2), example=torch.ones(1, 2))
    assert "layer (Linear) is new, and the forward does not call it" in report.notes


def test_what_a_list_of_lists_holds_is_found_by_the_run():
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.order = [[self.layer]]

        def forward(self, x):
            return self.order[0][0](x)

    report = replace_layer(Nested(), "layer", nn.Linear(2, 2), example=torch.ones(1, 2))
    assert "layer (Linear) is new, and the forward does not call it" in report.notes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_new_module_takes_dtype_and_training_flag_of_its_place(dtype):
    model, example = models.mlp()
    model.to(dtype)
    model[2].eval()
    new = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    weight = new[0].weight
    replace_layer(model, "2", new, example=(example[0].to(dtype),))
    assert model[2][0].weight is weight
    assert weight.dtype == model[2][1].running_mean.dtype == dtype
    assert model[2][1].num_batches_tracked.dtype == torch.int64
    assert not any(part.training for part in new.modules())
    assert model.training
    insert_layer(model, "0", act := nn.Linear(8, 8), example=(example[0].to(dtype),))
    assert act.weight.dtype == dtype
    assert act.training


def test_a_mix_of_dtypes_is_named_on_the_meta_device_too():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2).double()).to("meta")
    with pytest.raises(RuntimeError, match=r"it mixes f32\[2, 4\] and f64\[2, 4\] in one product"):
        remove_layer(model, "1", example=torch.zeros(2, 4, device="meta"))


def test_a_new_module_that_shall_not_be_like_the_old_one_is_found_by_the_check():
    model, example = models.mlp()
    model.bfloat16()
    with pytest.raises(RuntimeError) as caught:
        replace_layer(model, "5", nn.Linear(8, 4), like=False, example=(example[0].bfloat16(),))
    assert str(caught.value) == (
        "the edited model does not run: 5 (Linear, weight f32[4, 8]) got bf16[3, 8] from 4: "
        "it mixes bf16[3, 8] and f32[4, 8] in one product"
    )


def test_wrapping_casts_what_is_new_and_leaves_the_wrapped_alone():
    class Adapter(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.down, self.up = inner, nn.Linear(8, 2), nn.Linear(2, 8)

        def forward(self, x):
            return self.inner(x) + self.up(self.down(x))

    model, example = models.mlp()
    model.bfloat16()
    old = model[2]
    old.register_buffer("scale", torch.ones(1))  # a float32 buffer of its own
    old.eval()
    with surgery(model, example=(example[0].bfloat16(),)) as s:
        s.wrap("2", Adapter)
    assert model[2].inner is old
    assert model[2].down.weight.dtype == torch.bfloat16
    assert old.scale.dtype == torch.float32
    assert not model[2].training
    assert s.report.keys["2.inner.weight"] == "2.weight"
    assert s.report.new_keys == ("2.down.weight", "2.down.bias", "2.up.weight", "2.up.bias")


def test_hooks_of_the_old_module_are_reported_or_carried():
    calls = []
    for carry in (False, True):
        model, example = models.mlp()
        model[2].register_forward_hook(lambda *_: calls.append(1))
        model[2].register_forward_pre_hook(lambda *_: calls.append(2))
        report = replace_layer(model, "2", nn.Linear(8, 8), hooks=carry, example=example)
        calls.clear()
        outputs(model, example)
        assert calls == ([2, 1] if carry else [])
        said = report.repairs if carry else report.notes
        assert said[0] == (
            "2 hooks carried over to the new 2" if carry
            else "2 hooks of the old 2 were dropped; hooks=True carries them over"
        )  # fmt: skip


def test_the_hooks_of_the_caller_run_in_the_check():
    model, example = models.mlp()
    seen = []
    model[0].register_forward_hook(lambda _, __, output: seen.append(output.shape))
    remove_layer(model, "3", example=example)
    assert seen == [(3, 8)] * 2  # before and after


def test_hooks_of_the_new_module_and_of_others_stay():
    model, example = models.mlp()
    calls, new = [], nn.Linear(8, 8)
    new.register_forward_hook(lambda *_: calls.append(1))
    model[0].register_forward_hook(lambda *_: calls.append(0))
    replace_layer(model, "2", new, example=example)
    calls.clear()
    outputs(model, example)
    assert calls == [0, 1]


def test_inserting_what_the_model_has_copies_it():
    model, example = models.mlp()
    report = insert_layer(model, "2", model[0], example=example)
    assert model[3] is not model[0]
    assert torch.equal(model[3].weight, model[0].weight)
    assert model[3].weight is not model[0].weight
    assert report.keys["3.weight"] == "0.weight"
    new = nn.Linear(8, 8)
    insert_layer(model, "3", new, example=example)
    assert model[4] is new


def test_inserting_into_a_named_sequential_needs_or_finds_a_name():
    model, example = models.named()
    insert_layer(model, "act", nn.Dropout(), example=example)
    insert_layer(model, "act", nn.Dropout(), key="drop", example=example)
    insert_layer(model, "act", nn.Dropout(), example=example)
    assert list(model._modules) == ["fc1", "norm", "act", "dropout_1", "drop", "dropout", "fc2"]


@pytest.mark.parametrize(("indices", "expected"), [([0, 2], [0, 2]), ([-1, 0], [3, 0]), ([1, 1], [1, 1]), ([3], [3])])
def test_layers_are_kept_in_the_order_given(indices, expected):
    model, example = models.residual()
    old = list(model.blocks)
    keep_layers(model, "blocks", indices, example=example)
    assert [torch.equal(new.weight, old[i].weight) for new, i in zip(model.blocks, expected, strict=True)] == [
        True
    ] * len(expected)
    assert list(model.blocks._modules) == [str(position) for position in range(len(expected))]


@pytest.mark.parametrize("given", [range(0, 4, 2), iter([0, 2]), torch.tensor([0, 2]), torch.tensor([0, 2]).numpy()])
def test_positions_may_come_in_any_sequence_of_integers(given):
    model, example = models.residual()
    assert keep_layers(model, "blocks", given, example=example).edits == ("kept 2 of 4 layers of blocks: 0, 2",)
    assert len(model.blocks) == 2


def test_the_count_beside_a_stack_follows():
    model, example = models.transformer()
    report = keep_layers(model, "layers", [0, 3], example=example)
    assert model.num_layers == 2
    assert report.repairs == ("num_layers beside layers: 4 -> 2",)


def test_an_output_projection_that_attention_reads_is_not_taken_for_dead():
    model, example = models.transformer()
    new = nn.Linear(16, 16)
    report = replace_layer(model, "layers.0.self_attn.out_proj", new, example=example, optimizer=None)
    assert not any("does not call it" in warning for warning in report.notes)
    assert report.outputs[0].difference > 0


def test_the_model_itself_can_be_the_stack():
    model, example = models.mlp()
    keep_layers(model, "", [0, -1], example=example)
    assert kinds(model) == ["Linear", "Linear"]


def test_truncation_goes_up_through_nested_sequentials_and_stops_at_attributes():
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model = nn.Sequential(OrderedDict(body=nn.Sequential(inner, nn.ReLU()), tail=nn.Linear(4, 1)))
    with surgery(model, example=torch.ones(1, 4)) as s:
        s.truncate("body.0.1")
    assert list(model._modules) == ["body"]
    assert kinds(model.body) == ["Sequential"]
    assert kinds(model.body[0]) == ["Linear", "ReLU"]
    assert s.report.outputs[0].after == "f32[1, 4]"


def test_weight_norm_survives_edits_around_it_and_can_be_replaced():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2))
    remove_layer(model, "1", example=torch.ones(1, 4))
    before = outputs(model, (torch.ones(1, 4),))[0]
    with pytest.raises(ValueError) as caught, surgery(model, example=torch.ones(1, 4)) as s:
        s.resize_head("0", 5)
    assert str(caught.value) == (
        "'0' has no plain weight (it is parametrized or packed) and cannot be resized; replace it"
    )
    assert torch.equal(outputs(model, (torch.ones(1, 4),))[0], before)
    replace_layer(model, "0", nn.Linear(4, 4), example=torch.ones(1, 4))
    assert list(model.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_a_tied_and_frozen_pair_stays_tied_and_frozen():
    model, example = models.tagger()
    model.embed.weight.requires_grad_(False)
    with surgery(model, example=example) as s:
        s.resize_embeddings(70)
    assert model.head.weight is model.embed.weight
    assert not model.embed.weight.requires_grad
    assert model.head.bias.requires_grad
    assert model.head.out_features == 70
    assert model.embed.padding_idx == 0
    assert not model.embed.weight[0].any()


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d])
def test_a_resized_head_keeps_its_first_rows(kind):
    head = nn.Linear(4, 3) if kind is nn.Linear else nn.Conv2d(4, 3, 1)
    x = torch.ones(2, 4) if kind is nn.Linear else torch.ones(2, 4, 5, 5)
    model = nn.Sequential(head)
    old, handle = [tensor.detach().clone() for tensor in head.parameters()], model[0]
    for count in (5, 2):
        with surgery(model, example=x) as s:
            s.resize_head("0", count)
        assert model[0] is handle
        for new, before in zip(head.parameters(), old, strict=True):
            kept = min(3, count)
            assert torch.equal(new[:kept], before[:kept])
        assert s.report.outputs[0].after.startswith(f"f32[2, {count}")
        assert s.report.resized_keys == ("0.weight", "0.bias")


def test_a_fill_that_fails_is_told_what_it_got():
    model = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(ValueError) as caught, surgery(model) as s:
        s.resize_head("0", 5, fill=nn.init.xavier_uniform_)
    assert caught.value.__notes__[0] == (
        "linkboy.surgery called fill with the new rows f32[2]; those of a bias have one dim"
    )
    assert model[0].out_features == 3


def test_edited_models_can_be_copied_pickled_and_trained():
    model, example = models.mlp()
    with surgery(model, example=example) as s:
        s.keep_layers("", [0, 1, 2, 2, 4, 5])
        s.wrap("0", lambda old: nn.Sequential(old, nn.Tanh()))
    value = outputs(model, example)[0]
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(outputs(twin, example)[0], value)
    model(*example).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_key_map_turns_an_old_checkpoint_into_one_of_the_edited_model():
    model, example = models.bert()
    old = {key: value.clone() for key, value in model.state_dict().items()}
    report = keep_layers(model, "encoder.layer", [3, 1, 1], example=example)
    value = outputs(model, example)[0]
    converted = report.convert(old)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.load_state_dict(converted, strict=True)
    assert torch.equal(outputs(model, example)[0], value)
    with pytest.raises(KeyError) as caught:
        report.convert({})
    assert caught.value.args[0].startswith("state_dict must come from the model before the edit, and lacks embeddings.")


def test_a_model_of_its_own_is_edited_in_place():
    model, example = models.residual()
    handle, kind = model, type(model)
    fc = model.fc
    remove_layer(model, "blocks.0", example=example)
    assert model is handle
    assert type(model) is kind
    assert model.fc is fc


def test_edits_of_one_transaction_see_each_other():
    model, example = models.mlp()
    with surgery(model, example=example) as s:
        s.remove("0")
        s.remove("0")
        s.insert_after("0", nn.LayerNorm(8))
        s.resize_head("-1", 2)
    assert kinds(model) == ["Linear", "LayerNorm", "Dropout", "ReLU", "Linear"]
    assert model[4].out_features == 2


def test_surgery_is_the_class_whichever_name_is_loaded_first():
    code = "from linkboy import remove_layer; import linkboy as lb; assert isinstance(lb.surgery, type), lb.surgery"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert not done.returncode, done.stderr


class Dropped(nn.Module):
    """Dropouts in a numbered stack, as an attribute, and inside what another match contains."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Dropout(), nn.Linear(4, 4), nn.Dropout(), nn.Dropout(), nn.ReLU())
        self.drop = nn.Dropout(0.2)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(self.drop(self.body(x)))


def test_a_pattern_and_a_kind_remove_every_dropout():
    model, x = Dropped().eval(), torch.randn(2, 4)
    expected = model(x)
    report = remove_layer(model, "*", kind="Dropout", example=x)
    assert kinds(model.body) == ["Linear", "ReLU"]
    assert isinstance(model.drop, nn.Identity)
    assert report.edits == (
        "removed body.0 (Dropout)", "removed body.2 (Dropout)", "removed body.3 (Dropout)", "removed drop (Dropout)",
    )  # fmt: skip
    assert torch.equal(model(x), expected)
    assert report.outputs[0].difference == 0


def test_a_function_replaces_every_match_of_several_names():
    model = Dropped().double()
    report = replace_layer(
        model, ["norm", "body.*"], lambda old: nn.GroupNorm(2, 4) if isinstance(old, nn.BatchNorm1d) else nn.Tanh(),
        example=torch.ones(2, 4).double(),
    )  # fmt: skip
    assert kinds(model.body) == ["Tanh"] * 5
    assert model.norm.weight.dtype is torch.float64
    assert len(report.edits) == 6


def test_a_module_below_another_match_is_removed_with_it():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2))
    assert remove_layer(model, "0*").edits == ("removed 0 (Sequential)",)
    assert kinds(model) == ["Linear"]


def test_a_function_that_raises_says_on_which_module_and_changes_nothing():
    model = Dropped()
    with pytest.raises(TypeError) as caught:
        replace_layer(model, "*", torch.relu, kind="Linear")
    assert caught.value.__notes__[0] == (
        "linkboy.surgery called module with the Linear at 'body.1'; it must return the new module"
    )
    assert kinds(model.body) == ["Dropout", "Linear", "Dropout", "Dropout", "ReLU"]


def test_a_pattern_removes_a_shared_module_from_all_its_positions():
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(2, 2), relu, nn.Dropout(), relu, nn.Linear(2, 2))
    report = remove_layer(model, ["*1", "2", "*3"], example=torch.ones(1, 2))
    assert kinds(model) == ["Linear", "Linear"]
    assert report.edits == ("removed 1 (ReLU)", "removed 2 (Dropout)", "removed 3 (ReLU)")


def test_a_pattern_passes_over_lazy_modules_of_another_kind():
    model = nn.Sequential(nn.LazyLinear(2), nn.Dropout())
    remove_layer(model, "*", kind="Dropout")
    assert kinds(model) == ["LazyLinear"]


def test_a_complex_output_is_compared():
    class Spectrum(nn.Sequential):
        def forward(self, x):
            return torch.fft.rfft(super().forward(x))

    report = remove_layer(Spectrum(nn.Linear(4, 4), nn.Tanh()), "1", example=torch.ones(1, 4))
    assert report.outputs[0].after == "c64[1, 3]"
    assert report.outputs[0].difference > 0


def test_equal_infinities_of_an_output_do_not_differ():
    class Masked(nn.Sequential):
        def forward(self, x):
            return super().forward(x).masked_fill(torch.tensor([True, False]), float("-inf"))

    report = remove_layer(Masked(nn.Linear(2, 2), nn.Identity()), "1", example=torch.ones(1, 2))
    assert report.outputs[0].difference == 0


def test_a_kind_without_dims_stands_for_all_of_them():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 1),
        nn.BatchNorm2d(4),
        nn.Dropout2d(),
        nn.Flatten(2),
        nn.BatchNorm1d(4),
        nn.Dropout(),
        nn.AlphaDropout(),
    )
    with surgery(model, example=torch.ones(2, 1, 2, 2)) as s:
        s.remove("*", kind="Dropout")
        s.replace("*", lambda old: nn.GroupNorm(2, old.num_features), kind="BatchNorm")
    assert [type(part).__name__ for part in model] == ["Conv2d", "GroupNorm", "Flatten", "GroupNorm"]
    with pytest.raises(TypeError, match="'0' is a Conv2d, not a Linear"):
        remove_layer(model, "0", kind="Linear")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.dropout = nn.Linear(2, 2), nn.Dropout()

    def forward(self, x):
        return self.dropout(self.linear(x))


def test_what_is_removed_is_settled_in_copies_and_not_reported_for_what_is_gone():
    model = nn.Sequential(*(Block() for _ in range(3)))
    with surgery(model, example=torch.ones(1, 2)) as s:
        s.remove("*", kind="Dropout")
        s.keep_layers("", [2, 0, 0])
    assert all(isinstance(block.dropout, nn.Identity) for block in model)
    assert sorted(line for line in s.report.repairs if "Identity" in line) == [
        f"{index}.dropout is an nn.Identity now: the forward calls it" for index in range(3)
    ]
