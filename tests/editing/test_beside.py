"""What stands beside a stack with one entry for each layer: an edit of the stack says that it was left as it is."""

import pytest
import torch
from torch import nn

import linkboy as lb

X = torch.ones(2, 4)


class Scaled(nn.Module):
    """Four layers, and beside them what the forward pairs with each."""

    def __init__(self, beside):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
        self.beside = beside

    def forward(self, x):
        for layer, entry in zip(self.layers, self.beside, strict=False):
            x = x + (entry(layer(x)) if callable(entry) else entry * layer(x))
        return x


BESIDE = {
    "a ParameterList": lambda: nn.ParameterList(nn.Parameter(torch.tensor(float(n))) for n in range(4)),
    "a parameter": lambda: nn.Parameter(torch.arange(4.0)),
    "a list": lambda: [0.0, 0.1, 0.2, 0.3],
    "a tuple": lambda: (0.0, 0.1, 0.2, 0.3),
    "a ModuleList": lambda: nn.ModuleList(nn.LayerNorm(4) for _ in range(4)),
}


def said(report):
    return [note for note in report.notes if " beside " in note]


@pytest.mark.parametrize("example", [X, None], ids=["run", "not run"])
@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_a_layer_that_meets_the_entry_of_another_is_said(beside, example):
    assert said(lb.keep_layers(Scaled(beside()), "layers", [0, 3], example=example)) == [
        "beside beside layers still has 4 entries, one for each layer before the edit, and layer 1 was layer 3; if they "
        "belong to the layers, keep its entries [0, 3]"
    ]


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_layers_that_keep_their_positions_keep_their_entries(beside):
    assert not said(lb.keep_layers(Scaled(beside()), "layers", [0, 1], example=X))


def test_entries_that_were_kept_too_need_no_word():
    model = Scaled(nn.ModuleList(nn.LayerNorm(4) for _ in range(4)))
    with lb.surgery(model, example=X) as edit:
        edit.keep_layers("layers", [0, 3])
        edit.keep_layers("beside", [0, 3])
    assert not said(edit.report)


def test_two_stacks_of_one_length_may_be_independent():
    class EncoderDecoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
            self.decoder = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

        def forward(self, x):
            for layer in [*self.encoder, *self.decoder]:
                x = layer(x)
            return x

    assert not said(lb.keep_layers(EncoderDecoder(), "encoder", [1, 3], example=X))


def test_xlm_keeps_four_lists_of_layers_side_by_side():
    hf = pytest.importorskip("transformers")
    sizes = {"vocab_size": 32, "emb_dim": 8, "n_layers": 3, "n_heads": 2, "max_position_embeddings": 16}
    model = hf.XLMModel(hf.XLMConfig(**sizes)).eval()
    ids = torch.arange(6)[None] + 3
    report = lb.keep_layers(model, "attentions", [0, 2], example={"input_ids": ids})
    assert [note.split()[0] for note in said(report)] == ["layer_norm1", "ffns", "layer_norm2"]
    model = hf.XLMModel(hf.XLMConfig(**sizes)).eval()
    with lb.surgery(model, example={"input_ids": ids}) as edit:
        for name in ("attentions", "layer_norm1", "ffns", "layer_norm2"):
            edit.keep_layers(name, [0, 2])
    assert not said(edit.report)
    assert model.config.n_layers == 2
    assert not [note for note in edit.report.notes if "optimizer" not in note]  # one field is the depth of all four


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_a_module_inside_of_a_scripted_one_is_refused():
    inner = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    model = nn.Sequential(inner, nn.Linear(4, 2))
    for name in ("0.0", "0.-1", "0.0.weight"):
        with pytest.raises(TypeError) as caught:
            lb.remove_layer(model, name)
        assert str(caught.value) == "'0' is a RecursiveScriptModule, which cannot be edited; edit before scripting it"
