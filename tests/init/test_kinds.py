"""Weights and activations of other kinds: numbers of the right size, or a refusal that says what to do."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from linkboy import Rule, audit_activations, compare_models, initialize
from linkboy.init import gpt2, kaiming, orthogonal, trunc_normal, xavier
from linkboy.init._residual import residual_projections


# ---------------------------------------------------------------- rules
@pytest.mark.parametrize(
    ("rules", "variance"),
    [(xavier(), 2 / 400), (xavier(uniform=False), 2 / 400), (kaiming(uniform=True), 2 / 200), (kaiming(), 2 / 200)],
)
def test_a_complex_weight_has_the_variance_of_a_real_one(rules, variance):
    """torch draws both parts of a complex number from the uniform distribution of the whole: twice the variance."""
    layer = nn.Linear(200, 200, dtype=torch.complex64)
    report = initialize(layer, rules, generator=torch.Generator().manual_seed(0))
    assert layer.weight.detach().abs().square().mean().item() == pytest.approx(variance, rel=0.03)
    assert report.rows[0].std_after ** 2 == pytest.approx(variance, rel=0.03)


def test_a_float8_weight_is_drawn_in_float32_and_rounded():
    layer = nn.Linear(400, 400)
    layer.weight = nn.Parameter(torch.zeros(400, 400).to(torch.float8_e4m3fn), requires_grad=False)
    initialize(layer, xavier())
    assert layer.weight.float().std().item() == pytest.approx(0.05, rel=0.02)


def with_weight(weight):
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


@pytest.mark.parametrize(
    ("layer", "rules", "why"),
    [
        (with_weight(torch.eye(4).to_sparse()), xavier(),
         "'weight' is sparse: initialise a dense weight and make it sparse afterwards"),
        (with_weight(torch.zeros(4, 4, dtype=torch.int8)), xavier(),
         "'weight' is i8[4, 4], in which xavier_uniform_ cannot draw: initialise the model before it is quantised, or name "
         "the tensor in skip"),
        (nn.Linear(4, 4, dtype=torch.complex64), orthogonal(),
         "'weight' is c64[4, 4], which orthogonal_ cannot fill: give it a rule with another function, such as "
         "xavier_normal_"),
        (nn.Linear(4, 4, dtype=torch.complex64), trunc_normal(),
         "'weight' is c64[4, 4], which truncated_normal_ cannot fill: give it a rule with another function, such as "
         "xavier_normal_"),
    ],
    ids=["sparse", "int8", "complex orthogonal", "complex truncated"],
)  # fmt: skip
def test_a_weight_that_cannot_be_filled_is_refused_before_the_first_write(layer, rules, why):
    bias = layer.bias.detach().clone()
    with pytest.raises(ValueError, match="weight") as caught:
        initialize(layer, rules)
    assert str(caught.value) == why
    assert torch.equal(layer.bias, bias)


def test_an_integer_weight_takes_a_number():
    layer = with_weight(torch.zeros(4, 4, dtype=torch.int8))
    initialize(layer, [Rule("weight", init=3), Rule("bias", init=0)])
    assert layer.weight.unique().tolist() == [3]


def test_a_decoder_that_is_a_view_of_its_encoder_is_noted():
    """`nn.Parameter(encoder.weight.t())` is a parameter of its own on the same memory: the last rule wins for both."""
    model = nn.ModuleDict({"encoder": nn.Linear(4, 8, bias=False), "decoder": nn.Linear(8, 4, bias=False)})
    model["decoder"].weight = nn.Parameter(model["encoder"].weight.detach().t())
    notes = [row.notes for row in initialize(model, xavier()).rows]
    assert notes == [(), ("shares memory with encoder.weight, which it overwrote",)]


def square(*names):
    return nn.ModuleDict({name: nn.Linear(8, 8) for name in names})


@pytest.mark.parametrize(
    "attention",
    [
        square("W_Q", "W_K", "W_V", "out"), square("fc_q", "fc_k", "fc_v", "out"),
        square("linear_q", "linear_k", "linear_v", "out"), square("queries", "key_s", "value_s", "out"),
        square("key", "value", "receptance", "out"), square("proj_q", "proj_k", "proj_v", "out"),
        nn.ModuleList(nn.Linear(8, 8) for _ in range(4)),
    ],
)  # fmt: skip
def test_what_reads_the_stream_is_no_residual_projection_whatever_its_name(attention):
    block = nn.ModuleDict({"attention": attention, "up": nn.Linear(8, 32), "down": nn.Linear(32, 8)})
    found = residual_projections(nn.ModuleList([block]))
    assert [id(layer) for layer in found] == [id(list(attention.children())[-1]), id(block["down"])]


# ---------------------------------------------------------------- audit
class Called(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("module", "function", "bias"),
    [
        (nn.GELU(), F.gelu, -60), (nn.SiLU(), F.silu, -60), (nn.Mish(), F.mish, -60), (nn.ELU(), F.elu, -60),
        (nn.CELU(), F.celu, -60), (nn.SELU(), F.selu, -60), (nn.Softplus(), F.softplus, -60),
        (nn.Hardswish(), F.hardswish, -60), (nn.Hardsigmoid(), F.hardsigmoid, 60), (nn.Hardtanh(), F.hardtanh, 60),
    ],
)  # fmt: skip
def test_units_where_an_activation_is_flat_are_dead(module, function, bias):
    """A unit that GELU maps to nothing for a whole batch learns as little as one behind a ReLU."""
    for activation in (module, Called(function)):
        first = nn.Linear(8, 8)
        model = nn.Sequential(first, activation, nn.Linear(8, 4))
        assert audit_activations(model, torch.randn(16, 8)).ok
        nn.init.constant_(first.bias, bias)
        assert audit_activations(model, torch.randn(16, 8)).notes == (
            "dies: 100% of the units of 1 are flat for the whole batch",
        )


def test_units_of_zero_before_a_smooth_activation_are_alive():
    """GELU and SiLU have a slope of a half at zero: a layer that begins with zeros learns behind them."""
    first = nn.Linear(8, 8)
    nn.init.zeros_(first.weight)
    nn.init.zeros_(first.bias)
    rows = audit_activations(nn.Sequential(first, nn.SiLU(), nn.Linear(8, 4)), torch.randn(16, 8)).rows
    assert rows[1].dead == 0


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_a_script_has_no_layers_to_look_at():
    script = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    with pytest.raises(ValueError, match="script") as caught:
        audit_activations(script, torch.randn(2, 4))
    assert (
        str(caught.value)
        == "model must have layers that can be looked at, got a script; pass the module it was made of"
    )


def test_a_loss_without_a_gradient_is_refused():
    with pytest.raises(ValueError, match="loss") as caught:
        audit_activations(nn.Linear(4, 4), torch.randn(2, 4), loss=lambda output: output.detach().mean())
    assert (
        str(caught.value)
        == "loss must depend on trained parameters, got a value without a gradient; leave out .detach()"
    )


def test_the_layer_that_raised_is_named():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(5, 2)))
    with pytest.raises(RuntimeError) as caught:
        audit_activations(model, torch.randn(2, 4))
    assert caught.value.__notes__ == ["raised in 1.0 (Linear)"]


class Reading(nn.Module):
    """A layer that gives its first output to a Linear of two."""

    def __init__(self, layer, call, width):
        super().__init__()
        self.layer, self.call, self.head = layer, call, nn.Linear(width, 2)

    def forward(self, x):
        return self.head(self.call(self.layer, x))


@pytest.mark.parametrize(
    ("layer", "call", "width"),
    [
        (nn.LSTM(4, 8), lambda layer, x: layer(x)[0], 8),
        (nn.GRUCell(4, 8), lambda layer, x: layer(x[0]), 8),
        (nn.MultiheadAttention(4, 2), lambda layer, x: layer(x, x, x)[0], 4),
    ],
    ids=["lstm", "gru cell", "attention"],
)
def test_units_of_a_layer_with_gates_or_heads_that_are_alike_are_seen(layer, call, width):
    model = Reading(layer, call, width)
    assert audit_activations(model, torch.randn(6, 3, 4)).ok
    for parameter in layer.parameters():
        nn.init.constant_(parameter, 0.1)
    assert audit_activations(model, torch.randn(6, 3, 4)).notes == (
        "symmetric: all units of layer have the same weights, and stay alike",
    )


def test_a_model_that_ignores_its_input_is_seen():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    tokens = torch.arange(5)
    assert audit_activations(model, tokens).ok
    nn.init.constant_(model[0].weight, 0.1)
    assert audit_activations(model, tokens).notes == (
        "dies: 1 gives the same for every sample, and so does all that follows",
    )
    assert audit_activations(model, torch.ones(5, dtype=torch.long)).ok  # there it is the input that is the same


def test_a_layer_with_a_computed_weight_has_a_row_of_its_output():
    """The step that computes the weight has none: its mean and deviation say nothing of the signal."""
    wrapped = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    model = nn.Sequential(wrapped, nn.ReLU(), nn.Linear(4, 2))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(16, 4)
    rows = audit_activations(model, x).rows
    assert [row.name for row in rows] == ["0", "1", "2"]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert rows[0].std == pytest.approx(audit_activations(model.eval(), x).rows[0].std, rel=0.3)
    wrapped.parametrizations.weight.original.data.copy_(torch.ones(4, 4))
    nn.init.zeros_(wrapped.bias)
    assert "symmetric" in audit_activations(model, x).verdict


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_and_sparse_inputs_have_the_figures_of_their_dense_rows():
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.randn(5, 4)
    dense = audit_activations(model, x, loss=lambda output: output.sum()).rows
    parts = [x[:2], x[2:]]
    for given in (
        torch.nested.nested_tensor(parts, layout=torch.jagged),
        torch.nested.nested_tensor(parts),
        x.to_sparse(),
    ):
        rows = audit_activations(model, (given,)).rows
        assert [row.mean for row in rows] == pytest.approx([row.mean for row in dense])
        assert [row.std for row in rows] == pytest.approx([row.std for row in dense])


# --- initialisers of one's own ---------------------------------------------------------------------------------------------
def init_weights(module):
    """The function that people pass to `model.apply`, which takes a module."""
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.weight)


@pytest.mark.parametrize("seeded", [False, True])
def test_an_initialiser_that_does_nothing_is_said_to(seeded):
    """With a generator the weights became what lay in the memory."""
    model = nn.Linear(64, 64)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    message = "weight, bias: unchanged: init is called with the tensor to fill, and not with its module"
    with pytest.warns(UserWarning, match=f"^{message}$"):
        report = initialize(
            model, Rule(nn.Linear, init=init_weights), generator=torch.Generator().manual_seed(0) if seeded else None
        )
    assert all(torch.equal(before[name], tensor) for name, tensor in model.named_parameters())
    assert {row.notes for row in report.rows} == {(message.partition(": ")[2],)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize(
    "init", [lambda w: w.mul_(2), lambda w: 2 * w, lambda w: w.data.mul_(2), lambda w: w.copy_(2 * w)]
)
def test_an_initialiser_may_read_what_is_there(init, seeded, dtype):
    layer = nn.Linear(4, 4, dtype=dtype)
    before = layer.weight.clone()
    generator = torch.Generator().manual_seed(0) if seeded else None
    report = initialize(layer, [Rule("weight", init=init), Rule("bias", init=nn.init.zeros_)], generator=generator)
    assert torch.equal(layer.weight, 2 * before)
    assert all(row.notes == () for row in report.rows)


def test_an_initialiser_that_writes_what_is_there_already_did_something():
    layer = nn.Linear(2, 2)
    nn.init.zeros_(layer.bias)
    assert initialize(layer, Rule("*", init=lambda w: w.fill_(0))).rows[1].notes == ()


def test_an_exception_of_an_initialiser_names_rule_and_tensor():
    with pytest.raises(ValueError, match="2 or more dimensions") as caught:
        initialize(nn.Linear(3, 3), Rule("*", init=nn.init.orthogonal_))
    assert caught.value.__notes__ == ["raised by Rule('*', orthogonal_) for 'bias' of shape (3,)"]


def test_a_model_on_the_meta_device_gets_the_values_of_one_that_is_not():
    def build():
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    with torch.device("meta"):
        on_meta = build()
    model = build()
    for each in (model, on_meta):
        initialize(each, xavier(), generator=torch.Generator().manual_seed(1))
    assert compare_models(model, on_meta).ok


def test_a_forget_bias_without_an_lstm_is_refused():
    with pytest.raises(ValueError, match=r"^Rule\(is_input_bias, forget_gate_\) matches no parameter; .* in GRU$"):
        initialize(nn.GRU(3, 4), xavier(forget_bias=1))


def test_a_stack_of_more_blocks_than_layers_is_said():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 4)
    message = "the model has a stack of 4 blocks, and layers is 2; pass layers=4"
    with pytest.warns(UserWarning, match=f"^{message}$"):
        assert initialize(model, gpt2(layers=2)).notes == (message,)
    assert initialize(model, gpt2(layers=4)).notes == ()


# --- what is given for a target, a loss or a batch -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: Rule(nn.Linear(2, 2), init=0),
            TypeError,
            "target must be a class, a pattern or a function, got a Linear; name what is in it ('0.*'), or pass its class",
        ),
        (
            lambda: Rule("*", init=torch.eye(3)),
            TypeError,
            "init must be a function that fills a tensor or a number, got a tensor; pass lambda w: w.copy_(value)",
        ),
        (
            lambda: initialize(nn.Sequential(nn.Linear(2, 2)), Rule("Linear", init=0)),
            ValueError,
            "Rule('Linear', 0) matches no parameter; for all layers of a class pass the class, without quotes",
        ),
        (
            lambda: initialize(nn.Sequential(nn.Linear(2, 2)), xavier(), skip="0"),
            ValueError,
            "skip pattern '0' matches no parameter; did you mean '0.*'?",
        ),
        (
            lambda: audit_activations(nn.Linear(3, 3), torch.ones(2, 3), loss=F.cross_entropy),
            TypeError,
            "loss must take the output of the model alone, got cross_entropy; pass lambda output: cross_entropy(output, target)",
        ),
        (
            lambda: audit_activations(nn.Linear(3, 3), DataLoader(TensorDataset(torch.ones(2, 3)))),
            TypeError,
            "batch must be one batch, got a DataLoader; pass next(iter(loader))",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_to_pass(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_a_pair_of_input_and_target_is_pointed_at():
    with pytest.raises(TypeError) as caught:
        audit_activations(nn.Linear(3, 3), (torch.ones(2, 3), torch.ones(2)))
    assert caught.value.__notes__[0] == (
        "2 arguments were given, the model takes one; of a pair of input and target pass the input"
    )
