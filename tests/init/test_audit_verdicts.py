"""What the audit says of models that are ill, and of models that only look so."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from linkboy import audit_activations


def loss(output):
    return output.square().mean()


class Functional(nn.Module):
    def __init__(self, activation, layers=3, width=32, bias=0.0):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])
        self.activation = activation
        nn.init.constant_(self.layers[1].bias, bias)

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


@pytest.mark.parametrize(
    "activation", [F.relu, torch.relu, torch.Tensor.relu, F.relu6, lambda x: F.relu(x.clone(), inplace=True)]
)
def test_dead_units_behind_a_function_are_seen(activation):
    torch.manual_seed(0)
    audit = audit_activations(Functional(activation, bias=-60.0), torch.randn(64, 32))
    assert audit.notes == ("dies: 100% of the units of relu behind layers.1 are zero for the whole batch",)
    assert audit.layer == "relu behind layers.1"
    assert audit_activations(Functional(activation), torch.randn(64, 32)).ok


@pytest.mark.parametrize("activation", [torch.sigmoid, torch.tanh, torch.Tensor.sigmoid, F.tanh])
def test_saturation_behind_a_function_is_seen(activation):
    audit = audit_activations(Functional(activation, bias=60.0), torch.randn(64, 32))
    assert audit.notes[0].startswith("saturates: 100% of the values of ")
    assert audit.notes[0].endswith(" behind layers.1 are at the end of its range")
    assert audit_activations(Functional(activation), torch.randn(64, 32)).ok


def test_a_layer_that_calls_a_function_is_one_row():
    rows = audit_activations(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Tanh()), torch.randn(8, 4)).rows
    assert [row.name for row in rows] == ["0", "1", "2"]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell])
def test_saturated_gates_are_seen(kind):
    torch.manual_seed(0)
    x = torch.randn(16, 8) if issubclass(kind, nn.RNNCellBase) else torch.randn(5, 16, 8)
    layer = kind(8, 12)
    onednn = torch.backends.mkldnn.enabled
    healthy = audit_activations(layer, x)
    assert healthy.ok
    assert 0 <= healthy.rows[0].saturated < 0.2
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter *= 60
    audit = audit_activations(layer, x)
    assert audit.notes[0].startswith("saturates: ")
    assert audit.notes[0].endswith("of the gates of (root) are at the end of its range")
    assert torch.backends.mkldnn.enabled == onednn
    with pytest.raises(RuntimeError):
        audit_activations(layer, torch.randn(5, 16, 7)[0 if x.dim() == 2 else slice(None)])
    assert torch.backends.mkldnn.enabled == onednn
    assert audit_activations(nn.Linear(8, 2), torch.randn(3, 8)).ok  # no mode was left behind


def test_the_share_of_saturated_gates_is_that_of_the_gates():
    torch.manual_seed(0)
    cell = nn.LSTMCell(6, 7)
    with torch.no_grad():
        cell.weight_ih *= 20
    x = torch.randn(9, 6)
    gates = (x @ cell.weight_ih.T + cell.bias_ih + cell.bias_hh).chunk(4, 1)
    state = gates[0].sigmoid() * gates[2].tanh()
    values = torch.stack(
        [(each.sigmoid() - 0.5) / 0.5 for each in (gates[0], gates[1], gates[3])] + [gates[2].tanh(), state.tanh()]
    )
    assert audit_activations(cell, x).rows[0].saturated == pytest.approx(
        (values.abs() > 0.95).float().mean().item(), abs=1e-6
    )


@pytest.mark.parametrize("layers", [4, 6, 10])
def test_a_gradient_that_vanishes_behind_a_constant_one_is_seen(layers):
    torch.manual_seed(0)
    parts = [part for _ in range(layers) for part in (nn.Linear(64, 64), nn.Sigmoid())]
    audit = audit_activations(nn.Sequential(*parts, nn.Linear(64, 1)), torch.randn(64, 64), loss=loss)
    assert audit.notes[0].startswith("the gradient vanishes on its way back, below a hundredth of the last layer's at ")
    assert f"at {2 * layers} to " in audit.notes[0]
    rows = audit.rows
    assert rows[0].gradient_rms < rows[-1].gradient_rms / 100


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)),
        nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 6, 1), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2)),
        nn.Sequential(nn.Unflatten(1, (2, 2, 2)), nn.ConvTranspose2d(2, 6, 1), nn.Flatten(), nn.Linear(24, 2)),
    ],
)
@pytest.mark.parametrize("with_loss", [False, True])
def test_units_that_are_all_alike_are_seen(model, with_loss):
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)
    audit = audit_activations(model, torch.randn(16, 8), loss=loss if with_loss else None)
    first = next(row.name for row in audit.rows if row.weighted)
    assert audit.notes == (f"symmetric: all units of {first} have the same weights, and stay alike",)
    assert audit.rows[-1].notes == ("units alike",)
    nn.init.normal_(model[-1].weight)
    for part in model[:-1]:
        for parameter in part.parameters():
            nn.init.normal_(parameter)
    nn.init.constant_(model[-1].weight, 0.1)  # the last layer: its targets tell its units apart
    assert audit_activations(model, torch.randn(64, 8)).ok


def test_what_authors_set_to_zero_is_no_death():
    class Zeros(nn.Module):
        """A head that starts from zeros, branches that do, and a decoder whose first layer sees zeros."""

        def __init__(self):
            super().__init__()
            self.embed, self.branch, self.first = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
            self.classes, self.boxes = nn.Linear(8, 3), nn.Linear(8, 4)
            for layer in (self.branch, self.boxes):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

        def forward(self, x):
            x = self.embed(x)
            x = x + self.branch(x)
            x = x + self.first(torch.zeros_like(x))
            return self.classes(x), self.boxes(x).sigmoid()

    audit = audit_activations(Zeros(), torch.randn(16, 8), loss=lambda out: out[0].square().mean())
    assert audit.ok, audit.verdict
    dead = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8, bias=False), nn.Linear(8, 2, bias=False))
    nn.init.zeros_(dead[2].weight)
    assert audit_activations(dead, torch.randn(16, 8)).notes == (
        "dies: 2 gives the same value everywhere, and so does all that follows",
    )


@pytest.mark.slow
def test_detr_as_its_authors_initialise_it_is_alive():
    import transformers as hf

    backbone = hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    config = hf.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone, d_model=16,
        encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, num_queries=5,
    )  # fmt: skip
    torch.manual_seed(0)
    model = hf.DetrForObjectDetection(config).eval()
    for layer in model.bbox_predictor.layers[-1:]:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    audit = audit_activations(model, torch.randn(2, 3, 64, 64), loss=lambda out: out.logits.square().mean())
    assert audit.ok, audit.verdict


def test_the_picture_shows_where_it_goes_wrong():
    pytest.importorskip("matplotlib")
    torch.manual_seed(0)
    figure = audit_activations(Functional(F.relu, bias=-60.0), torch.randn(64, 32)).plot()
    for axes in figure.axes:
        (line,) = [line for line in axes.lines if line.get_label() == "relu behind layers.1"]
        assert line.get_xdata()[0] == 3


class Attention(nn.Module):
    """Scores that are not divided by the root of the width, through a softmax that is called as a function or a layer."""

    def __init__(self, softmax, scale=1.0, mask=None):
        super().__init__()
        self.q, self.k, self.v, self.softmax, self.scale, self.mask = (
            *(nn.Linear(32, 32) for _ in range(3)),
            softmax,
            scale,
            mask,
        )
        for layer in (self.q, self.k):
            nn.init.normal_(layer.weight)

    def forward(self, x):
        scores = self.scale * self.q(x) @ self.k(x).transpose(1, 2)
        if self.mask is not None:
            scores = scores.masked_fill(self.mask, float("-inf"))
        return self.softmax(scores) @ self.v(x)


@pytest.mark.parametrize(
    ("softmax", "name"),
    [
        (lambda scores: scores.softmax(-1), "softmax behind k"), (lambda scores: F.softmax(scores, dim=-1), "softmax behind k"),
        (lambda scores: torch.softmax(scores, 2), "softmax behind k"), (nn.Softmax(-1), "softmax"),
    ],
)  # fmt: skip
def test_attention_that_chooses_one_entry_from_the_start_is_seen(softmax, name):
    torch.manual_seed(0)
    x = torch.randn(8, 12, 32)
    audit = audit_activations(Attention(softmax), x)
    assert audit.layer == name
    assert audit.verdict.startswith("saturates: ")
    assert audit.verdict.endswith(f"% of the rows of {name} are at the end of its range")
    assert audit_activations(Attention(softmax, scale=0.001), x).ok


def test_rows_that_have_one_entry_to_choose_are_not_saturated():
    torch.manual_seed(0)
    first = torch.ones(12, 12, dtype=torch.bool).triu(1)
    first[:10, 1:] = True  # ten rows of twelve see the first entry alone
    assert audit_activations(Attention(nn.Softmax(-1), scale=0.001, mask=first), torch.randn(8, 12, 32)).ok
    assert audit_activations(Attention(nn.Softmax(-1), scale=0.001), torch.randn(8, 1, 32)).ok  # one key
