"""Every tensor of a model is found once, with every name it has; norms and wrappers are told from other modules."""

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from linkboy._walk import (
    first_lazy,
    is_norm,
    keeps_statistics,
    named_tensors,
    unwrapped,
    walk,
    weight_key,
    wrapped_under,
)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.table.weight
        self.again = self.head
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("scratch", torch.zeros(2), persistent=False)
        self.register_buffer("nothing", None)
        self.nobody = None
        self.register_parameter("none", None)


def test_names_and_order_are_those_of_torch_with_each_tensor_once():
    model = Tied()
    found = named_tensors(model)
    assert [t.name for t in found if t.is_parameter] == [name for name, _ in model.named_parameters()]
    assert [t.name for t in found if not t.is_parameter] == [name for name, _ in model.named_buffers()]
    every = {name: id(t.tensor) for t in found for name in t.names}
    torchs = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    assert every == {name: id(tensor) for name, tensor in torchs}
    assert found[1].names == ("table.weight", "head.weight", "again.weight")
    assert [owner for _, owner, _ in found[1].places] == [model.table, model.head, model.head]
    assert walk(model)[0] == list(model.named_modules(remove_duplicate=False))


def test_what_the_state_dict_leaves_out_is_not_persistent():
    model = Tied()
    found = named_tensors(model)
    assert {name for t in found if t.is_persistent for name in t.names} == set(model.state_dict())
    assert not next(t for t in found if t.name == "scratch").is_persistent


def test_a_module_that_contains_itself_ends_the_walk():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].parent = model
    modules, tensors = walk(model)
    assert [path for path, _ in modules] == ["", "0"]
    assert [t.names for t in tensors] == [("0.weight",), ("0.bias",)]


def test_a_lazy_tensor_is_named_until_its_first_batch():
    model = nn.Sequential(nn.Linear(2, 2), nn.LazyBatchNorm1d())
    assert first_lazy(model) == "1.weight"
    model(torch.zeros(3, 2))
    assert first_lazy(model) is None


def of_class(name: str) -> nn.Module:
    return type(name, (nn.Module,), {})()


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.RMSNorm(2), True),
        (nn.GroupNorm(1, 2), True),
        (nn.InstanceNorm2d(2), True),
        (nn.SyncBatchNorm(2), True),
        (nn.LazyBatchNorm2d(), True),
        (of_class("Qwen3NextRMSNormGated"), True),
        (of_class("LayerNorm2d"), True),
        (of_class("SEWLayerNormConvLayer"), False),
        (of_class("NormedEmbedding"), False),
        (nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), False),
        (nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)).parametrizations.weight[0], False),
        (nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2)).parametrizations.weight[0], False),
    ],
)
def test_norms_are_told_by_class_or_by_its_name(module, expected):
    assert is_norm(module) == expected


def test_statistics_are_kept_only_where_they_are_tracked():
    assert [keeps_statistics(module) for module in (nn.BatchNorm2d(2), nn.InstanceNorm1d(2), nn.LayerNorm(2))] == [
        True, False, False,
    ]  # fmt: skip


def test_an_original_belongs_to_the_weight_it_computes():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    assert {t.name: weight_key(t.places[0]) for t in named_tensors(model)} == {
        "0.bias": "bias",
        "0.parametrizations.weight.original0": "weight",
        "0.parametrizations.weight.original1": "weight",
    }


def test_wrappers_are_taken_off_one_after_the_other():
    model = nn.Linear(2, 2)
    compiled = torch.compile(model, backend="eager")
    assert unwrapped(nn.DataParallel(compiled)) is model
    assert unwrapped(checkpoint_wrapper(model)) is model
    assert wrapped_under(compiled) == "_orig_mod"
    assert unwrapped(len) is len
    assert unwrapped(of_class("DataParallel")).__class__.__name__ == "DataParallel", "one that holds no module stays"
