"""Presets touch weights and biases of layers that linkboy knows, find residual projections, and see through wrappers."""

import math
import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from linkboy import Rule, compare_models, count_parameters, freeze, initialize, param_groups, unfreeze
from linkboy.init import gain_of, gpt2, kaiming, orthogonal, trunc_normal, truncated_normal_, xavier
from linkboy.init._fans import neutral_weight
from linkboy.init._residual import residual_projections

PRESETS = [xavier, kaiming, orthogonal, trunc_normal, lambda: gpt2(layers=1, residual="linear.weight")]


class Odd(nn.Module):
    """Parameters whose names are like those of weights and biases, and that are neither."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        for name in ("dt_bias", "logit_bias", "bias_scale", "relative_bias", "bias", "weight", "logit_scale"):
            self.register_parameter(name, nn.Parameter(torch.full((4,), 5.0)))
        self.table = nn.Parameter(torch.full((4, 4), 5.0))


class Adapted(nn.Linear):
    def __init__(self):
        super().__init__(4, 4)
        self.lora_weight, self.lora_bias = nn.Parameter(torch.zeros(4, 2)), nn.Parameter(torch.full((4,), 5.0))


@pytest.mark.parametrize("preset", PRESETS)
def test_only_weights_and_biases_of_known_layers_are_touched(preset):
    model = Odd()
    report = initialize(model, preset(), on_unmatched="keep")
    assert {row.name for row in report.rows} == {"linear.weight", "linear.bias"}
    assert all((each == 5).all() for name, each in model.named_parameters(recurse=False))
    model = nn.ModuleDict({"linear": nn.Linear(4, 4), "adapted": Adapted()})
    assert initialize(model, preset(), on_unmatched="keep").unmatched == ("adapted.lora_weight", "adapted.lora_bias")
    assert not model["adapted"].lora_weight.any()


def test_a_fixed_table_of_positions_is_no_embedding_to_fill():
    class Sinusoidal(nn.Embedding):
        def __init__(self):
            super().__init__(8, 4)
            self.weight = nn.Parameter(torch.ones(8, 4), requires_grad=False)

    model = nn.ModuleDict({"positions": Sinusoidal(), "words": nn.Embedding(8, 4)})
    assert initialize(model, xavier(), on_unmatched="keep").unmatched == ("positions.weight",)
    frozen = nn.Embedding(8, 4).requires_grad_(False)
    assert initialize(frozen, xavier()).unmatched == ()


@pytest.mark.parametrize("preset", PRESETS[:-1])
def test_presets_leave_what_is_frozen_beside_trained_parameters(preset):
    model = nn.ModuleDict({
        "words": nn.Embedding.from_pretrained(torch.ones(8, 4)), "body": nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)),
        "head": nn.Linear(4, 2),
    })  # fmt: skip
    freeze(model, "body.*")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.warns(UserWarning, match="presets leave what is frozen") as caught:
        report = initialize(model, preset())
    left = ("words.weight", "body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias")
    assert str(caught[0].message) == (
        f"presets leave what is frozen beside trained parameters, {', '.join(left)}; they stay unchanged"
    )
    assert report.unmatched == left
    assert all(torch.equal(before[name], model.state_dict()[name]) for name in left)
    assert not torch.equal(before["head.weight"], model.head.weight)
    model.new = nn.Parameter(torch.ones(3))
    message = (
        f"no rule matches new, and presets leave what is frozen beside trained parameters, {', '.join(left)}; add a rule, "
        "or name them in skip"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        initialize(model, preset(), on_unmatched="raise")


def test_a_rule_of_ones_own_fills_what_is_frozen_and_presets_fill_a_model_that_is_frozen_as_a_whole():
    model = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 4))
    report = initialize(model, [Rule("0.*", init=2), *xavier()])
    assert report.unmatched == ()
    assert (model[0].weight == 2).all()
    model.requires_grad_(False)
    assert initialize(model, xavier(), on_unmatched="raise").unmatched == ()
    assert not (model[0].weight == 2).any()


def test_what_is_frozen_on_the_meta_device_has_no_values_to_keep():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 4))
    report = initialize(model, xavier(), on_unmatched="raise")
    assert [row.name for row in report.rows] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert all(math.isnan(row.std_before) for row in report.rows)  # and not what lay in the memory


class PlainRMSNorm(nn.Module):
    def __init__(self, size, shift=0.0, other=None):
        super().__init__()
        self.weight, self.shift, self.other = nn.Parameter(torch.full((size,), 0.5)), shift, other

    def forward(self, x):
        if self.other is not None:
            return self.other(x, self.weight)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * (self.weight + self.shift)


class Channels2dLayerNorm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.full((size,), 0.5)), nn.Parameter(torch.ones(size))

    def forward(self, x):
        normal = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, eps=1e-5).permute(0, 3, 1, 2)
        return normal * self.weight[:, None, None] + self.bias[:, None, None]


class PlainChannelsLayerNorm(nn.Module):
    """As in ConvNeXt and SAM: of an input with the channels last it makes another shape, and does not raise."""

    def __init__(self, size):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.full((size,), 0.5)), nn.Parameter(torch.ones(size))

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        normal = (x - mean) / ((x - mean).square().mean(1, keepdim=True) + 1e-6).sqrt()
        return self.weight[:, None, None] * normal + self.bias[:, None, None]


@pytest.mark.parametrize(
    ("norm", "neutral"),
    [
        (PlainRMSNorm(6), 1),
        (PlainChannelsLayerNorm(6), 1),
        (PlainRMSNorm(6, shift=1.0), 0),
        (Channels2dLayerNorm(6), 1),
        (nn.LayerNorm(6), 1),
        (nn.BatchNorm2d(6), 1),
        (PlainRMSNorm(6, shift=0.3), None),
        (PlainRMSNorm(6, other=lambda x, w: x.exp() + w), None),
        (PlainRMSNorm(6, other=lambda x, w: x.missing), None),
    ],
)
def test_the_neutral_weight_of_a_norm_is_asked_of_the_norm(norm, neutral):
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    stream = torch.get_rng_state()
    assert neutral_weight(norm) == neutral
    assert torch.equal(stream, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in norm.state_dict().items())
    report = initialize(nn.Sequential(norm, nn.Linear(1, 1)), xavier(), on_unmatched="keep")
    if neutral is None:
        assert report.unmatched == ("0.weight",)
    else:
        assert (norm.weight == neutral).all()


def test_a_norm_on_the_meta_device_is_asked_as_well():
    with torch.device("meta"):
        model = nn.Sequential(PlainRMSNorm(6, shift=1.0), PlainRMSNorm(6), nn.Linear(6, 6))
    initialize(model, xavier())
    assert (model[0].weight == 0).all()
    assert (model[1].weight == 1).all()


class Attention(nn.Module):
    def __init__(self, width, names):
        super().__init__()
        for name in names[:-1]:
            setattr(self, name, nn.Linear(width, width))
        setattr(self, names[-1], nn.Linear(width, width))


def block(attention, mlp):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.attn = nn.LayerNorm(8), Attention(8, attention)
            self.mlp = nn.ModuleDict({name: nn.Linear(*sizes) for name, sizes in mlp.items()})

    return Block()


STYLES = {
    "llama": (("q_proj", "k_proj", "v_proj", "o_proj"), {"gate": (8, 32), "up": (8, 32), "down": (32, 8)}),
    "original llama": (("wq", "wk", "wv", "wo"), {"w1": (8, 32), "w3": (8, 32), "w2": (32, 8)}),
    "fused": (("qkv", "proj"), {"fc1": (8, 32), "fc2": (32, 8)}),
    "as wide inside": (("to_q", "to_k", "to_v", "to_out"), {"one": (8, 8), "two": (8, 8)}),
    "two in one": (("query", "key", "value", "dense"), {"in": (8, 64), "out": (32, 8)}),
}


@pytest.mark.parametrize("style", STYLES)
def test_residual_projections_are_found_by_structure(style):
    attention, mlp = STYLES[style]
    model = nn.ModuleDict({"layers": nn.ModuleList([block(attention, mlp) for _ in range(3)]), "head": nn.Linear(8, 8)})
    names = {id(module): name for name, module in model.named_modules()}
    wanted = [f"layers.{i}.{path}" for i in range(3) for path in (f"attn.{attention[-1]}", f"mlp.{list(mlp)[-1]}")]
    assert [names[id(found)] for found in residual_projections(model)] == wanted
    single = model["layers"][0]
    assert residual_projections(single) == [getattr(single.attn, attention[-1]), single.mlp[list(mlp)[-1]]]


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
REAL = {
    "GPT2Model": (lambda hf: hf.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50), "c_proj"),
    "BertModel": (lambda hf: hf.BertConfig(**SMALL), "output.dense"),
    "LlamaModel": (lambda hf: hf.LlamaConfig(**SMALL, num_key_value_heads=1), "o_proj|down_proj"),
    "OPTModel": (
        lambda hf: hf.OPTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            ffn_dim=32,
            vocab_size=50,
            word_embed_proj_dim=16,
        ),
        "out_proj|fc2",
    ),
    "GPTNeoXModel": (lambda hf: hf.GPTNeoXConfig(**SMALL), "attention.dense|dense_4h_to_h"),
    "ViTModel": (
        lambda hf: hf.ViTConfig(**{k: v for k, v in SMALL.items() if k != "vocab_size"}),
        "o_proj|output.dense|fc2",
    ),
    "DistilBertModel": (
        lambda hf: hf.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, vocab_size=50),
        "out_lin|lin2",
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_residual_projections_of_real_architectures_are_found(name):
    import transformers as hf

    config, pattern = REAL[name]
    with torch.device("meta"):
        model = getattr(hf, name)(config(hf))
    names = {id(module): path for path, module in model.named_modules()}
    found = [names[id(module)] for module in residual_projections(model)]
    assert len(found) == 4, found
    assert all(any(path.endswith(end) for end in pattern.split("|")) for path in found), found


def test_too_few_residual_projections_are_a_warning_and_a_note():
    model = nn.ModuleList([nn.Sequential(nn.Linear(8, 8)), nn.Sequential(nn.Linear(8, 8))])
    message = (
        "0 residual projections were found by the structure of the model, expected 4 (2 * layers); name those to scale with "
        "residual=, and check layers"
    )
    with pytest.warns(UserWarning, match="residual") as caught:
        report = initialize(model, gpt2(layers=2))
    assert [str(each.message) for each in caught] == [message]
    assert report.notes == (message,)
    assert f"note: {message}" in str(report)
    with pytest.raises(ValueError, match="matches no parameter"):
        initialize(model, gpt2(layers=2, residual="*.c_proj.weight"))


def test_a_scale_multiplies_what_was_drawn():
    layer = nn.Linear(400, 400)
    initialize(layer, [Rule("weight", init=nn.init.xavier_normal_, scale=0.25), Rule("bias", init=2, scale=0.5)])
    assert layer.weight.std().item() == pytest.approx(0.25 * (2 / 800) ** 0.5, rel=0.03)
    assert (layer.bias == 1).all()
    assert repr(Rule("*", init=0, scale=3)) == "Rule('*', 0, scale=3)"
    with pytest.raises(ValueError) as error:
        Rule("*", init=0, scale=math.inf)
    assert str(error.value) == "scale must be a finite number, got inf"


@pytest.mark.parametrize("name", ["gelu", "silu", "swish", "mish", "elu", "celu", "hardswish", "softplus", "relu6"])
def test_the_gain_of_a_smooth_nonlinearity_keeps_the_scale(name):
    function = F.silu if name == "swish" else getattr(F, name)
    z = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert gain_of(name) ** 2 * function(z).square().mean().item() == pytest.approx(1, rel=0.02)
    layer = nn.Linear(600, 600)
    initialize(layer, kaiming(nonlinearity="linear", scale=gain_of(name)))
    assert layer.weight.std().item() == pytest.approx(gain_of(name) / 600**0.5, rel=0.02)
    initialize(layer, xavier(gain=name))
    assert layer.weight.std().item() == pytest.approx(gain_of(name) / 600**0.5, rel=0.02)
    with pytest.raises(ValueError) as error:
        kaiming(nonlinearity=name)
    assert f"got {name!r}, for which torch has no gain; pass nonlinearity='linear', scale=gain_of({name!r})" in str(
        error.value
    )


def test_other_gains_are_those_of_torch_and_unknown_ones_are_refused():
    assert gain_of("tanh") == nn.init.calculate_gain("tanh")
    with pytest.raises(ValueError, match="nonlinearity must be one of"):
        gain_of("gelux")


@pytest.mark.parametrize("preset", [xavier, kaiming, orthogonal])
@pytest.mark.parametrize("lstm", [nn.LSTM(3, 5, 2, bidirectional=True), nn.LSTMCell(3, 5), nn.LSTM(3, 5, proj_size=2)])
def test_forget_gates_get_their_bias(preset, lstm):
    initialize(lstm, preset(forget_bias=1.0))
    for name, bias in lstm.named_parameters():
        if "bias" in name:
            gates = bias.view(4, 5)
            assert (gates[1] == float("bias_ih" in name)).all()
            assert not gates[[0, 2, 3]].any()


def test_truncated_normal_has_the_deviation_and_the_bounds_that_were_asked_for():
    values = truncated_normal_(
        torch.empty(200_000), mean=3.0, std=0.5, bound=1.5, generator=torch.Generator().manual_seed(0)
    )
    assert values.mean().item() == pytest.approx(3, abs=0.01)
    assert values.std().item() == pytest.approx(0.5, rel=0.01)
    half = (values - 3).abs().max().item()
    density, kept = math.exp(-(1.5**2) / 2) / math.sqrt(2 * math.pi), math.erf(1.5 / 2**0.5)
    assert half <= 1.5 * 0.5 / math.sqrt(1 - 2 * 1.5 * density / kept) + 1e-6
    for wrong in ({"std": 0}, {"bound": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            truncated_normal_(torch.empty(3), **wrong)


def test_equal_rows_of_a_report_are_one_line():
    model = nn.ModuleDict(
        {"layer": nn.ModuleList([nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 3)) for _ in range(12)])}
    )
    report = initialize(model, [Rule("*.weight", init=0.5)], on_unmatched="keep")
    lines = str(report).splitlines()
    assert lines[1].startswith("layer.0-11.0-1.weight  Rule('*.weight', 0.5)    - ")
    assert "unmatched, left unchanged: layer.0-11.0-1.bias" in lines
    assert len(report.rows) == 24


def wrapped():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))

    inner = make()
    inner[0] = checkpoint_wrapper(inner[0])
    return make, [
        torch.compile(make(), backend="eager"),
        nn.DataParallel(make()),
        inner,
        torch.compile(inner, backend="eager"),
    ]


def test_wrappers_hide_no_names():
    make, models = wrapped()
    names = [name for name, _ in make().named_parameters()]
    assert all(compare_models(make(), model).ok for model in models)
    for model in models:
        own = [name for name, _ in model.named_parameters()]
        assert [row.name for row in count_parameters(model, by="module").rows] == ["0", "1", "2"]
        groups = param_groups(model, weight_decay=0.1)
        assert sorted(name for group in groups for name in group["param_names"]) == sorted(names)
        for given in ("0.*", own[0]):  # as the model is written, and as its own names have it
            assert freeze(model, given).changed[0] == ("0.weight",)
            assert unfreeze(model, given).changed[0] == ("0.weight",)
        rules = [Rule("0.weight", init=0), Rule(own[1], init=1), Rule("*.weight", init=2)]
        report = initialize(model, rules, skip=["1.bias", own[-1]], on_unmatched="raise")
        assert [row.name for row in report.rows] == ["0.weight", "0.bias", "1.weight", "2.weight"]
        assert [tensor.unique().tolist() for tensor in list(model.parameters())[:3]] == [[0], [1], [2]]


def test_no_preset_warns_of_a_plain_model():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for preset in PRESETS:
            initialize(nn.ModuleDict({"linear": nn.Linear(4, 4)}), preset())


class ShiftedLayerNorm(nn.LayerNorm):
    def forward(self, x):
        return F.layer_norm(x, self.normalized_shape, self.weight + 1, self.bias, self.eps)


class WideLayerNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.float()).type_as(x)


class FilteredBatchNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) if x.dim() == 4 else x


@pytest.mark.parametrize(
    ("norm", "neutral"), [(ShiftedLayerNorm(8), 0), (WideLayerNorm(8), 1), (FilteredBatchNorm(8).eval(), 1)]
)
def test_a_norm_of_torch_with_its_own_forward_is_asked_as_well(norm, neutral):
    before = [buffer.clone() for buffer in norm.buffers()]
    assert neutral_weight(norm) == neutral
    assert all(map(torch.equal, before, norm.buffers()))
    initialize(norm, xavier())
    assert (norm.weight == neutral).all()


def test_presets_leave_adapters_and_time_steps_to_the_layers_that_made_them():
    class Adapter(nn.Module):
        def __init__(self):
            super().__init__()
            self.base_layer, self.dt_proj = nn.Linear(4, 4), nn.Linear(2, 4)
            self.lora_A = nn.ModuleDict({"default": nn.Linear(4, 2, bias=False)})
            self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 4, bias=False)})
            nn.init.zeros_(self.lora_B["default"].weight)
            nn.init.constant_(self.dt_proj.bias, -4)

    model = Adapter()
    report = initialize(model, gpt2(layers=1, residual="base_layer.weight"), on_unmatched="keep")
    assert report.unmatched == ("dt_proj.bias", "lora_A.default.weight", "lora_B.default.weight")
    assert not model.lora_B["default"].weight.any()
    assert (model.dt_proj.bias == -4).all()
    with pytest.warns(UserWarning, match=r"no rule matches dt_proj\.bias, lora_A"):
        initialize(model, xavier())
    initialize(model, [Rule("lora_B.*", init=1), *xavier()], on_unmatched="keep")
    assert (model.lora_B["default"].weight == 1).all()


@pytest.mark.parametrize("key", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
def test_the_keys_of_wrappers_are_no_part_of_a_name_whatever_class_has_them(key):
    class Around(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.add_module(key, module)

    model = Around(nn.Sequential(Around(nn.Linear(4, 4)), nn.LayerNorm(4)))
    report = initialize(model, [Rule("0.weight", init=0), Rule(f"{key}.0.bias", init=1)], skip="1.*")
    assert [row.name for row in report.rows] == ["0.weight", "0.bias"]
    assert report.skipped == ("1.weight", "1.bias")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rule(nn.Linear, "weight", nn.init.kaiming_normal_, nonlinearity="gelu"), r"gain_of\('gelu'\)"),
        (lambda: Rule(nn.Linear, "weight", nn.init.kaiming_normal_, mode="fan_avg"), "mode must be one of"),
        (lambda: Rule(nn.Linear, "weight", nn.init.xavier_normal_, gain="geluu"), "did you mean 'gelu'"),
        (lambda: xavier(gain="sigmoit"), "gain must be one of"),
        (lambda: orthogonal(gain=math.nan), "gain must be a number, got nan"),
        (lambda: kaiming(nonlinearity="swish"), r"gain_of\('swish'\)"),
    ],
)
def test_what_torch_would_refuse_later_is_refused_where_it_is_written(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_model_without_parameters_is_said_to_have_none():
    with pytest.warns(UserWarning, match="the model has no parameters, so nothing was initialised"):
        report = initialize(nn.ReLU(), xavier())
    assert report.notes == ("the model has no parameters, so nothing was initialised",)
