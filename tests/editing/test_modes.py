"""An edit that evaluation mode does not show: rates that are read in training, and what a config would build otherwise."""

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from tests.editing import models
from tests.editing.models import IDS
from torch import nn

from linkboy.editing import keep_layers, remove_layer, replace_layer


class Attention(nn.Module):
    """Hands the rate of its dropout to a kernel, in training only, as attention in transformers does."""

    def __init__(self):
        super().__init__()
        self.dropout, self.out = nn.Dropout(0.5), nn.Dropout(0.5)

    def forward(self, x):
        rate = self.dropout.p if self.training else 0.0
        return self.out(F.scaled_dot_product_attention(x, x, x, dropout_p=rate))


X = torch.randn(2, 3, 4)


def test_a_rate_that_is_read_in_training_becomes_zero():
    model = nn.Sequential(Attention(), Attention())
    report = remove_layer(model, "*", kind="Dropout", example=X)
    assert isinstance(model[0].out, nn.Identity)
    assert model[0].dropout.p == 0
    assert "0.dropout is a Dropout with p=0 now: the forward reads its rate" in report.repairs
    assert not report.notes
    model.train()
    assert torch.equal(model(X), model.eval()(X))


def test_a_replaced_module_that_only_training_reads_is_run_in_training():
    model = Attention()
    with pytest.raises(RuntimeError) as caught:
        replace_layer(model, "dropout", nn.Identity(), example=X)
    assert str(caught.value) == (
        "the edited model runs in evaluation mode and not in training mode: the model (Attention) got f32[2, 3, 4] from the "
        "example: AttributeError: 'Identity' object has no attribute 'p'"
    )
    assert isinstance(model.dropout, nn.Dropout)
    replace_layer(model, "dropout", nn.Dropout(0.1), example=X)
    assert model.dropout.p == 0.1


def test_a_model_that_did_not_train_before_is_not_held_against_the_edit():
    class Fails(Attention):
        def forward(self, x):
            if self.training:
                raise RuntimeError("for inference only")
            return super().forward(x)

    model = Fails()
    remove_layer(model, "dropout", example=X)
    assert model.dropout is None


@pytest.mark.parametrize("build", [models.gpt2, models.distilbert])
def test_transformers_train_without_their_dropouts(build):
    model, example = build()
    remove_layer(model, "*", kind="Dropout", example=example)
    if any(isinstance(getattr(module, "dropout_prob", None), float) for module in model.modules()):
        pytest.skip("this transformers gives the probability of attention's dropout to a function, where no layer is")
    model.train()
    outputs = [model(**example)[0] for _ in range(2)]
    assert torch.equal(*outputs)


def test_copies_of_layers_are_not_called_new_where_the_original_was_not_called():
    model, example = models.gpt2()
    report = keep_layers(model, "transformer.h", [0, 1, 1, 2], example=example)
    assert not [note for note in report.notes if "does not call" in note]


def test_a_class_that_the_config_would_not_build_is_named_once():
    model, example = models.bert()
    report = replace_layer(model, "*.intermediate_act_fn", lambda old: nn.ReLU(), example=example)
    assert (
        "encoder.layer.0.intermediate.intermediate_act_fn is of class ReLU, and a model built from the config has one of class "
        "GELUActivation (3 more like it)"
    ) in report.notes


def test_what_differed_from_the_config_before_is_not_named():
    model, example = models.bert()
    model.encoder.layer[0].intermediate.intermediate_act_fn = nn.ReLU()
    model.encoder.layer[1].chunk_size_feed_forward = 0.0
    report = remove_layer(model, "encoder.layer.2", example=example)
    assert not [note for note in report.notes if "built from the config" in note]


def test_a_config_that_could_not_be_built_before_is_not_named():
    class Strict(hf.BertModel):
        def __init__(self, config, more):
            super().__init__(config)

    model = Strict(hf.BertConfig(**models.TINY), 1).eval()
    report = keep_layers(model, "encoder.layer", [0, 1], example={"input_ids": IDS})
    assert not [note for note in report.notes if "could not be built" in note]


class Dense(nn.ModuleDict):
    """Hands each layer the list of all that came before, as DenseNet does."""

    def forward(self, x):
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, -1)


class Widened(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Linear(width, 2)

    def forward(self, features):
        return self.inner(torch.cat(features, -1))


def test_a_removal_that_the_rest_cannot_follow_is_told_where_it_came_furthest():
    """What stands in for a layer may fail at once, and says nothing of the layer that is too wide now."""
    model = nn.Sequential(Dense({"one": Widened(4), "two": Widened(6)}), nn.LayerNorm(8))
    with pytest.raises(RuntimeError) as caught:
        remove_layer(model, "0.two", example=X)
    assert str(caught.value).startswith(
        "the edited model does not run: 1 (LayerNorm, weight f32[8]) got f32[2, 3, 6] from 0: "
    )
    assert list(model[0]) == ["one", "two"]


class Block(nn.Module):
    """A residual block, with a norm in front of its branch and one behind it."""

    def __init__(self, in_place):
        super().__init__()
        self.norm, self.mlp, self.last, self.drop = nn.LayerNorm(4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Dropout(0.1)
        self.in_place = in_place

    def forward(self, x):
        branch = self.drop(self.last(self.mlp(self.norm(x)))) if self.training else self.mlp(self.norm(x))
        if self.in_place:
            branch += x
            return branch
        return x + branch


@pytest.mark.parametrize("run", ["values", "shapes"])
@pytest.mark.parametrize("in_place", [True, False])
def test_a_branch_of_a_residual_sum_that_passes_its_input_on_is_noted(in_place, run):
    model = nn.Sequential(*[Block(in_place) for _ in range(4)])
    report = remove_layer(model, "*.mlp", example=X, run=run)
    assert report.notes[0] == (
        "the forward adds to something what 0.mlp, 1.mlp, 2.mlp and 1 more passes on, its input, as a residual sum does; to take "
        "the branch out, replace it by a module that returns zeros"
    )
    model = nn.Sequential(Block(in_place), Block(in_place))
    assert not [note for note in remove_layer(model, "*.norm", example=X, run=run).notes if "adds to" in note]
    assert not [note for note in remove_layer(model, "*.drop", example=X, run=run).notes if "adds to" in note]


def test_what_the_note_on_a_branch_says_takes_it_out():
    class Zeros(nn.Module):
        def forward(self, x):
            return torch.zeros_like(x)

    model = nn.Sequential(Block(False), nn.Linear(4, 4))
    report = replace_layer(model, "0.mlp", Zeros(), example=X)
    assert not [note for note in report.notes if "adds to" in note]
    assert torch.equal(model(X), model[1](X))
