"""`param_groups`: each trainable parameter once, norms found by type, layers by the model's own numbering."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from linkboy.parameters import freeze, param_groups

sys.path.insert(0, str(Path(__file__).parent))
import zoo


def spared(model, **options):
    groups = param_groups(model, weight_decay=0.1, **options)
    return {name for group in groups for name in group["param_names"] if group["weight_decay"] == 0}


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5", "vit", "resnet", "mamba", "whisper"])
def test_every_norm_and_bias_of_real_architectures_is_spared(name):
    model, _ = zoo.ARCHITECTURES[name]()
    found = spared(model)
    for path, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            full = f"{path}.{key}"
            if "norm" in type(module).__name__.lower() or "bias" in key or parameter.dim() < 2:
                assert full in found or full.endswith("decoder.bias"), full
            else:
                assert full not in found


def test_the_copied_name_list_misses_every_norm_of_llama():
    model, _ = zoo.ARCHITECTURES["llama"]()
    copied = {n for n, _ in model.named_parameters() if any(word in n for word in ["bias", "LayerNorm.weight"])}
    assert copied == set()
    assert len(spared(model)) == 5


def test_norms_with_several_dimensions_biases_of_attention_and_parametrised_weights():
    model = nn.Sequential(
        nn.LayerNorm((4, 4)),
        nn.MultiheadAttention(4, 2, add_bias_kv=True),
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(2, 2, 3)),
        nn.Embedding(5, 4),
    )
    found = spared(model)
    assert {"0.weight", "0.bias", "1.bias_k", "1.bias_v", "1.in_proj_bias", "2.bias", "3.bias"} <= found
    assert not {n for n in found if "original" in n}
    assert "4.weight" not in found
    assert "4.weight" in spared(model, no_decay="norm_bias_and_embedding")
    assert spared(model, no_decay="nothing") == set()


def test_layer_decay_runs_from_the_embeddings_to_the_head():
    model, _ = zoo.ARCHITECTURES["bert"]()
    groups = param_groups(model, weight_decay=0.1, layer_decay=0.5, lr=1.0)
    rate = {name: group["lr"] for group in groups for name in group["param_names"]}
    assert rate["bert.embeddings.word_embeddings.weight"] == 0.125
    assert rate["bert.embeddings.LayerNorm.bias"] == 0.125
    assert rate["bert.encoder.layer.0.output.dense.weight"] == 0.25
    assert rate["bert.encoder.layer.1.output.dense.weight"] == 0.5
    assert rate["cls.predictions.transform.dense.weight"] == 1.0
    assert len(groups) == 8


def test_what_lies_between_two_stacks_learns_like_the_layer_before_it():
    model, _ = zoo.ARCHITECTURES["t5"]()
    groups = param_groups(model, weight_decay=0.1, layer_decay=0.5, lr=1.0)
    rate = {name: group["lr"] for group in groups for name in group["param_names"]}
    last = max(int(name.split(".")[2]) for name in rate if name.startswith("encoder.block."))
    assert rate["encoder.final_layer_norm.weight"] == rate[f"encoder.block.{last}.layer.0.layer_norm.weight"] < 0.5
    assert rate["decoder.final_layer_norm.weight"] == 1.0


def all_parameters_once(model, groups):
    ids = [id(p) for group in groups for p in group["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in model.parameters() if p.requires_grad}


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_each_trainable_parameter_is_in_exactly_one_group(data):
    parts = [
        lambda: nn.Linear(2, 2), lambda: nn.LayerNorm(2), lambda: nn.Embedding(3, 2), lambda: nn.Conv1d(2, 2, 1),
        lambda: nn.ParameterList([torch.zeros(3)]), lambda: nn.Sequential(nn.GRU(2, 2), nn.GroupNorm(1, 2)),
    ]  # fmt: skip
    made = [data.draw(st.sampled_from(parts))() for _ in range(data.draw(st.integers(1, 5)))]
    made += data.draw(st.lists(st.sampled_from(made), max_size=2))
    model = nn.ModuleDict({"front": nn.Linear(2, 2), "layers": nn.ModuleList(made)})
    for parameter in data.draw(st.lists(st.sampled_from(list(model.parameters())), max_size=3)):
        parameter.requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        return
    decay = data.draw(st.sampled_from([None, 0.9]))
    all_parameters_once(model, param_groups(model, weight_decay=0.1, layer_decay=decay, lr=1e-3))


def test_torch_optimizers_take_the_groups_and_keep_the_names():
    model, _ = zoo.ARCHITECTURES["lstm"]()
    groups = param_groups(model, weight_decay=0.1)
    for kind in (torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad):
        optimizer = kind(param_groups(model, weight_decay=0.1), lr=0.1)
        assert optimizer.state_dict()["param_groups"][0]["param_names"] == groups[0]["param_names"]


def test_frozen_parameters_are_in_no_group():
    model, _ = zoo.ARCHITECTURES["bert"]()
    freeze(model, "bert.*")
    groups = param_groups(model, weight_decay=0.1)
    assert all(not name.startswith("bert.") for group in groups for name in group["param_names"])
    all_parameters_once(model, groups)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (nn.Linear(2, 2), {"layer_decay": 0.5}, "layer_decay needs lr, the learning rate of the head, got None"),
        (
            nn.Linear(2, 2),
            {"layer_decay": 0.5, "lr": 0.1},
            "layer_decay found no numbered layers (such as 'layers.0', 'layer.0', 'h.0' or 'blocks.0') in the names of "
            "the model",
        ),
        (nn.ReLU(), {}, "the model has no trainable parameter to group"),
        (
            nn.LazyLinear(2),
            {},
            "parameter 'weight' has no shape yet: run one batch through the model first",
        ),
        (
            nn.Linear(2, 2),
            {"layer_decay": 1.5, "lr": 0.1},
            "layer_decay must be a number above 0 and of at most 1, got 1.5",
        ),
        (
            nn.Linear(2, 2),
            {"no_decay": "norm"},
            "no_decay must be one of ('norm_and_bias', 'norm_bias_and_embedding', 'nothing'), got 'norm'",
        ),
    ],
)
def test_messages(model, options, message):
    with pytest.raises(ValueError) as caught:
        param_groups(model, weight_decay=0.1, **options)
    assert str(caught.value) == message
    with pytest.raises(ValueError) as caught:
        param_groups(model, weight_decay=-1.0)
    assert str(caught.value) == "weight_decay must be a number of at least 0, got -1.0"
