"""`count_parameters` on live models, held to `sum(p.numel() for p in model.parameters())` and to bytes worked out by hand."""

import copy
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

from linkboy.parameters import count_parameters


def oracle(model):
    return sum(p.numel() for p in model.parameters()), sum(p.numel() for p in model.parameters() if p.requires_grad)


def tied_model():
    model = nn.Sequential(nn.Embedding(1000, 64), nn.Linear(64, 1000, bias=False))
    model[1].weight = model[0].weight
    return model


class SharedModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 16)
        self.b = self.a


class UsedByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.b = nn.Linear(8, 16)

    def forward(self, x):
        return nn.functional.linear(x, self.b.weight)


class Lists(nn.Module):
    def __init__(self):
        super().__init__()
        self.items = nn.ParameterList([torch.zeros(3, 4), torch.zeros(5)])
        self.table = nn.ParameterDict({"u": torch.zeros(7), "v": torch.zeros(2, 2)})


def pruned():
    layer = nn.Linear(8, 16)
    prune.l1_unstructured(layer, "weight", amount=0.5)
    return layer


HARD = {
    "tied": (tied_model, 64_000),
    "shared module": (SharedModule, 144),
    "used as F.linear(x, self.b.weight)": (UsedByHand, 144),
    "lists and dicts": (Lists, 28),
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Linear(8, 15)), 150),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(8, 8)), 72),
    "pruned": (pruned, 144),
    "complex": (lambda: nn.Linear(8, 16, dtype=torch.complex64), 144),
    "meta": (lambda: nn.Linear(8, 8, device="meta"), 72),
    "attention": (lambda: nn.MultiheadAttention(8, 2), 4 * 64 + 4 * 8),
    "LSTM": (lambda: nn.LSTM(8, 4), 4 * 4 * (8 + 4) + 2 * 16),
    "empty": (nn.Sequential, 0),
    "one element": (lambda: nn.PReLU(), 1),
    "zero size": (lambda: nn.ParameterList([torch.zeros(0, 5)]), 0),
}


@pytest.mark.parametrize("name", HARD)
def test_hard_models_count_each_parameter_once(name):
    build, expected = HARD[name]
    model = build()
    count = count_parameters(model)
    assert (count.total, count.trainable) == oracle(model) == (expected, expected)
    assert count.logical == expected
    assert count.frozen == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_scripted_and_compiled_wrappers_count_like_the_module():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    scripted, compiled = torch.jit.script(model), torch.compile(model)
    assert count_parameters(scripted).total == count_parameters(compiled).total == count_parameters(model).total == 15
    assert count_parameters(scripted).buffer_count == 7
    assert count_parameters(nn.utils.weight_norm(nn.Linear(8, 15))).total == 150


def test_ties_list_every_name_and_aliases_of_shared_modules():
    assert count_parameters(tied_model()).tied == (("0.weight", "1.weight"),)
    assert count_parameters(SharedModule()).tied == (("a.weight", "b.weight"), ("a.bias", "b.bias"))
    model = tied_model()
    model.append(model[1])
    assert count_parameters(model).tied == (("0.weight", "1.weight", "2.weight"),)


def test_expanded_parameter_and_parameters_on_one_storage():
    expanded = nn.ParameterList([nn.Parameter(torch.zeros(1, 64).expand(100, 64))])
    count = count_parameters(expanded)
    assert (count.total, count.nbytes, count.unique_storage_nbytes) == (6400, 25_600, 256)
    base = torch.zeros(64)
    shared = nn.ParameterList([nn.Parameter(base[:32]), nn.Parameter(base[16:])])
    count = count_parameters(shared)
    assert (count.total, count.nbytes, count.unique_storage_nbytes) == (80, 320, 256)


def test_frozen_share_and_bytes_by_dtype():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).half()).requires_grad_(False)
    model[1].bias.requires_grad_(True)
    count = count_parameters(model, by="dtype")
    assert (count.total, count.trainable, count.frozen, count.nbytes) == (40, 4, 36, 120)
    assert [(row.name, row.parameter_count, row.trainable_count, row.nbytes) for row in count.rows] == [
        ("float32", 20, 0, 80),
        ("float16", 20, 4, 40),
    ]


def test_buffers_include_non_persistent_ones_and_pruning_masks():
    model = nn.BatchNorm1d(3)
    model.register_buffer("cache", torch.zeros(5, dtype=torch.float64), persistent=False)
    count = count_parameters(model)
    assert (count.buffer_count, count.buffer_nbytes) == (12, 12 + 12 + 8 + 40)
    assert count_parameters(pruned()).nonzero == 144 - 64
    assert count_parameters(nn.Linear(2, 2)).nonzero is None


def test_lazy_parameters_are_listed_and_make_the_total_a_lower_bound():
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2), nn.LazyBatchNorm1d())
    count = count_parameters(model, by="module")
    assert count.total == 10
    assert count.uninitialized == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert str(count).startswith("Sequential: at least 10 parameters")
    assert count.notes == ("not yet materialised, so the total is a lower bound: 0.weight, 0.bias, 2.weight, 2.bias",)
    model(torch.zeros(2, 3))
    count = count_parameters(model)
    assert (count.total, count.uninitialized, count.notes) == (oracle(model)[0], (), ())


@pytest.mark.filterwarnings("ignore")
def test_dynamically_quantised_weights_are_found_though_parameters_hides_them(monkeypatch):
    monkeypatch.setattr(torch.backends.quantized, "engine", torch.backends.quantized.supported_engines[-1])
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(256, 256)), {nn.Linear}, dtype=torch.qint8)
    count = count_parameters(model)
    assert (count.total, count.logical, count.nbytes) == (0, 65_792, 65_536 + 256 * 4)
    assert count.notes == ("65,792 weights, quantised or of a frozen script, are outside model.parameters()",)
    lstm = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.LSTM(8, 8)), {nn.LSTM}, dtype=torch.qint8)
    assert count_parameters(lstm).logical == sum(p.numel() for p in nn.LSTM(8, 8).parameters())


def test_bitsandbytes_style_packed_weight_counts_logically_with_its_scales():
    class State:
        shape = torch.Size((256, 256))
        absmax, code, offset, state2 = torch.zeros(1024), torch.zeros(16), None, None

    class Packed(nn.Parameter):
        pass

    packed = Packed(torch.zeros(32_768, 1, dtype=torch.uint8), requires_grad=False)
    packed.quant_state = State()
    count = count_parameters(nn.ParameterList([packed]))
    assert (count.total, count.logical, count.nbytes) == (32_768, 65_536, 32_768 + 4096 + 64)


def test_bitsandbytes_linear4bit():
    bnb = pytest.importorskip("bitsandbytes", exc_type=ImportError)
    layer = bnb.nn.Linear4bit(256, 256, bias=False, quant_type="nf4").to("cpu")
    count = count_parameters(layer)
    state = layer.weight.quant_state
    if state is None:
        pytest.skip("this bitsandbytes does not pack on a CPU")
    assert (count.total, count.logical) == (32_768, 65_536)
    assert count.nbytes >= 32_768 + state.absmax.nbytes


@pytest.mark.filterwarnings("ignore")
def test_torchao_int8_weight_only_takes_what_its_inner_tensors_take():
    quantization = pytest.importorskip("torchao.quantization", exc_type=ImportError)
    model = nn.Sequential(nn.Linear(256, 256, bias=False, dtype=torch.bfloat16))
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    count = count_parameters(model)
    assert (count.total, count.logical) == (65_536, 65_536)
    assert 65_536 < count.nbytes <= 65_536 + 256 * 16


def test_sparse_parameter_takes_its_indices_and_values():
    model = nn.ParameterList([nn.Parameter(torch.eye(10).to_sparse())])
    count = count_parameters(model)
    assert (count.total, count.nbytes) == (100, 2 * 10 * 8 + 10 * 4)


@pytest.mark.filterwarnings("ignore")
def test_dtensor_shows_local_and_global():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=0, world_size=4, store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", (4,))
        weight = distribute_tensor(torch.zeros(512, 256), mesh, [Shard(0)])
        model = nn.ParameterList(
            [nn.Parameter(weight), nn.Parameter(distribute_tensor(torch.zeros(512), mesh, [Shard(0)]))]
        )
        count = count_parameters(model)
    finally:
        torch.distributed.destroy_process_group()
    assert (count.total, count.sharded, count.nbytes) == (131_584, (32_896, 131_584), 32_896 * 4)
    assert "sharded: 32,896 of 131,584 on this process" in str(count)


def test_a_module_that_contains_itself_ends():
    model = nn.Linear(2, 2)
    model.again = model
    assert count_parameters(model).total == 6


@st.composite
def module_trees(draw):
    """Random trees with shared modules, tied weights, frozen parameters and buffers."""
    made = [
        nn.Linear(2, 3),
        nn.Embedding(3, 2),
        nn.BatchNorm1d(2),
        nn.LayerNorm((2, 2)),
        nn.ParameterList([torch.ones(2)]),
    ]
    for _ in range(draw(st.integers(0, 6))):
        children = draw(st.lists(st.sampled_from(made), max_size=4))
        made.append(nn.Sequential(*[copy.deepcopy(c) if draw(st.booleans()) else c for c in children]))
    model = made[-1]
    parameters = list(model.parameters())
    if parameters:
        draw(st.sampled_from(parameters)).requires_grad_(False)
    if draw(st.booleans()):
        model.register_parameter("alias", parameters[0] if parameters else None)
    return model


@settings(max_examples=60, deadline=None)
@given(module_trees())
def test_random_trees_agree_with_torch(model):
    count = count_parameters(model, by="module")
    assert (count.total, count.trainable) == oracle(model)
    assert sum(row.parameter_count for row in count.rows) == count.total
    assert count.buffer_count == sum(b.numel() for b in model.buffers())
    names = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    assert count.tied == tuple(tuple(aliases) for aliases in names.values() if len(aliases) > 1)
    assert count.nbytes == sum(p.nbytes for p in model.parameters())
    assert count.to_dict()["total"] == count.total


def test_printed_table_shows_shapes_trainable_and_total():
    model = nn.Sequential(nn.Embedding(1000, 64), nn.LSTM(64, 32), nn.Linear(32, 10))
    model[0].requires_grad_(False)
    assert str(count_parameters(model, by="module")) == (
        "Sequential: 76,874 parameters, 12,874 trainable, 64,000 frozen, 300.3 KiB\n\n"
        "module  type       shapes                        parameters  trainable       size\n"
        "0       Embedding  1000 x 64                         64,000  no         250.0 KiB\n"
        "1       LSTM       128 x 64, 128 x 32, 128, 128      12,544  yes         49.0 KiB\n"
        "2       Linear     10 x 32, 10                          330  yes          1.3 KiB\n"
        "total                                                76,874  12,874     300.3 KiB"
    )


def test_messages():
    with pytest.raises(TypeError) as caught:
        count_parameters(3)
    assert str(caught.value) == "model must be an nn.Module or the path of a checkpoint, got int"
    with pytest.raises(ValueError) as caught:
        count_parameters(nn.Linear(2, 2), by="modul")
    assert str(caught.value) == "by must be one of ('module', 'dtype'), got 'modul'; did you mean 'module'?"


def test_counting_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        count_parameters(tied_model(), by="dtype")
