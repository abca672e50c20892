"""`initialize`: every parameter matched, skipped or listed; fans that hold the scale; all or nothing."""

import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from linkboy.init import Rule, gpt2, initialize, kaiming, orthogonal, trunc_normal, xavier


class Capsule(nn.Module):
    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(torch.randn(1, 20, 10, 16, 10))


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, 7, 8))


def tied():
    model = nn.ModuleDict({"embed": nn.Embedding(50, 8, padding_idx=3), "head": nn.Linear(8, 50, bias=False)})
    model["head"].weight = model["embed"].weight
    return model


@pytest.fixture
def zoo():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        legacy = nn.utils.weight_norm(nn.Linear(6, 5))
    return nn.ModuleDict({
        "conv1": nn.Conv1d(4, 8, 3), "conv2": nn.Conv2d(4, 8, 3, groups=2), "conv3": nn.Conv3d(2, 4, 3),
        "up": nn.ConvTranspose2d(8, 4, 4, stride=2), "linear": nn.Linear(8, 4), "bilinear": nn.Bilinear(3, 4, 5),
        "batch": nn.BatchNorm2d(4), "plain": nn.BatchNorm2d(4, affine=False), "group": nn.GroupNorm(2, 4),
        "layer": nn.LayerNorm((4, 4)), "tied": tied(), "lstm": nn.LSTM(4, 6, proj_size=3), "gru": nn.GRU(4, 6),
        "cell": nn.LSTMCell(4, 6), "fused": nn.MultiheadAttention(8, 2),
        "apart": nn.MultiheadAttention(8, 2, kdim=4, vdim=6, add_bias_kv=True), "capsule": Capsule(),
        "positions": Positions(), "list": nn.ParameterList([torch.zeros(3), torch.zeros(2, 2)]),
        "weight_norm": parametrizations.weight_norm(nn.Linear(6, 5)),
        "orthogonal": parametrizations.orthogonal(nn.Linear(6, 6)),
        "spectral": parametrizations.spectral_norm(nn.Linear(6, 5)), "legacy": legacy, "slope": nn.PReLU(),
    })  # fmt: skip


OTHER = {"apart.bias_k", "apart.bias_v", "capsule.W", "positions.positions", "list.0", "list.1"}


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "preset", [xavier, kaiming, orthogonal, trunc_normal, lambda: gpt2(layers=1, residual="*.out_proj.weight")]
)
def test_every_parameter_of_the_zoo_is_matched_or_listed(zoo, preset):
    report = initialize(zoo, preset(), on_unmatched="keep")
    assert set(report.unmatched) == OTHER
    reached = {name for row in report.rows for name in row.names} | OTHER
    for name, _ in zoo.named_parameters(remove_duplicate=False):
        computed = name.replace("parametrizations.", "").replace("legacy.weight_g", "legacy.weight")
        computed = computed.replace("legacy.weight_v", "legacy.weight").partition(".original")[0]
        assert computed in reached, name
    assert len({row.name for row in report.rows}) == len(report.rows)


def test_unmatched_warns_or_raises_before_anything_is_written(zoo):
    before = state(zoo)
    with pytest.raises(ValueError) as caught:
        initialize(zoo, xavier(), on_unmatched="raise")
    assert str(caught.value) == (
        "no rule matches apart.bias_k, apart.bias_v, capsule.W, positions.positions, list.0, list.1; add a rule, or name "
        "them in skip"
    )
    assert same(before, state(zoo))
    with pytest.warns(UserWarning, match="no rule matches") as warned:
        initialize(zoo, xavier())
    assert str(warned[0].message) == (
        "no rule matches apart.bias_k, apart.bias_v, capsule.W, positions.positions, list.0, list.1; they stay unchanged"
    )
    report = initialize(
        zoo, xavier(), skip=["apart.bias_?", "capsule.*", "positions.*", "list.*"], on_unmatched="raise"
    )
    assert set(report.skipped) == OTHER


def test_where_the_snippet_is_right_the_bits_are_the_same():
    def build():
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 4))

    ours, theirs = build(), build()
    torch.manual_seed(2)
    for module in theirs.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 1)
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.constant_(module.bias, 0)
    torch.manual_seed(2)
    rules = [
        Rule(nn.Conv2d, "weight", nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu"),
        Rule(nn.BatchNorm2d, "weight", 1),
        Rule(nn.Linear, "weight", nn.init.xavier_uniform_),
        Rule(nn.Linear, "bias", 0),
    ]
    report = initialize(ours, rules, on_unmatched="keep")
    assert same(state(ours), state(theirs))
    assert report.unmatched == ("0.bias", "1.bias")


LAYERS = {
    "Linear": (lambda: nn.Linear(256, 256, bias=False), (512, 256)),
    "Conv1d": (lambda: nn.Conv1d(64, 64, 3, bias=False), (16, 64, 64)),
    "Conv2d": (lambda: nn.Conv2d(32, 64, 3, bias=False), (8, 32, 24, 24)),
    "Conv3d": (lambda: nn.Conv3d(16, 64, 3, bias=False), (4, 16, 12, 12, 12)),
    "grouped": (lambda: nn.Conv2d(64, 64, 3, groups=4, bias=False), (8, 64, 24, 24)),
    "depthwise": (lambda: nn.Conv2d(256, 256, 5, groups=256, bias=False), (8, 256, 20, 20)),
    "up, stride 1": (lambda: nn.ConvTranspose2d(64, 32, 4, bias=False), (8, 64, 16, 16)),
    "up, stride 2": (lambda: nn.ConvTranspose2d(64, 32, 4, stride=2, bias=False), (8, 64, 16, 16)),
    "up, stride 2, kernel 3": (lambda: nn.ConvTranspose2d(64, 64, 3, stride=2, bias=False), (8, 64, 16, 16)),
    "up, stride 3, groups": (lambda: nn.ConvTranspose2d(64, 64, 5, stride=3, groups=4, bias=False), (8, 64, 16, 16)),
    "Bilinear": (lambda: nn.Bilinear(32, 32, 64, bias=False), (2048, 32)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_kaiming_keeps_the_scale_of_noise_within_three_percent(name):
    build, shape = LAYERS[name]
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        layer = build()
        initialize(layer, kaiming(nonlinearity="linear"))
        inputs = [torch.randn(shape)] + ([torch.randn(shape)] if name == "Bilinear" else [])
        out = layer(*inputs).detach()
        if name.startswith("up"):
            out = out[..., 6:-6, 6:-6]  # less of the kernel reaches the border
        found.append(out.std().item())
    assert abs(sum(found) / 3 - 1) < 0.03


def test_fused_matrices_get_the_scale_of_one():
    attention = nn.MultiheadAttention(512, 8)
    initialize(attention, xavier(uniform=False))
    for part in attention.in_proj_weight.chunk(3):
        assert abs(part.std().item() - (2 / 1024) ** 0.5) < 0.001  # torch's fans give .0312
    lstm = nn.LSTM(256, 256)
    report = initialize(lstm, xavier(uniform=False))
    assert {row.fan for row in report.rows if "weight" in row.name} == {(256.0, 256.0)}
    for gate in lstm.weight_hh_l0.chunk(4):
        assert abs(gate.std().item() - (1 / 256) ** 0.5) < 0.002
    initialize(lstm, orthogonal())
    for gate in lstm.weight_ih_l0.chunk(4):
        assert torch.allclose(gate @ gate.T, torch.eye(256), atol=1e-4)
    gru = nn.GRU(8, 8)
    assert initialize(gru, xavier()).rows[0].fan == (8.0, 8.0)


def test_capsule_weight_with_its_true_fan():
    model = Capsule()
    report = initialize(model, Rule("W", init=nn.init.xavier_normal_, fan=(10, 16)))
    assert report.rows[0].fan == (10.0, 16.0)
    assert abs(model.W.std().item() - (2 / 26) ** 0.5) < 0.005
    initialize(model, Rule("W", init=nn.init.kaiming_normal_, fan=lambda m, t: (10, 16), nonlinearity="linear"))
    assert abs(model.W.std().item() - 10**-0.5) < 0.005


def test_transformers_conv1d_is_read_the_right_way_round():
    from transformers.pytorch_utils import Conv1D

    layer = Conv1D(400, 100)
    report = initialize(layer, kaiming(nonlinearity="linear"))
    assert report.rows[0].fan == (100.0, 400.0)
    assert abs(layer(torch.randn(500, 100)).std().item() - 1) < 0.03


def test_first_rule_wins_and_unused_ones_are_named():
    layer = nn.Linear(3, 2)
    report = initialize(layer, [Rule("weight", init=1), Rule(nn.Linear, "weight", 2), Rule("*", init=3)])
    assert (layer.weight == 1).all()
    assert (layer.bias == 3).all()
    assert report.unused_rules == ("Rule(Linear, 'weight', 2)",)


def test_a_tied_tensor_is_filled_once_and_its_padding_row_stays_zero():
    torch.manual_seed(0)
    model = tied()
    rules = [Rule("embed.weight", init=nn.init.normal_, std=0.02), Rule(nn.Linear, "weight", nn.init.xavier_uniform_)]
    report = initialize(model, rules)
    (row,) = report.rows
    assert row.names == ("embed.weight", "head.weight")
    assert abs(model["head"].weight.std().item() - 0.02) < 0.002
    assert (model["embed"].weight[3] == 0).all()
    assert "; ".join(row.notes) == (
        "padding row kept at zero; tied: Rule(Linear, 'weight', xavier_uniform_) matches too and was not used"
    )


def test_parametrised_weights_become_what_was_asked_or_the_report_says_by_how_much_not(zoo):
    value = torch.randn(5, 6)
    report = initialize(zoo, [Rule("weight_norm.weight", init=lambda t: t.copy_(value))], on_unmatched="keep")
    assert torch.allclose(zoo["weight_norm"].weight, value, atol=1e-6)
    assert report.rows[0].notes == ()
    initialize(zoo, [Rule("legacy.weight", init=lambda t: t.copy_(value))], on_unmatched="keep")
    zoo["legacy"](torch.zeros(1, 6))
    assert torch.allclose(zoo["legacy"].weight, value, atol=1e-6)
    initialize(zoo, [Rule("orthogonal.weight", init=nn.init.orthogonal_)], on_unmatched="keep")
    weight = zoo["orthogonal"].weight
    assert torch.allclose(weight @ weight.T, torch.eye(6), atol=1e-5)
    report = initialize(zoo, [Rule("orthogonal.weight", init=nn.init.normal_)], on_unmatched="keep")
    assert report.rows[0].notes[0].startswith("its parametrisation made something else of it, up to ")
    report = initialize(zoo, [Rule("spectral.weight", init=nn.init.normal_)], on_unmatched="keep")
    assert report.rows[0].notes[0].startswith("its parametrisation made something else of it, up to ")


def test_reading_a_spectral_weight_makes_no_power_iteration():
    layer = parametrizations.spectral_norm(nn.Linear(6, 5))
    before = state(layer)
    with pytest.raises(ValueError):
        initialize(layer, Rule("weight", init=0), on_unmatched="raise")
    assert same(before, state(layer))


def test_a_weight_whose_parametrisation_cannot_be_set_is_listed():
    class Positive(nn.Module):
        def forward(self, x):
            return x.exp()

    layer = nn.Linear(2, 2)
    nn.utils.parametrize.register_parametrization(layer, "weight", Positive())
    assert initialize(layer, Rule("*", init=1), on_unmatched="keep").unmatched == ("weight",)


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_an_initialiser_that_raises_half_way_leaves_every_bit(zoo, error):
    def fails(tensor):
        tensor.zero_()
        raise error

    before = state(zoo)
    rules = [Rule("positions.positions", init=fails), *xavier()]
    with pytest.raises(type(error)):
        initialize(zoo, rules, on_unmatched="keep")
    assert same(before, state(zoo))


def test_a_seed_in_place_of_a_generator_is_refused(zoo):
    before = state(zoo)
    with pytest.raises(TypeError) as caught:
        initialize(zoo, kaiming(), generator=3)
    assert str(caught.value) == "generator must be a torch.Generator, got 3; pass torch.Generator().manual_seed(3)"
    assert same(before, state(zoo))


def test_an_initialiser_may_return_a_new_tensor_of_the_right_shape():
    layer = nn.Linear(2, 2)
    initialize(layer, [Rule("weight", init=lambda t: torch.full((2, 2), 7.0)), Rule("bias", init=0)])
    assert (layer.weight == 7).all()
    with pytest.raises(ValueError) as caught:
        initialize(layer, [Rule("*", init=lambda t: torch.zeros(3))])
    assert str(caught.value) == (
        "<lambda> must fill the tensor it is given, (2, 2) for 'weight', but returned a new one of shape (3,)"
    )
    assert (layer.weight == 7).all()


def test_identity_flags_gradients_and_optimizer_links_stay():
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    layer.weight.grad = torch.ones(2, 3)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    ids = [id(p) for p in layer.parameters()]
    initialize(layer, Rule("*", init=0))
    assert [id(p) for p in layer.parameters()] == ids
    assert [p.requires_grad for p in layer.parameters()] == [True, False]
    optimizer.step()
    assert (layer.weight == -1).all()
    assert layer.bias.grad is None


def test_a_seed_fixes_the_values_whatever_else_is_in_the_model():
    def value(model, seed=5):
        initialize(model, xavier(), generator=torch.Generator().manual_seed(seed), on_unmatched="keep")
        return model["target"].weight.detach().clone()

    plain = nn.ModuleDict({"target": nn.Linear(4, 4)})
    more = nn.ModuleDict({"before": nn.Linear(9, 9), "target": nn.Linear(4, 4)})
    torch.manual_seed(0)
    state_before = torch.get_rng_state()
    assert torch.equal(value(plain), value(more))
    assert not torch.equal(value(plain), value(plain, seed=6))
    assert torch.equal(torch.get_rng_state(), state_before)
    rule = Rule("*", init=lambda t: t.uniform_())  # knows only the global generator
    seeds = [torch.Generator().manual_seed(1) for _ in range(2)]
    first, second = (initialize(plain, rule, generator=seed) and state(plain) for seed in seeds)
    assert same(first, second)


@pytest.mark.slow
def test_a_seed_gives_the_same_weights_in_another_process():
    code = (
        "import torch; from torch import nn; from linkboy import initialize; from linkboy.init import xavier;"
        "m = nn.Linear(3, 3); initialize(m, xavier(), generator=torch.Generator().manual_seed(3));"
        "print(m.weight.double().sum().item())"
    )
    values = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in "ab"
    }
    assert len(values) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_precision_is_drawn_in_single_and_rounded(dtype):
    wide, narrow = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False, dtype=dtype)
    for layer in (wide, narrow):
        torch.manual_seed(0)
        initialize(layer, xavier())
    assert narrow.weight.dtype == dtype
    if dtype != torch.float64:
        assert torch.equal(narrow.weight, wide.weight.to(dtype))


def test_non_contiguous_parameters_and_empty_ones():
    layer = nn.Linear(4, 6, bias=False)
    layer.weight = nn.Parameter(torch.zeros(4, 6).t())
    initialize(layer, xavier())
    assert layer.weight.std() > 0
    assert not layer.weight.is_contiguous()
    layer.weight = nn.Parameter(torch.zeros(6, 0))
    assert initialize(layer, xavier()).rows[0].notes == ("empty",)


def test_truncated_normal_is_truncated_and_keeps_its_deviation():
    layer = nn.Linear(1000, 1000)
    initialize(layer, trunc_normal(std=0.02))
    assert abs(layer.weight.std().item() - 0.02) < 1e-4
    assert layer.weight.abs().max() < 0.0456
    torch.manual_seed(0)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    assert layer.weight.abs().max() > 4 * 0.02  # the trap: torch's bounds are absolute
    initialize(layer, [Rule("weight", init=nn.init.trunc_normal_, std=0.02), Rule("bias", init=0)])
    assert layer.weight.abs().max() > 4 * 0.02


def test_depth_scaling_reaches_the_residual_projections_only():
    import transformers as hf

    model = hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=64, n_layer=8, n_head=2, vocab_size=100, n_positions=16))
    report = initialize(model, gpt2(layers=8), on_unmatched="raise")
    found = {row.name: row.std_after for row in report.rows}
    assert abs(found["transformer.h.3.attn.c_proj.weight"] - 0.005) < 3e-4
    assert abs(found["transformer.h.3.attn.c_attn.weight"] - 0.02) < 1e-3
    assert abs(found["transformer.wte.weight"] - 0.02) < 1e-3


@pytest.mark.parametrize("name", ["BertModel", "ViTModel", "ResNetModel"])
def test_real_architectures_leave_only_positions_and_tokens_unmatched(name):
    import transformers as hf

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    configs = {
        "BertModel": lambda: hf.BertConfig(**small, vocab_size=50), "ViTModel": lambda: hf.ViTConfig(**small),
        "ResNetModel": lambda: hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1]),
    }  # fmt: skip
    model = getattr(hf, name)(configs[name]())
    report = initialize(model, xavier(), on_unmatched="keep")
    left = {"ViTModel": {"embeddings.cls_token", "embeddings.position_embeddings"}}
    assert set(report.unmatched) == left.get(name, set())


class Picky(nn.Module):
    """A model that cannot run once its bias is 1."""

    def __init__(self, device=None):
        super().__init__()
        self.layer = nn.Linear(2, 2, device=device)

    def forward(self, x):
        if (self.layer.bias == 1).all():
            raise RuntimeError("the bias is 1")
        return self.layer(x)


def test_an_audit_that_fails_after_the_writes_leaves_every_bit():
    model = Picky()
    before = state(model)
    with pytest.raises(RuntimeError, match="the bias is 1"):
        initialize(model, Rule("*", init=1), audit=torch.ones(1, 2))
    assert same(before, state(model))


def test_an_audit_that_fails_gives_the_meta_model_back():
    model = Picky(device="meta")
    parameters = list(model.parameters())
    with pytest.raises(RuntimeError):
        initialize(model, Rule("*", init=0), audit=torch.ones(1, 3))
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))


@pytest.mark.filterwarnings("error")
def test_a_warning_turned_into_an_error_comes_before_the_first_write():
    for device in ("cpu", "meta"):
        model = nn.Linear(2, 2, device=device)
        before = state(model)
        with pytest.raises(UserWarning, match="no rule matches bias"):
            initialize(model, Rule("weight", init=7))
        assert model.weight.device.type == device
        assert device == "meta" or same(before, state(model))


def test_a_rollback_gives_the_computed_weight_of_legacy_weight_norm_back():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 2)))
    before, weight = state(model), model[0].weight
    value = weight.detach().clone()
    with pytest.raises(RuntimeError):
        initialize(model, [Rule("0.weight", init=3), Rule("0.bias", init=_raises)])
    assert same(before, state(model))
    assert model[0].weight is weight
    assert torch.equal(weight, value)


# Models on the meta device.


def test_what_is_said_of_unmatched_and_skipped_tensors_of_a_meta_model_is_true():
    model = nn.Sequential(nn.Linear(2, 2, device="meta"), nn.BatchNorm1d(2, device="meta"))
    with pytest.warns(UserWarning, match="no rule") as warned:
        report = initialize(model, Rule("0.weight", init=0), skip="1.*")
    assert str(warned[0].message) == (
        "no rule matches 0.bias; those on the meta device are filled by their layers' own reset"
    )
    assert report.reset == ("0.bias", "1.weight", "1.bias")
    assert [line for line in str(report).splitlines() if line.startswith(("unmatched", "skipped"))] == [
        "unmatched, filled by their layers' own reset: 0.bias",
        "skipped, filled by their layers' own reset: 1.weight, 1.bias",
    ]


def test_real_tensors_beside_meta_ones_stay_as_they_are():
    layer, norm = nn.Linear(2, 2), nn.BatchNorm1d(2)
    layer.bias = nn.Parameter(torch.empty(2, device="meta"))
    norm.bias = nn.Parameter(torch.empty(2, device="meta"))
    norm.running_mean.fill_(5)
    norm.weight.data.fill_(6)
    model = nn.Sequential(layer, norm, nn.Linear(2, 2))
    before = layer.weight.detach().clone()
    report = initialize(model, Rule("2.*", init=0), on_unmatched="keep")
    assert torch.equal(layer.weight, before)
    assert (norm.running_mean == 5).all()
    assert (norm.weight == 6).all()
    assert report.reset == ("0.bias", "1.bias")
    assert "unmatched, left unchanged: 0-1.weight" in str(report)


def test_a_meta_model_is_materialised_with_ties_and_batchnorm_statistics():
    with torch.device("meta"):
        model = nn.ModuleDict({"tied": tied(), "norm": nn.BatchNorm1d(4), "other": nn.Conv2d(1, 1, 1)})
    model["tied"]["head"].weight = model["tied"]["embed"].weight
    report = initialize(model, Rule("tied.*", init=nn.init.normal_), on_unmatched="keep")
    assert report.unmatched == ("norm.weight", "norm.bias", "other.weight", "other.bias")
    assert model["tied"]["head"].weight is model["tied"]["embed"].weight
    assert (model["norm"].running_var == 1).all()
    assert (model["norm"].weight == 1).all()
    assert model["other"].weight.device.type == "cpu"
    assert model["other"].weight.abs().max() <= 1  # its own reset


def test_a_meta_model_with_something_nobody_fills_is_refused_untouched():
    with torch.device("meta"):
        model = nn.ModuleDict({"linear": nn.Linear(2, 2), "positions": Positions()})
        model.register_buffer("angles", torch.zeros(3), persistent=False)
    with pytest.raises(ValueError) as caught:
        initialize(model, Rule("linear.weight", init=0), on_unmatched="keep")
    assert str(caught.value) == (
        "the model is on the meta device, and no rule and no reset_parameters would fill angles, positions.positions; "
        "add a rule, or build the model on a real device"
    )
    assert all(p.is_meta for p in model.parameters())
    del model["positions"]
    with pytest.raises(
        ValueError, match=r"would fill angles; build the model on a real device$"
    ):  # a rule fills no buffer
        initialize(model, Rule("linear.weight", init=0), on_unmatched="keep")


def test_a_failure_after_materialising_gives_the_meta_model_back():
    model = nn.Linear(2, 2, device="meta")
    parameters = list(model.parameters())
    with pytest.raises(RuntimeError):
        initialize(model, Rule("*", init=_raises))
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))


def _raises(tensor):
    raise RuntimeError("no")


@pytest.mark.filterwarnings("ignore")
def test_a_sharded_parameter_is_refused():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        weight = distribute_tensor(torch.ones(4, 4), init_device_mesh("cpu", (2,)), [Shard(0)])
        with pytest.raises(ValueError) as caught:
            initialize(nn.ParameterList([nn.Parameter(weight)]), Rule("0", init=0))
    finally:
        torch.distributed.destroy_process_group()
    assert str(caught.value) == "'0' is a DTensor: initialise the model before it is sharded"


# Messages.


@pytest.mark.parametrize(
    ("build", "rules", "options", "error", "message"),
    [
        (
            lambda: nn.Sequential(nn.Linear(2, 2)),
            lambda: Rule("0.wieght", init=0),
            {},
            ValueError,
            "Rule('0.wieght', 0) matches no parameter; did you mean '0.weight'?",
        ),
        (
            lambda: nn.Sequential(nn.Linear(2, 2)),
            lambda: Rule(nn.Conv2d, "weight", 0),
            {},
            ValueError,
            "Rule(Conv2d, 'weight', 0) matches no parameter; the model has parameters in Linear",
        ),
        (
            Capsule,
            lambda: Rule("W", init=nn.init.xavier_normal_),
            {},
            ValueError,
            "xavier_normal_ needs a fan for 'W' of shape (1, 20, 10, 16, 10), which is not a weight of a known layer: give "
            "fan=(fan_in, fan_out); torch would take (32000, 1600)",
        ),
        (
            lambda: nn.Linear(2, 2),
            lambda: Rule(nn.Linear),
            {},
            ValueError,
            "xavier_uniform_ needs a fan for 'bias' of shape (2,), which is not a weight of a known layer; give it another "
            "rule before this one, or restrict this one to layers: Rule(nn.Linear, 'weight', ...)",
        ),
        (
            lambda: nn.Sequential(nn.Linear(2, 2)),
            lambda: Rule("0", init=0),
            {},
            ValueError,
            "Rule('0', 0) matches no parameter; did you mean '0.*'?",
        ),
        (
            lambda: nn.Linear(2, 2),
            lambda: [Rule("bias", init=0), xavier()],
            {},
            TypeError,
            "rules must be a Rule, a preset such as xavier(), or a sequence of rules, got list; put a preset among rules of "
            "your own with a star: [Rule(...), *xavier()]",
        ),
        (
            lambda: nn.Linear,
            xavier,
            {},
            TypeError,
            "model must be an nn.Module, got the class Linear; build it first",
        ),
        (
            lambda: nn.LazyLinear(2),
            xavier,
            {},
            ValueError,
            "no shape yet: weight, bias; run one batch through the model first",
        ),
        (
            lambda: nn.ParameterList([nn.Parameter(torch.zeros(1, 3).expand(2, 3))]),
            lambda: Rule("0", init=0),
            {},
            ValueError,
            "'0' is expanded: its elements share memory and cannot be filled one by one",
        ),
        (
            Capsule,
            lambda: Rule("W", init=nn.init.xavier_normal_, fan=(0, 16)),
            {},
            ValueError,
            "fan must be two positive numbers (fan_in, fan_out), got (0, 16) for 'W'",
        ),
        (
            lambda: nn.Linear(2, 2),
            xavier,
            {"skip": "wieght"},
            ValueError,
            "skip pattern 'wieght' matches no parameter; did you mean 'weight'?",
        ),
        (
            lambda: nn.Linear(2, 2),
            xavier,
            {"on_unmatched": "error"},
            ValueError,
            "on_unmatched must be one of ('raise', 'warn', 'keep'), got 'error'",
        ),
        (
            lambda: nn.Linear(2, 2),
            lambda: "xavier",
            {},
            TypeError,
            "rules must be a Rule, a preset such as xavier(), or a sequence of rules, got 'xavier'",
        ),
    ],
)
def test_messages(build, rules, options, error, message):
    model = build()
    with pytest.raises(error) as caught:
        initialize(model, rules(), **options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "message"),
    [
        ((3,), {}, TypeError, "target must be a module class, a tuple of them, a pattern or a function, got 3"),
        (("*", None, "zeros"), {}, TypeError, "init must be a function that fills a tensor or a number, got 'zeros'"),
        (("*", None, 0), {"fan": (1, 2)}, ValueError, "fan has no meaning for 0, only for xavier_* and kaiming_*"),
        (
            ("*", None, nn.init.normal_),
            {"gain": 2.0},
            ValueError,
            "gain has no meaning for normal_, only for xavier_* and orthogonal_",
        ),
        (("*", None, 0), {"std": 1.0}, ValueError, "options ['std'] have no meaning for the number 0"),
    ],
)
def test_messages_of_rules(arguments, keywords, error, message):
    with pytest.raises(error) as caught:
        Rule(*arguments, **keywords)
    assert str(caught.value) == message


def test_an_unknown_nonlinearity_is_refused_where_it_is_written():
    with pytest.raises(ValueError) as caught:
        kaiming(nonlinearity="gelu")
    assert str(caught.value).startswith("nonlinearity must be one of ('linear', 'conv1d',")


def spectral(layer, *, hooks):
    wrap = torch.nn.utils.spectral_norm if hooks else torch.nn.utils.parametrizations.spectral_norm
    return wrap(layer)


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("hooks", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_spectral_norm_estimates_the_norm_of_the_new_weight(hooks, training):
    torch.manual_seed(0)
    net = spectral(nn.Linear(32, 24), hooks=hooks).train(training)
    state = {name: each.clone() for name, each in net.state_dict().items()}
    report = initialize(net, trunc_normal(std=0.02))
    assert [row.name for row in report.rows] == ["weight", "bias"] if hooks else ["bias", "weight"]
    assert net.training == training
    net.eval()
    assert torch.linalg.matrix_norm(net.weight.detach(), 2).item() == pytest.approx(1, abs=0.05)
    net.load_state_dict(state)

    def refuse(tensor):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        initialize(net, [Rule("weight", init=trunc_normal()[1].init, std=0.02), Rule("bias", init=refuse)])
    assert all(torch.equal(each, state[name]) for name, each in net.state_dict().items())


def test_a_pruned_weight_is_filled_below_its_mask():
    layer = nn.Linear(32, 32)
    prune.l1_unstructured(layer, "weight", 0.5)
    report = initialize(layer, trunc_normal(std=0.02))
    assert report.unmatched == ()
    assert layer.weight_orig.std().item() == pytest.approx(0.02, rel=0.1)
    assert torch.equal(layer.weight == 0, layer.weight_mask == 0)
    assert (
        "its parametrisation made something else of it" in next(r for r in report.rows if r.name == "weight").notes[0]
    )
